//! The chat request: fields, checks, what it hands to the template.

use serde_json::{Map, Value as Json};

use super::schema::{decode_messages, decode_tool_choice, decode_tools};
use crate::decode::{
    Dict, Fields, Scope, Value, boolean, dict, dict_of, integer, list_of, literal, string,
};
use crate::error::{ErrorResponse, Result};
use crate::options::{
    EndpointDefaults, GenerationOptions, check_cache_salt, check_logprobs, check_stream_options,
};
use crate::structured::{check_response_format, check_structured_outputs};
use crate::tools::{ToolChoice, check_tool_fields};

/// The order in which the schema lists its fields; errors are reported in it.
const FIELD_ORDER: &[&str] = &[
    "messages",
    "model",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "max_tokens",
    "max_completion_tokens",
    "n",
    "presence_penalty",
    "response_format",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "temperature",
    "top_p",
    "tools",
    "tool_choice",
    "reasoning_effort",
    "thinking_token_budget",
    "include_reasoning",
    "parallel_tool_calls",
    "user",
    "use_beam_search",
    "top_k",
    "min_p",
    "repetition_penalty",
    "watermarking",
    "length_penalty",
    "stop_token_ids",
    "include_stop_str_in_output",
    "ignore_eos",
    "min_tokens",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "truncate_prompt_tokens",
    "truncation_side",
    "prompt_logprobs",
    "logprob_token_ids",
    "allowed_token_ids",
    "bad_words",
    "echo",
    "add_generation_prompt",
    "continue_final_message",
    "add_special_tokens",
    "documents",
    "chat_template",
    "chat_template_kwargs",
    "media_io_kwargs",
    "mm_processor_kwargs",
    "structured_outputs",
    "priority",
    "request_id",
    "session_id",
    "return_tokens_as_token_ids",
    "return_token_ids",
    "routed_experts_prompt_start",
    "return_token_offsets",
    "return_prompt_text",
    "mm_payload",
    "cache_salt",
    "kv_transfer_params",
    "ec_transfer_params",
    "vllm_xargs",
];

pub(crate) const REASONING_EFFORTS: &[&str] =
    &["none", "minimal", "low", "medium", "high", "xhigh", "max"];

/// `POST /v1/chat/completions`.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatCompletionRequest {
    /// The fields shared with completions.
    pub options: GenerationOptions,
    /// The messages with unknown members dropped and `reasoning_content` renamed; see
    /// [`normalize_messages`](super::normalize_messages) for what the template gets.
    pub messages: Vec<Map<String, Json>>,
    /// Report logprobs.
    pub logprobs: bool,
    /// How many likeliest tokens to report per position; -1 means all.
    pub top_logprobs: i64,
    /// Most tokens to generate; the older name.
    pub max_tokens: Option<i64>,
    /// Most tokens to generate; wins over `max_tokens`.
    pub max_completion_tokens: Option<i64>,
    /// The tools as templates get them.
    pub tools: Option<Vec<Json>>,
    /// Which tools may or must be called.
    pub tool_choice: ToolChoice,
    /// Keep only the first call when false.
    pub parallel_tool_calls: bool,
    /// Effort on reasoning, for the template.
    pub reasoning_effort: Option<&'static str>,
    /// Show the reasoning text.
    pub include_reasoning: bool,
    /// Prepend the last message when it has the role of the answer.
    pub echo: bool,
    /// End the prompt with the start of the answer.
    pub add_generation_prompt: bool,
    /// Leave the last message open for continuation.
    pub continue_final_message: bool,
    /// Documents for the template.
    pub documents: Option<Vec<Json>>,
    /// A template of the request's own.
    pub chat_template: Option<String>,
    /// Further variables for the template.
    pub chat_template_kwargs: Option<Map<String, Json>>,
    /// Overrides of media loading.
    pub media_io_kwargs: Option<Map<String, Json>>,
    /// Overrides of media preprocessing.
    pub mm_processor_kwargs: Option<Map<String, Json>>,
    /// Add the rendered prompt to the answer.
    pub return_prompt_text: bool,
}

/// What the server's command line allows requests to do.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestPolicy {
    /// `--trust-request-chat-template`
    pub trust_chat_template: bool,
    /// `--trust-request-mm-kwargs`
    pub trust_mm_kwargs: bool,
    /// `--enable-auto-tool-choice` together with `--tool-call-parser`
    pub has_tool_parser: bool,
}

