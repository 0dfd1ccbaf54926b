//! The Prometheus page.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;

use crate::metrics::CONTENT_TYPE;
use crate::reply;
use crate::state::{AppState, Shared};

pub(super) async fn metrics(State(state): State<Shared>) -> Response {
    page(&state)
}

/// The page as an answer.
pub(crate) fn page(state: &AppState) -> Response {
    let engine = state.log.statistics.then(|| state.engine.as_ref());
    let page = state
        .metrics
        .page(engine, state.tool_parser.is_some(), state.model_name());
    reply::with_type(StatusCode::OK, CONTENT_TYPE, Body::from(page))
}
