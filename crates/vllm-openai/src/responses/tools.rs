//! The `tools` and `tool_choice` fields.

use serde_json::{Map, Value as Json, json};

use crate::chat::decode_function;
use crate::decode::{Fields, Scope, Value, any, list_of, literal, model, string};
use crate::error::{ErrorResponse, Result};
use crate::tools::ToolChoice;

/// The `tools` field.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Tools {
    /// The functions as templates get them.
    pub(super) functions: Vec<Json>,
    /// All tools as the answer repeats them.
    pub(super) echo: Vec<Json>,
}

/// The `tool_choice` field.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Choice {
    pub(super) choice: ToolChoice,
    /// The only functions that may be called; `None` allows all.
    allowed: Option<Vec<String>>,
    /// The field as the answer repeats it.
    pub(super) echo: Json,
}

impl Default for Choice {
    fn default() -> Self {
        Self {
            choice: ToolChoice::Auto,
            allowed: None,
            echo: "auto".into(),
        }
    }
}

impl Choice {
    /// The functions among `functions` that may be called.
    pub(super) fn allowed(&self, mut functions: Vec<Json>) -> Vec<Json> {
        if let Some(allowed) = &self.allowed {
            functions.retain(|function| {
                let name = function_name(function);
                name.is_some_and(|name| allowed.iter().any(|allowed| allowed == name))
            });
        }
        functions
    }
}

fn function_name(tool: &Json) -> Option<&str> {
    tool.get("function")?.get("name")?.as_str()
}

pub(super) fn decode_tools(value: &Value, scope: &mut Scope) -> Option<Tools> {
    let mut tools = Tools::default();
    for (function, echo) in list_of(decode_tool)(value, scope)? {
        tools.functions.extend(function);
        tools.echo.push(echo);
    }
    Some(tools)
}

/// A function for the template, unless the tool is of another type, and the tool for the answer.
fn decode_tool(value: &Value, scope: &mut Scope) -> Option<(Option<Json>, Json)> {
    let members = model(value, scope)?;
    let kind = Fields::new(members, scope).required("type", string)?;
    if kind != "function" {
        return Some((None, value.to_json()));
    }
    let function = scope.at("FunctionTool", |scope| decode_function(value, scope))?;
    let member = |name: &str| function.get(name).cloned().unwrap_or_default();
    let echo = json!({
        "name": member("name"),
        "parameters": member("parameters"),
        "strict": member("strict"),
        "type": kind,
        "defer_loading": member("defer_loading"),
        "description": member("description"),
    });
    let mut tool = Map::new();
    tool.insert("type".to_owned(), kind.into());
    tool.insert("function".to_owned(), Json::Object(function));
    Some((Some(Json::Object(tool)), echo))
}

pub(super) fn decode_tool_choice(value: &Value, scope: &mut Scope) -> Option<Choice> {
    let plain = |choice| Choice {
        choice,
        allowed: None,
        echo: value.to_json(),
    };
    let Value::Dict(members) = value else {
        return Some(
            match literal(&["none", "auto", "required"])(value, scope)? {
                "none" => plain(ToolChoice::None),
                "auto" => plain(ToolChoice::Auto),
                _ => plain(ToolChoice::Required),
            },
        );
    };
    let mut fields = Fields::new(members, scope);
    match fields.required("type", literal(&["function", "allowed_tools"]))? {
        "function" => Some(plain(ToolChoice::Named(fields.required("name", string)?))),
        _ => {
            let mode = fields.required("mode", literal(&["auto", "required"]));
            let listed = fields.required("tools", list_of(any))?;
            let names = listed.iter().filter_map(|tool| tool.get("name")?.as_str());
            Some(Choice {
                choice: match mode? {
                    "auto" => ToolChoice::Auto,
                    _ => ToolChoice::Required,
                },
                allowed: Some(names.map(str::to_owned).collect()),
                echo: value.to_json(),
            })
        }
    }
}

/// A call can be demanded only of a function that is there.
pub(super) fn check_tool_choice(choice: &ToolChoice, functions: &[Json]) -> Result<()> {
    let message = match choice {
        ToolChoice::None | ToolChoice::Auto => return Ok(()),
        _ if functions.is_empty() => "When using `tool_choice`, `tools` must be set.",
        ToolChoice::Required => return Ok(()),
        ToolChoice::Named(wanted) => {
            let mut names = functions.iter().filter_map(function_name);
            if names.any(|name| name == wanted) {
                return Ok(());
            }
            "The tool specified in `tool_choice` does not match any of the specified `tools`"
        }
    };
    Err(ErrorResponse::invalid(message, "tool_choice"))
}