impl ChatCompletionRequest {
    /// Checks and decodes the members of a body.
    ///
    /// # Errors
    /// 400: the first failing cross-field check, or else all schema errors.
    pub fn from_body(body: &Dict) -> Result<Self> {
        check_generation_prompt(body)?;
        check_tool_fields(body)?;
        let has_tools = body.get("tools").is_some_and(Value::is_truthy);
        let automatic = Value::String("auto".to_owned());
        let tool_choice = body.get("tool_choice").or(has_tools.then_some(&automatic));
        check_structured_outputs(body, tool_choice, true)?;
        check_chat_logprobs(body)?;
        check_stream_options(body)?;
        check_response_format(body)?;
        check_cache_salt(body)?;

        let mut scope = Scope::new();
        let request = Self::decode(body, &mut scope, has_tools);
        scope.sort_by_field(FIELD_ORDER);
        scope
            .finish(request)
            .map_err(|errors| ErrorResponse::schema(&errors))
    }

    pub(crate) fn decode(body: &Dict, scope: &mut Scope, has_tools: bool) -> Option<Self> {
        let mut fields = Fields::new(body, scope);
        let defaults = EndpointDefaults {
            n_is_nullable: true,
            add_special_tokens: false,
            request_id_prefix: "",
        };
        let options = GenerationOptions::decode(&mut fields, defaults);
        let messages = fields.required("messages", decode_messages);
        let named_default = if has_tools && !body.contains_key("tool_choice") {
            ToolChoice::Auto
        } else {
            ToolChoice::None
        };
        let request = Self {
            options,
            messages: Vec::new(),
            logprobs: fields.nullable("logprobs", boolean).unwrap_or(false),
            top_logprobs: fields.nullable("top_logprobs", integer).unwrap_or(0),
            max_tokens: fields.nullable("max_tokens", integer),
            max_completion_tokens: fields.nullable("max_completion_tokens", integer),
            tools: fields.nullable("tools", decode_tools),
            tool_choice: fields
                .nullable("tool_choice", decode_tool_choice)
                .unwrap_or(named_default),
            parallel_tool_calls: fields
                .nullable("parallel_tool_calls", boolean)
                .unwrap_or(true),
            reasoning_effort: fields.nullable("reasoning_effort", literal(REASONING_EFFORTS)),
            include_reasoning: fields.with_default("include_reasoning", true, boolean),
            echo: fields.with_default("echo", false, boolean),
            add_generation_prompt: fields.with_default("add_generation_prompt", true, boolean),
            continue_final_message: fields.with_default("continue_final_message", false, boolean),
            documents: fields.nullable("documents", list_of(document)),
            chat_template: fields.nullable("chat_template", string),
            chat_template_kwargs: fields.nullable("chat_template_kwargs", dict),
            media_io_kwargs: fields.nullable("media_io_kwargs", decode_media_io_kwargs),
            mm_processor_kwargs: fields.nullable("mm_processor_kwargs", dict),
            return_prompt_text: fields
                .nullable("return_prompt_text", boolean)
                .unwrap_or(false),
        };
        Some(Self {
            messages: messages?,
            ..request
        })
    }

    /// Refuses what the server's command line does not allow or this server cannot do. Runs after
    /// the model name was checked.
    ///
    /// # Errors
    /// 400 with vLLM's wording.
    pub fn check_supported(&self, policy: RequestPolicy) -> Result<()> {
        self.options.check_beam_search()?;
        self.tool_choice.check_available(policy.has_tool_parser)?;
        check_template_kwargs(
            self.chat_template.as_deref(),
            self.chat_template_kwargs.as_ref(),
            policy.trust_chat_template,
        )?;
        check_media_kwargs(
            self.mm_processor_kwargs.as_ref(),
            self.media_io_kwargs.as_ref(),
            policy.trust_mm_kwargs,
        )
    }

    /// The requested output length and the name of the field that set it.
    pub fn requested_tokens(&self) -> (Option<i64>, &'static str) {
        match self.max_completion_tokens {
            Some(tokens) => (Some(tokens), "max_completion_tokens"),
            None => (self.max_tokens, "max_tokens"),
        }
    }

    /// How many likeliest tokens to report per prompt position: what was asked for, or with
    /// `echo` as many as for generated tokens.
    pub fn prompt_logprobs(&self) -> Option<i64> {
        self.options.prompt_logprobs.or(if self.echo {
            Some(self.top_logprobs)
        } else {
            None
        })
    }

