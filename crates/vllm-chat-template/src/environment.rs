//! The Jinja environment that `transformers` gives chat templates.

use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, Output, State, Value, escape_formatter};

use crate::{filters, methods, python};

/// Work one rendering may do: one unit an instruction, one for 64 bytes of text. An honest template
/// spends a few hundred thousand on a full context; this much ends within a second. The bound is on
/// work and not on time, so that no busy machine refuses an honest template, and a hostile one is
/// refused alike everywhere.
const FUEL: u64 = 10_000_000;

/// Nested macro calls and blocks one rendering may do.
const RECURSION_LIMIT: usize = 200;

/// The name under which the one template is registered; it appears in error messages.
pub(crate) const TEMPLATE_NAME: &str = "chat_template";

/// Jinja's default delimiters with `trim_blocks` and `lstrip_blocks`.
pub(crate) fn syntax() -> SyntaxConfig {
    SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .unwrap_or_default()
}

/// Builds an environment with Python's semantics and no template.
pub(crate) fn new_environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_syntax(syntax());
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION_LIMIT);
    environment.set_formatter(format_value);
    environment.set_unknown_method_callback(methods::call_method);
    filters::register(&mut environment);
    environment
}

fn format_value(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match state.auto_escape() {
        AutoEscape::None => python::write_str(out, value).map_err(|fmt::Error| fmt::Error.into()),
        _ => escape_formatter(out, state, value),
    }
}
