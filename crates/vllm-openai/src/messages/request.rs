//! The request in its own form: fields and checks.

use super::convert::chat_body;
use crate::chat::ChatCompletionRequest;
use crate::decode::{
    Dict, Fields, Scope, Value, boolean, dict, float, integer, integer_between, list_of, literal,
    model, string,
};
use crate::error::{ErrorResponse, Result};

const BLOCK_TYPES: &[&str] = &[
    "text",
    "image",
    "tool_use",
    "tool_result",
    "tool_reference",
    "thinking",
    "redacted_thinking",
];

/// The fields that a request to count tokens has.
const COUNTED_FIELDS: &[&str] = &[
    "model",
    "messages",
    "output_config",
    "system",
    "thinking",
    "tool_choice",
    "tools",
    "chat_template_kwargs",
];

/// The smallest budget for thinking that may be asked for.
const MIN_THINKING_TOKENS: i64 = 1024;

/// `POST /v1/messages` and `POST /v1/messages/count_tokens`.
///
/// ```
/// use vllm_openai::{MessagesRequest, parse_body};
///
/// # fn handle() -> vllm_openai::Result<()> {
/// let body = br#"{"model": "demo", "max_tokens": 8, "system": "Be brief.",
///                 "messages": [{"role": "user", "content": "Hi"}]}"#;
/// let request = MessagesRequest::from_body(&parse_body(Some("application/json"), body)?)?;
/// let chat = request.to_chat("low")?;
/// assert_eq!(chat.messages.len(), 2);
/// assert_eq!(chat.requested_tokens(), (Some(8), "max_tokens"));
/// # Ok(())
/// # }
/// # handle().expect("the example works");
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct MessagesRequest {
    /// Model name, not empty.
    pub model: String,
    /// Answer as a stream.
    pub stream: bool,
    pub(super) system: Option<Content>,
    pub(super) messages: Vec<Message>,
    pub(super) tools: Vec<Tool>,
    pub(super) tool_choice: Option<Choice>,
    pub(super) thinking: Option<Thinking>,
    pub(super) effort: Option<&'static str>,
    pub(super) output_schema: Option<Value>,
    /// Fields that chat requests have too, as sent.
    pub(super) shared: Dict,
}