    /// The role of the answer: the last message's when no generation prompt is added.
    pub fn response_role(&self) -> &str {
        if self.add_generation_prompt {
            return "assistant";
        }
        let last = self.messages.last().and_then(|message| message.get("role"));
        last.and_then(Json::as_str).unwrap_or("assistant")
    }

    /// The text to put in front of the answer with `echo`: the last message's, when it has the
    /// answer's role. `conversation` is what the template got.
    pub fn echo_text(&self, conversation: &[Json]) -> Option<String> {
        if !self.echo {
            return None;
        }
        let last = conversation.last()?;
        if last.get("role")?.as_str()? != self.response_role() {
            return None;
        }
        let text = match last.get("content")? {
            Json::String(text) => text.clone(),
            Json::Array(parts) => {
                let texts: Vec<&str> = parts
                    .iter()
                    .filter_map(|part| part.get("text")?.as_str())
                    .collect();
                texts.join("\n")
            }
            _ => return None,
        };
        (!text.is_empty()).then_some(text)
    }

    /// The template's further variables: the server's defaults, then the request's, then what
    /// follows from other fields. Nulls never override.
    pub fn template_kwargs(&self, server_defaults: &Map<String, Json>) -> Map<String, Json> {
        let own = self.chat_template_kwargs.as_ref();
        template_kwargs(server_defaults, own, self.reasoning_effort)
    }
}

/// The server's template variables overlaid with the request's and with what follows from the
/// effort on reasoning.
pub(crate) fn template_kwargs(
    server_defaults: &Map<String, Json>,
    own: Option<&Map<String, Json>>,
    reasoning_effort: Option<&str>,
) -> Map<String, Json> {
    let mut merged = merge_template_kwargs(server_defaults, own);
    if let Some(effort) = reasoning_effort {
        merged.insert("reasoning_effort".to_owned(), effort.into());
        if own.is_none_or(|kwargs| !kwargs.contains_key("enable_thinking")) {
            merged.insert("enable_thinking".to_owned(), (effort != "none").into());
        }
    }
    merged
}

/// The server's template variables overlaid with the request's non-null ones.
pub(crate) fn merge_template_kwargs(
    server_defaults: &Map<String, Json>,
    own: Option<&Map<String, Json>>,
) -> Map<String, Json> {
    let mut merged = server_defaults.clone();
    for (name, value) in own
        .into_iter()
        .flatten()
        .filter(|(_, value)| !value.is_null())
    {
        merged.insert(name.clone(), value.clone());
    }
    merged
}

/// Both prompt options set to true in the body contradict each other.
pub(crate) fn check_generation_prompt(body: &Dict) -> Result<()> {
    let truthy = |name: &str| body.get(name).is_some_and(Value::is_truthy);
    if truthy("continue_final_message") && truthy("add_generation_prompt") {
        return Err(ErrorResponse::bad_request(
            "Cannot set both `continue_final_message` and `add_generation_prompt` to True.",
        ));
    }
    Ok(())
}

/// Refuses a template of the request's own unless trusted, and variables with a meaning of their
/// own to the tokenizer.
pub(crate) fn check_template_kwargs(
    template: Option<&str>,
    kwargs: Option<&Map<String, Json>>,
    trusted: bool,
) -> Result<()> {
    let given = |name: &str| {
        kwargs
            .and_then(|kwargs| kwargs.get(name))
            .is_some_and(|v| !v.is_null())
    };
    if !trusted && (template.is_some() || given("chat_template")) {
        return Err(ErrorResponse::bad_request(
            "Chat template is passed with request, but --trust-request-chat-template is not set. \
             Refused request with untrusted chat template.",
        ));
    }
    if kwargs.is_some_and(|kwargs| kwargs.contains_key("tokenize")) {
        return Err(ErrorResponse::bad_request(
            "Found unexpected chat template kwargs from request: {'tokenize'}",
        ));
    }
    Ok(())
}

