//! The HTTP service: an OpenAI-compatible API in front of an engine.
//!
//! Knows sockets, routes, keys, cross-origin rules, server-sent events, the metrics page and how to
//! stop without leaving a client in the dark. What the API looks like on the wire is known by
//! `vllm-openai`; this crate carries it. It must never know tensors or models, and it never looks
//! behind [`EngineClient`](vllm_engine::EngineClient).
//!
//! ```no_run
//! use std::sync::Arc;
//! use vllm_server::{BoundSocket, Server, ServerConfig, Shutdown};
//!
//! # async fn example(engine: Arc<dyn vllm_engine::EngineClient>) -> vllm_server::Result<()> {
//! let config = ServerConfig::default();
//! let socket = BoundSocket::bind(&config.http.listen).await?;
//! let shutdown = Shutdown::new();
//! let cause = Server::new(&config, engine, shutdown.clone())?.serve(socket).await?;
//! println!("the service has ended: {cause:?}");
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod accept;
mod access;
mod auth;
mod body;
mod clock;
mod config;
mod cors;
mod error;
mod front;
mod generation;
mod ids;
mod listen;
mod metrics;
mod offload;
mod reply;
mod router;
mod routes;
mod server;
mod shutdown;
mod sse;
mod state;
mod tls;

pub use access::ACCESS_TARGET;
pub use config::{
    ApiConfig, ClientCertificates, CorsConfig, Fingerprint, HttpConfig, Listen, LogConfig,
    ServerConfig, TlsConfig,
};
pub use error::{Error, Result};
pub use listen::BoundSocket;
pub use server::{ExitCause, LIFECYCLE_TARGET, Server};
pub use shutdown::{Phase, Shutdown};
pub use vllm_renderer::ContentFormatOption;
