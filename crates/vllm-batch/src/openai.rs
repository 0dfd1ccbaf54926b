//! Lines of OpenAI batch files: from a line to engine requests, from outputs to a line.

use std::time::Instant;

use serde_json::Value;
use vllm_engine::{DefaultSampling, EngineClient, GenerationRequest, RequestOutput};
use vllm_openai::decode::Dict;
use vllm_openai::{
    ChatCompletionRequest, ChatCompletionResponse, ChatResult, CompletionRequest,
    CompletionResponse, ErrorResponse, GenerationOptions, LengthLimits, OutputParsers,
    PromptResult, RequestPolicy, ResponseContext, StreamPrompt, check_model,
    check_requested_tokens, effective_max_tokens, parse_body,
};
use vllm_renderer::{
    ContentFormatOption, Conversation, Rendered, Renderer, Truncation, error_response,
    sampling_defaults,
};

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

    fn limits(&self, engine: &dyn EngineClient) -> LengthLimits {
        LengthLimits {
            max_model_len: engine.info().max_model_len,
            default_max_tokens: self.defaults.max_tokens,
            max_tokens_cap: None,
        }
    }

    fn renderer<'a>(&'a self, engine: &'a dyn EngineClient) -> Renderer<'a> {
        Renderer {
            engine,
            model_name: &self.model,
            chat_template: None,
            content_format: ContentFormatOption::Auto,
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
        /// What is shown again, by prompt.
        prompts: Vec<StreamPrompt>,
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
                    .map(|(prompt, output)| PromptResult {
                        prompt_text: prompt.text.as_deref(),
                        prompt_token_ids: &output.prompt_token_ids,
                        first_prompt_token: &prompt.first_token,
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

    let truncation = Truncation::of(&request.options, requested, limits.max_model_len)?;
    let renderer = job.renderer(engine);
    let Rendered { text, messages } = renderer.render(&Conversation {
        messages: &request.messages,
        tools: request.tools.as_deref(),
        documents: request.documents.as_deref(),
        template: None,
        add_generation_prompt: request.add_generation_prompt,
        continue_final_message: request.continue_final_message,
        kwargs: request.template_kwargs(&serde_json::Map::new()),
    })?;
    let token_ids = renderer.encode(&text, request.options.add_special_tokens, truncation)?;
    let max_tokens = effective_max_tokens(requested, token_ids.len(), limits);
    let vocab_size = engine.info().vocab_size;
    let mut params = request.sampling_params(
        max_tokens,
        &sampling_defaults(&job.defaults),
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
    let defaults = sampling_defaults(&job.defaults);
    let truncation = Truncation::of(&request.options, requested, limits.max_model_len)?;
    let renderer = job.renderer(engine);
    let as_ids = request.options.return_tokens_as_token_ids == Some(true);
    let arrival = Instant::now();
    let mut prompts = Vec::new();
    let mut engine_requests = Vec::new();
    for (number, prompt) in (0..).zip(std::mem::take(&mut request.prompts)) {
        let (text, token_ids) = renderer.encode_prompt(prompt, &request.options, truncation)?;
        prompts.push(renderer.echoed_prompt(&request, text.as_deref(), &token_ids, as_ids)?);
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

/// What a line is told about the engine's refusal.
pub(crate) fn engine_refusal(error: &vllm_engine::Error) -> Refusal {
    error_response(error).into()
}
