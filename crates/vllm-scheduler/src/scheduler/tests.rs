//! One test per rule, each a small story of steps.

mod admission;
mod endings;
mod preemption;
mod prefix_cache;

use crate::{
    FinishCause, NewRequest, Policy, RequestId, Sampled, Scheduler, SchedulerConfig,
    SequenceUpdate, StepPlan,
};

/// Roomy: 16 blocks of 4 tokens, 32 tokens a step.
fn config() -> SchedulerConfig {
    SchedulerConfig {
        max_num_batched_tokens: 32,
        max_num_seqs: 8,
        max_model_len: 64,
        enable_chunked_prefill: true,
        long_prefill_token_threshold: 0,
        policy: Policy::Fcfs,
        num_blocks: 17,
        block_size: 4,
        enable_prefix_caching: true,
        watermark: 0.0,
    }
}

/// A request whose prompt shares nothing with that of another id.
fn request(id: RequestId, prompt_len: usize, max_tokens: usize) -> NewRequest {
    let first_token = id as u32 * 1000;
    NewRequest::new(id, (first_token..).take(prompt_len).collect(), max_tokens)
}

/// A scheduler and the buffers of its caller.
struct Steps {
    scheduler: Scheduler,
    plan: StepPlan,
    updates: Vec<SequenceUpdate>,
}

/// Request id, first position, number of tokens, whether it samples.
type Planned = (RequestId, usize, usize, bool);

impl Steps {
    fn new(config: SchedulerConfig) -> Self {
        let scheduler = Scheduler::new(config).expect("valid config");
        Self {
            scheduler,
            plan: StepPlan::default(),
            updates: Vec::new(),
        }
    }

    #[track_caller]
    fn add(&mut self, request: NewRequest) {
        self.scheduler.add_request(request).expect("valid request");
    }

    /// Plans a step; what is planned.
    fn schedule(&mut self) -> Vec<Planned> {
        self.scheduler.schedule(&mut self.plan);
        let planned = |s: &crate::PlannedSequence| (s.request_id, s.start, s.num_tokens, s.samples);
        let planned: Vec<Planned> = self.plan.sequences.iter().map(planned).collect();
        assert_eq!(
            self.plan.total_tokens,
            planned.iter().map(|p| p.2).sum::<usize>()
        );
        planned
    }

    /// Applies the planned step with the same result for every sequence that samples.
    fn apply(&mut self, result: Sampled) {
        let sampling = self
            .plan
            .sequences
            .iter()
            .filter(|sequence| sequence.samples);
        let sampled: Vec<_> = sampling
            .map(|sequence| (sequence.request_id, result))
            .collect();
        self.scheduler
            .apply(&self.plan, &sampled, &mut self.updates);
    }

    /// A whole step in which every sequence that samples gets token 1; what was planned.
    fn step(&mut self) -> Vec<Planned> {
        let planned = self.schedule();
        self.apply(Sampled::Token(1));
        planned
    }

    /// Ids of the last plan, in order.
    fn planned_ids(&self) -> Vec<RequestId> {
        self.plan
            .sequences
            .iter()
            .map(|sequence| sequence.request_id)
            .collect()
    }

    /// Ends of the last step.
    fn finished(&self) -> Vec<(RequestId, FinishCause)> {
        let end = |update: &SequenceUpdate| Some((update.request_id, update.finished?));
        self.updates.iter().filter_map(end).collect()
    }

    fn num_free_blocks(&self) -> usize {
        self.scheduler.stats().num_blocks_free
    }
}
