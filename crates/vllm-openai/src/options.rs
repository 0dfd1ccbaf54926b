//! The fields that completions and chat completions share.

use serde_json::{Map, Value as Json};
use vllm_sampling::{RepetitionDetection, StructuredOutputs};

use crate::decode::{
    Dict, Fields, SchemaError, Scope, Value, any, boolean, dataclass, dict, dict_of, float,
    integer, integer_between, list_of, literal, model, string,
};
use crate::error::{ErrorResponse, Result};
use crate::ids::random_id;
use crate::structured::{ResponseFormat, decode_response_format, decode_structured_outputs};

/// A request may carry at most this many stop strings.
const MAX_STOP_STRINGS: usize = 4;
/// A cache salt may have at most this many characters.
const MAX_CACHE_SALT_CHARS: usize = 128;

/// `stream_options`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamOptions {
    /// End the stream with a chunk of token counts.
    pub include_usage: bool,
    /// Show counts in every chunk; only effective together with `include_usage`.
    pub continuous_usage_stats: bool,
}

/// Which end of an over-long prompt is cut away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TruncationSide {
    /// Keep the last tokens.
    Left,
    /// Keep the first tokens.
    Right,
}

/// Fields common to both endpoints, with nulls and defaults resolved but server defaults not yet
/// applied.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationOptions {
    /// Model name; `None` and empty text mean the served model.
    pub model: Option<String>,
    /// Penalty on tokens by how often they occurred.
    pub frequency_penalty: Option<f64>,
    /// Penalty on tokens that occurred.
    pub presence_penalty: Option<f64>,
    /// Factor on the logits of tokens that occurred.
    pub repetition_penalty: Option<f64>,
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// Nucleus size as probability mass.
    pub top_p: Option<f64>,
    /// Nucleus size as a number of tokens.
    pub top_k: Option<i64>,
    /// Smallest probability relative to the likeliest token.
    pub min_p: Option<f64>,
    /// Seed of the random state.
    pub seed: Option<i64>,
    /// Choices per prompt.
    pub n: i64,
    /// Strings that end the generation.
    pub stop: Vec<String>,
    /// Tokens that end the generation.
    pub stop_token_ids: Vec<i64>,
    /// Keep the matched stop string in the text.
    pub include_stop_str_in_output: bool,
    /// Do not end at the model's end-of-sequence tokens.
    pub ignore_eos: bool,
    /// Fewest tokens to generate.
    pub min_tokens: i64,
    /// Leave special tokens out of the text.
    pub skip_special_tokens: bool,
    /// Put blanks between special tokens that are shown.
    pub spaces_between_special_tokens: bool,
    /// Keep only this many prompt tokens; -1 means as many as fit.
    pub truncate_prompt_tokens: Option<i64>,
    /// Which end to cut; `None` leaves it to the tokenizer.
    pub truncation_side: Option<TruncationSide>,
    /// How many likeliest tokens to report per prompt position; -1 means all.
    pub prompt_logprobs: Option<i64>,
    /// Report exactly these tokens instead of the likeliest ones.
    pub logprob_token_ids: Option<Vec<i64>>,
    /// Sample from these tokens only.
    pub allowed_token_ids: Option<Vec<i64>>,
    /// Words that must not be generated.
    pub bad_words: Vec<String>,
    /// Addends to logits, by token id.
    pub logit_bias: Option<Vec<(String, f64)>>,
    /// Answer as a stream.
    pub stream: bool,
    /// What a stream reports about usage.
    pub stream_options: StreamOptions,
    /// Tokens per streamed chunk, at least.
    pub stream_interval: Option<i64>,
    /// Beam search instead of sampling.
    pub use_beam_search: bool,
    /// Beam search's exponent on the length.
    pub length_penalty: f64,
    /// Requested output format.
    pub response_format: Option<ResponseFormat>,
    /// Requested constraint.
    pub structured_outputs: Option<StructuredOutputs>,
    /// Early end on repeated patterns.
    pub repetition_detection: Option<RepetitionDetection>,
    /// Most tokens to spend on reasoning; -1 means no limit.
    pub thinking_token_budget: Option<i64>,
    /// Add the tokenizer's special tokens to the prompt.
    pub add_special_tokens: bool,
    /// Scheduling priority; lower runs earlier.
    pub priority: i64,
    /// The request's part of the answer's `id`.
    pub request_id: String,
    /// Identity shared by related requests.
    pub session_id: Option<String>,
    /// Show tokens in logprobs as `token_id:<id>`; `None` leaves it to the server.
    pub return_tokens_as_token_ids: Option<bool>,
    /// Add token ids to the answer.
    pub return_token_ids: bool,
    /// Separates prefix-cache entries of different clients.
    pub cache_salt: Option<String>,
    /// Opaque parameters of disaggregated serving.
    pub kv_transfer_params: Option<Map<String, Json>>,
    /// Opaque parameters of an encoder cache.
    pub ec_transfer_params: Option<Map<String, Json>>,
    /// Parameters of custom extensions.
    pub vllm_xargs: Option<Map<String, Json>>,
    /// Opt out of the engine's watermark with `false`.
    pub watermarking: Option<bool>,
}

