//! What a step costs beside the model: 256 running and 10,000 waiting requests.

#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use vllm_scheduler::{
    NewRequest, Policy, RequestId, Sampled, Scheduler, SchedulerConfig, SequenceUpdate, StepPlan,
};

const NUM_RUNNING: usize = 256;
const NUM_WAITING: usize = 10_000;
const PROMPT_LEN: usize = 500;

/// A scheduler with its caller's buffers.
struct Load {
    scheduler: Scheduler,
    plan: StepPlan,
    sampled: Vec<(RequestId, Sampled)>,
    updates: Vec<SequenceUpdate>,
    next_id: RequestId,
}

impl Load {
    /// All prompts share their first 320 tokens and are computed already for those that run.
    fn new(policy: Policy, max_tokens: usize) -> Self {
        let config = SchedulerConfig {
            max_num_batched_tokens: 8192,
            max_num_seqs: NUM_RUNNING,
            max_model_len: 32 * 1024,
            enable_chunked_prefill: true,
            long_prefill_token_threshold: 0,
            policy,
            num_blocks: 600_000,
            block_size: 16,
            enable_prefix_caching: true,
            watermark: 0.01,
        };
        let mut load = Self {
            scheduler: Scheduler::new(config).expect("valid config"),
            plan: StepPlan::default(),
            sampled: Vec::new(),
            updates: Vec::new(),
            next_id: 0,
        };
        for _ in 0..NUM_RUNNING + NUM_WAITING {
            load.add(max_tokens);
        }
        while load.scheduler.stats().num_running < NUM_RUNNING {
            load.step();
        }
        load
    }

    fn add(&mut self, max_tokens: usize) {
        let own_tokens = self.next_id as u32 * 1000..;
        let prompt_token_ids = (0..320).chain(own_tokens).take(PROMPT_LEN).collect();
        let request = NewRequest {
            priority: (self.next_id % 7) as i64,
            ..NewRequest::new(self.next_id, prompt_token_ids, max_tokens)
        };
        self.scheduler.add_request(request).expect("fits");
        self.next_id += 1;
    }

    fn step(&mut self) {
        self.scheduler.schedule(&mut self.plan);
        let sampling = self
            .plan
            .sequences
            .iter()
            .filter(|sequence| sequence.samples);
        self.sampled.clear();
        self.sampled
            .extend(sampling.map(|s| (s.request_id, Sampled::Token(1))));
        self.scheduler
            .apply(&self.plan, &self.sampled, &mut self.updates);
    }
}

fn steps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("step_256_running_10000_waiting");
    for policy in [Policy::Fcfs, Policy::Priority] {
        // Nobody ends while it is measured: outputs of up to 32,000 tokens.
        group.bench_function(format!("decode_{policy:?}"), |bencher| {
            bencher.iter_batched_ref(
                || Load::new(policy, 32_000),
                |load| {
                    for _ in 0..1000 {
                        load.step();
                    }
                },
                BatchSize::PerIteration,
            );
        });
    }
    // In each step about eight requests end and eight are admitted: prefix lookup, hashing and
    // first blocks of a prompt of 500 tokens included, and a new one arrives for each that ended.
    let mut load = Load::new(Policy::Fcfs, 32);
    group.bench_function("turnover_Fcfs", |bencher| {
        bencher.iter(|| {
            load.step();
            let num_ended = load
                .updates
                .iter()
                .filter(|update| update.finished.is_some())
                .count();
            for _ in 0..num_ended {
                load.add(32);
            }
        });
    });
    group.finish();
}

fn aborts(criterion: &mut Criterion) {
    criterion.bench_function("abort_10000_waiting", |bencher| {
        bencher.iter_batched_ref(
            || Load::new(Policy::Fcfs, 32_000),
            |load| {
                for id in (0..load.next_id).rev() {
                    black_box(load.scheduler.abort(id));
                }
            },
            BatchSize::PerIteration,
        );
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = steps, aborts
}
criterion_main!(benches);
