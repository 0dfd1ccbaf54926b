//! Methods of Python's `str`, `dict` and `list`.

use minijinja::{Error, State, Value};

/// Calls `value.method(*arguments)` for a method that the engine itself does not know.
pub(crate) fn call_method(
    state: &mut State,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments)
}
