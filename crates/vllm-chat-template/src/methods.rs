//! Methods of Python's `dict`, `list` and `tuple`, and the way to those of `str`.

use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, Tuple, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use crate::arguments::Arguments;
use crate::{python, strings, value};

/// Calls `value.method(*arguments)` for a method that the engine itself does not know.
pub(crate) fn call_method(
    state: &mut State,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let arguments = Arguments::from_slice(method, arguments)?;
    match value.kind() {
        ValueKind::String => {
            strings::call(state, value.as_str().unwrap_or_default(), method, arguments)
        }
        ValueKind::Map => call_dict(value, method, arguments),
        _ if value::is_list(value) => call_list(value, method, arguments),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

/// Methods that change their object; the sandbox in which Python runs templates refuses them.
const DICT_MUTATORS: [&str; 5] = ["clear", "pop", "popitem", "setdefault", "update"];
const LIST_MUTATORS: [&str; 8] = [
    "append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort",
];

fn refuse_mutation(method: &str, kind: &str) -> Error {
    Error::new(
        ErrorKind::InvalidOperation,
        format!("access to attribute '{method}' of '{kind}' object is unsafe."),
    )
}

fn call_dict(dict: &Value, method: &str, mut arguments: Arguments<'_>) -> Result<Value, Error> {
    let result = match method {
        "get" => {
            let key = arguments.required("key")?;
            let default = arguments.optional("default")?;
            // An absent key gives None, a present one its value, which may be None as well.
            dict.as_object()
                .and_then(|object| object.get_value(&key))
                .or(default)
                .unwrap_or_else(|| Value::from(()))
        }
        "items" => DictView::of("dict_items", dict, |dict, key| {
            let value = dict.get_item(&key).unwrap_or_default();
            Value::from(Tuple::from([key, value]))
        })?,
        "keys" => DictView::of("dict_keys", dict, |_, key| key)?,
        "values" => DictView::of("dict_values", dict, |dict, key| {
            dict.get_item(&key).unwrap_or_default()
        })?,
        "copy" => dict.clone(),
        _ if DICT_MUTATORS.contains(&method) => return Err(refuse_mutation(method, "dict")),
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    };
    arguments.finish()?;
    Ok(result)
}

fn call_list(list: &Value, method: &str, mut arguments: Arguments<'_>) -> Result<Value, Error> {
    let result = match method {
        "count" => {
            let wanted = arguments.required("value")?;
            Value::from(list.try_iter()?.filter(|item| *item == wanted).count())
        }
        "index" => {
            let wanted = arguments.required("value")?;
            match list.try_iter()?.position(|item| item == wanted) {
                Some(position) => Value::from(position),
                None => return Err(arguments.error("did not find the value in the list")),
            }
        }
        "copy" if !list.is_tuple() => list.clone(),
        _ if LIST_MUTATORS.contains(&method) && !list.is_tuple() => {
            return Err(refuse_mutation(method, "list"));
        }
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    };
    arguments.finish()?;
    Ok(result)
}

/// What `d.keys()`, `d.values()` and `d.items()` return: iterable, and printed by its type name.
#[derive(Debug)]
pub(crate) struct DictView {
    name: &'static str,
    entries: Vec<Value>,
}

impl DictView {
    fn of(
        name: &'static str,
        dict: &Value,
        entry: impl Fn(&Value, Value) -> Value,
    ) -> Result<Value, Error> {
        let entries = dict.try_iter()?.map(|key| entry(dict, key)).collect();
        Ok(Value::from_object(Self { name, entries }))
    }
}

impl Object for DictView {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.entries.clone())
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.entries.len())
    }

    fn render(self: &Arc<Self>, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}(", self.name)?;
        python::write_repr(f, &Value::from(self.entries.clone()), 0)?;
        f.write_str(")")
    }
}
