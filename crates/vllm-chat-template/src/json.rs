//! The `tojson` filter: what Python's `json.dumps` writes.

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use crate::arguments::Arguments;
use crate::python::float_repr;
use crate::value;

/// Deeper nesting than this is refused, as Python's recursion limit would.
const MAX_DEPTH: usize = 2 * value::MAX_NESTING;

/// The `tojson` filter as `transformers` defines it: `json.dumps` without the HTML escapes of
/// Jinja's own filter, with `ensure_ascii`, `indent`, `separators` and `sort_keys`.
pub(crate) fn tojson(
    state: &State,
    value: &Value,
    positional: Rest<Value>,
    named: Kwargs,
) -> Result<Value, Error> {
    let mut arguments = Arguments::new("tojson", positional, named);
    let ensure_ascii = arguments.flag("ensure_ascii", false)?;
    let indent = match arguments.optional_not_none("indent")? {
        None => None,
        Some(value) => Some(match value.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(i64::try_from(value)?.clamp(0, 64)).unwrap_or(0)),
        }),
    };
    let (item_separator, key_separator) = match arguments.optional_not_none("separators")? {
        None => (
            (if indent.is_some() { "," } else { ", " }).to_owned(),
            ": ".to_owned(),
        ),
        Some(value) => match value.try_iter()?.collect::<Vec<_>>().as_slice() {
            [item, key] => (item.to_string(), key.to_string()),
            _ => return Err(arguments.error("separators must be a pair of strings")),
        },
    };
    let sort_keys = arguments.flag("sort_keys", false)?;
    arguments.finish()?;
    let writer = JsonWriter {
        ensure_ascii,
        sort_keys,
        indent,
        item_separator,
        key_separator,
    };
    let mut out = String::new();
    writer.write(&mut out, value, 0)?;
    state.consume_fuel(out.len() as u64 / 8)?;
    Ok(Value::from(out))
}

struct JsonWriter {
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
}

impl JsonWriter {
    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                format!("tojson: the value nests deeper than {MAX_DEPTH} levels"),
            ));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.write_number(out, value),
            ValueKind::String => self.write_string(out, value.as_str().unwrap_or_default()),
            _ if value::is_list(value) => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.write_items(out, '[', ']', depth, items.iter(), |out, item| {
                    self.write(out, item, depth + 1)
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.write_items(out, '{', '}', depth, keys.iter(), |out, key| {
                    self.write_key(out, key)?;
                    out.push_str(&self.key_separator);
                    self.write(out, &value.get_item(key)?, depth + 1)
                })?;
            }
            kind => return Err(not_serializable(kind)),
        }
        Ok(())
    }

    fn write_items<'v>(
        &self,
        out: &mut String,
        open: char,
        close: char,
        depth: usize,
        items: impl ExactSizeIterator<Item = &'v Value>,
        mut write_item: impl FnMut(&mut String, &'v Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push(open);
        let is_empty = items.len() == 0;
        for (index, item) in items.enumerate() {
            if index > 0 {
                out.push_str(&self.item_separator);
            }
            self.new_line(out, depth + 1);
            write_item(out, item)?;
        }
        if !is_empty {
            self.new_line(out, depth);
        }
        out.push(close);
        Ok(())
    }

    fn new_line(&self, out: &mut String, depth: usize) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            for _ in 0..depth {
                out.push_str(indent);
            }
        }
    }

    /// Python turns numbers, booleans and `None` into their JSON text when they are keys.
    fn write_key(&self, out: &mut String, key: &Value) -> Result<(), Error> {
        match key.kind() {
            ValueKind::String => self.write_string(out, key.as_str().unwrap_or_default()),
            ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                out.push('"');
                self.write(out, key, 0)?;
                out.push('"');
            }
            kind => return Err(not_serializable(kind)),
        }
        Ok(())
    }

    fn write_number(&self, out: &mut String, value: &Value) {
        if value.is_integer() {
            out.push_str(&value.to_string());
            return;
        }
        match f64::try_from(value.clone()) {
            Ok(float) if float.is_nan() => out.push_str("NaN"),
            Ok(float) if float.is_infinite() => {
                out.push_str(if float > 0.0 { "Infinity" } else { "-Infinity" });
            }
            Ok(float) => out.push_str(&float_repr(float)),
            Err(_) => out.push_str(&value.to_string()),
        }
    }

    fn write_string(&self, out: &mut String, text: &str) {
        use std::fmt::Write;
        out.push('"');
        for character in text.chars() {
            match character {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                control if control < ' ' => {
                    let _ = write!(out, "\\u{:04x}", control as u32);
                }
                // Python's ASCII escaping leaves DEL alone.
                wide if self.ensure_ascii && wide > '\u{7f}' => {
                    for unit in wide.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                plain => out.push(plain),
            }
        }
        out.push('"');
    }
}

fn not_serializable(kind: ValueKind) -> Error {
    Error::new(
        ErrorKind::InvalidOperation,
        format!("Object of type {kind} is not JSON serializable"),
    )
}
