//! From the Anthropic form to the members of a chat request.

use super::request::{Block, Content, Message, MessagesRequest, Thinking, Tool};
use crate::decode::{Dict, Value};
use crate::ids::tool_call_id;

/// Blocks of system text that begin so are a client's billing marks, not meant for the model.
const BILLING_HEADER: &str = "x-anthropic-billing-header";

/// The members of the chat request that asks for the same.
pub(super) fn chat_body(request: &MessagesRequest, disabled_thinking_effort: &str) -> Dict {
    let mut body = request.shared.clone();
    let mut set = |name: &str, value: Value| {
        body.insert(name.to_owned(), value);
    };
    set("messages", Value::List(chat_messages(request)));
    let effort = match request.thinking {
        Some(Thinking::Disabled) => Some(disabled_thinking_effort),
        _ => request.effort,
    };
    if let Some(effort) = effort {
        set("reasoning_effort", text(effort));
    }
    if let Some(Thinking::Enabled { budget_tokens }) = request.thinking {
        set("thinking_token_budget", Value::Int(budget_tokens));
    }
    if let Some(schema) = &request.output_schema {
        let json_schema = object([("name", text("json_schema")), ("schema", schema.clone())]);
        let format = object([("type", text("json_schema")), ("json_schema", json_schema)]);
        set("response_format", format);
    }
    let choice = request.tool_choice.as_ref();
    if !request.tools.is_empty() {
        set(
            "tools",
            Value::List(request.tools.iter().map(chat_tool).collect()),
        );
    }
    let is_forced = choice.is_some_and(|choice| matches!(choice.kind, "any" | "tool"));
    if let Some(choice) = choice
        && (is_forced || !request.tools.is_empty())
    {
        let name = choice.name.as_deref().unwrap_or_default();
        let chosen = match choice.kind {
            "any" => text("required"),
            "tool" => object([
                ("type", text("function")),
                ("function", object([("name", text(name))])),
            ]),
            kind => text(kind),
        };
        set("tool_choice", chosen);
    }
    if choice.is_some_and(|choice| choice.disable_parallel_tool_use) {
        set("parallel_tool_calls", Value::Bool(false));
    }
    body
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn object<const N: usize>(members: [(&str, Value); N]) -> Value {
    let members = members.into_iter();
    Value::Dict(
        members
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    )
}

fn chat_tool(tool: &Tool) -> Value {
    let mut function = Dict::new();
    function.insert("name".to_owned(), text(&tool.name));
    if let Some(description) = &tool.description {
        function.insert("description".to_owned(), text(description));
    }
    let schema = Value::Dict(tool.input_schema.clone());
    function.insert("parameters".to_owned(), schema);
    for (name, flag) in [
        ("strict", tool.strict),
        ("defer_loading", tool.defer_loading),
    ] {
        if let Some(flag) = flag {
            function.insert(name.to_owned(), Value::Bool(flag));
        }
    }
    object([
        ("type", text("function")),
        ("function", Value::Dict(function)),
    ])
}

fn chat_messages(request: &MessagesRequest) -> Vec<Value> {
    let mut messages = Vec::with_capacity(request.messages.len() + 1);
    let (inline, turns): (Vec<_>, Vec<_>) = request
        .messages
        .iter()
        .partition(|message| message.role == "system");
    // System text that stands between the turns moves to the front: few templates take it there.
    let system: String = request
        .system
        .iter()
        .chain(inline.into_iter().map(|message| &message.content))
        .map(system_text)
        .collect();
    if !system.is_empty() {
        messages.push(object([
            ("role", text("system")),
            ("content", text(&system)),
        ]));
    }
    for message in turns {
        push_turn(message, &mut messages);
    }
    messages
}

fn system_text(content: &Content) -> String {
    match content {
        Content::Text(text) => text.clone(),
        Content::Blocks(blocks) => blocks
            .iter()
            .filter_map(|block| match block {
                Block::Text(text) if !text.starts_with(BILLING_HEADER) => Some(text.as_str()),
                _ => None,
            })
            .collect(),
    }
}

/// Appends one turn; results of tools become messages of their own in front of it.
fn push_turn(message: &Message, messages: &mut Vec<Value>) {
    let mut turn = Dict::new();
    turn.insert("role".to_owned(), text(message.role));
    match &message.content {
        Content::Text(content) => {
            turn.insert("content".to_owned(), text(content));
        }
        Content::Blocks(blocks) => {
            let mut parts = Vec::new();
            let mut calls = Vec::new();
            let mut reasoning = String::new();
            for block in blocks {
                match block {
                    Block::Text(content) if content.is_empty() => {}
                    Block::Text(content) => parts.push(text_part(content)),
                    Block::Image(source) => parts.push(image_part(source)),
                    Block::Thinking(thinking) => reasoning.push_str(thinking),
                    Block::ToolUse { id, name, input } => calls.push(call(id, name, input)),
                    Block::ToolResult {
                        tool_use_id,
                        content,
                    } => push_tool_result(tool_use_id, content, messages),
                    Block::Opaque => {}
                }
            }
            if message.role == "user" && parts.is_empty() {
                return;
            }
            if !reasoning.is_empty() {
                turn.insert("reasoning".to_owned(), text(&reasoning));
            }
            if !calls.is_empty() {
                turn.insert("tool_calls".to_owned(), Value::List(calls));
            }
            if !parts.is_empty() {
                turn.insert("content".to_owned(), Value::List(parts));
            }
        }
    }
    messages.push(Value::Dict(turn));
}

fn text_part(content: &str) -> Value {
    object([("type", text("text")), ("text", text(content))])
}

fn image_part(source: &Dict) -> Value {
    let member = |name: &str| source.get(name).and_then(Value::as_str);
    let url = match member("type") {
        Some("url") => member("url").unwrap_or_default().to_owned(),
        _ => {
            let media_type = member("media_type").unwrap_or("image/jpeg");
            let data = member("data").unwrap_or_default();
            format!("data:{media_type};base64,{data}")
        }
    };
    object([
        ("type", text("image_url")),
        ("image_url", object([("url", text(&url))])),
    ])
}

fn call(id: &Option<String>, name: &str, input: &Value) -> Value {
    let id = id.clone().unwrap_or_else(tool_call_id);
    let function = object([
        ("name", text(name)),
        ("arguments", text(&input.python_json())),
    ]);
    object([
        ("id", text(&id)),
        ("type", text("function")),
        ("function", function),
    ])
}

/// Appends what a tool answered; its images follow in a message of the user, because the answer
/// of a tool is text to every template.
fn push_tool_result(tool_use_id: &str, content: &Value, messages: &mut Vec<Value>) {
    let mut texts = Vec::new();
    let mut images = Vec::new();
    if let Value::String(content) = content {
        texts.push(text_part(content));
    }
    for part in content.as_list().unwrap_or_default() {
        let member = |name: &str| part.as_dict().and_then(|part| part.get(name));
        let string = |name: &str| member(name).and_then(Value::as_str);
        match string("type") {
            Some("text") => texts.push(text_part(string("text").unwrap_or_default())),
            Some("image") => images.extend(member("source").and_then(Value::as_dict)),
            Some("tool_reference") => {
                let name = string("tool_name").or_else(|| string("name"));
                texts.extend(
                    name.map(|name| {
                        object([("type", text("tool_reference")), ("name", text(name))])
                    }),
                );
            }
            _ => {}
        }
    }
    messages.push(object([
        ("role", text("tool")),
        ("tool_call_id", text(tool_use_id)),
        ("content", Value::List(texts)),
    ]));
    if !images.is_empty() {
        let parts = images.into_iter().map(image_part).collect();
        messages.push(object([
            ("role", text("user")),
            ("content", Value::List(parts)),
        ]));
    }
}
