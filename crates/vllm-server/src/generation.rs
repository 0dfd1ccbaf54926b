//! The engine's side of one HTTP request: a stream per prompt, watched until all have ended.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::stream::SelectAll;
use futures::{Stream, StreamExt};
use vllm_engine::{Error as EngineError, GenerationRequest, RequestOutput, RequestStream};
use vllm_openai::ErrorResponse;
use vllm_renderer::error_response;

use crate::shutdown::Phase;
use crate::state::Shared;

/// Running prompts of one request. Dropping it aborts them.
pub(crate) struct Generation {
    streams: SelectAll<Indexed>,
    ending: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Set when aborts are to be logged.
    logged_id: Option<String>,
    ended: bool,
}

/// Outputs of the prompt with this index.
struct Indexed {
    index: usize,
    stream: RequestStream,
}

impl Stream for Indexed {
    type Item = (usize, vllm_engine::Result<RequestOutput>);

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let index = self.index;
        self.stream
            .poll_next_unpin(context)
            .map(|next| next.map(|output| (index, output)))
    }
}

impl Generation {
    /// Hands all prompts of the request `id` to the engine.
    ///
    /// # Errors
    /// What the engine says about the first prompt that it refuses; the others are given up.
    pub(crate) fn start(
        state: &Shared,
        id: &str,
        prompts: Vec<GenerationRequest>,
    ) -> vllm_engine::Result<Self> {
        let mut streams = SelectAll::new();
        for (index, mut prompt) in prompts.into_iter().enumerate() {
            let interval = &mut prompt.params.stream_interval;
            *interval = (*interval).max(state.api.stream_interval);
            if state.log.requests {
                let (id, params) = (&prompt.request_id, &prompt.params);
                tracing::info!("Received request {id}: params: {params:?}, lora_request: None.");
            }
            check_thinking_budget(state, &prompt)?;
            let request_id = state.log.requests.then(|| prompt.request_id.clone());
            streams.push(Indexed {
                index,
                stream: state.engine.generate(prompt)?,
            });
            if let Some(request_id) = request_id {
                tracing::info!("Added request {request_id}.");
            }
        }
        let shutdown = state.shutdown.clone();
        Ok(Self {
            streams,
            ending: Box::pin(async move { shutdown.reached(Phase::Ending).await }),
            logged_id: state.log.requests.then(|| id.to_owned()),
            ended: false,
        })
    }

    /// Waits for the only output of each of `count` prompts.
    ///
    /// # Errors
    /// The first failure; the other prompts are given up.
    pub(crate) async fn collect(
        mut self,
        count: usize,
    ) -> Result<Vec<RequestOutput>, ErrorResponse> {
        let mut outputs: Vec<Option<RequestOutput>> = Vec::new();
        outputs.resize_with(count, || None);
        while let Some(next) = self.next().await {
            let (index, output) = next?;
            if let Some(slot) = outputs.get_mut(index) {
                *slot = Some(output);
            }
        }
        let complete: Option<Vec<_>> = outputs.into_iter().collect();
        complete.ok_or_else(ErrorResponse::internal)
    }
}

impl Stream for Generation {
    type Item = Result<(usize, RequestOutput), ErrorResponse>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next = match self.streams.poll_next_unpin(context) {
            Poll::Ready(None) => None,
            Poll::Ready(Some((index, Ok(output)))) => Some(Ok((index, output))),
            Poll::Ready(Some((_, Err(error)))) => Some(Err(to_response(&error))),
            Poll::Pending => match self.ending.as_mut().poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) => Some(Err(ErrorResponse::unavailable(
                    "The server is shutting down.",
                ))),
            },
        };
        self.ended = !matches!(next, Some(Ok(_)));
        Poll::Ready(next)
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if let (Some(id), false) = (&self.logged_id, self.ended) {
            tracing::info!("Request {id} aborted.");
        }
    }
}

/// Refuses a limit on reasoning, which is not kept.
fn check_thinking_budget(state: &Shared, prompt: &GenerationRequest) -> vllm_engine::Result<()> {
    if prompt.params.thinking_token_budget.is_none() {
        return Ok(());
    }
    let message = match state.reasoning_parser {
        Some(_) => "thinking_token_budget is not supported by this server; leave it out.",
        None => {
            "thinking_token_budget is set but reasoning_config is not configured. Please set \
             --reasoning-parser and/or --reasoning-config to use thinking_token_budget."
        }
    };
    Err(EngineError::InvalidRequest {
        message: message.to_owned(),
        parameter: None,
        value: None,
    })
}

/// What a client is told about an engine's error; what is not the client's is written down.
pub(crate) fn to_response(error: &EngineError) -> ErrorResponse {
    let response = error_response(error);
    if response.status == 500 && !matches!(error, EngineError::Dead(_)) {
        tracing::error!("a request failed inside the engine: {error}");
    }
    response
}
