//! The request: fields, checks, what it hands to the template.

use serde_json::{Map, Value as Json};

use super::format::{decode_reasoning, decode_text};
use super::input::{Input, decode_input};
use super::tools::{Tools, check_tool_choice, decode_tool_choice, decode_tools};
use crate::chat::{
    RequestPolicy, check_media_kwargs, check_template_kwargs, decode_media_io_kwargs,
    template_kwargs,
};
use crate::decode::{
    Dict, Fields, Scope, Value, any, boolean, dict, dict_of, integer, list_of, literal, string,
};
use crate::error::{ErrorResponse, Result};
use crate::options::{EndpointDefaults, GenerationOptions, check_cache_salt};
use crate::structured::ResponseFormat;
use crate::tools::ToolChoice;

/// The fields of the schema in its order; errors are reported in it, and other fields are ignored.
const FIELDS: &[&str] = &[
    "background",
    "include",
    "input",
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "model",
    "logit_bias",
    "parallel_tool_calls",
    "previous_response_id",
    "prompt",
    "reasoning",
    "include_reasoning",
    "service_tier",
    "store",
    "stream",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "top_k",
    "min_p",
    "truncation",
    "user",
    "skip_special_tokens",
    "include_stop_str_in_output",
    "prompt_cache_key",
    "request_id",
    "session_id",
    "media_io_kwargs",
    "mm_processor_kwargs",
    "mm_payload",
    "priority",
    "cache_salt",
    "enable_response_messages",
    "previous_input_messages",
    "structured_outputs",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "chat_template_kwargs",
    "vllm_xargs",
    "kv_transfer_params",
    "ec_transfer_params",
    "watermarking",
];

const INCLUDABLE: &[&str] = &[
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
];

const SERVICE_TIERS: &[&str] = &["auto", "default", "flex", "scale", "priority"];

/// `POST /v1/responses`.
///
/// Tools that are not functions are accepted and shown in the answer, but the model is not told of
/// them: this server runs no tools of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct ResponsesRequest {
    /// The fields shared with the other endpoints; `request_id` is the whole id of the answer.
    pub options: GenerationOptions,
    /// Instructions and input as messages; see [`normalize_messages`](crate::normalize_messages)
    /// for what the template gets.
    pub messages: Vec<Map<String, Json>>,
    /// The last message is an unfinished one of the assistant, to be continued.
    pub continue_final_message: bool,
    /// Most tokens to generate.
    pub max_output_tokens: Option<i64>,
    /// Report logprobs.
    pub include_logprobs: bool,
    /// How many likeliest tokens to report per position.
    pub top_logprobs: i64,
    /// The functions as templates get them; only those that may be called.
    pub functions: Vec<Json>,
    /// Which functions may or must be called.
    pub tool_choice: ToolChoice,
    /// Keep only the first call when false.
    pub parallel_tool_calls: bool,
    /// Effort on reasoning, for the template.
    pub reasoning_effort: Option<&'static str>,
    /// Show the reasoning text.
    pub include_reasoning: bool,
    /// The output format that `text` asks for.
    pub text_format: Option<ResponseFormat>,
    /// Further variables for the template.
    pub chat_template_kwargs: Option<Map<String, Json>>,
    /// Overrides of media loading.
    pub media_io_kwargs: Option<Map<String, Json>>,
    /// Overrides of media preprocessing.
    pub mm_processor_kwargs: Option<Map<String, Json>>,
    /// Add the prompt and the output as text and tokens to the answer.
    pub enable_response_messages: bool,
    /// What the client wants done after it left; always refused.
    pub background: bool,
    /// The response that this one continues; always unknown.
    pub previous_response_id: Option<String>,
    /// Whether there are messages in the form of one model family; refused.
    pub has_previous_input_messages: bool,
    pub(super) echo: Echo,
}

