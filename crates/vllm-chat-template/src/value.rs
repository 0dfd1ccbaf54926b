//! JSON as the template sees it.

use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, ValueKind};
use minijinja::{Error, State, Value};
use serde_json::{Map, Value as Json};

use crate::methods::DictView;

/// The deepest nesting a value may have when a template stores it. JSON from a request stays far
/// below; the stack holds a multiple.
pub(crate) const MAX_NESTING: usize = 300;

/// Whether a value is a list or a tuple. What the engine makes of `list + list` or of a slice is a
/// lazy sequence of another kind, and a list all the same.
pub(crate) fn is_list(value: &Value) -> bool {
    match value.kind() {
        ValueKind::Seq => true,
        ValueKind::Iterable => value.downcast_object_ref::<DictView>().is_none(),
        _ => false,
    }
}

/// Turns JSON into a template value; objects keep their key order.
pub(crate) fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Value::from(integer),
            (None, Some(integer)) => Value::from(integer),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => from_json_list(items),
        Json::Object(entries) => from_json_object(entries),
    }
}

/// Turns a list of JSON values into a list.
pub(crate) fn from_json_list(items: &[Json]) -> Value {
    Value::from(items.iter().map(from_json).collect::<Vec<_>>())
}

fn from_json_object(entries: &Map<String, Json>) -> Value {
    Value::from_object(Dict(Value::from_pairs(
        entries
            .iter()
            .map(|(name, value)| (name.as_str(), from_json(value))),
    )))
}

/// A dictionary with Python's lookup rules: `d.items` is the method even when there is a key of
/// that name (tool parameters are often called `items` or `values`), `d["items"]` is the entry.
#[derive(Debug)]
struct Dict(Value);

impl Object for Dict {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.as_object()?.get_value(key)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        if DICT_METHODS.contains(&key) {
            let dict = Value::from_dyn_object(Arc::clone(self));
            return Some(Value::from_object(BoundMethod {
                dict,
                name: key.to_owned(),
            }));
        }
        self.0.as_object()?.get_value_by_str(key)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.try_iter().into_iter().flatten().collect())
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        self.0.len()
    }
}

/// The attributes of a Python dictionary that a sandboxed template can reach.
const DICT_METHODS: [&str; 11] = [
    "clear",
    "copy",
    "fromkeys",
    "get",
    "items",
    "keys",
    "pop",
    "popitem",
    "setdefault",
    "update",
    "values",
];

/// `d.items` without the call.
#[derive(Debug)]
struct BoundMethod {
    dict: Value,
    name: String,
}

impl Object for BoundMethod {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        self.dict.call_method(state, &self.name, args)
    }

    fn render(self: &Arc<Self>, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "<built-in method {} of dict object>", self.name)
    }
}
