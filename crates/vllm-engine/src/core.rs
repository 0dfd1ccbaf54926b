//! The heart of the engine: one step schedules, runs the model, samples and reports.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use futures::channel::mpsc::UnboundedSender;
use vllm_sampling::{
    SampledToken, SamplerScratch, SequenceSampler, TokenLogprobs, prompt_token_logprobs,
};
use vllm_scheduler::{RequestId, Sampled, Scheduler, SequenceUpdate, StepPlan};
use vllm_structured_output::Grammar;

use crate::error::Error;
use crate::event::{EngineEvent, FirstEvent, SampleEvent};
use crate::recorder::Recorder;
use crate::runner::{ModelRunner, RowPurpose};
use crate::statistics::Statistics;
use crate::submission::Submission;

/// A sequence that the scheduler knows, with what only the engine needs of it.
struct Sequence {
    /// Which sample of its request it is.
    index: usize,
    sampler: SequenceSampler,
    grammar: Option<Grammar>,
    events: UnboundedSender<EngineEvent>,
    prompt_logprobs: Option<i64>,
    collected_prompt_logprobs: Vec<TokenLogprobs>,
    first_scheduled: Option<Instant>,
    has_reported: bool,
}

impl Sequence {
    /// Draws the next token, as far as the sequence's constraint allows, and moves it on.
    fn draw(
        &mut self,
        logits: &mut [f32],
        output: &[u32],
        mask: &mut Vec<u32>,
        scratch: &mut SamplerScratch,
    ) -> Result<SampledToken, String> {
        let Some(grammar) = &mut self.grammar else {
            let token = self.sampler.sample(logits, output, None, scratch);
            return token.map_err(|error| error.to_string());
        };
        grammar.fill_mask(mask).map_err(|error| error.to_string())?;
        let token = self
            .sampler
            .sample(logits, output, Some(mask.as_slice()), scratch);
        let token = token.map_err(|error| error.to_string())?;
        grammar
            .accept(token.token_id)
            .map_err(|error| error.to_string())?;
        Ok(token)
    }
}

/// Scheduler, model and samplers; lives on the engine thread.
pub(crate) struct EngineCore {
    scheduler: Scheduler,
    runner: ModelRunner,
    recorder: Recorder,
    statistics: Arc<Statistics>,
    sequences: HashMap<RequestId, Sequence>,
    plan: StepPlan,
    sampled: Vec<(RequestId, Sampled)>,
    tokens: HashMap<RequestId, SampledToken>,
    updates: Vec<SequenceUpdate>,
    scratch: SamplerScratch,
    mask: Vec<u32>,
}

impl EngineCore {
    pub(crate) fn new(
        scheduler: Scheduler,
        runner: ModelRunner,
        statistics: Arc<Statistics>,
        recorder: Recorder,
    ) -> Self {
        Self {
            scheduler,
            runner,
            recorder,
            statistics,
            sequences: HashMap::new(),
            plan: StepPlan::default(),
            sampled: Vec::new(),
            tokens: HashMap::new(),
            updates: Vec::new(),
            scratch: SamplerScratch::default(),
            mask: Vec::new(),
        }
    }

    /// Queues a request's sequences. A refusal reaches the request's stream.
    pub(crate) fn add(&mut self, submission: Submission) {
        let Submission { sequences, events } = submission;
        let mut admitted = Vec::with_capacity(sequences.len());
        for (index, submitted) in sequences.into_iter().enumerate() {
            let id = submitted.request.id;
            let num_prompt_tokens = submitted.request.prompt_token_ids.len();
            // Cloned only for a recording, which wants the request after it has been taken.
            let recorded = self.recorder.is_active().then(|| submitted.request.clone());
            let result = self.scheduler.add_request(submitted.request);
            if let Some(request) = &recorded {
                self.recorder
                    .note(|recorder| recorder.add(request, &result));
            }
            if let Err(refusal) = result {
                self.abort(&admitted);
                let _ =
                    events.unbounded_send(EngineEvent::Failed(Error::invalid(refusal.to_string())));
                return;
            }
            admitted.push(id);
            self.statistics.prompt_tokens.add(num_prompt_tokens as u64);
            self.sequences.insert(
                id,
                Sequence {
                    index,
                    sampler: submitted.sampler,
                    grammar: submitted.grammar,
                    events: events.clone(),
                    prompt_logprobs: submitted.prompt_logprobs,
                    collected_prompt_logprobs: Vec::new(),
                    first_scheduled: None,
                    has_reported: false,
                },
            );
        }
    }

