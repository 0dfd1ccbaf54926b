//! `/v1/completions`.

use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use vllm_engine::{GenerationRequest, PositionLogprobs, RequestOutput};
use vllm_openai::{
    CompletionRequest, CompletionResponse, CompletionStream, ErrorResponse, PromptResult,
    ResponseContext, Result, StreamPrompt, check_requested_tokens, effective_max_tokens,
    parse_body,
};
use vllm_renderer::Truncation;

use super::common::{self, WithHeaders};
use super::load_report::LoadReport;
use crate::clock::unix_seconds;
use crate::generation::Generation;
use crate::offload;
use crate::reply;
use crate::sse::{self, Frames};
use crate::state::{AppState, Shared};

/// Answers a completion request.
pub(super) async fn create(State(state): State<Shared>, request: Request) -> Response {
    let report = LoadReport::wanted(request.headers());
    let answer = answer(&state, request).await;
    let answer = answer.unwrap_or_else(|error| reply::error(&error));
    LoadReport::add(report, &state, answer)
}

async fn answer(state: &Shared, request: Request) -> Result<Response> {
    let job = common::prepare(state, request, |state, received, arrival| {
        let members = parse_body(received.content_type(), &received.body)?;
        let request = CompletionRequest::from_body(&members)?;
        drop(members);
        Job::new(state, request, &received.headers, arrival)
    })
    .await??;
    serve(state, job).await
}

/// Generates and answers what a job asks for.
pub(super) async fn serve(state: &Shared, job: Job) -> Result<Response> {
    let generation = Generation::start(state, &job.context.id, job.engine_requests);
    if job.request.options.stream {
        let frames = CompletionFrames::new(job.request, job.context, job.prompts);
        return sse::answer(state, generation, frames);
    }
    let outputs = common::collect(state, generation, job.prompts.len()).await?;
    let heavy = job.request.logprobs.is_some() || job.request.prompt_logprobs().is_some();
    let (request, context, prompts) = (job.request, job.context, job.prompts);
    offload::run(state, heavy, move || {
        respond(&request, &context, &prompts, &outputs)
    })
    .await
}

/// A checked request and what the engine gets of it.
pub(super) struct Job {
    request: CompletionRequest,
    context: ResponseContext,
    prompts: Vec<StreamPrompt>,
    engine_requests: Vec<GenerationRequest>,
}

impl Job {
    /// Checks a request against the server and tokenizes its prompts.
    ///
    /// # Errors
    /// 404 for an unknown model, 400 for what is not allowed or does not fit.
    pub(super) fn new(
        state: &AppState,
        mut request: CompletionRequest,
        headers: &HeaderMap,
        arrival: Instant,
    ) -> Result<Self> {
        common::check_model(state, request.options.model.as_deref())?;
        request.check_supported()?;
        request.options.apply_headers(headers);
        common::check_data_parallel_rank(headers)?;

        let limits = state.length_limits();
        let requested = Some(request.max_tokens);
        check_requested_tokens(requested, "max_tokens", limits.max_model_len)?;
        let truncation = Truncation::of(&request.options, requested, limits.max_model_len)?;
        let id = format!("cmpl-{}", request.options.request_id);
        let context = common::context(state, id, unix_seconds());
        let defaults = state.sampling_defaults();
        let vocab_size = state.engine.info().vocab_size;
        let renderer = state.renderer();
        let as_ids = common::shows_tokens_as_ids(state, &request.options);

        let mut prompts = Vec::with_capacity(request.prompts.len());
        let mut engine_requests = Vec::with_capacity(request.prompts.len());
        for (index, prompt) in std::mem::take(&mut request.prompts).into_iter().enumerate() {
            let (text, token_ids) = renderer.encode_prompt(prompt, &request.options, truncation)?;
            let max_tokens = effective_max_tokens(requested, token_ids.len(), limits);
            let params = request.sampling_params(max_tokens, &defaults, vocab_size)?;
            let request_id = format!("{}-{index}", context.id);
            prompts.push(renderer.echoed_prompt(&request, text.as_deref(), &token_ids, as_ids)?);
            engine_requests.push(GenerationRequest {
                prompt: text,
                priority: request.options.priority,
                cache_salt: request.options.cache_salt.clone(),
                arrival,
                ..GenerationRequest::new(request_id, token_ids, params)
            });
        }
        Ok(Self {
            request,
            context,
            prompts,
            engine_requests,
        })
    }
}

fn respond(
    request: &CompletionRequest,
    context: &ResponseContext,
    prompts: &[StreamPrompt],
    outputs: &[RequestOutput],
) -> Result<Response> {
    let results: Vec<_> = prompts
        .iter()
        .zip(outputs)
        .map(|(prompt, output)| PromptResult {
            prompt_text: prompt.text.as_deref(),
            prompt_token_ids: &prompt.token_ids,
            first_prompt_token: &prompt.first_token,
            prompt_logprobs: output.prompt_logprobs.as_deref(),
            outputs: &output.outputs,
            num_cached_tokens: output.num_cached_tokens,
        })
        .collect();
    let answer = CompletionResponse::new(request, context, &results)?;
    Ok(reply::json(StatusCode::OK, &answer))
}

/// The frames of a completion stream.
struct CompletionFrames {
    stream: CompletionStream,
    /// By prompt: whether it has had output, and its logprobs for choices that begin later.
    begun: Vec<bool>,
    prompt_logprobs: Vec<Option<Vec<Option<PositionLogprobs>>>>,
}

impl CompletionFrames {
    fn new(
        request: CompletionRequest,
        context: ResponseContext,
        prompts: Vec<StreamPrompt>,
    ) -> Self {
        Self {
            begun: vec![false; prompts.len()],
            prompt_logprobs: vec![None; prompts.len()],
            stream: CompletionStream::new(request, context, prompts),
        }
    }
}

impl Frames for CompletionFrames {
    fn push(
        &mut self,
        prompt_index: usize,
        output: RequestOutput,
        frames: &mut Vec<u8>,
    ) -> Result<()> {
        if let Some(begun) = self.begun.get_mut(prompt_index).filter(|begun| !**begun) {
            *begun = true;
            self.stream.add_cached_tokens(output.num_cached_tokens);
        }
        let Some(logprobs) = self.prompt_logprobs.get_mut(prompt_index) else {
            return Err(ErrorResponse::internal());
        };
        if output.prompt_logprobs.is_some() {
            *logprobs = output.prompt_logprobs;
        }
        self.stream
            .push(prompt_index, logprobs.as_deref(), &output.outputs, frames)
    }

    fn finish(&mut self, frames: &mut Vec<u8>) {
        self.stream.finish(frames);
    }
}
