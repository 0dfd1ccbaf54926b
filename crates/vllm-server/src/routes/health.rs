//! Whether the service lives, what it is, how busy it is.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::json;
use vllm_openai::Version;

use crate::offload;
use crate::reply;
use crate::state::Shared;

/// 200 while the engine lives and makes progress, 503 afterwards; no body.
pub(super) async fn health(State(state): State<Shared>) -> Response {
    let alive = state.engine.is_alive();
    reply::empty(if alive {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    })
}

/// The vLLM version that this service answers like.
pub(super) async fn version() -> Response {
    reply::json(StatusCode::OK, &Version::default())
}

/// Requests in flight; 0 unless they are tracked.
pub(super) async fn load(State(state): State<Shared>) -> Response {
    reply::json(StatusCode::OK, &json!({ "server_load": state.load.get() }))
}

/// Forgets cached prefixes.
pub(super) async fn reset_prefix_cache(State(state): State<Shared>) -> Response {
    let engine = Arc::clone(&state.engine);
    // The engine answers between two steps, which may take a while.
    let success = offload::run(&state, true, move || engine.reset_prefix_cache()).await;
    reply::json(StatusCode::OK, &json!({ "success": success }))
}
