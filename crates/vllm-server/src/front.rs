//! What every request passes before it is routed, outermost first: access line, request id, root
//! path, key check, cross-origin rules. The routes' own layer then counts it.

use std::panic::AssertUnwindSafe;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use futures::FutureExt;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use tower::ServiceExt;
use vllm_openai::ErrorResponse;

use crate::access::AccessLog;
use crate::auth::ApiKeys;
use crate::config::ServerConfig;
use crate::cors::{Cors, Origin};
use crate::ids::random_hex_32;
use crate::reply;

/// The header by which a caller names its request.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The service behind every connection.
pub(crate) struct Front {
    router: Router,
    access: AccessLog,
    keys: ApiKeys,
    cors: Cors,
    root_path: String,
    request_id_headers: bool,
}

impl Front {
    pub(crate) fn new(config: &ServerConfig, router: Router) -> Self {
        Self {
            router,
            access: AccessLog::new(&config.log),
            keys: ApiKeys::new(&config.http.api_keys),
            cors: Cors::new(&config.http.cors),
            root_path: config.http.root_path.trim_end_matches('/').to_owned(),
            request_id_headers: config.http.request_id_headers,
        }
    }

    /// Answers one request; `peer` is whom the access line names.
    pub(crate) async fn answer(&self, mut request: Request, peer: &str) -> Response {
        let line = self.access.begin(&request, peer);
        let request_id = self.request_id(&request);
        self.strip_root_path(&mut request);
        let mut response = if self.keys.admits(&request) {
            self.answer_admitted(request).await
        } else {
            let unauthorized = serde_json::json!({ "error": "Unauthorized" });
            reply::json(StatusCode::UNAUTHORIZED, &unauthorized)
        };
        let headers = response.headers_mut();
        headers.insert(header::SERVER, HeaderValue::from_static("uvicorn"));
        if let Some(request_id) = request_id {
            headers.insert(REQUEST_ID, request_id);
        }
        AccessLog::end(line, response.status());
        response
    }

    async fn answer_admitted(&self, request: Request) -> Response {
        if let Some(answer) = self.cors.preflight(&request) {
            return answer;
        }
        let origin = Origin::of(&request);
        // A bug in one handler must cost one answer, not the connection or the process.
        let routed = AssertUnwindSafe(self.router.clone().oneshot(request))
            .catch_unwind()
            .await;
        let mut response = match routed {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(_panic) => reply::error(&ErrorResponse::internal()),
        };
        self.cors.decorate(origin, response.headers_mut());
        response
    }

    /// The value of the answer's `X-Request-Id`: the caller's own or a random one.
    fn request_id(&self, request: &Request) -> Option<HeaderValue> {
        if !self.request_id_headers {
            return None;
        }
        let given = request.headers().get(REQUEST_ID).cloned();
        given.or_else(|| HeaderValue::from_str(&random_hex_32()).ok())
    }

    /// Removes the configured prefix, which a proxy may have removed already.
    fn strip_root_path(&self, request: &mut Request) {
        if self.root_path.is_empty() {
            return;
        }
        let Some(target) = request.uri().path_and_query() else {
            return;
        };
        let Some(rest) = target.as_str().strip_prefix(self.root_path.as_str()) else {
            return;
        };
        let stripped = match rest.as_bytes().first() {
            Some(b'/') => rest.to_owned(),
            None | Some(b'?') => format!("/{rest}"),
            Some(_) => return,
        };
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = PathAndQuery::try_from(stripped).ok();
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
}