/// Refuses overrides of media handling unless trusted.
pub(crate) fn check_media_kwargs(
    processor: Option<&Map<String, Json>>,
    loading: Option<&Map<String, Json>>,
    trusted: bool,
) -> Result<()> {
    let kinds = [
        ("mm_processor_kwargs", "multimodal preprocessing", processor),
        ("media_io_kwargs", "multimodal media loading", loading),
    ];
    for (name, resource, kwargs) in kinds {
        if !trusted && kwargs.is_some_and(|kwargs| !kwargs.is_empty()) {
            let message = format!(
                "Per-request {name} are disabled by default because they can change {resource} \
                 resource usage. Start the server with --trust-request-mm-kwargs only when \
                 clients are trusted."
            );
            return Err(ErrorResponse::invalid(&message, name));
        }
    }
    Ok(())
}

fn check_chat_logprobs(body: &Dict) -> Result<()> {
    let asked = check_logprobs(body, "top_logprobs")?;
    let is_on = body.get("logprobs").is_some_and(Value::is_truthy);
    if asked.is_some_and(|count| count > 0.0 || count == -1.0) && !is_on {
        return Err(ErrorResponse::invalid(
            "when using `top_logprobs`, `logprobs` must be set to true.",
            "top_logprobs",
        ));
    }
    Ok(())
}

/// An object of objects, by kind of media.
pub(crate) fn decode_media_io_kwargs(
    value: &Value,
    scope: &mut Scope,
) -> Option<Map<String, Json>> {
    let kinds = dict_of(dict)(value, scope)?.into_iter();
    Some(
        kinds
            .map(|(kind, options)| (kind, Json::Object(options)))
            .collect(),
    )
}

/// An object whose values are strings.
fn document(value: &Value, scope: &mut Scope) -> Option<Json> {
    let members = dict_of(string)(value, scope)?;
    Some(
        members
            .into_iter()
            .map(|(key, text)| (key, Json::String(text)))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn request(fields: Json) -> ChatCompletionRequest {
        let body = crate::decode::json::parse(fields.to_string().as_bytes()).expect("JSON");
        let members = body.as_dict().expect("test bodies are objects");
        ChatCompletionRequest::from_body(members).expect("test requests are valid")
    }

    #[test]
    fn the_answer_takes_the_last_role_without_a_generation_prompt() {
        let role = |add: bool| {
            let messages = json!([{"role": "user", "content": "a"}]);
            let fields = json!({"messages": messages, "add_generation_prompt": add});
            request(fields).response_role().to_owned()
        };
        assert_eq!(role(true), "assistant");
        assert_eq!(role(false), "user");
    }

    #[test]
    fn echo_repeats_the_last_message_of_the_same_role_only() {
        let echoed = |role: &str, content: Json| {
            let request = request(json!({"messages": [], "echo": true}));
            request.echo_text(&[json!({"role": role, "content": content})])
        };
        assert_eq!(echoed("assistant", json!("a")).as_deref(), Some("a"));
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        assert_eq!(echoed("assistant", parts).as_deref(), Some("a\nb"));
        assert_eq!(echoed("user", json!("a")), None);
        let silent = request(json!({"messages": []}));
        assert_eq!(
            silent.echo_text(&[json!({"role": "assistant", "content": "a"})]),
            None
        );
    }

    #[test]
    fn template_variables_are_merged_and_nulls_do_not_override() {
        let merged = |fields: Json| {
            let defaults = json!({"a": 1, "enable_thinking": true});
            let defaults = defaults.as_object().expect("an object");
            Json::Object(request(fields).template_kwargs(defaults))
        };
        assert_eq!(
            merged(json!({"messages": [], "chat_template_kwargs": {"a": null, "b": 2}})),
            json!({"a": 1, "enable_thinking": true, "b": 2})
        );
        assert_eq!(
            merged(json!({"messages": [], "reasoning_effort": "none"})),
            json!({"a": 1, "enable_thinking": false, "reasoning_effort": "none"})
        );
        let own = json!({"messages": [], "reasoning_effort": "low",
                         "chat_template_kwargs": {"enable_thinking": false}});
        assert_eq!(
            merged(own),
            json!({"a": 1, "enable_thinking": false, "reasoning_effort": "low"})
        );
    }

    #[test]
    fn tools_reach_the_template_with_known_members_only() {
        let request = request(json!({"messages": [], "tools": [
            {"function": {"name": "f", "x": 1, "strict": true}, "y": 2, "type": "function"}
        ]}));
        assert_eq!(request.tool_choice, ToolChoice::Auto);
        assert_eq!(
            request.tools.map(|tools| tools[0].to_string()).as_deref(),
            Some(
                r#"{"type":"function","function":{"name":"f","description":null,"parameters":null,"strict":true}}"#
            )
        );
    }
}
