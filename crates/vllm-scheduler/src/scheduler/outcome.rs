//! What became of a step.

use crate::requests::Slot;
use crate::{FinishCause, RequestId, Sampled, Scheduler, SequenceUpdate, StepPlan};

impl Scheduler {
    /// Takes the results of the step in flight: appends the sampled tokens, ends sequences, frees
    /// their blocks, and writes one update per sequence that sampled or ended.
    ///
    /// `sampled` has an entry for each sequence of the plan that samples, in any order. A sequence
    /// that has none although it samples, or whose entry is [`Sampled::Failed`], ends alone with
    /// [`FinishCause::Error`]; `Failed` is also accepted for one that does not sample. Aborted
    /// requests end here without an update. `updates` is cleared first.
    pub fn apply(
        &mut self,
        plan: &StepPlan,
        sampled: &[(RequestId, Sampled)],
        updates: &mut Vec<SequenceUpdate>,
    ) {
        updates.clear();
        for &(id, result) in sampled {
            if let Some(request) = self.requests.get_mut(id)
                && request.num_planned_tokens > 0
            {
                request.sampled = Some(result);
            }
        }
        let mut any_finished = false;
        for sequence in &plan.sequences {
            if let Some(slot) = self.requests.slot(sequence.request_id) {
                any_finished |= self.settle(slot, sequence.samples, updates);
            }
        }
        if any_finished {
            self.running.retain(|&slot| self.requests.is_occupied(slot));
        }
    }

    /// Settles one sequence of the step in flight; whether it has ended.
    fn settle(&mut self, slot: Slot, samples: bool, updates: &mut Vec<SequenceUpdate>) -> bool {
        let request = &mut self.requests[slot];
        let result = request.sampled.take();
        if std::mem::take(&mut request.num_planned_tokens) == 0 {
            return false;
        }
        if request.abort_requested {
            self.finish(slot, FinishCause::Abort);
            return true;
        }
        let (token_id, finished) = match result {
            Some(Sampled::Token(token_id)) if samples => {
                request.token_ids.push(token_id);
                let num_tokens = request.token_ids.len();
                let output = request.output_token_ids();
                let max_model_len = self.config.max_model_len;
                (
                    Some(token_id),
                    request.stop_rules.check(num_tokens, output, max_model_len),
                )
            }
            Some(Sampled::Failed) => (None, Some(FinishCause::Error)),
            None if samples => (None, Some(FinishCause::Error)),
            Some(Sampled::Token(_)) | None => return false,
        };
        updates.push(SequenceUpdate {
            request_id: request.id,
            token_id,
            finished,
        });
        if let Some(cause) = finished {
            self.finish(slot, cause);
        }
        finished.is_some()
    }
}
