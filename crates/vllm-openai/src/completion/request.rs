//! The completion request: fields, checks, prompts.

use std::sync::LazyLock;

use crate::decode::{
    Dict, Fields, Scope, Value, any, boolean, integer, integer_between, list_of, string,
};
use crate::error::{ErrorResponse, Result};
use crate::options::{
    EndpointDefaults, GenerationOptions, check_cache_salt, check_logprobs, check_stream_options,
};
use crate::structured::{check_response_format, check_structured_outputs};

/// A request may carry at most this many prompts, unless the operator raises it.
const DEFAULT_MAX_PROMPTS: usize = 1024;
/// `max_tokens` when the request has none or null.
const DEFAULT_MAX_TOKENS: i64 = 16;

/// The order in which the schema lists its fields; errors are reported in it.
const FIELD_ORDER: &[&str] = &[
    "model",
    "prompt",
    "echo",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "max_tokens",
    "n",
    "presence_penalty",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "suffix",
    "temperature",
    "top_p",
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
    "allowed_token_ids",
    "prompt_logprobs",
    "logprob_token_ids",
    "bad_words",
    "prompt_embeds",
    "add_special_tokens",
    "response_format",
    "structured_outputs",
    "priority",
    "request_id",
    "session_id",
    "return_tokens_as_token_ids",
    "return_token_ids",
    "routed_experts_prompt_start",
    "return_token_offsets",
    "mm_payload",
    "cache_salt",
    "kv_transfer_params",
    "ec_transfer_params",
    "vllm_xargs",
    "repetition_detection",
];

/// One prompt of a completion request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// Text to be tokenized.
    Text(String),
    /// Token ids, used as they are.
    TokenIds(Vec<u32>),
}

/// `POST /v1/completions`.
#[derive(Debug, Clone, PartialEq)]
pub struct CompletionRequest {
    /// The fields shared with chat.
    pub options: GenerationOptions,
    /// The prompts, at least one.
    pub prompts: Vec<Prompt>,
    /// Whether embeddings were sent in place of, or before, the prompts.
    pub has_prompt_embeds: bool,
    /// Put the prompt in front of the answer.
    pub echo: bool,
    /// Text after the gap to fill.
    pub suffix: Option<String>,
    /// Most tokens to generate.
    pub max_tokens: i64,
    /// How many likeliest tokens to report per position; -1 means all.
    pub logprobs: Option<i64>,
}

impl CompletionRequest {
    /// Checks and decodes the members of a body.
    ///
    /// # Errors
    /// 400: the first failing cross-field check, or else all schema errors.
    pub fn from_body(body: &Dict) -> Result<Self> {
        check_prompt(body)?;
        check_stream_options(body)?;
        check_logprobs(body, "logprobs")?;
        check_structured_outputs(body, None, false)?;
        check_response_format(body)?;
        check_cache_salt(body)?;

        let mut scope = Scope::new();
        let request = Self::decode(body, &mut scope);
        scope.sort_by_field(FIELD_ORDER);
        let (request, prompts) = scope
            .finish(Some(request))
            .map_err(|errors| ErrorResponse::schema(&errors))?;
        let prompts = prompts_from(prompts)?;
        if prompts.is_empty() && !request.has_prompt_embeds {
            return Err(ErrorResponse::bad_request(
                "You must pass at least one prompt",
            ));
        }
        Ok(Self { prompts, ..request })
    }

    pub(crate) fn decode(body: &Dict, scope: &mut Scope) -> (Self, RawPrompt) {
        let mut fields = Fields::new(body, scope);
        let defaults = EndpointDefaults {
            n_is_nullable: false,
            add_special_tokens: true,
            request_id_prefix: "",
        };
        let options = GenerationOptions::decode(&mut fields, defaults);
        let prompts = fields
            .nullable("prompt", decode_prompt)
            .unwrap_or(RawPrompt::Texts(Vec::new()));
        let request = Self {
            options,
            prompts: Vec::new(),
            has_prompt_embeds: fields.nullable("prompt_embeds", any).is_some(),
            echo: fields.nullable("echo", boolean).unwrap_or(false),
            suffix: fields.nullable("suffix", string),
            max_tokens: fields
                .nullable("max_tokens", integer)
                .unwrap_or(DEFAULT_MAX_TOKENS),
            logprobs: fields.nullable("logprobs", integer),
        };
        (request, prompts)
    }

    /// Refuses what this server cannot do. Runs after the model name was checked.
    ///
    /// # Errors
    /// 400 that names the field.
    pub fn check_supported(&self) -> Result<()> {
        if self.suffix.is_some() {
            return Err(ErrorResponse::new(
                400,
                "BadRequestError",
                "suffix is only supported for models with FIM completion rendering",
                Some("suffix"),
            ));
        }
        if self.has_prompt_embeds {
            return Err(ErrorResponse::new(
                400,
                "BadRequestError",
                "prompt_embeds is not supported by this server; send text or token ids in prompt.",
                Some("prompt_embeds"),
            ));
        }
        self.options.check_beam_search()
    }