/// The defaults in which the two endpoints differ.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EndpointDefaults {
    pub(crate) n_is_nullable: bool,
    pub(crate) add_special_tokens: bool,
    /// What a request id that the server makes up begins with.
    pub(crate) request_id_prefix: &'static str,
}

impl GenerationOptions {
    /// Reads the shared fields; errors are collected in the fields' scope.
    pub(crate) fn decode(fields: &mut Fields<'_>, defaults: EndpointDefaults) -> Self {
        let int64 = integer_between(i64::MIN, i64::MAX);
        let natural = integer_between(0, i64::MAX);
        // Fields that only other routes act on are still held to their types.
        fields.nullable("user", string);
        fields.nullable("return_token_offsets", boolean);
        fields.with_default("return_mm_kwargs", true, boolean);
        fields.with_default("mm_payload", "tensors", literal(&["tensors", "none"]));
        fields.with_default("routed_experts_prompt_start", 0, natural);
        Self {
            model: fields.nullable("model", string),
            frequency_penalty: fields.nullable("frequency_penalty", float),
            presence_penalty: fields.nullable("presence_penalty", float),
            repetition_penalty: fields.nullable("repetition_penalty", float),
            temperature: fields.nullable("temperature", float),
            top_p: fields.nullable("top_p", float),
            top_k: fields.nullable("top_k", integer),
            min_p: fields.nullable("min_p", float),
            seed: fields.nullable("seed", int64),
            n: match defaults.n_is_nullable {
                true => fields.nullable("n", integer).unwrap_or(1),
                false => fields.with_default("n", 1, integer),
            },
            stop: fields.nullable("stop", stop_strings).unwrap_or_default(),
            stop_token_ids: fields
                .nullable("stop_token_ids", list_of(integer))
                .unwrap_or_default(),
            include_stop_str_in_output: fields.with_default(
                "include_stop_str_in_output",
                false,
                boolean,
            ),
            ignore_eos: fields.with_default("ignore_eos", false, boolean),
            min_tokens: fields.with_default("min_tokens", 0, integer),
            skip_special_tokens: fields.with_default("skip_special_tokens", true, boolean),
            spaces_between_special_tokens: fields.with_default(
                "spaces_between_special_tokens",
                true,
                boolean,
            ),
            truncate_prompt_tokens: fields
                .nullable("truncate_prompt_tokens", integer_between(-1, i64::MAX)),
            truncation_side: fields
                .nullable("truncation_side", literal(&["left", "right"]))
                .map(|side| match side {
                    "left" => TruncationSide::Left,
                    _ => TruncationSide::Right,
                }),
            prompt_logprobs: fields.nullable("prompt_logprobs", integer),
            logprob_token_ids: fields.nullable("logprob_token_ids", list_of(integer)),
            allowed_token_ids: fields.nullable("allowed_token_ids", list_of(integer)),
            bad_words: fields.with_default("bad_words", Vec::new(), list_of(string)),
            logit_bias: fields.nullable("logit_bias", dict_of(float)),
            stream: fields.nullable("stream", boolean).unwrap_or(false),
            stream_options: fields
                .nullable("stream_options", decode_stream_options)
                .unwrap_or_default(),
            stream_interval: fields.nullable("stream_interval", integer_between(1, i64::MAX)),
            use_beam_search: fields.with_default("use_beam_search", false, boolean),
            length_penalty: fields.with_default("length_penalty", 1.0, float),
            response_format: fields.nullable("response_format", decode_response_format),
            structured_outputs: fields.nullable("structured_outputs", decode_structured_outputs),
            repetition_detection: fields
                .nullable("repetition_detection", decode_repetition_detection),
            thinking_token_budget: fields.nullable("thinking_token_budget", integer),
            add_special_tokens: fields.with_default(
                "add_special_tokens",
                defaults.add_special_tokens,
                boolean,
            ),
            priority: fields.with_default("priority", 0, int64),
            request_id: fields.with_default("request_id", String::new(), string),
            session_id: fields.nullable("session_id", string),
            return_tokens_as_token_ids: fields.nullable("return_tokens_as_token_ids", boolean),
            return_token_ids: fields
                .nullable("return_token_ids", boolean)
                .unwrap_or(false),
            cache_salt: fields.nullable("cache_salt", string),
            kv_transfer_params: fields.nullable("kv_transfer_params", dict),
            ec_transfer_params: fields.nullable("ec_transfer_params", dict),
            vllm_xargs: fields
                .nullable("vllm_xargs", dict_of(extra_argument))
                .map(|members| members.into_iter().collect()),
            watermarking: fields.nullable("watermarking", boolean),
        }
        .with_request_id(defaults.request_id_prefix)
    }

