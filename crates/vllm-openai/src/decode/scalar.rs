//! Lax coercion of single values and homogeneous containers, with Pydantic's rules and wordings.

use super::errors::SchemaError;
use super::fields::Scope;
use super::value::{Dict, Value};

/// Integers given as text beyond this many characters are refused unread.
const MAX_INT_CHARS: usize = 4300;

/// Any value, as `serde_json` sees it.
pub fn any(value: &Value, _: &mut Scope) -> Option<serde_json::Value> {
    Some(value.to_json())
}

/// A string; nothing else is coerced to one.
pub fn string(value: &Value, scope: &mut Scope) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        other => scope.fail("string_type", "Input should be a valid string", other),
    }
}

/// A boolean: also 0, 1, 0.0, 1.0 and the usual words in any case.
pub fn boolean(value: &Value, scope: &mut Scope) -> Option<bool> {
    const UNCLEAR: &str = "Input should be a valid boolean, unable to interpret input";
    match value {
        Value::Bool(value) => Some(*value),
        Value::Int(0) => Some(false),
        Value::Int(1) => Some(true),
        Value::Float(number) if *number == 0.0 => Some(false),
        Value::Float(number) if *number == 1.0 => Some(true),
        Value::Float(number) if number.fract() == 0.0 => scope.fail("bool_parsing", UNCLEAR, value),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "1" | "true" | "t" | "yes" | "y" | "on" => Some(true),
            "0" | "false" | "f" | "no" | "n" | "off" => Some(false),
            _ => scope.fail("bool_parsing", UNCLEAR, value),
        },
        Value::Int(_) => scope.fail("bool_parsing", UNCLEAR, value),
        other => scope.fail("bool_type", "Input should be a valid boolean", other),
    }
}

/// An integer: also booleans, whole floats and numeric text. Values beyond 64 bits saturate.
pub fn integer(value: &Value, scope: &mut Scope) -> Option<i64> {
    const TOO_BIG: &str = "Unable to parse input string as an integer, exceeded maximum size";
    match value {
        Value::Bool(value) => Some(i64::from(*value)),
        Value::Int(value) => Some(*value),
        Value::BigInt(digits) => Some(saturate(digits)),
        Value::Float(number) if !number.is_finite() => {
            scope.fail("finite_number", "Input should be a finite number", value)
        }
        Value::Float(number) if number.fract() != 0.0 => scope.fail(
            "int_from_float",
            "Input should be a valid integer, got a number with a fractional part",
            value,
        ),
        Value::Float(number) if number.abs() >= i64::MAX as f64 => {
            scope.fail("int_parsing_size", TOO_BIG, value)
        }
        Value::Float(number) => Some(*number as i64),
        Value::String(text) if text.chars().count() > MAX_INT_CHARS => {
            scope.fail("int_parsing_size", TOO_BIG, value)
        }
        Value::String(text) => match integer_from_text(text) {
            Some(number) => Some(number),
            None => scope.fail(
                "int_parsing",
                "Input should be a valid integer, unable to parse string as an integer",
                value,
            ),
        },
        other => scope.fail("int_type", "Input should be a valid integer", other),
    }
}

/// An integer with inclusive bounds.
pub fn integer_between(
    minimum: i64,
    maximum: i64,
) -> impl Fn(&Value, &mut Scope) -> Option<i64> + Copy {
    move |value, scope| {
        let number = integer(value, scope)?;
        let saturated = is_beyond_64_bits(value);
        let bound = if number < minimum || (saturated && number == i64::MIN) {
            Some(("greater_than_equal", "greater", "ge", minimum))
        } else if number > maximum || (saturated && number == i64::MAX) {
            Some(("less_than_equal", "less", "le", maximum))
        } else {
            None
        };
        let Some((kind, word, name, limit)) = bound else {
            return Some(number);
        };
        let message = format!("Input should be {word} than or equal to {limit}");
        let error = SchemaError::new(kind, scope.loc(), message, value);
        scope.push(error.with_context(name, limit.to_string()))
    }
}

fn is_beyond_64_bits(value: &Value) -> bool {
    match value {
        Value::BigInt(_) => true,
        Value::String(text) => {
            let digits: String = text.trim().chars().filter(|c| *c != '_').collect();
            digits
                .split('.')
                .next()
                .is_some_and(|whole| whole.parse::<i64>().is_err())
        }
        _ => false,
    }
}

fn saturate(digits: &str) -> i64 {
    digits.parse().unwrap_or(if digits.starts_with('-') {
        i64::MIN
    } else {
        i64::MAX
    })
}

