//! Lines of OpenAI batch files: from a line to engine requests, from outputs to a line.

use std::time::Instant;

use serde_json::Value;
use vllm_chat_template::RenderInput;
use vllm_engine::{
    DefaultSampling, EngineClient, GenerationRequest, NO_CHAT_TEMPLATE, RequestOutput,
};
use vllm_openai::decode::Dict;
use vllm_openai::{
    ChatCompletionRequest, ChatCompletionResponse, ChatResult, CompletionRequest,
    CompletionResponse, ContentFormat, ErrorResponse, GenerationOptions, LengthLimits,
    OutputParsers, Prompt, PromptResult, RequestPolicy, ResponseContext, SamplingDefaults,
    check_model, check_prompt_length, check_requested_tokens, check_text_length, check_truncation,
    effective_max_tokens, normalize_messages, parse_body, truncated_length,
};
use vllm_tokenizer::TruncationSide;

use crate::seed::{mix, row_seed};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// A line of a batch file. A line that is none is one too: it is answered with an error.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchRequest {
    custom_id: Value,
    request: Result<Request, Refusal>,
}

#[derive(Debug, Clone, PartialEq)]
enum Request {
    Chat(Dict),
    Completion(Dict),
}

/// Why a line gets no answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Refusal {
    /// By the checks that the server makes, with its error object.
    Response(ErrorResponse),
    /// Before it got there, in one sentence.
    Sentence(String),
}

impl From<ErrorResponse> for Refusal {
    fn from(error: ErrorResponse) -> Self {
        Self::Response(error)
    }
}

impl Refusal {
    pub(crate) fn message(&self) -> &str {
        match self {
            Self::Response(error) => &error.message,
            Self::Sentence(message) => message,
        }
    }
}

impl BatchRequest {
    /// Reads a line.
    pub(crate) fn parse(line: &[u8]) -> Self {
        let members = match parse_body(Some("application/json"), line) {
            Ok(members) => members,
            Err(error) => {
                return Self {
                    custom_id: Value::Null,
                    request: Err(error.into()),
                };
            }
        };
        Self {
            custom_id: members
                .get("custom_id")
                .map_or(Value::Null, |id| id.to_json()),
            request: request(members),
        }
    }

    /// Whether a data set that begins with this line is a batch file.
    pub(crate) fn looks_like_one(line: &[u8]) -> bool {
        let members = parse_body(Some("application/json"), line);
        members
            .is_ok_and(|members| members.contains_key("custom_id") && members.contains_key("body"))
    }

    /// What the engine is to do for this line.
    ///
    /// # Errors
    /// Why it cannot be asked.
    pub(crate) fn prepare(
        &self,
        engine: &dyn EngineClient,
        job: &BatchJob,
        index: u64,
    ) -> Result<Prepared, Refusal> {
        match &self.request {
            Ok(Request::Chat(body)) => prepare_chat(engine, job, index, body),
            Ok(Request::Completion(body)) => prepare_completion(engine, job, index, body),
            Err(refusal) => Err(refusal.clone()),
        }
    }

    /// The line of the output file, around the JSON of an answer.
    pub(crate) fn answer_line(
        &self,
        job: &BatchJob,
        index: u64,
        body: Result<String, Refusal>,
    ) -> String {
        let null = || "null".to_owned();
        let (status, body, error) = match body {
            Ok(body) => (200, body, null()),
            Err(Refusal::Sentence(message)) => (400, null(), Value::from(message).to_string()),
            Err(Refusal::Response(error)) => (error.status, null(), error.to_json()),
        };
        format!(
            r#"{{"id":"vllm-{}","custom_id":{},"response":{{"status_code":{status},"request_id":"vllm-batch-{}","body":{body}}},"error":{error}}}"#,
            job.id(index, 0),
            self.custom_id,
            job.id(index, 1),
        )
    }
}

fn request(mut members: Dict) -> Result<Request, Refusal> {
    let missing = ["custom_id", "method", "url", "body"]
        .into_iter()
        .find(|name| !members.contains_key(*name));
    if let Some(name) = missing {
        let message = format!("`{name}` is missing from this line of the batch file.");
        return Err(ErrorResponse::invalid(&message, name).into());
    }
    let url = members["url"].as_str().unwrap_or_default().to_owned();
    let body = match members.swap_remove("body") {
        Some(vllm_openai::decode::Value::Dict(body)) => body,
        _ => {
            let message = "`body` must be an object.";
            return Err(ErrorResponse::invalid(message, "body").into());
        }
    };
    match url.as_str() {
        CHAT => Ok(Request::Chat(body)),
        COMPLETIONS => Ok(Request::Completion(body)),
        url => Err(Refusal::Sentence(format!(
            "URL {url} was used. Supported endpoints: {CHAT}, {COMPLETIONS}."
        ))),
    }
}