    /// Whether the answer is only the prompt: one token is generated and dropped.
    pub fn is_echo_only(&self) -> bool {
        self.echo && self.max_tokens == 0
    }

    /// How many likeliest tokens to report per prompt position: what was asked for, or with
    /// `echo` as many as for generated tokens.
    pub fn prompt_logprobs(&self) -> Option<i64> {
        self.options
            .prompt_logprobs
            .or(if self.echo { self.logprobs } else { None })
    }
}

/// How many prompts a request may carry, read from the process's environment once.
fn max_prompts() -> usize {
    static MAX_PROMPTS: LazyLock<usize> = LazyLock::new(|| {
        let raised = std::env::var("VLLM_MAX_COMPLETION_PROMPTS").ok();
        let raised = raised.and_then(|value| value.trim().parse().ok());
        raised.unwrap_or(DEFAULT_MAX_PROMPTS)
    });
    *MAX_PROMPTS
}

/// The checks of the prompt that run before the schema.
fn check_prompt(body: &Dict) -> Result<()> {
    let prompt = body.get("prompt");
    let embeds = body.get("prompt_embeds");
    let is_integer =
        |item: &Value| matches!(item, Value::Int(_) | Value::BigInt(_) | Value::Bool(_));
    let lists = [("prompt", prompt), ("prompt_embeds", embeds)];
    for (name, list) in lists {
        let Some(items) = list.and_then(Value::as_list) else {
            continue;
        };
        let is_one_prompt = name == "prompt" && items.iter().all(is_integer);
        if items.len() > max_prompts() && !is_one_prompt {
            let message = format!(
                "{name} list length {} exceeds the maximum allowed count of {}. To increase this \
                 limit, set the VLLM_MAX_COMPLETION_PROMPTS environment variable.",
                items.len(),
                max_prompts()
            );
            return Err(ErrorResponse::invalid(&message, name));
        }
    }
    let no_prompt = match prompt {
        None | Some(Value::Null) => true,
        Some(prompt) => prompt.as_str() == Some(""),
    };
    let no_embeds = match embeds {
        None | Some(Value::Null) => true,
        Some(embeds) => embeds.as_list().is_some_and(<[Value]>::is_empty),
    };
    if no_prompt && no_embeds {
        return Err(ErrorResponse::invalid(
            "Either prompt or prompt_embeds must be provided and non-empty.",
            "prompt",
        ));
    }
    Ok(())
}

/// The prompt field before its ids are narrowed.
pub(crate) enum RawPrompt {
    Ids(Vec<i64>),
    IdLists(Vec<Vec<i64>>),
    Texts(Vec<String>),
}

/// A union of four forms. A form that fits without coercion wins, else the first that fits.
fn decode_prompt(value: &Value, scope: &mut Scope) -> Option<RawPrompt> {
    if let Value::String(text) = value {
        return Some(RawPrompt::Texts(vec![text.clone()]));
    }
    let id = integer_between(0, i64::MAX);
    let is_text_list = value
        .as_list()
        .is_some_and(|items| !items.is_empty() && items.iter().all(|item| item.as_str().is_some()));
    if is_text_list {
        return list_of(string)(value, scope).map(RawPrompt::Texts);
    }
    let mut errors = match scope.attempt(|scope| list_of(id)(value, scope)) {
        Ok(ids) => return Some(RawPrompt::Ids(ids)),
        Err(errors) => errors,
    };
    match scope.attempt(|scope| list_of(list_of(id))(value, scope)) {
        Ok(lists) => return Some(RawPrompt::IdLists(lists)),
        Err(more) => errors.extend(more),
    }
    errors.extend(
        scope
            .attempt(|scope| string(value, scope))
            .err()
            .unwrap_or_default(),
    );
    errors.extend(
        scope
            .attempt(|scope| list_of(string)(value, scope))
            .err()
            .unwrap_or_default(),
    );
    scope.fail_all(errors)
}

fn prompts_from(raw: RawPrompt) -> Result<Vec<Prompt>> {
    fn narrow(ids: Vec<i64>) -> Result<Prompt> {
        let narrowed = ids.into_iter().map(|id| {
            u32::try_from(id).map_err(|_| {
                ErrorResponse::bad_request(&format!("Token id {id} is out of vocabulary"))
            })
        });
        narrowed.collect::<Result<_>>().map(Prompt::TokenIds)
    }
    match raw {
        RawPrompt::Ids(ids) if ids.is_empty() => Ok(Vec::new()),
        RawPrompt::Ids(ids) => Ok(vec![narrow(ids)?]),
        RawPrompt::IdLists(lists) => lists.into_iter().map(narrow).collect(),
        RawPrompt::Texts(texts) => Ok(texts.into_iter().map(Prompt::Text).collect()),
    }
}
