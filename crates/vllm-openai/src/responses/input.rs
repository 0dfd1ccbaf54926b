//! The `input` field: a text, or items that become messages.

use serde_json::{Map, Value as Json, json};

use crate::decode::{Dict, Fields, Scope, Value, any, dict, list_of, literal, model, string};

/// The kinds of items that can be told to the model.
const ITEM_TYPES: &[&str] = &[
    "message",
    "function_call",
    "function_call_output",
    "reasoning",
];

type Message = Map<String, Json>;

/// The messages that the input amounts to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Input {
    pub(super) messages: Vec<Message>,
    /// The last message is an unfinished one of the assistant.
    pub(super) continue_final_message: bool,
}

impl Input {
    /// Puts the instructions in front.
    pub(super) fn with_instructions(mut self, instructions: Option<&str>) -> Self {
        if let Some(text) = instructions.filter(|text| !text.is_empty()) {
            self.messages.insert(0, message("system", text.into()));
        }
        self
    }
}

/// One item of the input.
enum Item {
    Message { role: &'static str, content: Json },
    Call(Json),
    Output { call_id: String, output: Json },
    Reasoning(String),
}

pub(super) fn decode_input(value: &Value, scope: &mut Scope) -> Option<Input> {
    if let Value::String(text) = value {
        return Some(Input {
            messages: vec![message("user", text.as_str().into())],
            continue_final_message: false,
        });
    }
    let items = match scope.attempt(|scope| list_of(decode_item)(value, scope)) {
        Ok(items) => items,
        Err(errors) => {
            scope.fail::<()>("string_type", "Input should be a valid string", value);
            return scope.fail_all(errors);
        }
    };
    let mut messages = Vec::with_capacity(items.len() + 1);
    for item in items {
        push_item(item, &mut messages);
    }
    let last = value.as_list().and_then(<[Value]>::last);
    Some(Input {
        messages,
        continue_final_message: last.and_then(Value::as_dict).is_some_and(is_unfinished),
    })
}

/// Whether an item is a part of an answer that was cut off.
fn is_unfinished(item: &Dict) -> bool {
    let member = |name: &str| item.get(name).and_then(Value::as_str);
    let is_answer = match item_type(item) {
        "message" => member("role") == Some("assistant"),
        kind => kind == "reasoning",
    };
    is_answer && matches!(member("status"), Some("in_progress" | "incomplete"))
}

fn item_type(item: &Dict) -> &str {
    match item.get("type") {
        None | Some(Value::Null) => "message",
        Some(kind) => kind.as_str().unwrap_or_default(),
    }
}

fn decode_item(value: &Value, scope: &mut Scope) -> Option<Item> {
    let members = model(value, scope)?;
    match item_type(members) {
        "message" => scope.at("EasyInputMessageParam", |scope| {
            decode_message(members, scope)
        }),
        "function_call" => scope.at("ResponseFunctionToolCallParam", |scope| {
            decode_call(members, scope)
        }),
        "function_call_output" => scope.at("FunctionCallOutput", |scope| {
            let mut fields = Fields::new(members, scope);
            let call_id = fields.required("call_id", string);
            let output = fields.required("output", decode_content);
            Some(Item::Output {
                call_id: call_id?,
                output: output?,
            })
        }),
        "reasoning" => scope.at("ResponseReasoningItemParam", |scope| {
            decode_reasoning(members, scope)
        }),
        _ => {
            let mut fields = Fields::new(members, scope);
            fields.required("type", literal(ITEM_TYPES))?;
            None
        }
    }
}

fn decode_message(members: &Dict, scope: &mut Scope) -> Option<Item> {
    let mut fields = Fields::new(members, scope);
    let content = fields.required("content", decode_content);
    let roles = &["user", "assistant", "system", "developer"];
    let role = fields.required("role", literal(roles));
    Some(Item::Message {
        role: role?,
        content: content?,
    })
}

fn decode_call(members: &Dict, scope: &mut Scope) -> Option<Item> {
    let mut fields = Fields::new(members, scope);
    let arguments = fields.required("arguments", string);
    let call_id = fields.required("call_id", string);
    let name = fields.required("name", string);
    let function = json!({"name": name?, "arguments": arguments?});
    Some(Item::Call(
        json!({"id": call_id?, "type": "function", "function": function}),
    ))
}

/// The text of a reasoning item, or that of its summary when it has no other.
fn decode_reasoning(members: &Dict, scope: &mut Scope) -> Option<Item> {
    let mut fields = Fields::new(members, scope);
    let content = fields.nullable("content", list_of(any));
    let summary = fields.nullable("summary", list_of(any));
    let mut parts = [content, summary].into_iter().flatten().flatten();
    let text = parts.find_map(|part| Some(part.get("text")?.as_str()?.to_owned()));
    let is_encrypted = members
        .get("encrypted_content")
        .is_some_and(Value::is_truthy);
    if text.is_none() && is_encrypted {
        return scope.refuse(
            "Encrypted content is not supported.",
            &Value::Dict(members.clone()),
        );
    }
    Some(Item::Reasoning(text.unwrap_or_default()))
}

/// Text or a list of parts, which are looked at when the messages are prepared for the template.
fn decode_content(value: &Value, scope: &mut Scope) -> Option<Json> {
    if let Value::String(text) = value {
        return Some(text.as_str().into());
    }
    match scope.attempt(|scope| list_of(dict)(value, scope)) {
        Ok(parts) => Some(parts.into_iter().map(Json::Object).collect()),
        Err(errors) => {
            scope.fail::<()>("string_type", "Input should be a valid string", value);
            scope.fail_all(errors)
        }
    }
}

fn message(role: &str, content: Json) -> Message {
    let mut message = Message::new();
    message.insert("role".to_owned(), role.into());
    message.insert("content".to_owned(), content);
    message
}

/// Appends an item. Reasoning, text and calls that follow each other are one message of the
/// assistant, as they were when it was generated.
fn push_item(item: Item, messages: &mut Vec<Message>) {
    let (member, value) = match item {
        Item::Message {
            role: "assistant",
            content,
        } => ("content", content),
        Item::Message { role, content } => {
            messages.push(message(role, content));
            return;
        }
        Item::Output { call_id, output } => {
            let mut answer = message("tool", output);
            answer.insert("tool_call_id".to_owned(), call_id.into());
            messages.push(answer);
            return;
        }
        Item::Reasoning(text) => ("reasoning", text.into()),
        Item::Call(call) => ("tool_calls", Json::Array(vec![call])),
    };
    let last = messages
        .last_mut()
        .filter(|last| last.get("role").and_then(Json::as_str) == Some("assistant"));
    if let Some(last) = last {
        match (last.get_mut(member), value) {
            (None, value) => {
                last.insert(member.to_owned(), value);
                return;
            }
            (Some(Json::Array(calls)), Json::Array(more)) if member == "tool_calls" => {
                calls.extend(more);
                return;
            }
            (Some(_), value) => {
                messages.push(assistant(member, value));
                return;
            }
        }
    }
    messages.push(assistant(member, value));
}

fn assistant(member: &str, value: Json) -> Message {
    let mut message = Message::new();
    message.insert("role".to_owned(), "assistant".into());
    message.insert(member.to_owned(), value);
    message
}