/// What the answer repeats.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Echo {
    pub(super) instructions: Option<String>,
    pub(super) metadata: Option<Map<String, Json>>,
    pub(super) max_tool_calls: Option<i64>,
    pub(super) reasoning: Option<Json>,
    pub(super) service_tier: &'static str,
    pub(super) text: Option<Json>,
    pub(super) tool_choice: Json,
    pub(super) tools: Vec<Json>,
    pub(super) truncation: &'static str,
    pub(super) user: Option<String>,
}

impl ResponsesRequest {
    /// Checks and decodes the members of a body.
    ///
    /// # Errors
    /// 400: the first failing cross-field check, or else all schema errors.
    pub fn from_body(body: &Dict) -> Result<Self> {
        check_cache_salt(body)?;
        if !matches!(body.get("prompt"), None | Some(Value::Null)) {
            let message = "prompt template is not supported";
            return Err(ErrorResponse::invalid(message, "prompt"));
        }
        let truthy = |name: &str| body.get(name).map(Value::is_truthy);
        if truthy("background") == Some(true) && truthy("store") == Some(false) {
            let message = "background can only be used when `store` is true";
            return Err(ErrorResponse::bad_request(message));
        }

        let mut scope = Scope::new();
        let request = Self::decode(body, &mut scope);
        scope.sort_by_field(FIELDS);
        let mut request = scope
            .finish(request)
            .map_err(|errors| ErrorResponse::schema(&errors))?;
        check_tool_choice(&request.tool_choice, &request.functions)?;
        if request.tool_choice == ToolChoice::Auto && request.functions.is_empty() {
            request.tool_choice = ToolChoice::None;
            request.echo.tool_choice = "none".into();
        }
        Ok(request)
    }

    pub(crate) fn decode(body: &Dict, scope: &mut Scope) -> Option<Self> {
        let mut fields = Fields::new(body, scope).only(FIELDS);
        let defaults = EndpointDefaults {
            n_is_nullable: false,
            add_special_tokens: true,
            request_id_prefix: "resp_",
        };
        let mut options = GenerationOptions::decode(&mut fields, defaults);
        // Fields that nothing here acts on are still held to their types.
        fields.nullable("store", boolean);
        fields.nullable("prompt_cache_key", string);

        let instructions = fields.nullable("instructions", string);
        let input = fields.required("input", decode_input);
        let include = fields.nullable("include", list_of(literal(INCLUDABLE)));
        let (reasoning_effort, reasoning) = fields
            .nullable("reasoning", decode_reasoning)
            .unwrap_or_default();
        let (text_format, text) = fields.nullable("text", decode_text).unwrap_or_default();
        let tools = fields.with_default("tools", Tools::default(), decode_tools);
        let choice = fields.with_default("tool_choice", Default::default(), decode_tool_choice);
        let truncation = fields
            .nullable("truncation", literal(&["auto", "disabled"]))
            .unwrap_or("disabled");
        options.truncate_prompt_tokens = (truncation == "auto").then_some(-1);
        let metadata = fields.nullable("metadata", dict_of(string));
        let echo = Echo {
            instructions,
            metadata: metadata.map(|members| {
                let members = members.into_iter();
                members
                    .map(|(name, text)| (name, Json::String(text)))
                    .collect()
            }),
            max_tool_calls: fields.nullable("max_tool_calls", integer),
            reasoning,
            service_tier: fields.with_default("service_tier", "auto", literal(SERVICE_TIERS)),
            text,
            tool_choice: choice.echo.clone(),
            tools: tools.echo,
            truncation,
            user: fields.nullable("user", string),
        };
        let previous_input = fields.nullable("previous_input_messages", list_of(any));
        let request = Self {
            options,
            messages: Vec::new(),
            continue_final_message: false,
            max_output_tokens: fields.nullable("max_output_tokens", integer),
            include_logprobs: include
                .is_some_and(|include| include.contains(&"message.output_text.logprobs")),
            top_logprobs: fields.nullable("top_logprobs", integer).unwrap_or(0),
            functions: choice.allowed(tools.functions),
            tool_choice: choice.choice,
            parallel_tool_calls: fields
                .nullable("parallel_tool_calls", boolean)
                .unwrap_or(true),
            reasoning_effort,
            include_reasoning: fields.with_default("include_reasoning", true, boolean),
            text_format,
            chat_template_kwargs: fields.nullable("chat_template_kwargs", dict),
            media_io_kwargs: fields.nullable("media_io_kwargs", decode_media_io_kwargs),
            mm_processor_kwargs: fields.nullable("mm_processor_kwargs", dict),
            enable_response_messages: fields.with_default(
                "enable_response_messages",
                false,
                boolean,
            ),
            background: fields.nullable("background", boolean).unwrap_or(false),
            previous_response_id: fields.nullable("previous_response_id", string),
            has_previous_input_messages: previous_input.is_some_and(|listed| !listed.is_empty()),
            echo,
        };
        let Input {
            messages,
            continue_final_message,
        } = input?.with_instructions(request.echo.instructions.as_deref());
        Some(Self {
            messages,
            continue_final_message,
            ..request
        })
    }

