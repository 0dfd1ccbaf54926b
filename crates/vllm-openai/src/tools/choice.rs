//! The `tools` and `tool_choice` fields.

use crate::decode::{Dict, Value};
use crate::error::{ErrorResponse, Result};

const CORRECT_USAGE: &str =
    r#"Correct usage: `{"type": "function", "function": {"name": "my_function"}}`"#;

/// Which tools may or must be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolChoice {
    /// No parsing; tools may still be shown to the model.
    None,
    /// The model decides.
    Auto,
    /// At least one call.
    Required,
    /// Exactly this function.
    Named(String),
}

impl ToolChoice {
    /// Checks that the server can do what is asked.
    ///
    /// # Errors
    /// 400 when a parser is needed and the server has none.
    pub fn check_available(&self, has_tool_parser: bool) -> Result<()> {
        let message = match self {
            _ if has_tool_parser => return Ok(()),
            ToolChoice::None => return Ok(()),
            ToolChoice::Auto => "\"auto\" tool choice requires --enable-auto-tool-choice and \
                                 --tool-call-parser to be set"
                .to_owned(),
            ToolChoice::Required => {
                "tool_choice=\"required\" requires --tool-call-parser to be set".to_owned()
            }
            ToolChoice::Named(name) => {
                format!("tool_choice=function \"{name}\" requires --tool-call-parser to be set")
            }
        };
        Err(ErrorResponse::bad_request(&message))
    }
}

/// The checks of `tools` and `tool_choice` that run before the schema.
pub(crate) fn check_tool_fields(body: &Dict) -> Result<()> {
    let tools = body.get("tools");
    if tools
        .and_then(Value::as_list)
        .is_some_and(<[Value]>::is_empty)
    {
        return Err(ErrorResponse::invalid(
            "`tools` must not be an empty array. Either provide at least one tool or omit the \
             field entirely.",
            "tools",
        ));
    }
    let choice = match body.get("tool_choice") {
        None | Some(Value::Null) => return Ok(()),
        Some(choice) if choice.as_str() == Some("none") => return Ok(()),
        Some(choice) => choice,
    };
    let tools = match tools {
        None | Some(Value::Null) => {
            const MESSAGE: &str = "When using `tool_choice`, `tools` must be set.";
            return Err(ErrorResponse::invalid(MESSAGE, "tool_choice"));
        }
        Some(tools) => tools,
    };
    match choice {
        Value::Dict(choice) => check_named(choice, tools),
        choice if matches!(choice.as_str(), Some("auto" | "required")) => Ok(()),
        choice => {
            let message = format!(
                "Invalid value for `tool_choice`: {}! Only named tools, \"none\", \"auto\" or \
                 \"required\" are supported.",
                choice.python_str()
            );
            Err(ErrorResponse::invalid(&message, "tool_choice"))
        }
    }
}

fn check_named(choice: &Dict, tools: &Value) -> Result<()> {
    let function = choice.get("function").unwrap_or(&Value::Null);
    let Value::Dict(members) = function else {
        let message = format!(
            "Invalid value for `function`: `{}` in `tool_choice`! {CORRECT_USAGE}",
            function.python_str()
        );
        return Err(ErrorResponse::invalid(&message, "tool_choice.function"));
    };
    let Some(name) = members.get("name") else {
        let message =
            format!("Expected field `name` in `function` in `tool_choice`! {CORRECT_USAGE}");
        return Err(ErrorResponse::invalid(
            &message,
            "tool_choice.function.name",
        ));
    };
    let Some(wanted) = name.as_str().filter(|name| !name.is_empty()) else {
        let message = format!(
            "Invalid `name` in `function`: `{}` in `tool_choice`! {CORRECT_USAGE}",
            name.python_str()
        );
        return Err(ErrorResponse::invalid(
            &message,
            "tool_choice.function.name",
        ));
    };
    let is_wanted = |tool: &Value| {
        let function = tool.as_dict().and_then(|tool| tool.get("function"));
        let name = function
            .and_then(Value::as_dict)
            .and_then(|function| function.get("name"));
        name.and_then(Value::as_str) == Some(wanted)
    };
    if !tools
        .as_list()
        .is_some_and(|tools| tools.iter().any(is_wanted))
    {
        return Err(ErrorResponse::invalid(
            "The tool specified in `tool_choice` does not match any of the specified `tools`",
            "tool_choice",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::json::parse;

    #[track_caller]
    fn check(body: &str, expected: Result<(), (&str, &str)>) {
        let parsed = parse(body.as_bytes()).expect("test bodies are JSON");
        let members = parsed.as_dict().expect("test bodies are objects");
        let outcome = check_tool_fields(members)
            .map_err(|error| (error.message, error.param.unwrap_or_default()));
        assert_eq!(
            outcome,
            expected.map_err(|(message, param)| {
                (format!("{message} (parameter={param})"), param.to_owned())
            })
        );
    }

    #[test]
    fn contradictions_are_named() {
        const TOOLS: &str = r#""tools": [{"type": "function", "function": {"name": "f"}}]"#;
        check(r#"{"tool_choice": "none"}"#, Ok(()));
        check(r#"{"tool_choice": null}"#, Ok(()));
        check(
            r#"{"tool_choice": "auto"}"#,
            Err((
                "When using `tool_choice`, `tools` must be set.",
                "tool_choice",
            )),
        );
        check(
            &format!(r#"{{{TOOLS}, "tool_choice": "foo"}}"#),
            Err((
                "Invalid value for `tool_choice`: foo! Only named tools, \"none\", \"auto\" or \
                 \"required\" are supported.",
                "tool_choice",
            )),
        );
        check(
            &format!(r#"{{{TOOLS}, "tool_choice": {{"type": "function"}}}}"#),
            Err((
                "Invalid value for `function`: `None` in `tool_choice`! Correct usage: `{\"type\": \
                 \"function\", \"function\": {\"name\": \"my_function\"}}`",
                "tool_choice.function",
            )),
        );
        check(
            &format!(r#"{{{TOOLS}, "tool_choice": {{"function": {{"name": "f"}}}}}}"#),
            Ok(()),
        );
    }
}
