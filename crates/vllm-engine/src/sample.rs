//! Output processing of one sample: token ids become text, stop strings end it.

use std::sync::Arc;

use vllm_sampling::{
    CompletionOutput, DecodedLogprob, FinishReason, OutputKind, PositionLogprobs, SamplingParams,
    StopReason, TokenLogprobs,
};
use vllm_scheduler::FinishCause;
use vllm_tokenizer::{IncrementalDetokenizer, OutputText, Tokenizer, decode_logprob_token};

use crate::admission::count;
use crate::event::SampleEvent;

/// What an event meant for its sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The sample goes on.
    Running,
    /// The engine ended it.
    Finished,
    /// A stop string ended it; the engine must be told to stop generating.
    Stopped,
}

/// Accumulates one sample's output.
pub(crate) struct SampleOutput {
    index: usize,
    output_kind: OutputKind,
    include_stop_text: bool,
    wants_logprobs: bool,
    tokenizer: Arc<Tokenizer>,
    /// `None` when the request asked for no text.
    detokenizer: Option<IncrementalDetokenizer>,
    text: OutputText,
    token_ids: Vec<u32>,
    logprobs: Vec<PositionLogprobs>,
    cumulative_logprob: f64,
    /// Tokens that have been handed out already; only deltas use it.
    num_emitted: usize,
    finish: Option<(FinishReason, Option<StopReason>)>,
}

impl SampleOutput {
    pub(crate) fn new(
        index: usize,
        prompt_token_ids: &[u32],
        params: &SamplingParams,
        tokenizer: &Arc<Tokenizer>,
    ) -> Self {
        let detokenizer = params.detokenize.then(|| {
            IncrementalDetokenizer::new(
                Arc::clone(tokenizer),
                prompt_token_ids,
                params.skip_special_tokens,
                params.spaces_between_special_tokens,
            )
        });
        Self {
            index,
            output_kind: params.output_kind,
            include_stop_text: params.include_stop_str_in_output,
            wants_logprobs: params.wants_logprobs(),
            tokenizer: Arc::clone(tokenizer),
            detokenizer,
            text: OutputText::new(
                &params.stop,
                params.include_stop_str_in_output,
                count(params.min_tokens),
            ),
            token_ids: Vec::new(),
            logprobs: Vec::new(),
            cumulative_logprob: 0.0,
            num_emitted: 0,
            finish: None,
        }
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finish.is_some()
    }

    pub(crate) fn finish_reason(&self) -> Option<FinishReason> {
        self.finish.as_ref().map(|(reason, _)| *reason)
    }

    /// Tokens generated so far.
    pub(crate) fn num_tokens(&self) -> usize {
        self.token_ids.len()
    }

    /// Tokens that the next [`Self::take`] of a delta would hand out.
    pub(crate) fn num_pending(&self) -> usize {
        self.token_ids.len() - self.num_emitted
    }

    pub(crate) fn has_emitted(&self) -> bool {
        self.num_emitted > 0
    }

    /// Takes in one event; events after the end are ignored by the caller.
    pub(crate) fn push(&mut self, event: &SampleEvent) -> Progress {
        let mut finish = event.finished.map(finish_of);
        let mut progress = if finish.is_some() {
            Progress::Finished
        } else {
            Progress::Running
        };
        if let Some(token) = &event.token {
            if self.wants_logprobs {
                self.push_logprobs(token.logprobs.as_ref());
            }
            self.token_ids.push(token.token_id);
            let ended_by_token = matches!(&finish, Some((FinishReason::Stop, _)));
            let shows_text = !ended_by_token || self.include_stop_text;
            if let (true, Some(detokenizer)) = (shows_text, self.detokenizer.as_mut()) {
                let piece = detokenizer.push(token.token_id);
                if let Some(stop) = self.text.push(&piece, self.token_ids.len()) {
                    if finish.is_none() {
                        progress = Progress::Stopped;
                    }
                    finish = Some((FinishReason::Stop, Some(StopReason::Text(stop.stop))));
                }
            }
        }
        self.finish = finish;
        progress
    }

    /// Ends the sample from outside, keeping what it has produced.
    pub(crate) fn abort(&mut self) {
        self.finish.get_or_insert((FinishReason::Abort, None));
    }

    fn push_logprobs(&mut self, logprobs: Option<&TokenLogprobs>) {
        let Some(logprobs) = logprobs else { return };
        if let Some(sampled) = logprobs.entries.first() {
            self.cumulative_logprob += f64::from(sampled.logprob);
        }
        self.logprobs
            .push(decode_logprobs(&self.tokenizer, logprobs, &self.token_ids));
    }

    /// What the request's output kind asks for now.
    pub(crate) fn take(&mut self) -> CompletionOutput {
        let finished = self.is_finished();
        let (text, token_ids, logprobs) = match self.output_kind {
            OutputKind::Delta => {
                let start = std::mem::replace(&mut self.num_emitted, self.token_ids.len());
                (
                    self.text.take_delta(finished),
                    self.token_ids[start..].to_vec(),
                    std::mem::take(&mut self.logprobs),
                )
            }
            OutputKind::Cumulative | OutputKind::FinalOnly => {
                self.num_emitted = self.token_ids.len();
                (
                    self.text.visible(finished).to_owned(),
                    self.token_ids.clone(),
                    self.logprobs.clone(),
                )
            }
        };
        let (finish_reason, stop_reason) = match &self.finish {
            Some((reason, stop)) => (Some(*reason), stop.clone()),
            None => (None, None),
        };
        CompletionOutput {
            index: self.index,
            text,
            token_ids,
            cumulative_logprob: self.wants_logprobs.then_some(self.cumulative_logprob),
            logprobs: self.wants_logprobs.then_some(logprobs),
            finish_reason,
            stop_reason,
        }
    }
}

/// Gives each id its text, decoded after the tokens that precede it.
pub(crate) fn decode_logprobs(
    tokenizer: &Tokenizer,
    logprobs: &TokenLogprobs,
    previous: &[u32],
) -> PositionLogprobs {
    logprobs
        .entries
        .iter()
        .map(|entry| DecodedLogprob {
            token_id: entry.token_id,
            logprob: entry.logprob,
            rank: entry.rank,
            decoded_token: decode_logprob_token(tokenizer, entry.token_id, previous),
        })
        .collect()
}

fn finish_of(cause: FinishCause) -> (FinishReason, Option<StopReason>) {
    match cause {
        FinishCause::Eos => (FinishReason::Stop, None),
        FinishCause::StopToken(id) => (FinishReason::Stop, Some(StopReason::TokenId(id))),
        FinishCause::Length => (FinishReason::Length, None),
        FinishCause::Repetition => (
            FinishReason::Repetition,
            Some(StopReason::RepetitionDetected),
        ),
        FinishCause::Abort => (FinishReason::Abort, None),
        FinishCause::Error => (FinishReason::Error, None),
    }
}
