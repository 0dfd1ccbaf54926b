//! The JSON value a request body consists of.

use indexmap::IndexMap;

use super::python::{float_repr, string_repr};

/// A JSON object in the order sent; a repeated key keeps its first place and its last value.
pub type Dict = IndexMap<String, Value>;

/// A JSON value with Python's number model: integers of any size, and `NaN`/`Infinity` literals.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// An integer that fits 64 bits.
    Int(i64),
    /// An integer that does not; the text is kept.
    BigInt(String),
    /// A number with a fraction or exponent, or `NaN`, `Infinity`, `-Infinity`.
    Float(f64),
    /// A string; lone surrogates were replaced by U+FFFD.
    String(String),
    /// An array.
    List(Vec<Value>),
    /// An object.
    Dict(Dict),
}

impl Value {
    /// Python's truth value: false for null, false, zero and everything empty.
    pub fn is_truthy(&self) -> bool {
        match self {
            Value::Null => false,
            Value::Bool(value) => *value,
            Value::Int(value) => *value != 0,
            Value::BigInt(_) => true,
            Value::Float(value) => *value != 0.0,
            Value::String(value) => !value.is_empty(),
            Value::List(items) => !items.is_empty(),
            Value::Dict(members) => !members.is_empty(),
        }
    }

    /// The text of a string value.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The members of an object.
    pub fn as_dict(&self) -> Option<&Dict> {
        match self {
            Value::Dict(members) => Some(members),
            _ => None,
        }
    }

    /// The items of an array.
    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// The number as a float, booleans included (they are integers in Python).
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Value::Bool(value) => Some(f64::from(u8::from(*value))),
            Value::Int(value) => Some(*value as f64),
            Value::BigInt(digits) => digits.parse().ok(),
            Value::Float(value) => Some(*value),
            _ => None,
        }
    }

    /// The value as Python's `str()` prints it.
    pub fn python_str(&self) -> String {
        match self {
            Value::Null => "None".to_owned(),
            Value::Bool(true) => "True".to_owned(),
            Value::Bool(false) => "False".to_owned(),
            Value::Int(value) => value.to_string(),
            Value::BigInt(digits) => digits.clone(),
            Value::Float(value) => float_repr(*value),
            Value::String(text) => text.clone(),
            Value::List(items) => {
                let items: Vec<String> = items.iter().map(Value::python_repr).collect();
                format!("[{}]", items.join(", "))
            }
            Value::Dict(members) => {
                let members: Vec<String> = members
                    .iter()
                    .map(|(key, value)| format!("{}: {}", string_repr(key), value.python_repr()))
                    .collect();
                format!("{{{}}}", members.join(", "))
            }
        }
    }

    /// The value as Python's `repr()` prints it.
    pub fn python_repr(&self) -> String {
        match self {
            Value::String(text) => string_repr(text),
            other => other.python_str(),
        }
    }

    /// The value as JSON text in Python's default style: a blank after `:` and `,`; text outside
    /// ASCII as it is.
    pub fn python_json(&self) -> String {
        let text = |text: &str| serde_json::Value::from(text).to_string();
        match self {
            Value::Null => "null".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Float(value) if value.is_nan() => "NaN".to_owned(),
            Value::Float(value) if value.is_infinite() => {
                if *value > 0.0 {
                    "Infinity".to_owned()
                } else {
                    "-Infinity".to_owned()
                }
            }
            Value::String(value) => text(value),
            Value::List(items) => {
                let items: Vec<String> = items.iter().map(Value::python_json).collect();
                format!("[{}]", items.join(", "))
            }
            Value::Dict(members) => {
                let members: Vec<String> = members
                    .iter()
                    .map(|(key, value)| format!("{}: {}", text(key), value.python_json()))
                    .collect();
                format!("{{{}}}", members.join(", "))
            }
            number => number.python_str(),
        }
    }

    /// The same value for `serde_json` users; non-finite numbers become null, integers beyond
    /// 64 bits the nearest float.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Int(value) => (*value).into(),
            Value::BigInt(digits) => match digits.parse::<u64>() {
                Ok(value) => value.into(),
                Err(_) => digits.parse::<f64>().unwrap_or(f64::INFINITY).into(),
            },
            Value::Float(value) => (*value).into(),
            Value::String(text) => text.as_str().into(),
            Value::List(items) => items.iter().map(Value::to_json).collect(),
            Value::Dict(members) => serde_json::Value::Object(dict_to_json(members)),
        }
    }
}

/// An object's members for `serde_json` users, in order.
pub(crate) fn dict_to_json(members: &Dict) -> serde_json::Map<String, serde_json::Value> {
    members
        .iter()
        .map(|(key, value)| (key.clone(), value.to_json()))
        .collect()
}
