//! Server-sent events: outputs of the engine in, frames out.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use futures::{FutureExt, StreamExt};
use http::StatusCode;
use tokio::time::timeout;
use vllm_engine::{Error as EngineError, RequestOutput};
use vllm_openai::{ErrorResponse, push_error};

use crate::generation::{Generation, to_response};
use crate::reply;
use crate::state::AppState;

const CONTENT_TYPE: &str = "text/event-stream; charset=utf-8";

/// A comment, which clients skip and proxies take for a sign of life.
const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

/// Outputs that are ready together leave together, up to about this many bytes.
const WRITE_BYTES: usize = 16 << 10;

/// Turns outputs into the frames of one API.
pub(crate) trait Frames: Send + 'static {
    /// Appends the frames for new output of one prompt.
    ///
    /// # Errors
    /// What ends the stream in place of the rest.
    fn push(
        &mut self,
        prompt_index: usize,
        output: RequestOutput,
        frames: &mut Vec<u8>,
    ) -> Result<(), ErrorResponse>;

    /// Appends what ends a stream without an error.
    fn finish(&mut self, frames: &mut Vec<u8>);

    /// Appends what ends a stream with an error.
    fn fail(&mut self, error: &ErrorResponse, frames: &mut Vec<u8>) {
        push_error(frames, error);
    }
}

/// The answer that streams a generation. What the engine refuses in the request is told in the
/// stream, as vLLM does.
///
/// # Errors
/// The engine cannot take any request now.
pub(crate) fn answer(
    state: &AppState,
    generation: vllm_engine::Result<Generation>,
    mut frames: impl Frames,
) -> Result<Response, ErrorResponse> {
    match generation {
        Ok(generation) => Ok(respond(
            generation,
            frames,
            state.api.sse_keep_alive_interval,
        )),
        Err(error @ EngineError::InvalidRequest { .. }) => {
            let mut chunk = Vec::new();
            frames.fail(&to_response(&error), &mut chunk);
            Ok(reply::with_type(
                StatusCode::OK,
                CONTENT_TYPE,
                Body::from(chunk),
            ))
        }
        Err(error) => Err(to_response(&error)),
    }
}

/// The body goes on only while the client reads; when the client
/// leaves, the generation is dropped with the body.
fn respond(generation: Generation, frames: impl Frames, keep_alive: Option<Duration>) -> Response {
    let streaming = Streaming {
        generation,
        frames,
        keep_alive,
    };
    let chunks = futures::stream::unfold(Some(streaming), |streaming| async move {
        let (chunk, streaming) = streaming?.next_chunk().await;
        Some((Ok::<_, std::convert::Infallible>(chunk), streaming))
    });
    reply::with_type(StatusCode::OK, CONTENT_TYPE, Body::from_stream(chunks))
}

struct Streaming<F> {
    generation: Generation,
    frames: F,
    keep_alive: Option<Duration>,
}

impl<F: Frames> Streaming<F> {
    /// The next bytes to send, and the stream unless it ends with them.
    async fn next_chunk(mut self) -> (Bytes, Option<Self>) {
        let mut chunk = Vec::with_capacity(512);
        loop {
            let next = if chunk.is_empty() {
                match self.wait().await {
                    Some(next) => next,
                    None => return (Bytes::from_static(KEEP_ALIVE), Some(self)),
                }
            } else {
                let more =
                    (chunk.len() < WRITE_BYTES).then(|| self.generation.next().now_or_never());
                match more.flatten() {
                    Some(next) => next,
                    None => return (chunk.into(), Some(self)),
                }
            };
            let pushed = match next {
                Some(Ok((index, output))) => self.frames.push(index, output, &mut chunk),
                Some(Err(error)) => Err(error),
                None => {
                    self.frames.finish(&mut chunk);
                    return (chunk.into(), None);
                }
            };
            if let Err(error) = pushed {
                self.frames.fail(&error, &mut chunk);
                return (chunk.into(), None);
            }
        }
    }

    /// The generation's next item; `None` when it is silent for too long.
    async fn wait(&mut self) -> Option<Option<<Generation as futures::Stream>::Item>> {
        match self.keep_alive {
            Some(interval) => timeout(interval, self.generation.next()).await.ok(),
            None => Some(self.generation.next().await),
        }
    }
}