    /// Forgets sequences; unknown ids are ignored, since a sequence may just have ended.
    pub(crate) fn abort(&mut self, ids: &[RequestId]) {
        for id in ids {
            self.abort_in_scheduler(*id);
            self.sequences.remove(id);
        }
    }

    fn abort_in_scheduler(&mut self, id: RequestId) {
        let known = self.scheduler.abort(id);
        self.recorder.note(|recorder| recorder.abort(id, known));
    }

    pub(crate) fn has_unfinished(&self) -> bool {
        self.scheduler.has_unfinished()
    }

    pub(crate) fn reset_prefix_cache(&mut self) -> bool {
        let done = self.scheduler.reset_prefix_cache();
        self.recorder
            .note(|recorder| recorder.reset_prefix_cache(done));
        done
    }

    /// Ends every request with `error`.
    pub(crate) fn fail_all(&mut self, error: &Error) {
        let ids: Vec<RequestId> = self.sequences.keys().copied().collect();
        for sequence in self.sequences.values() {
            let _ = sequence
                .events
                .unbounded_send(EngineEvent::Failed(error.clone()));
        }
        self.abort(&ids);
        self.publish_gauges();
    }

    /// Runs one step over whatever is due.
    pub(crate) fn step(&mut self) {
        let mut plan = std::mem::take(&mut self.plan);
        self.scheduler.schedule(&mut plan);
        self.recorder.note(|recorder| recorder.schedule(&plan));
        if !plan.sequences.is_empty() {
            self.run(&plan);
        }
        self.plan = plan;
        self.publish_gauges();
    }

    fn run(&mut self, plan: &StepPlan) {
        self.note_first_scheduled(plan);
        let sequences = &self.sequences;
        let wants_prompt_logprobs = |id: RequestId| {
            sequences
                .get(&id)
                .is_some_and(|s| s.prompt_logprobs.is_some() && !s.has_reported)
        };
        if let Err(error) = self
            .runner
            .run(plan, &self.scheduler, wants_prompt_logprobs)
        {
            self.fail_step(plan, &error);
            return;
        }
        self.sample_rows();
        self.updates.clear();
        self.scheduler.apply(plan, &self.sampled, &mut self.updates);
        self.recorder
            .note(|recorder| recorder.apply(&self.sampled, &self.updates));
        self.statistics.steps.add(1);
        self.statistics
            .iteration_tokens
            .observe(plan.total_tokens as f64);
        self.report();
    }

    fn note_first_scheduled(&mut self, plan: &StepPlan) {
        let now = Instant::now();
        for planned in plan
            .sequences
            .iter()
            .filter(|planned| planned.first_scheduled)
        {
            if let Some(sequence) = self.sequences.get_mut(&planned.request_id) {
                sequence.first_scheduled.get_or_insert(now);
                let cached = self.scheduler.num_cached_tokens(planned.request_id);
                self.statistics.prompt_tokens_cached.add(cached as u64);
            }
        }
    }

    /// The model could not run this step: its requests end, the others go on.
    fn fail_step(&mut self, plan: &StepPlan, error: &Error) {
        tracing::error!(%error, sequences = plan.sequences.len(), "a step failed");
        let ids: Vec<RequestId> = plan
            .sequences
            .iter()
            .map(|planned| planned.request_id)
            .collect();
        for id in &ids {
            if let Some(sequence) = self.sequences.get(id) {
                let _ = sequence
                    .events
                    .unbounded_send(EngineEvent::Failed(error.clone()));
            }
        }
        self.abort(&ids);
    }

