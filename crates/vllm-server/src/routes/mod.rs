//! One module per family of routes. A new family adds its [`Route`]s to [`all`].

mod batch;
mod chat;
mod common;
mod completions;
mod docs;
mod elastic;
mod health;
mod invocations;
mod load_report;
mod messages;
pub(crate) mod metrics;
mod models;
mod responses;
mod scale_out;
mod scoring;
mod tokenize;

use std::future::{Ready, ready};

use axum::handler::Handler;
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, any, on};
use http::{HeaderValue, StatusCode, header};

use crate::config::HttpConfig;
use crate::reply;
use crate::state::Shared;

/// A path and who answers there.
pub(crate) struct Route {
    pub(crate) path: &'static str,
    pub(crate) handler: MethodRouter<Shared>,
    /// Whether requests to it count as load.
    pub(crate) counts_as_load: bool,
    /// With commas between.
    pub(crate) methods: &'static str,
    /// Names of the types of which the body is one; none where there is no body to speak of.
    pub(crate) bodies: &'static [&'static str],
}

impl Route {
    /// A route that answers `GET`. Axum would let it answer `HEAD` too, which vLLM refuses.
    fn get<T: 'static>(path: &'static str, handler: impl Handler<T, Shared>) -> Self {
        Self::new(
            path,
            "GET",
            on(MethodFilter::GET, handler).head(|| refuse("GET")),
        )
    }

    /// A route that answers `POST`.
    fn post<T: 'static>(path: &'static str, handler: impl Handler<T, Shared>) -> Self {
        Self::new(path, "POST", on(MethodFilter::POST, handler))
    }

    /// A route that answers `GET` and `POST`.
    fn get_and_post<T: 'static, H: Handler<T, Shared>>(path: &'static str, handler: H) -> Self {
        let methods = "GET, POST";
        let both = on(MethodFilter::GET, handler.clone()).on(MethodFilter::POST, handler);
        Self::new(path, methods, both.head(move || refuse(methods)))
    }

    /// A route that answers whatever the method.
    fn any<T: 'static>(path: &'static str, handler: impl Handler<T, Shared>) -> Self {
        Self {
            path,
            handler: any(handler),
            counts_as_load: false,
            bodies: &[],
            methods: "GET",
        }
    }

    fn new(path: &'static str, methods: &'static str, handler: MethodRouter<Shared>) -> Self {
        let handler = handler.fallback(move || refuse(methods));
        Self {
            path,
            handler,
            counts_as_load: false,
            bodies: &[],
            methods,
        }
    }

    /// A page about the service, which answers `GET` and `HEAD`.
    fn page<T: 'static>(path: &'static str, handler: impl Handler<T, Shared>) -> Self {
        Self::new(path, "GET, HEAD", on(MethodFilter::GET, handler))
    }

    /// Says what the body is.
    fn takes(self, bodies: &'static [&'static str]) -> Self {
        Self { bodies, ..self }
    }

    fn counted(self) -> Self {
        Self {
            counts_as_load: true,
            ..self
        }
    }

    /// The line that the log shows for it.
    pub(crate) fn describe(&self) -> String {
        format!("Route: {}, Methods: {}", self.path, self.methods)
    }
}

/// What a method gets that a route does not answer.
fn refuse(methods: &'static str) -> Ready<Response> {
    let mut refusal = reply::detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    refusal
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static(methods));
    ready(refusal)
}

/// Every route of the service.
pub(crate) fn all(config: &HttpConfig) -> Vec<Route> {
    let mut routes = vec![
        Route::get("/health", health::health),
        Route::get_and_post("/ping", health::health),
        Route::get("/version", health::version),
        Route::get("/load", health::load),
        Route::any("/metrics", metrics::metrics),
        Route::get("/v1/models", models::list),
        Route::post("/v1/completions", completions::create)
            .counted()
            .takes(&["CompletionRequest"]),
        Route::post("/v1/chat/completions", chat::create)
            .counted()
            .takes(&["ChatCompletionRequest"]),
        Route::post("/v1/chat/completions/batch", batch::create).counted(),
        Route::post("/v1/responses", responses::create)
            .counted()
            .takes(&["ResponsesRequest"]),
        Route::get("/v1/responses/{response_id}", responses::unknown).counted(),
        Route::post("/v1/responses/{response_id}/cancel", responses::unknown).counted(),
        Route::post("/v1/messages", messages::create)
            .counted()
            .takes(&["AnthropicMessagesRequest"]),
        Route::post("/v1/messages/count_tokens", messages::count_tokens)
            .counted()
            .takes(&["AnthropicCountTokensRequest"]),
        Route::post("/v1/systemone", elastic::no_decisions),
        Route::post("/generative_scoring", scoring::create)
            .counted()
            .takes(&["GenerativeScoringRequest"]),
        Route::post("/invocations", invocations::create)
            .counted()
            .takes(&["ChatCompletionRequest", "CompletionRequest"]),
        Route::get("/kv_event_sources", elastic::kv_event_sources),
        Route::post("/scale_elastic_ep", elastic::scale),
        Route::post("/is_scaling_elastic_ep", elastic::is_scaling),
        Route::post("/tokenize", tokenize::tokenize)
            .takes(&["TokenizeCompletionRequest", "TokenizeChatRequest"]),
        Route::post("/detokenize", tokenize::detokenize).takes(&["DetokenizeRequest"]),
    ];
    routes.extend(scale_out::PATHS.map(|path| Route::post(path, scale_out::disabled)));
    if config.dev_mode {
        routes.push(Route::post(
            "/reset_prefix_cache",
            health::reset_prefix_cache,
        ));
    }
    if config.docs {
        let pages = docs::pages(&routes);
        routes.extend(pages);
    }
    routes
}