/// What the lines of a batch file have in common.
#[derive(Debug)]
pub(crate) struct BatchJob {
    pub(crate) model: String,
    pub(crate) defaults: DefaultSampling,
    pub(crate) seed: i64,
    /// Unix time of the job's beginning.
    pub(crate) created: u64,
}

impl BatchJob {
    /// The identifiers of a row: different in each job, the same however often it is resumed.
    fn id(&self, index: u64, purpose: u64) -> String {
        let job = mix(mix(self.created) ^ self.seed.cast_unsigned());
        format!("{:016x}", mix(mix(job.wrapping_add(index)) ^ purpose))
    }

    fn context(&self, prefix: &str, index: u64) -> ResponseContext {
        ResponseContext {
            id: format!("{prefix}-{}", self.id(index, 2)),
            created: self.created,
            model: self.model.clone(),
            ..ResponseContext::default()
        }
    }

    fn sampling_defaults(&self) -> SamplingDefaults {
        SamplingDefaults {
            temperature: self.defaults.temperature,
            top_p: self.defaults.top_p,
            top_k: self.defaults.top_k,
            min_p: self.defaults.min_p,
            repetition_penalty: self.defaults.repetition_penalty,
            presence_penalty: self.defaults.presence_penalty,
            frequency_penalty: self.defaults.frequency_penalty,
        }
    }

    fn limits(&self, engine: &dyn EngineClient) -> LengthLimits {
        LengthLimits {
            max_model_len: engine.info().max_model_len,
            default_max_tokens: self.defaults.max_tokens,
            max_tokens_cap: None,
        }
    }

    /// Checks that apply to both endpoints.
    fn check(&self, options: &GenerationOptions) -> Result<(), Refusal> {
        check_model(options.model.as_deref(), std::slice::from_ref(&self.model))?;
        match options.stream {
            true => Err(Refusal::Sentence(
                "Request must not be sent in stream mode".to_owned(),
            )),
            false => Ok(()),
        }
    }
}

/// A line on its way: what to ask the engine, and what its answer needs.
pub(crate) struct Prepared {
    pub(crate) engine_requests: Vec<GenerationRequest>,
    pub(crate) reply: Reply,
}

/// How to answer a line.
pub(crate) enum Reply {
    Chat {
        request: Box<ChatCompletionRequest>,
        context: ResponseContext,
        prompt_text: String,
        echo_text: Option<String>,
    },
    Completion {
        request: Box<CompletionRequest>,
        context: ResponseContext,
        /// Text to echo and first token, by prompt.
        prompts: Vec<(Option<String>, String)>,
    },
}

impl Reply {
    /// The JSON of the answer's `body`.
    ///
    /// # Errors
    /// The outputs cannot be shown the way that the request asks for.
    pub(crate) fn body(&self, outputs: &[RequestOutput]) -> Result<String, Refusal> {
        let body = match self {
            Self::Chat {
                request,
                context,
                prompt_text,
                echo_text,
            } => {
                let output = outputs.first().ok_or_else(ErrorResponse::internal)?;
                let result = ChatResult {
                    prompt_text: Some(prompt_text),
                    prompt_token_ids: &output.prompt_token_ids,
                    prompt_logprobs: output.prompt_logprobs.as_deref(),
                    echo_text: echo_text.as_deref(),
                    outputs: &output.outputs,
                    num_cached_tokens: output.num_cached_tokens,
                };
                let response = ChatCompletionResponse::new(
                    request,
                    context,
                    &result,
                    &OutputParsers::default(),
                )?;
                serde_json::to_string(&response)
            }
            Self::Completion {
                request,
                context,
                prompts,
            } => {
                let results: Vec<_> = prompts
                    .iter()
                    .zip(outputs)
                    .map(|((text, first_token), output)| PromptResult {
                        prompt_text: text.as_deref(),
                        prompt_token_ids: &output.prompt_token_ids,
                        first_prompt_token: first_token,
                        prompt_logprobs: output.prompt_logprobs.as_deref(),
                        outputs: &output.outputs,
                        num_cached_tokens: output.num_cached_tokens,
                    })
                    .collect();
                serde_json::to_string(&CompletionResponse::new(request, context, &results)?)
            }
        };
        body.map_err(|_| ErrorResponse::internal().into())
    }
}

