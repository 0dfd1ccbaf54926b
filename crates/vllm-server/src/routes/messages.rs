//! `/v1/messages` and `/v1/messages/count_tokens`: chat in the Anthropic form.

use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use vllm_engine::RequestOutput;
use vllm_openai::{
    ChatResult, CountTokensResponse, ErrorResponse, MessagesRequest, MessagesResponse,
    MessagesStream, parse_body, push_messages_error,
};

use super::chat::{self, Job};
use super::common;
use crate::body::Received;
use crate::generation::Generation;
use crate::offload;
use crate::reply;
use crate::sse::{self, Frames};
use crate::state::{AppState, Shared};

/// Answers a conversation.
pub(super) async fn create(State(state): State<Shared>, request: Request) -> Response {
    answer(&state, request)
        .await
        .unwrap_or_else(Refusal::into_response)
}

/// Answers how many tokens a conversation has.
pub(super) async fn count_tokens(State(state): State<Shared>, request: Request) -> Response {
    let counted = common::prepare(&state, request, count).await;
    counted
        .unwrap_or_else(|error| Err(Refusal::Schema(error)))
        .unwrap_or_else(Refusal::into_response)
}

/// What is wrong with a request. What the schema refuses is answered in the OpenAI form.
enum Refusal {
    Schema(ErrorResponse),
    Request(ErrorResponse),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Schema(error) => reply::error(&error),
            Self::Request(error) => reply::with_body(&error, error.to_messages_json()),
        }
    }
}

impl From<ErrorResponse> for Refusal {
    fn from(error: ErrorResponse) -> Self {
        Self::Request(error)
    }
}

async fn answer(state: &Shared, request: Request) -> Result<Response, Refusal> {
    let prepared = common::prepare(state, request, prepare).await;
    let Job {
        request,
        context,
        prompt,
        parsers,
        engine_request,
    } = prepared.map_err(Refusal::Schema)??;
    let generation = Generation::start(state, &context.id, vec![engine_request]);
    if request.options.stream {
        let num_prompt_tokens = prompt.token_ids.len();
        let frames = MessagesFrames {
            stream: MessagesStream::new(&request, context, num_prompt_tokens, &parsers),
            begun: false,
        };
        return Ok(sse::answer(state, generation, frames)?);
    }
    let output = common::collect_one(state, generation).await?;
    let heavy = request.tools.is_some();
    let answer = offload::run(state, heavy, move || {
        let result = ChatResult {
            prompt_text: Some(&prompt.text),
            prompt_token_ids: &prompt.token_ids,
            prompt_logprobs: None,
            echo_text: None,
            outputs: &output.outputs,
            num_cached_tokens: output.num_cached_tokens,
        };
        MessagesResponse::new(&request, &context, &result, &parsers)
    })
    .await?;
    Ok(reply::json(StatusCode::OK, &answer))
}

fn prepare(state: &AppState, received: &Received, arrival: Instant) -> Result<Job, Refusal> {
    let request = parse_body(received.content_type(), &received.body)
        .and_then(|members| MessagesRequest::from_body(&members))
        .map_err(Refusal::Schema)?;
    let request = request.to_chat(&state.api.disabled_thinking_effort)?;
    Ok(Job::new(state, request, &received.headers, arrival)?)
}

fn count(state: &AppState, received: &Received, _: Instant) -> Result<Response, Refusal> {
    let request = parse_body(received.content_type(), &received.body)
        .and_then(|members| MessagesRequest::from_counted_body(&members))
        .map_err(Refusal::Schema)?;
    let request = request.to_chat(&state.api.disabled_thinking_effort)?;
    common::check_model(state, request.options.model.as_deref())?;
    request.check_supported(state.request_policy())?;
    let rendered = chat::render(state, &request)?;
    let tokenizer = state.engine.tokenizer();
    let tokens = tokenizer
        .encode(&rendered.text, request.options.add_special_tokens)
        .map_err(|error| ErrorResponse::bad_request(&error.to_string()))?;
    Ok(reply::json(
        StatusCode::OK,
        &CountTokensResponse::new(tokens.len()),
    ))
}

/// The frames of a message stream.
struct MessagesFrames {
    stream: MessagesStream,
    begun: bool,
}

impl Frames for MessagesFrames {
    fn push(
        &mut self,
        _: usize,
        output: RequestOutput,
        frames: &mut Vec<u8>,
    ) -> Result<(), ErrorResponse> {
        if !std::mem::replace(&mut self.begun, true) {
            self.stream.set_cached_tokens(output.num_cached_tokens);
        }
        self.stream.push(&output.outputs, frames)
    }

    fn finish(&mut self, frames: &mut Vec<u8>) {
        self.stream.finish(frames);
    }

    fn fail(&mut self, error: &ErrorResponse, frames: &mut Vec<u8>) {
        push_messages_error(frames, error);
    }
}
