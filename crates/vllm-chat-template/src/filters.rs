//! Filters, tests and functions where the engine's own differ from Python's Jinja.

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters, functions};

use crate::arguments::Arguments;
use crate::error::RaisedByTemplate;
use crate::{json, python, strings, value};

/// The widest indentation a template may ask for.
const MAX_INDENT: i64 = 1 << 10;

/// Registers everything in this module.
pub(crate) fn register(environment: &mut Environment<'_>) {
    environment.add_filter("tojson", json::tojson);
    environment.add_filter("string", string);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("trim", trim);
    environment.add_filter("indent", indent);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter(
        "dictsort",
        |value: &Value, positional: Rest<Value>, named: Kwargs| {
            let names = ["case_sensitive", "by", "reverse"];
            filters::dictsort(value, by_name("dictsort", &names, positional, named)?)
        },
    );
    environment.add_filter(
        "sort",
        |state: &State, value: Value, positional: Rest<Value>, named: Kwargs| {
            let names = ["reverse", "case_sensitive", "attribute"];
            filters::sort(state, value, by_name("sort", &names, positional, named)?)
        },
    );
    environment.add_filter(
        "unique",
        |state: &State, value: Value, positional: Rest<Value>, named: Kwargs| {
            let names = ["case_sensitive", "attribute"];
            filters::unique(state, value, by_name("unique", &names, positional, named)?)
        },
    );
    environment.add_filter(PERCENT_FORMAT, percent_format);
    environment.add_filter(STORE, |state: &State, value: &Value| {
        store(state, value, true)
    });
    environment.add_filter(STORE_IN_NAMESPACE, |state: &State, value: &Value| {
        store(state, value, false)
    });
    // Python's Jinja has none of these; some make lazy values that nest without bound.
    for name in ["bool", "chain", "lines", "split", "zip"] {
        environment.remove_filter(name);
    }

    environment.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
    environment.add_test("sequence", |value: &Value| {
        value::is_list(value)
            || matches!(
                value.kind(),
                ValueKind::Map | ValueKind::String | ValueKind::Undefined
            )
    });
    environment.add_test("iterable", |value: &Value| {
        !value.is_none() && value.try_iter().is_ok()
    });

    environment.add_function("raise_exception", raise_exception);
    environment.add_function("namespace", |positional: Rest<Value>, named: Kwargs| {
        functions::namespace(Some(dict(positional, named)?.into()))
    });
    environment.add_function("dict", dict);
}

/// The filter that stands for `%` behind a string, see [`crate::prepare`].
pub(crate) const PERCENT_FORMAT: &str = "percent_format";

/// The filter behind the value of `{% set name = value %}`.
pub(crate) const STORE: &str = "store";

/// The filter behind the value of `{% set namespace.name = value %}`.
pub(crate) const STORE_IN_NAMESPACE: &str = "store_in_namespace";

/// Gives positional arguments their Python names, for filters that only take named ones.
fn by_name(
    filter: &str,
    names: &[&str],
    positional: Rest<Value>,
    named: Kwargs,
) -> Result<Kwargs, Error> {
    let mut arguments = Arguments::new(filter, positional, named);
    let mut bound = Vec::new();
    for name in names {
        if let Some(value) = arguments.optional(name)? {
            bound.push((*name, value));
        }
    }
    arguments.finish()?;
    Ok(bound.into_iter().collect())
}

/// Passes a value on to a variable, unless it nests too deeply to be handled safely.
///
/// A namespace may not go into a namespace, which could make a value contain itself.
fn store(state: &State, value: &Value, takes_namespaces: bool) -> Result<Value, Error> {
    check_nesting(state, value, takes_namespaces, 0)?;
    Ok(value.clone())
}

fn check_nesting(
    state: &State,
    value: &Value,
    takes_namespaces: bool,
    depth: usize,
) -> Result<(), Error> {
    let Some(object) = value.as_object() else {
        return Ok(());
    };
    state.consume_fuel(1)?;
    if depth > value::MAX_NESTING {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("a variable may nest at most {} levels", value::MAX_NESTING),
        ));
    }
    if !takes_namespaces && object.type_name().ends_with("::Namespace") {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            "a namespace cannot be stored in a namespace",
        ));
    }
    if let Some(pairs) = object
        .try_iter_pairs()
        .filter(|_| value.kind() == ValueKind::Map)
    {
        for (_, entry) in pairs {
            check_nesting(state, &entry, takes_namespaces, depth + 1)?;
        }
    } else if let Some(items) = object.try_iter() {
        for item in items {
            check_nesting(state, &item, takes_namespaces, depth + 1)?;
        }
    }
    Ok(())
}

fn string(value: &Value) -> Value {
    match value.as_str() {
        Some(_) => value.clone(),
        None => Value::from(python::to_str(value)),
    }
}

fn default(value: &Value, positional: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let mut arguments = Arguments::new("default", positional, named);
    let replacement = arguments
        .optional("default_value")?
        .unwrap_or_else(|| Value::from(""));
    let for_false_too = arguments.flag("boolean", false)?;
    arguments.finish()?;
    let replaces = value.is_undefined() || (for_false_too && !value.is_true());
    Ok(if replaces { replacement } else { value.clone() })
}