fn prepare_chat(
    engine: &dyn EngineClient,
    job: &BatchJob,
    index: u64,
    body: &Dict,
) -> Result<Prepared, Refusal> {
    let request = ChatCompletionRequest::from_body(body)?;
    job.check(&request.options)?;
    request.check_supported(RequestPolicy {
        trust_chat_template: false,
        trust_mm_kwargs: false,
        has_tool_parser: false,
    })?;
    let limits = job.limits(engine);
    let (requested, field) = request.requested_tokens();
    check_requested_tokens(requested, field, limits.max_model_len)?;

    let (text, messages) = render(engine, &request, &job.model)?;
    let token_ids = encode(engine, &text, &request.options, requested)?;
    let max_tokens = effective_max_tokens(requested, token_ids.len(), limits);
    let vocab_size = engine.info().vocab_size;
    let mut params = request.sampling_params(
        max_tokens,
        &job.sampling_defaults(),
        vocab_size,
        &OutputParsers::default(),
    )?;
    params.seed = params.seed.or(Some(row_seed(job.seed, index)));

    let context = job.context("chatcmpl", index);
    let engine_request = GenerationRequest {
        prompt: Some(text.clone()),
        priority: request.options.priority,
        cache_salt: request.options.cache_salt.clone(),
        ..GenerationRequest::new(context.id.clone(), token_ids, params)
    };
    let reply = Reply::Chat {
        echo_text: request.echo_text(&messages),
        request: Box::new(request),
        context,
        prompt_text: text,
    };
    Ok(Prepared {
        engine_requests: vec![engine_request],
        reply,
    })
}

fn prepare_completion(
    engine: &dyn EngineClient,
    job: &BatchJob,
    index: u64,
    body: &Dict,
) -> Result<Prepared, Refusal> {
    let mut request = CompletionRequest::from_body(body)?;
    job.check(&request.options)?;
    request.check_supported()?;
    let limits = job.limits(engine);
    let requested = Some(request.max_tokens);
    check_requested_tokens(requested, "max_tokens", limits.max_model_len)?;

    let context = job.context("cmpl", index);
    let defaults = job.sampling_defaults();
    let arrival = Instant::now();
    let mut prompts = Vec::new();
    let mut engine_requests = Vec::new();
    for (number, prompt) in (0..).zip(std::mem::take(&mut request.prompts)) {
        let (text, token_ids) = match prompt {
            Prompt::Text(text) => {
                let token_ids = encode(engine, &text, &request.options, requested)?;
                (Some(text), token_ids)
            }
            Prompt::TokenIds(token_ids) => {
                let token_ids = truncate(token_ids, &request.options, requested, limits)?;
                check_prompt_length(token_ids.len(), limits.max_model_len)?;
                (None, token_ids)
            }
        };
        prompts.push(echoed_prompt(
            engine,
            &request,
            text.as_deref(),
            &token_ids,
        )?);
        let max_tokens = effective_max_tokens(requested, token_ids.len(), limits);
        let mut params =
            request.sampling_params(max_tokens, &defaults, engine.info().vocab_size)?;
        let seed = row_seed(row_seed(job.seed, index), number);
        params.seed = params.seed.or(Some(seed));
        let id = format!("{}-{number}", context.id);
        engine_requests.push(GenerationRequest {
            prompt: text,
            priority: request.options.priority,
            cache_salt: request.options.cache_salt.clone(),
            arrival,
            ..GenerationRequest::new(id, token_ids, params)
        });
    }
    let reply = Reply::Completion {
        request: Box::new(request),
        context,
        prompts,
    };
    Ok(Prepared {
        engine_requests,
        reply,
    })
}

/// What of a prompt is shown again: its text and its first token.
fn echoed_prompt(
    engine: &dyn EngineClient,
    request: &CompletionRequest,
    text: Option<&str>,
    token_ids: &[u32],
) -> Result<(Option<String>, String), Refusal> {
    if !request.echo {
        return Ok((None, String::new()));
    }
    let decode = |ids: &[u32]| engine.tokenizer().decode(ids, false).map_err(bad_request);
    let text = match text {
        Some(text) => text.to_owned(),
        None => decode(token_ids)?,
    };
    let as_ids = request.options.return_tokens_as_token_ids == Some(true);
    let first_token = match token_ids.first() {
        Some(id) if request.logprobs.is_some() && as_ids => format!("token_id:{id}"),
        Some(id) if request.logprobs.is_some() => decode(&[*id])?,
        _ => String::new(),
    };
    Ok((Some(text), first_token))
}

