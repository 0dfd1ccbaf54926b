//! The list of served models.

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use vllm_openai::ModelList;

use crate::clock::unix_seconds;
use crate::reply;
use crate::state::Shared;

/// One card per served name.
pub(super) async fn list(State(state): State<Shared>) -> Response {
    let info = state.engine.info();
    let created = unix_seconds();
    let list = ModelList::new(&state.model_names, &info.name, info.max_model_len, created);
    reply::json(StatusCode::OK, &list)
}