fn trim(value: &Value, characters: Option<Value>) -> Value {
    let text = python::to_str(value);
    let characters = characters.as_ref().and_then(Value::as_str);
    Value::from(strings::strip(&text, characters, true, true))
}

fn indent(
    state: &State,
    value: &Value,
    positional: Rest<Value>,
    named: Kwargs,
) -> Result<Value, Error> {
    let mut arguments = Arguments::new("indent", positional, named);
    let indentation = match arguments.optional("width")? {
        None => " ".repeat(4),
        Some(width) => match width.as_str() {
            Some(text) => text.to_owned(),
            None => {
                let width = i64::try_from(width)?.clamp(0, MAX_INDENT);
                " ".repeat(usize::try_from(width).unwrap_or(0))
            }
        },
    };
    let first = arguments.flag("first", false)?;
    let blank = arguments.flag("blank", false)?;
    arguments.finish()?;
    // The added break keeps a trailing one alive when the lines are joined again.
    let text = python::to_str(value) + "\n";
    let lines = strings::split_lines(&text, false);
    state.consume_fuel((lines.len().saturating_mul(indentation.len()) / 64) as u64)?;
    let mut indented = String::with_capacity(text.len());
    for (number, line) in lines.into_iter().enumerate() {
        if number > 0 {
            indented.push('\n');
        }
        if (number == 0 && first) || (number > 0 && (blank || !line.is_empty())) {
            indented.push_str(&indentation);
        }
        indented.push_str(line);
    }
    Ok(Value::from(indented))
}

/// `int(value)`, with the default for whatever is no number.
fn int(value: &Value, positional: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let mut arguments = Arguments::new("int", positional, named);
    let default = arguments
        .optional("default")?
        .unwrap_or_else(|| Value::from(0));
    let base = arguments.optional_integer("base")?.unwrap_or(10);
    arguments.finish()?;
    let converted = match (value.kind(), value.as_str()) {
        (_, Some(text)) => {
            let text = strings::strip(text, None, true, true);
            parse_integer(text, base).or_else(|| text.parse::<f64>().ok().and_then(truncate))
        }
        (ValueKind::Number, _) if value.is_integer() => return Ok(value.clone()),
        (ValueKind::Number, _) => f64::try_from(value.clone()).ok().and_then(truncate),
        (ValueKind::Bool, _) => Some(i64::from(value.is_true())),
        (ValueKind::Undefined, _) => {
            return Err(Error::new(
                ErrorKind::UndefinedError,
                "int of an undefined value",
            ));
        }
        _ => None,
    };
    Ok(converted.map_or(default, Value::from))
}

fn parse_integer(text: &str, base: i64) -> Option<i64> {
    let base = u32::try_from(base)
        .ok()
        .filter(|base| (2..=36).contains(base))?;
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let prefix = match base {
        16 => "0x",
        8 => "0o",
        2 => "0b",
        _ => "",
    };
    let digits = digits.strip_prefix(prefix).unwrap_or(digits);
    i64::from_str_radix(&format!("{sign}{digits}"), base).ok()
}

fn truncate(float: f64) -> Option<i64> {
    // The cast saturates; a number beyond 64 bits is not worth more here.
    float.is_finite().then_some(float as i64)
}

/// `float(value)`, with the default for whatever is no number.
fn float(value: &Value, default: Option<Value>) -> Result<Value, Error> {
    let converted = match value.as_str() {
        Some(text) => strings::strip(text, None, true, true).parse::<f64>().ok(),
        None if value.is_undefined() => {
            return Err(Error::new(
                ErrorKind::UndefinedError,
                "float of an undefined value",
            ));
        }
        None if value.kind() == ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        None => f64::try_from(value.clone()).ok(),
    };
    Ok(converted
        .map(Value::from)
        .or(default)
        .unwrap_or_else(|| Value::from(0.0)))
}

fn percent_format(state: &mut State, value: &Value, operand: &Value) -> Result<Value, Error> {
    strings::percent_format(state, &python::to_str(value), operand)
}

/// `dict(mapping or pairs, **entries)`.
fn dict(positional: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let mut entries: Vec<(Value, Value)> = Vec::new();
    if let Some(source) = positional.first() {
        let is_map = source.kind() == ValueKind::Map;
        for item in source.try_iter()? {
            let (key, value) = if is_map {
                (item.clone(), source.get_item(&item)?)
            } else {
                (item.get_item_by_index(0)?, item.get_item_by_index(1)?)
            };
            entries.push((key, value));
        }
    }
    for name in named.args() {
        entries.push((Value::from(name), named.get::<Value>(name)?));
    }
    Ok(Value::from_pairs(entries))
}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let message = python::to_str(message);
    Err(Error::new(ErrorKind::InvalidOperation, message.clone())
        .with_source(RaisedByTemplate(message)))
}
