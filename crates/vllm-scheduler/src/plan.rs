//! What a step computes and what came of it.

use serde::{Deserialize, Serialize};

use crate::RequestId;

/// One step: the tokens to compute. Its buffers are reused from step to step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepPlan {
    /// Running sequences first, in the order of their admission; then the newly admitted.
    pub sequences: Vec<PlannedSequence>,
    /// Requests that lost their blocks in this step and wait again.
    pub preempted: Vec<RequestId>,
    /// Sum of `num_tokens` over the sequences.
    pub total_tokens: usize,
}

/// The part of one sequence in a step: its tokens `start .. start + num_tokens`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedSequence {
    /// Whose tokens.
    pub request_id: RequestId,
    /// Tokens before these; their keys and values are in the cache.
    pub start: usize,
    /// Tokens to compute, at least 1.
    pub num_tokens: usize,
    /// Whether these are the last tokens the sequence has, so that the next one is sampled.
    pub samples: bool,
    /// Whether the request has never been in a plan before.
    pub first_scheduled: bool,
}

/// What sampling gave for one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampled {
    /// The next token.
    Token(u32),
    /// No token: this sequence alone ends, with [`FinishCause::Error`].
    Failed,
}

/// News of one sequence after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceUpdate {
    /// Whose news.
    pub request_id: RequestId,
    /// The token that was appended.
    pub token_id: Option<u32>,
    /// Why the sequence has ended. Its blocks are free and its id is unknown from now on.
    pub finished: Option<FinishCause>,
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishCause {
    /// It sampled the end-of-sequence token.
    Eos,
    /// It sampled one of its stop tokens, this one.
    StopToken(u32),
    /// It reached `max_tokens` or the model length.
    Length,
    /// Its output repeats itself.
    Repetition,
    /// [`Scheduler::abort`](crate::Scheduler::abort) was called.
    Abort,
    /// It had no token where one was due.
    Error,
}

impl StepPlan {
    /// Whether there is nothing to compute.
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.sequences.clear();
        self.preempted.clear();
        self.total_tokens = 0;
    }
}