    /// Refuses beam search, which this server does not offer.
    pub(crate) fn check_beam_search(&self) -> Result<()> {
        let message = match (self.use_beam_search, self.stream) {
            (false, _) => return Ok(()),
            (true, true) => "Streaming is not currently supported with beam search",
            (true, false) => "Beam search is not supported by this server; remove use_beam_search.",
        };
        Err(ErrorResponse::new(
            400,
            "BadRequestError",
            message,
            Some("use_beam_search"),
        ))
    }

    fn with_request_id(mut self, prefix: &str) -> Self {
        if self.request_id.is_empty() {
            self.request_id = prefix.to_owned() + &random_id();
        }
        self
    }
}

fn decode_stream_options(value: &Value, scope: &mut Scope) -> Option<StreamOptions> {
    let mut fields = Fields::new(model(value, scope)?, scope);
    let include_usage = fields.nullable("include_usage", boolean).unwrap_or(false);
    let continuous = fields
        .nullable("continuous_usage_stats", boolean)
        .unwrap_or(false);
    Some(StreamOptions {
        include_usage,
        continuous_usage_stats: include_usage && continuous,
    })
}

fn decode_repetition_detection(value: &Value, scope: &mut Scope) -> Option<RepetitionDetection> {
    let members = dataclass(value, "RepetitionDetectionParams", scope)?;
    let mut fields = Fields::new(members, scope);
    Some(RepetitionDetection {
        max_pattern_size: fields.with_default("max_pattern_size", 0, integer),
        min_pattern_size: fields.with_default("min_pattern_size", 0, integer),
        min_count: fields.with_default("min_count", 0, integer),
    })
}

/// One string or up to four of them.
fn stop_strings(value: &Value, scope: &mut Scope) -> Option<Vec<String>> {
    if let Value::String(text) = value {
        return Some(vec![text.clone()]);
    }
    let listed = scope.attempt(|scope| {
        let strings = list_of(string)(value, scope)?;
        if strings.len() <= MAX_STOP_STRINGS {
            return Some(strings);
        }
        let count = strings.len();
        let message = format!(
            "List should have at most {MAX_STOP_STRINGS} items after validation, not {count}"
        );
        let error = SchemaError::new("too_long", scope.loc(), message, value)
            .with_context("field_type", "'List'")
            .with_context("max_length", MAX_STOP_STRINGS.to_string())
            .with_context("actual_length", count.to_string());
        scope.push(error)
    });
    match listed {
        Ok(strings) => Some(strings),
        Err(errors) => {
            scope.fail::<()>("string_type", "Input should be a valid string", value);
            scope.fail_all(errors)
        }
    }
}

/// A value of `vllm_xargs`: text, a number, or a list of those.
fn extra_argument(value: &Value, scope: &mut Scope) -> Option<Json> {
    fn scalar(value: &Value, scope: &mut Scope) -> Option<Json> {
        if matches!(
            value,
            Value::String(_) | Value::Int(_) | Value::Float(_) | Value::Bool(_)
        ) {
            return any(value, scope);
        }
        scope.fail::<()>("string_type", "Input should be a valid string", value);
        scope.fail::<()>("int_type", "Input should be a valid integer", value);
        scope.fail("float_type", "Input should be a valid number", value)
    }
    if !matches!(value, Value::List(_)) {
        let plain = scope.attempt(|scope| scalar(value, scope));
        return match plain {
            Ok(json) => Some(json),
            Err(errors) => {
                scope.fail_all::<()>(errors);
                scope.fail("list_type", "Input should be a valid list", value)
            }
        };
    }
    let listed = scope.attempt(|scope| list_of(scalar)(value, scope));
    match listed {
        Ok(items) => Some(Json::Array(items)),
        Err(errors) => {
            scalar(value, scope);
            scope.fail_all(errors)
        }
    }
}

