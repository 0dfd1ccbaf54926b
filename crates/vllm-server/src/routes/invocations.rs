//! `/invocations`: SageMaker's one route for whatever a model serves.

use axum::extract::{Request, State};
use axum::response::Response;
use http::HeaderName;
use vllm_openai::decode::Value;
use vllm_openai::{ChatCompletionRequest, CompletionRequest, ErrorResponse, Result, parse_body};

use super::common;
use super::{chat, completions};
use crate::body::header_text;
use crate::reply;
use crate::state::Shared;

/// The adapter to use, which stands in for the model.
const ADAPTER: HeaderName = HeaderName::from_static("x-amzn-sagemaker-adapter-identifier");

const NO_HANDLER: &str = "Cannot find suitable handler for request. Expected one of: \
                          ['ChatCompletionRequest', 'CompletionRequest']";

/// Answers a body that is a chat or else a completion request.
pub(super) async fn create(State(state): State<Shared>, request: Request) -> Response {
    answer(&state, request)
        .await
        .unwrap_or_else(|error| reply::error(&error))
}

enum Job {
    Chat(Box<chat::Job>),
    Completion(Box<completions::Job>),
}

async fn answer(state: &Shared, request: Request) -> Result<Response> {
    let job = common::prepare(state, request, |state, received, arrival| {
        let mut members = parse_body(received.content_type(), &received.body)?;
        let headers = &received.headers;
        if let Some(adapter) = header_text(headers, ADAPTER) {
            members.insert("model".to_owned(), Value::String(adapter.to_owned()));
        }
        if let Ok(request) = ChatCompletionRequest::from_body(&members) {
            let job = chat::Job::new(state, request, headers, arrival)?;
            return Ok(Job::Chat(Box::new(job)));
        }
        if let Ok(request) = CompletionRequest::from_body(&members) {
            let job = completions::Job::new(state, request, headers, arrival)?;
            return Ok(Job::Completion(Box::new(job)));
        }
        Err(ErrorResponse::bad_request(NO_HANDLER))
    })
    .await??;
    match job {
        Job::Chat(job) => chat::serve(state, *job).await,
        Job::Completion(job) => completions::serve(state, *job).await,
    }
}
