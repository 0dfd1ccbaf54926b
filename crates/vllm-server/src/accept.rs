//! The accept loop: connections in, each served by hyper until it is idle, closed or stopped.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::config::HttpConfig;
use crate::front::Front;
use crate::listen::{Listener, Stream};
use crate::shutdown::{Phase, Shutdown};

/// A TLS handshake must be done within this time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait after an accept that failed, which mostly means too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all connections share.
pub(crate) struct Connections {
    front: Arc<Front>,
    http: http1::Builder,
    tls: Option<TlsAcceptor>,
    shutdown: Shutdown,
}

impl Connections {
    pub(crate) fn new(
        front: Front,
        config: &HttpConfig,
        tls: Option<TlsAcceptor>,
        shutdown: Shutdown,
    ) -> Self {
        let mut http = http1::Builder::new();
        // hyper counts the wait for the next request as part of reading its head, so this limit
        // also closes idle connections.
        http.timer(TokioTimer::new())
            .header_read_timeout(config.keep_alive)
            .max_buf_size(config.max_head_bytes)
            .max_headers(config.max_header_count);
        Self {
            front: Arc::new(front),
            http,
            tls,
            shutdown,
        }
    }

    /// Accepts until the service is to stop; returns the connections that are still open.
    pub(crate) async fn accept_all(self: Arc<Self>, listener: Listener) -> JoinSet<()> {
        let mut open = JoinSet::new();
        let stopping = self.shutdown.reached(Phase::Stopping);
        tokio::pin!(stopping);
        loop {
            tokio::select! {
                biased;
                () = &mut stopping => return open,
                // Finished tasks are collected as they end, so that the set stays small.
                Some(_) = open.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok(stream) => {
                        open.spawn(Arc::clone(&self).serve(stream));
                    }
                    Err(error) => {
                        tracing::warn!("a connection could not be accepted: {error}");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    async fn serve(self: Arc<Self>, stream: Stream) {
        let Some(tls) = &self.tls else {
            return match stream {
                Stream::Tcp(stream, peer) => self.serve_http(stream, peer.to_string()).await,
                Stream::Unix(stream) => self.serve_http(stream, "unix".to_owned()).await,
            };
        };
        match stream {
            Stream::Tcp(stream, peer) => {
                if let Ok(Ok(stream)) = timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
                    self.serve_http(stream, peer.to_string()).await;
                }
            }
            Stream::Unix(stream) => {
                if let Ok(Ok(stream)) = timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
                    self.serve_http(stream, "unix".to_owned()).await;
                }
            }
        }
    }

    async fn serve_http<I>(&self, stream: I, peer: String)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let peer: Arc<str> = peer.into();
        let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
            let (front, peer) = (Arc::clone(&self.front), Arc::clone(&peer));
            async move { Ok::<_, Infallible>(front.answer(request.map(Body::new), &peer).await) }
        });
        let connection = self.http.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.shutdown.reached(Phase::Stopping) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!("the connection of {peer} ended early: {error}");
        }
    }
}
