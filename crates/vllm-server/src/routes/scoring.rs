//! `/generative_scoring`: how likely the token after query and item is one of some labels.

use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use vllm_engine::{GenerationRequest, OutputKind, RequestOutput, SamplingParams};
use vllm_openai::{
    ErrorResponse, ResponseContext, Result, ScoringRequest, ScoringResponse, ScoringText, Usage,
    parse_body,
};

use super::common;
use crate::body::Received;
use crate::clock::unix_seconds;
use crate::generation::Generation;
use crate::reply;
use crate::state::{AppState, Shared};

/// Answers with one score per item.
pub(super) async fn create(State(state): State<Shared>, request: Request) -> Response {
    answer(&state, request)
        .await
        .unwrap_or_else(|error| reply::error(&error))
}

struct Job {
    request: ScoringRequest,
    context: ResponseContext,
    prompt_tokens: usize,
    engine_requests: Vec<GenerationRequest>,
}

async fn answer(state: &Shared, request: Request) -> Result<Response> {
    let job = common::prepare(state, request, prepare).await??;
    let count = job.engine_requests.len();
    let generation = Generation::start(state, &job.context.id, job.engine_requests);
    let outputs = common::collect(state, generation, count).await?;
    let mut scores = Vec::with_capacity(count);
    let mut completion_tokens = 0;
    for output in &outputs {
        let logprobs = label_logprobs(&job.request, output)?;
        scores.push(job.request.score(&logprobs));
        completion_tokens += output.outputs.first().map_or(0, |it| it.token_ids.len());
    }
    let usage = Usage::new(job.prompt_tokens, completion_tokens);
    let answer = ScoringResponse::new(job.context, scores, usage);
    Ok(reply::json(StatusCode::OK, &answer))
}

fn prepare(state: &AppState, received: &Received, arrival: Instant) -> Result<Job> {
    let members = parse_body(received.content_type(), &received.body)?;
    let request = ScoringRequest::from_body(&members)?;
    drop(members);
    common::check_model(state, request.model.as_deref())?;
    let info = state.engine.info();
    request.check_supported(info.vocab_size)?;
    let request_id = common::request_id(&received.headers).unwrap_or(&request.request_id);
    let id = format!("generative-scoring-{request_id}");
    let context = common::context(state, id, unix_seconds());

    let tokenize = |text: &ScoringText, add_special_tokens: bool| match text {
        ScoringText::TokenIds(ids) => Ok(ids.clone()),
        ScoringText::Text(text) => state
            .engine
            .tokenizer()
            .encode(text, add_special_tokens)
            .map_err(|error| ErrorResponse::bad_request(&error.to_string())),
    };
    let labels = &request.label_token_ids;
    let params = SamplingParams {
        max_tokens: Some(1),
        logprobs: i64::try_from(labels.len()).ok(),
        logprob_token_ids: Some(labels.clone()),
        output_kind: OutputKind::FinalOnly,
        ..SamplingParams::default()
    };
    let query = tokenize(&request.query, request.add_special_tokens)?;
    let mut prompt_tokens = 0;
    let mut engine_requests = Vec::with_capacity(request.items.len());
    for (index, item) in request.items.iter().enumerate() {
        let item = tokenize(item, false)?;
        let mut token_ids = match request.item_first {
            true => [item.as_slice(), &query].concat(),
            false => [query.as_slice(), &item].concat(),
        };
        // One token is generated.
        token_ids.truncate(info.max_model_len.saturating_sub(1));
        prompt_tokens += token_ids.len();
        let request_id = format!("{}-{index}", context.id);
        engine_requests.push(GenerationRequest {
            priority: request.priority,
            cache_salt: request.cache_salt.clone(),
            arrival,
            ..GenerationRequest::new(request_id, token_ids, params.clone())
        });
    }
    Ok(Job {
        request,
        context,
        prompt_tokens,
        engine_requests,
    })
}

/// The log-probabilities of the labels at the only generated position.
fn label_logprobs(request: &ScoringRequest, output: &RequestOutput) -> Result<Vec<f64>> {
    let choice = output.outputs.first();
    let positions = choice.and_then(|choice| choice.logprobs.as_ref());
    let position = positions
        .and_then(|positions| positions.first())
        .ok_or_else(ErrorResponse::internal)?;
    let labels = request.label_token_ids.iter();
    labels
        .map(|id| {
            let found = position.iter().find(|entry| entry.token_id == *id);
            found.map(|entry| f64::from(entry.logprob))
        })
        .collect::<Option<_>>()
        .ok_or_else(ErrorResponse::internal)
}
