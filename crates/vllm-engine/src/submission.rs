//! The mailbox of the engine thread.

use std::sync::mpsc::Sender;

use futures::channel::mpsc::UnboundedSender;
use vllm_sampling::SequenceSampler;
use vllm_scheduler::{NewRequest, RequestId};
use vllm_structured_output::Grammar;

use crate::event::EngineEvent;
use crate::stream::Abort;

/// What can be asked of the engine thread.
pub(crate) enum Command {
    /// Start these sequences.
    Add(Box<Submission>),
    /// Forget these sequences.
    Abort(Vec<RequestId>),
    /// Forget cached prefixes; answers whether it could.
    ResetPrefixCache(Sender<bool>),
    /// End every request and the thread.
    Shutdown,
}

/// One request: its samples as sequences of the scheduler.
pub(crate) struct Submission {
    pub(crate) sequences: Vec<SequenceSubmission>,
    pub(crate) events: UnboundedSender<EngineEvent>,
}

/// One sample of a request.
pub(crate) struct SequenceSubmission {
    pub(crate) request: NewRequest,
    pub(crate) sampler: SequenceSampler,
    /// What the output must look like, at its beginning.
    pub(crate) grammar: Option<Grammar>,
    /// `prompt_logprobs` of the request; only its first sample reports them.
    pub(crate) prompt_logprobs: Option<i64>,
}

/// Aborts the samples of one request through the engine's mailbox.
pub(crate) struct CommandAborter {
    pub(crate) commands: Sender<Command>,
    /// Scheduler ids by sample index.
    pub(crate) ids: Vec<RequestId>,
}

impl Abort for CommandAborter {
    fn abort(&self, samples: &[usize]) {
        let ids: Vec<RequestId> = samples
            .iter()
            .filter_map(|index| self.ids.get(*index).copied())
            .collect();
        if !ids.is_empty() {
            // A closed mailbox means that the engine has gone and with it the sequences.
            let _ = self.commands.send(Command::Abort(ids));
        }
    }
}