/// The check of `cache_salt` that runs before the schema.
pub(crate) fn check_cache_salt(body: &Dict) -> Result<()> {
    let salt = match body.get("cache_salt") {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::String(salt)) if !salt.is_empty() => salt,
        Some(_) => {
            return Err(ErrorResponse::invalid(
                "Parameter 'cache_salt' must be a non-empty string if provided.",
                "cache_salt",
            ));
        }
    };
    if salt.chars().count() > MAX_CACHE_SALT_CHARS || salt.contains(['@', '/', '\\', '\0']) {
        return Err(ErrorResponse::invalid(
            "Parameter 'cache_salt' must be at most 128 characters and must not contain '@', '/', \
             '\\\\', or NUL.",
            "cache_salt",
        ));
    }
    Ok(())
}

/// The check of `stream_options` that runs before the schema.
pub(crate) fn check_stream_options(body: &Dict) -> Result<()> {
    let truthy = |name: &str| body.get(name).is_some_and(Value::is_truthy);
    if truthy("stream_options") && !truthy("stream") {
        return Err(ErrorResponse::invalid(
            "Stream options can only be defined when `stream=True`.",
            "stream_options",
        ));
    }
    Ok(())
}

/// The checks of `logprob_token_ids`, `prompt_logprobs` and the endpoint's own count (`logprobs`
/// or `top_logprobs`, given as `own`) that run before the schema. Returns the own count.
pub(crate) fn check_logprobs(body: &Dict, own: &str) -> Result<Option<f64>> {
    let is_chat = own == "top_logprobs";
    match body.get("logprob_token_ids") {
        None | Some(Value::Null) => {}
        Some(Value::List(ids)) => check_logprob_token_ids(body, ids, is_chat)?,
        // A wrong type is left to the schema, and so are the other checks.
        Some(_) => return Ok(None),
    }
    let number = |name: &str| match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_number() {
            Some(number) => Ok(Some((number, value.python_str()))),
            None => Err(ErrorResponse::invalid_value(
                &format!("`{name}` must be an integer."),
                name,
                &value.python_str(),
            )),
        },
    };
    let must_be_positive = |name: &str, printed: &str| {
        let message = format!("`{name}` must be a positive value or -1.");
        Err(ErrorResponse::invalid_value(&message, name, printed))
    };
    let prompt_logprobs = number("prompt_logprobs")?;
    let own_count = number(own)?;
    if let Some((count, printed)) = prompt_logprobs {
        let is_stream = body.get("stream").is_some_and(Value::is_truthy);
        if is_stream && (count > 0.0 || count == -1.0) {
            return Err(ErrorResponse::invalid(
                "`prompt_logprobs` are not available when `stream=True`.",
                "prompt_logprobs",
            ));
        }
        if count < 0.0 && count != -1.0 {
            return must_be_positive("prompt_logprobs", &printed);
        }
    }
    match own_count {
        Some((count, printed)) if count < 0.0 && count != -1.0 => must_be_positive(own, &printed),
        own_count => Ok(own_count.map(|(count, _)| count)),
    }
}

fn check_logprob_token_ids(body: &Dict, ids: &[Value], is_chat: bool) -> Result<()> {
    const NAME: &str = "logprob_token_ids";
    let truthy = |name: &str| body.get(name).is_some_and(Value::is_truthy);
    let refuse = |message: &str| Err(ErrorResponse::invalid(message, NAME));
    if ids.is_empty() {
        return refuse("`logprob_token_ids` must not be an empty list.");
    }
    if truthy("use_beam_search") {
        return refuse("`logprob_token_ids` is not supported with beam search.");
    }
    if is_chat {
        if !truthy("logprobs") {
            return refuse("when using `logprob_token_ids`, `logprobs` must be set to true.");
        }
        return Ok(());
    }
    if truthy("echo") && body.get("max_tokens").and_then(Value::as_number) == Some(0.0) {
        return refuse(
            "`logprob_token_ids` is not supported when `echo=True` and `max_tokens=0` because no \
             output tokens are generated.",
        );
    }
    if matches!(body.get("logprobs"), None | Some(Value::Null)) {
        return refuse("when using `logprob_token_ids`, `logprobs` must be set.");
    }
    Ok(())
}
