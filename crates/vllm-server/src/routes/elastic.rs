//! Routes about several engines or other kinds of models, of which there are none here.

use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use serde_json::json;
use vllm_openai::decode::{Fields, Scope, integer, integer_between};
use vllm_openai::{ErrorResponse, Result, parse_body};

use super::common;
use crate::body::Received;
use crate::reply;
use crate::state::Shared;

/// No engine publishes what its cache holds.
pub(super) async fn kv_event_sources() -> Response {
    reply::json(StatusCode::OK, &json!({}))
}

/// The one engine is never being multiplied.
pub(super) async fn is_scaling() -> Response {
    reply::json(StatusCode::OK, &json!({ "is_scaling_elastic_ep": false }))
}

/// Checks what is asked for, then refuses: one process computes on one device.
pub(super) async fn scale(State(state): State<Shared>, request: Request) -> Response {
    let checked = common::prepare(&state, request, |_, received, _| check_scaling(received)).await;
    let refusal = match checked {
        Err(error) | Ok(Err(error)) => error,
        Ok(Ok(())) => ErrorResponse::new(
            400,
            "Bad Request",
            "Elastic expert parallelism is not enabled: this server computes on one device.",
            None,
        ),
    };
    reply::error(&refusal)
}

fn check_scaling(received: &Received) -> Result<()> {
    let members = parse_body(received.content_type(), &received.body)?;
    let mut scope = Scope::new();
    let mut fields = Fields::new(&members, &mut scope);
    let size = fields.required("new_data_parallel_size", integer_between(1, i64::MAX));
    fields.with_default("drain_timeout", 120, integer);
    scope
        .finish(size.map(|_| ()))
        .map_err(|errors| ErrorResponse::schema(&errors))
}

/// 501: only a few architectures decide.
pub(super) async fn no_decisions() -> Response {
    let message = "The model does not support the structured decision API";
    reply::error(&ErrorResponse::not_implemented(message))
}