    /// Refuses what needs stored responses, and what the server's command line does not allow.
    /// Runs after the model name was checked.
    ///
    /// # Errors
    /// 400 with vLLM's wording, 404 for an earlier response.
    pub fn check_supported(&self, policy: RequestPolicy) -> Result<()> {
        let refuse = |message: &str, param: &str| {
            Err(ErrorResponse::new(
                400,
                "invalid_request_error",
                message,
                Some(param),
            ))
        };
        if self.background {
            return refuse(
                "This vLLM engine does not support `store=True` and therefore does not support \
                 the background mode. To enable these features, set the environment variable \
                 `VLLM_ENABLE_RESPONSES_API_STORE=1` when launching the vLLM server.",
                "background",
            );
        }
        match (self.has_previous_input_messages, &self.previous_response_id) {
            (true, Some(_)) => {
                return refuse(
                    "Only one of `previous_input_messages` and `previous_response_id` can be set.",
                    "previous_response_id",
                );
            }
            (true, None) => {
                return refuse(
                    "`previous_input_messages` is not supported for this model; pass the messages \
                     in `input`.",
                    "previous_input_messages",
                );
            }
            (false, Some(id)) => return Err(ErrorResponse::unknown_response(id)),
            (false, None) => {}
        }
        check_template_kwargs(
            None,
            self.chat_template_kwargs.as_ref(),
            policy.trust_chat_template,
        )?;
        check_media_kwargs(
            self.mm_processor_kwargs.as_ref(),
            self.media_io_kwargs.as_ref(),
            policy.trust_mm_kwargs,
        )
    }

    /// Refuses a prompt that leaves no room for output. Runs after
    /// [`check_prompt_length`](crate::check_prompt_length).
    ///
    /// # Errors
    /// 400 with the counted length.
    pub fn check_room(prompt_tokens: usize, max_model_len: usize) -> Result<()> {
        if prompt_tokens < max_model_len {
            return Ok(());
        }
        let message = format!(
            "The engine prompt length {prompt_tokens} exceeds the max_model_len {max_model_len}. \
             Please reduce prompt."
        );
        let kind = "invalid_request_error";
        Err(ErrorResponse::new(400, kind, &message, Some("input")))
    }

    /// The template's further variables: the server's defaults, then the request's, then what
    /// follows from the effort on reasoning. Nulls never override.
    pub fn template_kwargs(&self, server_defaults: &Map<String, Json>) -> Map<String, Json> {
        let own = self.chat_template_kwargs.as_ref();
        template_kwargs(server_defaults, own, self.reasoning_effort)
    }
}

impl ErrorResponse {
    /// 404 for a response that is not stored, as none is.
    pub fn unknown_response(id: &str) -> Self {
        let message = format!("Response with id '{id}' not found.");
        Self::new(404, "invalid_request_error", &message, Some("response_id"))
    }
}
