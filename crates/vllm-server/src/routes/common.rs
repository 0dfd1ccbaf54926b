//! What the generating routes share.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::Request;
use http::HeaderMap;
use vllm_engine::RequestOutput;
use vllm_openai::{ErrorResponse, GenerationOptions, RequestPolicy, ResponseContext, Result};

use crate::body::{Received, header_text};
use crate::front::REQUEST_ID;
use crate::generation::{Generation, to_response};
use crate::offload::{self, HEAVY_BODY_BYTES};
use crate::state::{AppState, Shared};

const DATA_PARALLEL_RANK: http::HeaderName = http::HeaderName::from_static("x-data-parallel-rank");
const PRIORITY: http::HeaderName = http::HeaderName::from_static("x-vllm-priority");

/// Reads a request in whole, then has `work` check it: on a worker thread if the body is large.
/// `work` also gets the time of arrival.
///
/// # Errors
/// 413 for a body that is too large, 400 for one that breaks off.
pub(super) async fn prepare<T: Send + 'static>(
    state: &Shared,
    request: Request,
    work: impl FnOnce(&AppState, &Received, Instant) -> T + Send + 'static,
) -> Result<T> {
    let arrival = Instant::now();
    let received = Received::read(request, state.max_body_bytes).await?;
    let heavy = received.body.len() >= HEAVY_BODY_BYTES;
    let shared = Arc::clone(state);
    Ok(offload::run(state, heavy, move || work(&shared, &received, arrival)).await)
}

/// Waits for the only output of each of `count` prompts.
///
/// # Errors
/// The engine's refusal or the first failure; the other prompts are given up.
pub(super) async fn collect(
    state: &AppState,
    generation: vllm_engine::Result<Generation>,
    count: usize,
) -> Result<Vec<RequestOutput>> {
    let generation = generation.map_err(|error| to_response(&error))?;
    let outputs = generation.collect(count).await?;
    log_outputs(state, &outputs);
    Ok(outputs)
}

/// Like [`collect`], for a generation of one prompt.
///
/// # Errors
/// See [`collect`].
pub(super) async fn collect_one(
    state: &AppState,
    generation: vllm_engine::Result<Generation>,
) -> Result<RequestOutput> {
    let mut outputs = collect(state, generation, 1).await?;
    outputs.pop().ok_or_else(ErrorResponse::internal)
}

/// Headers win over the fields that they repeat.
pub(super) trait WithHeaders {
    /// Takes the caller's request id and priority.
    fn apply_headers(&mut self, headers: &HeaderMap);

    /// Takes the caller's priority only.
    fn apply_priority(&mut self, headers: &HeaderMap);
}

impl WithHeaders for GenerationOptions {
    fn apply_headers(&mut self, headers: &HeaderMap) {
        if let Some(request_id) = request_id(headers) {
            self.request_id = request_id.to_owned();
        }
        self.apply_priority(headers);
    }

    fn apply_priority(&mut self, headers: &HeaderMap) {
        if let Some(Ok(priority)) = header_text(headers, PRIORITY).map(str::parse) {
            self.priority = priority;
        }
    }
}

/// Refuses an engine that is not there: this server has only the one of rank 0.
pub(super) fn check_data_parallel_rank(headers: &HeaderMap) -> Result<()> {
    let rank = header_text(headers, DATA_PARALLEL_RANK).and_then(|rank| rank.trim().parse().ok());
    match rank.unwrap_or(0) {
        0_i64 => Ok(()),
        rank => {
            let message = format!("data_parallel_rank {rank} is out of range [0, 1).");
            Err(ErrorResponse::bad_request(&message))
        }
    }
}

/// The caller's name for its request.
pub(super) fn request_id(headers: &HeaderMap) -> Option<&str> {
    header_text(headers, REQUEST_ID).filter(|id| !id.is_empty())
}

/// Refuses a model name that is not served.
pub(super) fn check_model(state: &AppState, model: Option<&str>) -> Result<()> {
    if state.api.skip_model_name_validation {
        return Ok(());
    }
    vllm_openai::check_model(model, &state.model_names)
}

/// The head of the answer to a request.
pub(super) fn context(state: &AppState, id: String, created: u64) -> ResponseContext {
    ResponseContext {
        id,
        created,
        model: state.model_name().to_owned(),
        system_fingerprint: state.system_fingerprint.clone(),
        prompt_tokens_details: state.api.enable_prompt_tokens_details,
        return_tokens_as_token_ids: state.api.return_tokens_as_token_ids,
        force_include_usage: state.api.enable_force_include_usage,
    }
}

/// Whether logprobs show token ids in place of texts.
pub(super) fn shows_tokens_as_ids(state: &AppState, options: &GenerationOptions) -> bool {
    options
        .return_tokens_as_token_ids
        .unwrap_or(state.api.return_tokens_as_token_ids)
}

impl AppState {
    /// What the command line allows requests to do.
    pub(super) fn request_policy(&self) -> RequestPolicy {
        RequestPolicy {
            trust_chat_template: self.api.trust_request_chat_template,
            trust_mm_kwargs: false,
            has_tool_parser: self.tool_parser.is_some(),
        }
    }
}

/// Writes down what was generated, where that is wanted.
fn log_outputs(state: &AppState, outputs: &[RequestOutput]) {
    if !state.log.outputs {
        return;
    }
    for output in outputs {
        for choice in &output.outputs {
            let text = match state.log.max_length {
                Some(length) => choice.text.chars().take(length).collect(),
                None => choice.text.clone(),
            };
            let reason = choice
                .finish_reason
                .map_or("None", |reason| reason.as_str());
            let id = &output.request_id;
            tracing::info!("Generated response {id}: output: {text:?}, finish_reason: {reason}");
        }
    }
}