    fn sample_rows(&mut self) {
        self.sampled.clear();
        self.tokens.clear();
        for (row, logits) in self.runner.rows_mut() {
            let id = row.request_id;
            let Some(sequence) = self.sequences.get_mut(&id) else {
                continue;
            };
            let token_ids = self.scheduler.token_ids(id);
            match row.purpose {
                RowPurpose::Sample => {
                    let output = &token_ids[self.scheduler.num_prompt_tokens(id)..];
                    match sequence.draw(logits, output, &mut self.mask, &mut self.scratch) {
                        Ok(token) => {
                            self.sampled.push((id, Sampled::Token(token.token_id)));
                            self.tokens.insert(id, token);
                        }
                        Err(error) => {
                            tracing::error!(%error, "sampling failed; the request ends");
                            self.sampled.push((id, Sampled::Failed));
                        }
                    }
                }
                RowPurpose::PromptLogprob(position) => {
                    let wanted = sequence.prompt_logprobs.unwrap_or(0);
                    let token_id = token_ids[position];
                    // A preempted prompt is computed again: what is known already stays.
                    if sequence.collected_prompt_logprobs.len() + 1 != position {
                        continue;
                    }
                    match prompt_token_logprobs(logits, token_id, wanted, &mut self.scratch) {
                        Ok(logprobs) => sequence.collected_prompt_logprobs.push(logprobs),
                        Err(error) => tracing::error!(%error, "prompt logprobs failed"),
                    }
                }
            }
        }
    }

    fn report(&mut self) {
        let now = Instant::now();
        for update in &self.updates {
            let id = update.request_id;
            let Some(sequence) = self.sequences.get_mut(&id) else {
                continue;
            };
            let token = update.token_id.and_then(|_| self.tokens.remove(&id));
            if token.is_some() {
                self.statistics.generation_tokens.add(1);
            }
            let first = (!sequence.has_reported).then(|| {
                Box::new(FirstEvent {
                    first_scheduled: sequence.first_scheduled.unwrap_or(now),
                    num_cached_tokens: self.scheduler.num_cached_tokens(id),
                    prompt_logprobs: sequence
                        .prompt_logprobs
                        .map(|_| std::mem::take(&mut sequence.collected_prompt_logprobs)),
                })
            });
            sequence.has_reported = true;
            let event = SampleEvent {
                index: sequence.index,
                token,
                finished: update.finished,
                time: now,
                first,
            };
            let delivered = sequence
                .events
                .unbounded_send(EngineEvent::Sample(event))
                .is_ok();
            if update.finished.is_some() {
                self.sequences.remove(&id);
            } else if !delivered {
                // Nobody listens any more; the abort that follows a dropped stream is on its way,
                // but the blocks need not wait for it.
                let known = self.scheduler.abort(id);
                self.recorder.note(|recorder| recorder.abort(id, known));
                self.sequences.remove(&id);
            }
        }
    }

    fn publish_gauges(&self) {
        let stats = self.scheduler.stats();
        let statistics = &self.statistics;
        statistics
            .num_requests_running
            .set(stats.num_running as f64);
        statistics
            .num_requests_waiting
            .set(stats.num_waiting as f64);
        statistics.kv_cache_usage.set(stats.kv_cache_usage());
        statistics
            .prefix_cache_hit_rate
            .set(stats.recent_prefix_cache_hit_rate());
        statistics
            .prefix_cache_queries
            .set_total(stats.prefix_cache_queries_total);
        statistics
            .prefix_cache_hits
            .set_total(stats.prefix_cache_hits_total);
        statistics
            .num_preemptions
            .set_total(stats.num_preemptions_total);
    }
}

#[cfg(test)]
mod tests;