/// The conversation as text, and its messages as the template got them.
fn render(
    engine: &dyn EngineClient,
    request: &ChatCompletionRequest,
    model: &str,
) -> Result<(String, Vec<Value>), Refusal> {
    let template = engine
        .chat_template(request.tools.is_some())
        .map_err(bad_request)?
        .ok_or_else(|| ErrorResponse::bad_request(NO_CHAT_TEMPLATE))?;
    let format = match template.content_format() {
        vllm_chat_template::ContentFormat::String => ContentFormat::String,
        vllm_chat_template::ContentFormat::OpenAi => ContentFormat::OpenAi,
    };
    let knows_developer = template.mentions_developer_role();
    let messages = normalize_messages(&request.messages, format, knows_developer, model)?;
    let text = template.render(&RenderInput {
        messages: &messages,
        tools: request.tools.as_deref(),
        documents: request.documents.as_deref(),
        add_generation_prompt: request.add_generation_prompt,
        continue_final_message: request.continue_final_message,
        kwargs: &request.template_kwargs(&serde_json::Map::new()),
        special_tokens: engine.tokenizer().special_tokens(),
    });
    Ok((text.map_err(bad_request)?, messages))
}

/// The token ids of a text, cut as the request asks and checked against the context.
fn encode(
    engine: &dyn EngineClient,
    text: &str,
    options: &GenerationOptions,
    requested: Option<i64>,
) -> Result<Vec<u32>, Refusal> {
    let tokenizer = engine.tokenizer();
    let max_model_len = engine.info().max_model_len;
    check_truncation(options.truncate_prompt_tokens, max_model_len)?;
    let special = options.add_special_tokens;
    let kept = truncated_length(options.truncate_prompt_tokens, requested, max_model_len);
    let token_ids = match kept {
        Some(kept) => tokenizer.encode_truncated(text, special, kept, side(options)),
        None => {
            check_text_length(text, tokenizer.max_chars_per_token(), max_model_len)?;
            tokenizer.encode(text, special)
        }
    };
    let token_ids = token_ids.map_err(bad_request)?;
    // Counting ends at the first token that does not fit, so that is the length told.
    check_prompt_length(token_ids.len().min(max_model_len + 1), max_model_len)?;
    Ok(token_ids)
}

fn truncate(
    mut token_ids: Vec<u32>,
    options: &GenerationOptions,
    requested: Option<i64>,
    limits: LengthLimits,
) -> Result<Vec<u32>, Refusal> {
    let wanted = options.truncate_prompt_tokens;
    check_truncation(wanted, limits.max_model_len)?;
    if let Some(kept) = truncated_length(wanted, requested, limits.max_model_len) {
        let excess = token_ids.len().saturating_sub(kept);
        match side(options) {
            TruncationSide::Left => drop(token_ids.drain(..excess)),
            TruncationSide::Right => token_ids.truncate(kept),
        }
    }
    Ok(token_ids)
}

fn side(options: &GenerationOptions) -> TruncationSide {
    match options.truncation_side {
        Some(vllm_openai::TruncationSide::Right) => TruncationSide::Right,
        Some(vllm_openai::TruncationSide::Left) | None => TruncationSide::Left,
    }
}

fn bad_request(error: impl std::fmt::Display) -> Refusal {
    ErrorResponse::bad_request(&error.to_string()).into()
}

/// What a line is told about the engine's refusal.
pub(crate) fn engine_refusal(error: &vllm_engine::Error) -> Refusal {
    let response = match error {
        vllm_engine::Error::InvalidRequest {
            message,
            parameter,
            value,
        } => match (parameter.as_deref(), value.as_deref()) {
            (Some(parameter), Some(value)) => {
                ErrorResponse::invalid_value(message, parameter, value)
            }
            (Some(parameter), None) => ErrorResponse::invalid(message, parameter),
            (None, _) => ErrorResponse::bad_request(message),
        },
        _ => ErrorResponse::internal(),
    };
    response.into()
}