/// Digits with an optional sign, single underscores between digits, and a fraction of zeros.
fn integer_from_text(text: &str) -> Option<i64> {
    let text = text.trim();
    let (sign, unsigned) = match text.as_bytes().first()? {
        b'-' => ("-", &text[1..]),
        b'+' => ("", &text[1..]),
        _ => ("", text),
    };
    let whole = match unsigned.split_once('.') {
        Some((whole, zeros)) if !zeros.is_empty() && zeros.bytes().all(|b| b == b'0') => whole,
        Some(_) => return None,
        None => unsigned,
    };
    let digits = strip_underscores(whole)?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(saturate(&format!("{sign}{digits}")))
}

/// Removes underscores that stand alone between two other characters; `None` for others.
fn strip_underscores(text: &str) -> Option<String> {
    if text.starts_with('_') || text.ends_with('_') || text.contains("__") {
        return None;
    }
    Some(text.replace('_', ""))
}

/// A float: also integers, booleans and numeric text (`nan` and `inf` included).
pub fn float(value: &Value, scope: &mut Scope) -> Option<f64> {
    if let Some(number) = value.as_number() {
        return Some(number);
    }
    let Value::String(text) = value else {
        return scope.fail("float_type", "Input should be a valid number", value);
    };
    match strip_underscores(text.trim()).and_then(|text| text.parse().ok()) {
        Some(number) => Some(number),
        None => scope.fail(
            "float_parsing",
            "Input should be a valid number, unable to parse string as a number",
            value,
        ),
    }
}

/// One of a few strings.
pub fn literal(
    choices: &'static [&'static str],
) -> impl Fn(&Value, &mut Scope) -> Option<&'static str> + Copy {
    move |value, scope| {
        if let Some(found) = choices.iter().find(|choice| value.as_str() == Some(choice)) {
            return Some(*found);
        }
        let quoted: Vec<String> = choices.iter().map(|choice| format!("'{choice}'")).collect();
        let expected = match quoted.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
            None => String::new(),
        };
        let message = format!("Input should be {expected}");
        let error = SchemaError::new("literal_error", scope.loc(), message, value);
        let printed = super::python::string_repr(&expected);
        scope.push(error.with_context("expected", printed))
    }
}

/// A list whose items are read by `decode`; all bad items are reported.
pub fn list_of<T>(
    decode: impl Fn(&Value, &mut Scope) -> Option<T>,
) -> impl Fn(&Value, &mut Scope) -> Option<Vec<T>> {
    move |value, scope| {
        let Value::List(items) = value else {
            return scope.fail("list_type", "Input should be a valid list", value);
        };
        let mut decoded = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            // The path segment is only built when an item is wrong.
            let good = match scope.attempt(|scope| decode(item, scope)) {
                Ok(good) => Some(good),
                Err(_) => scope.at(index.to_string(), |scope| decode(item, scope)),
            };
            decoded.extend(good);
        }
        (decoded.len() == items.len()).then_some(decoded)
    }
}

/// An object of any content.
pub fn dict(
    value: &Value,
    scope: &mut Scope,
) -> Option<serde_json::Map<String, serde_json::Value>> {
    members(value, scope).map(super::value::dict_to_json)
}

/// The members of an object, not yet read.
fn members<'a>(value: &'a Value, scope: &mut Scope) -> Option<&'a Dict> {
    match value {
        Value::Dict(members) => Some(members),
        other => scope.fail("dict_type", "Input should be a valid dictionary", other),
    }
}

/// The members of an object that stands for a model.
pub fn model<'a>(value: &'a Value, scope: &mut Scope) -> Option<&'a Dict> {
    const MESSAGE: &str = "Input should be a valid dictionary or object to extract fields from";
    match value {
        Value::Dict(members) => Some(members),
        other => scope.fail("model_attributes_type", MESSAGE, other),
    }
}

/// The members of an object that stands for the dataclass `name`.
pub fn dataclass<'a>(value: &'a Value, name: &str, scope: &mut Scope) -> Option<&'a Dict> {
    let Value::Dict(members) = value else {
        let message = format!("Input should be a dictionary or an instance of {name}");
        let error = SchemaError::new("dataclass_type", scope.loc(), message, value);
        return scope.push(error.with_context("class_name", super::python::string_repr(name)));
    };
    Some(members)
}