/// One turn.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Message {
    pub(super) role: &'static str,
    pub(super) content: Content,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    Text(String),
    Blocks(Vec<Block>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Block {
    Text(String),
    Image(Dict),
    Thinking(String),
    ToolUse {
        id: Option<String>,
        name: String,
        input: Value,
    },
    ToolResult {
        tool_use_id: String,
        content: Value,
    },
    /// What the model cannot be shown.
    Opaque,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tool {
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) input_schema: Dict,
    pub(super) strict: Option<bool>,
    pub(super) defer_loading: Option<bool>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Choice {
    pub(super) kind: &'static str,
    pub(super) name: Option<String>,
    pub(super) disable_parallel_tool_use: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Thinking {
    Enabled { budget_tokens: i64 },
    Disabled,
    Adaptive,
}

impl MessagesRequest {
    /// Checks and decodes the members of a body of `/v1/messages`.
    ///
    /// # Errors
    /// 400 with all schema errors, to be answered in the OpenAI form.
    pub fn from_body(body: &Dict) -> Result<Self> {
        let mut scope = Scope::new();
        let request = Self::decode(body, &mut scope, false);
        scope
            .finish(request)
            .map_err(|errors| ErrorResponse::schema(&errors))
    }

    /// Checks and decodes the members of a body of `/v1/messages/count_tokens`.
    ///
    /// # Errors
    /// See [`MessagesRequest::from_body`].
    pub fn from_counted_body(body: &Dict) -> Result<Self> {
        let mut scope = Scope::new();
        let request = Self::decode(body, &mut scope, true);
        scope
            .finish(request)
            .map_err(|errors| ErrorResponse::schema(&errors))
    }

    /// The request in the form of chat. `disabled_thinking_effort` is what disabled thinking means
    /// to the model: `--anthropic-disabled-thinking-effort`, whose `auto` the caller resolves.
    ///
    /// # Errors
    /// 400 for what chat requests may not ask for, to be answered with
    /// [`ErrorResponse::to_messages_json`].
    pub fn to_chat(&self, disabled_thinking_effort: &str) -> Result<ChatCompletionRequest> {
        let body = chat_body(self, disabled_thinking_effort);
        ChatCompletionRequest::from_body(&body).map_err(|error| ErrorResponse {
            kind: "BadRequestError",
            ..error
        })
    }

    pub(crate) fn decode(body: &Dict, scope: &mut Scope, counts_only: bool) -> Option<Self> {
        let mut fields = Fields::new(body, scope);
        if counts_only {
            fields = fields.only(COUNTED_FIELDS);
        }
        let model_name = fields.required("model", |value, scope| {
            let name = string(value, scope)?;
            match name.is_empty() {
                true => scope.refuse("Model is required", value),
                false => Some(name),
            }
        });
        let messages = fields.required("messages", list_of(decode_message));
        let max_tokens = match counts_only {
            true => None,
            false => fields.required("max_tokens", |value, scope| {
                let tokens = integer(value, scope)?;
                match tokens > 0 {
                    true => Some(tokens),
                    false => scope.refuse("max_tokens must be positive", value),
                }
            }),
        };
        fields.nullable("metadata", dict);
        let output_config = fields.nullable("output_config", decode_output_config);
        let (effort, output_schema) = output_config.unwrap_or_default();
        fields.nullable("stop_sequences", list_of(string));
        let stream = fields.nullable("stream", boolean).unwrap_or(false);
        let system = fields.nullable("system", decode_content);
        fields.nullable("temperature", float);
        let thinking = fields.nullable("thinking", decode_thinking);
        let tool_choice = fields.nullable("tool_choice", decode_choice);
        let tools = fields.nullable("tools", list_of(decode_tool));
        fields.nullable("top_k", integer);
        fields.nullable("top_p", float);
        fields.nullable("cache_salt", string);
        fields.nullable("vllm_xargs", dict);
        fields.nullable("chat_template_kwargs", dict);
        fields.nullable("kv_transfer_params", dict);
        fields.nullable("ec_transfer_params", dict);
        fields.nullable("watermarking", boolean);
        if let (Some(Thinking::Enabled { budget_tokens }), Some(max_tokens)) =
            (thinking, max_tokens)
            && budget_tokens >= max_tokens
        {
            return scope.refuse(
                "thinking.budget_tokens must be less than max_tokens",
                &Value::Dict(body.clone()),
            );
        }
        let shared = shared_fields(body, counts_only);
        Some(Self {
            model: model_name?,
            stream,
            system,
            messages: messages?,
            tools: tools.unwrap_or_default(),
            tool_choice,
            thinking,
            effort,
            output_schema,
            shared,
        })
    }
}

/// The fields that chat requests have too, under the names that they have there.
fn shared_fields(body: &Dict, counts_only: bool) -> Dict {
    const SHARED: [(&str, &str); 13] = [
        ("model", "model"),
        ("max_tokens", "max_tokens"),
        ("stop_sequences", "stop"),
        ("stream", "stream"),
        ("temperature", "temperature"),
        ("top_k", "top_k"),
        ("top_p", "top_p"),
        ("cache_salt", "cache_salt"),
        ("vllm_xargs", "vllm_xargs"),
        ("chat_template_kwargs", "chat_template_kwargs"),
        ("kv_transfer_params", "kv_transfer_params"),
        ("ec_transfer_params", "ec_transfer_params"),
        ("watermarking", "watermarking"),
    ];
    let known = SHARED
        .iter()
        .filter(|(name, _)| !counts_only || COUNTED_FIELDS.contains(name));
    known
        .filter_map(|(name, chat_name)| Some(((*chat_name).to_owned(), body.get(*name)?.clone())))
        .collect()
}

fn decode_message(value: &Value, scope: &mut Scope) -> Option<Message> {
    let mut fields = Fields::new(model(value, scope)?, scope);
    let role = fields.required("role", |value, scope| match value.as_str() {
        // Roles of some clients that are not in the protocol.
        Some("ctx" | "msg") => Some("user"),
        _ => literal(&["user", "assistant", "system"])(value, scope),
    });
    let content = fields.required("content", decode_content);
    Some(Message {
        role: role?,
        content: content?,
    })
}

/// Text or a list of blocks.
fn decode_content(value: &Value, scope: &mut Scope) -> Option<Content> {
    if let Value::String(text) = value {
        return Some(Content::Text(text.clone()));
    }
    match scope.attempt(|scope| list_of(decode_block)(value, scope)) {
        Ok(blocks) => Some(Content::Blocks(blocks)),
        Err(errors) => {
            scope.fail::<()>("string_type", "Input should be a valid string", value);
            scope.fail_all(errors)
        }
    }
}

fn decode_block(value: &Value, scope: &mut Scope) -> Option<Block> {
    let mut fields = Fields::new(model(value, scope)?, scope);
    let kind = fields.required("type", literal(BLOCK_TYPES));
    let text = fields.nullable("text", string);
    let source = fields.nullable("source", checked_dict);
    let id = fields.nullable("id", string);
    let tool_use_id = fields.nullable("tool_use_id", string);
    let name = fields.nullable("name", string);
    let input = fields.nullable("input", checked_dict);
    let content = fields.nullable("content", decode_result_content);
    fields.nullable("is_error", boolean);
    fields.nullable("tool_name", string);
    let thinking = fields.nullable("thinking", string);
    fields.nullable("signature", string);
    fields.nullable("data", string);
    Some(match kind? {
        "text" => Block::Text(text.unwrap_or_default()),
        "image" => source.map_or(Block::Opaque, Block::Image),
        "thinking" => Block::Thinking(thinking.unwrap_or_default()),
        "tool_use" => Block::ToolUse {
            id,
            name: name.unwrap_or_default(),
            input: Value::Dict(input.unwrap_or_default()),
        },
        "tool_result" => Block::ToolResult {
            tool_use_id: tool_use_id.unwrap_or_default(),
            content: content.unwrap_or(Value::Null),
        },
        _ => Block::Opaque,
    })
}

fn checked_dict(value: &Value, scope: &mut Scope) -> Option<Dict> {
    dict(value, scope)?;
    value.as_dict().cloned()
}

/// Text or a list of objects.
fn decode_result_content(value: &Value, scope: &mut Scope) -> Option<Value> {
    if matches!(value, Value::String(_)) {
        return Some(value.clone());
    }
    match scope.attempt(|scope| list_of(dict)(value, scope)) {
        Ok(_) => Some(value.clone()),
        Err(errors) => {
            scope.fail::<()>("string_type", "Input should be a valid string", value);
            scope.fail_all(errors)
        }
    }
}

fn decode_tool(value: &Value, scope: &mut Scope) -> Option<Tool> {
    let mut fields = Fields::new(model(value, scope)?, scope);
    let name = fields.required("name", string);
    let description = fields.nullable("description", string);
    let input_schema = fields.required("input_schema", checked_dict);
    let strict = fields.nullable("strict", boolean);
    let defer_loading = fields.nullable("defer_loading", boolean);
    let mut input_schema = input_schema?;
    input_schema
        .entry("type".to_owned())
        .or_insert_with(|| Value::String("object".to_owned()));
    Some(Tool {
        name: name?,
        description,
        input_schema,
        strict,
        defer_loading,
    })
}

fn decode_choice(value: &Value, scope: &mut Scope) -> Option<Choice> {
    let mut fields = Fields::new(model(value, scope)?, scope);
    let kind = fields.required("type", literal(&["auto", "any", "tool", "none"]));
    let name = fields.nullable("name", string);
    let disable_parallel_tool_use = fields
        .nullable("disable_parallel_tool_use", boolean)
        .unwrap_or(false);
    let kind = kind?;
    if kind == "tool" && name.as_deref().unwrap_or_default().is_empty() {
        return scope.refuse("tool_choice.name is required when type is 'tool'", value);
    }
    Some(Choice {
        kind,
        name,
        disable_parallel_tool_use,
    })
}

fn decode_thinking(value: &Value, scope: &mut Scope) -> Option<Thinking> {
    let mut fields = Fields::new(model(value, scope)?, scope);
    let kind = fields.required("type", literal(&["enabled", "disabled", "adaptive"]));
    fields.nullable("display", literal(&["omitted", "summarized", "updates"]));
    Some(match kind? {
        "enabled" => Thinking::Enabled {
            budget_tokens: fields.required(
                "budget_tokens",
                integer_between(MIN_THINKING_TOKENS, i64::MAX),
            )?,
        },
        "disabled" => Thinking::Disabled,
        _ => Thinking::Adaptive,
    })
}

/// The effort on the answer and the schema that it must follow.
fn decode_output_config(
    value: &Value,
    scope: &mut Scope,
) -> Option<(Option<&'static str>, Option<Value>)> {
    const EFFORTS: &[&str] = &["low", "medium", "high", "xhigh", "max"];
    let mut fields = Fields::new(model(value, scope)?, scope);
    let effort = fields.nullable("effort", literal(EFFORTS));
    let schema = fields.nullable("format", |value, scope| {
        let mut fields = Fields::new(model(value, scope)?, scope);
        fields.with_default("type", "json_schema", literal(&["json_schema"]));
        fields.nullable("schema", checked_dict)
    });
    Some((effort, schema.map(Value::Dict)))
}
