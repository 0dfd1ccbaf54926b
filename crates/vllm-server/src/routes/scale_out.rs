//! Routes that exist but are switched off.

use axum::response::Response;
use vllm_openai::ErrorResponse;

use crate::reply;

/// Splitting a request over several servers is not offered; these paths say so.
pub(super) const PATHS: [&str; 8] = [
    "/v1/chat/completions/render",
    "/v1/completions/render",
    "/v1/responses/render",
    "/v1/messages/render",
    "/v1/chat/completions/derender",
    "/v1/completions/derender",
    "/inference/v1/generate",
    "/inference/v1/abort_requests",
];

/// 403, whatever the body.
pub(super) async fn disabled() -> Response {
    reply::error(&ErrorResponse::scale_out_disabled())
}