/// An object whose values are read by `decode`, in order.
pub fn dict_of<T>(
    decode: impl Fn(&Value, &mut Scope) -> Option<T>,
) -> impl Fn(&Value, &mut Scope) -> Option<Vec<(String, T)>> {
    move |value, scope| {
        let members = members(value, scope)?;
        let mut decoded = Vec::with_capacity(members.len());
        for (key, value) in members {
            let good = scope.at(key.as_str(), |scope| decode(value, scope));
            decoded.extend(good.map(|good| (key.clone(), good)));
        }
        (decoded.len() == members.len()).then_some(decoded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::json::parse;

    /// Decodes one JSON text; the error is `type@loc`.
    fn outcome<T: std::fmt::Debug>(
        json: &str,
        decode: impl Fn(&Value, &mut Scope) -> Option<T>,
    ) -> String {
        let value = parse(json.as_bytes()).expect("test input is JSON");
        let mut scope = Scope::new();
        let decoded = decode(&value, &mut scope);
        match scope.finish(decoded) {
            Ok(decoded) => format!("{decoded:?}"),
            Err(errors) => {
                let errors: Vec<_> = errors
                    .iter()
                    .map(|error| format!("{}@{}", error.kind, error.loc))
                    .collect();
                errors.join(" ")
            }
        }
    }

    #[test]
    fn integers_are_coerced_as_pydantic_does() {
        let check = |json: &str, expected: &str| assert_eq!(outcome(json, integer), expected);
        check("\" 5 \"", "5");
        check("\"5.00\"", "5");
        check("\"1_000\"", "1000");
        check("\"+5\"", "5");
        check("\"-0\"", "0");
        check("5.0", "5");
        check("true", "1");
        check("1000000000000000000000000000000", "9223372036854775807");
        for text in [
            "\"5.5\"", "\"\"", "\"0x1\"", "\"1__0\"", "\"_1\"", "\"1e3\"", "\"5.\"", "\"٥\"",
        ] {
            check(text, "int_parsing@body");
        }
        check("5.5", "int_from_float@body");
        check("NaN", "finite_number@body");
        check("1e20", "int_parsing_size@body");
        check("[]", "int_type@body");
        check("null", "int_type@body");
    }

    #[test]
    fn bounds_are_checked_after_coercion() {
        let seed = integer_between(i64::MIN, i64::MAX);
        let check = |json: &str, expected: &str| assert_eq!(outcome(json, seed), expected);
        check("9223372036854775807", "9223372036854775807");
        check("\"9223372036854775807\"", "9223372036854775807");
        check("9223372036854775808", "less_than_equal@body");
        check("\"9223372036854775808\"", "less_than_equal@body");
        check("-9223372036854775809", "greater_than_equal@body");
        assert_eq!(
            outcome("-1", integer_between(0, 9)),
            "greater_than_equal@body"
        );
    }

    #[test]
    fn floats_and_booleans_are_coerced() {
        let check = |json: &str, expected: &str| assert_eq!(outcome(json, float), expected);
        check("\" 1e5 \"", "100000.0");
        check("\"-Infinity\"", "-inf");
        check("\"1_0.5\"", "10.5");
        check("\"1.\"", "1.0");
        check("true", "1.0");
        check("\"\"", "float_parsing@body");
        check("\"0x10\"", "float_parsing@body");
        check("[]", "float_type@body");
        let check = |json: &str, expected: &str| assert_eq!(outcome(json, boolean), expected);
        check("\"YES\"", "true");
        check("\"off\"", "false");
        check("1.0", "true");
        check("2", "bool_parsing@body");
        check("\" no\"", "bool_parsing@body");
        check("1.5", "bool_type@body");
        check("null", "bool_type@body");
    }

    #[test]
    fn containers_report_every_bad_member() {
        assert_eq!(
            outcome("[\"a\", 1.5, \"2\"]", list_of(integer)),
            "int_parsing@body.0 int_from_float@body.1"
        );
        assert_eq!(
            outcome("{\"a\":\"x\",\"b\":1}", dict_of(float)),
            "float_parsing@body.a"
        );
        assert_eq!(outcome("5", dict_of(float)), "dict_type@body");
        assert_eq!(outcome("\"x\"", list_of(integer)), "list_type@body");
    }

    #[test]
    fn literals_list_their_choices() {
        let value = Value::String("x".to_owned());
        let mut scope = Scope::new();
        assert_eq!(literal(&["none", "low", "max"])(&value, &mut scope), None);
        let error = &scope.errors()[0];
        assert_eq!(error.message, "Input should be 'none', 'low' or 'max'");
        assert_eq!(
            error.context,
            [("expected", "\"'none', 'low' or 'max'\"".to_owned())]
        );
    }
}
