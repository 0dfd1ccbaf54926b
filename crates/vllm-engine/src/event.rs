//! What the engine thread tells the stream of a request.

use std::time::Instant;

use vllm_sampling::{SampledToken, TokenLogprobs};
use vllm_scheduler::FinishCause;

use crate::error::Error;

/// One message from the engine thread to a [`RequestStream`](crate::RequestStream).
#[derive(Debug)]
pub(crate) enum EngineEvent {
    /// A sample of the request has a new token, has ended, or both.
    Sample(SampleEvent),
    /// The whole request ends with this error; nothing follows.
    Failed(Error),
}

/// News of one of the `n` samples of a request.
#[derive(Debug)]
pub(crate) struct SampleEvent {
    /// Which of the `n` samples.
    pub(crate) index: usize,
    /// The token sampled in this step; `None` when the sample ended without one.
    pub(crate) token: Option<SampledToken>,
    /// Why the sample ended with this step, if it did.
    pub(crate) finished: Option<FinishCause>,
    /// When the step's tokens were known.
    pub(crate) time: Instant,
    /// Only with the first event of a sample.
    pub(crate) first: Option<Box<FirstEvent>>,
}

/// What is known once a sample's prompt has been computed.
#[derive(Debug)]
pub(crate) struct FirstEvent {
    /// When the prompt's first tokens entered a step.
    pub(crate) first_scheduled: Instant,
    /// Prompt tokens served from the prefix cache.
    pub(crate) num_cached_tokens: usize,
    /// One entry per prompt token after the first; only when asked for.
    pub(crate) prompt_logprobs: Option<Vec<TokenLogprobs>>,
}
