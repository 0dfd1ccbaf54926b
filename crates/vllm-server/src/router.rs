//! Paths to handlers, and what is answered where there is none.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

use crate::config::ServerConfig;
use crate::metrics;
use crate::metrics::http::WithGuard;
use crate::reply;
use crate::routes::{self, Route};
use crate::state::Shared;

/// Builds the router; also returns a line about each route for the log.
pub(crate) fn build(state: &Shared, config: &ServerConfig) -> (Router, Vec<String>) {
    let routes = routes::all(&config.http);
    let lines = routes.iter().map(Route::describe).collect();
    let paths: Arc<[&'static str]> = routes.iter().map(|route| route.path).collect();
    let mut router = Router::new();
    for route in routes {
        let handler = if route.counts_as_load && config.api.enable_server_load_tracking {
            route
                .handler
                .layer(from_fn_with_state(Arc::clone(state), track_load))
        } else {
            route.handler
        };
        router = router.route(route.path, handler);
    }
    let fallback = move |state: State<Shared>, request: Request| {
        std::future::ready(answer_unrouted(&state, &paths, &request))
    };
    let router = router
        .fallback(fallback)
        .layer(from_fn_with_state(
            Arc::clone(&state.metrics.http),
            metrics::http::count,
        ))
        .with_state(Arc::clone(state));
    (router, lines)
}

/// A path that is a route but for its last slash is redirected, the rest does not exist.
fn answer_unrouted(state: &Shared, paths: &[&'static str], request: &Request) -> Response {
    let path = request.uri().path();
    if path.starts_with("/metrics") {
        return routes::metrics::page(state);
    }
    let other = match path.strip_suffix('/') {
        Some(shorter) => shorter.to_owned(),
        None => format!("{path}/"),
    };
    if !paths.contains(&other.as_str()) {
        return reply::detail(StatusCode::NOT_FOUND, "Not Found");
    }
    let target = match request.uri().query() {
        Some(query) => format!("{other}?{query}"),
        None => other,
    };
    match HeaderValue::try_from(target) {
        Ok(location) => (
            StatusCode::TEMPORARY_REDIRECT,
            [(header::LOCATION, location)],
        )
            .into_response(),
        Err(_) => reply::detail(StatusCode::NOT_FOUND, "Not Found"),
    }
}

/// Counts a request until its answer is out.
async fn track_load(State(state): State<Shared>, request: Request, next: Next) -> Response {
    let guard = state.load.enter();
    next.run(request).await.map(|body| {
        axum::body::Body::new(WithGuard {
            body,
            _guard: guard,
        })
    })
}
