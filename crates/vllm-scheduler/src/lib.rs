//! Decides which tokens of which request run in the next step.
//!
//! This room knows requests as token ids with limits, the token budget of a step, the blocks of
//! the KV cache, and when a sequence is finished. Each step [`Scheduler::schedule`] writes a
//! [`StepPlan`], the caller computes it, and [`Scheduler::apply`] takes the sampled tokens and
//! tells what became of the sequences. There are no prefill and decode phases: every sequence has
//! a gap between the tokens it has and the tokens whose keys and values are in the cache, and a
//! step hands out a token budget to close gaps.
//!
//! It must never know tensors, text, sampling parameters beyond stop rules, clocks, threads, tokio
//! or HTTP. It is deterministic: the same calls give the same plans, so a recording made by
//! [`record`] can be replayed without a model.
//!
//! | module | purpose |
//! |---|---|
//! | `scheduler` | [`Scheduler`]: life of a request; `planning`: one step; `outcome`: its results |
//! | `config`, `request`, `plan` | what goes in and comes out |
//! | `queue`, `requests` | waiting order; storage of requests |
//! | `stop` | stop rules and their order |
//! | `stats` | counters and prefix-cache hit rate |
//! | [`record`] | recordings of steps, and their replay |
//!
//! ```
//! use vllm_scheduler::{
//!     FinishCause, NewRequest, Policy, Sampled, Scheduler, SchedulerConfig, StepPlan,
//! };
//!
//! # fn main() -> vllm_scheduler::Result<()> {
//! let mut scheduler = Scheduler::new(SchedulerConfig {
//!     max_num_batched_tokens: 4,
//!     max_num_seqs: 2,
//!     max_model_len: 64,
//!     enable_chunked_prefill: true,
//!     long_prefill_token_threshold: 0,
//!     policy: Policy::Fcfs,
//!     num_blocks: 17,
//!     block_size: 4,
//!     enable_prefix_caching: true,
//!     watermark: 0.0,
//! })?;
//! scheduler.add_request(NewRequest::new(1, vec![5, 6, 7, 8, 9, 10], 2))?;
//!
//! let (mut plan, mut updates, mut generated) = (StepPlan::default(), Vec::new(), Vec::new());
//! while scheduler.has_unfinished() {
//!     scheduler.schedule(&mut plan);
//!     let sampled: Vec<_> = plan
//!         .sequences
//!         .iter()
//!         .filter(|sequence| sequence.samples)
//!         .map(|sequence| (sequence.request_id, Sampled::Token(42)))
//!         .collect();
//!     scheduler.apply(&plan, &sampled, &mut updates);
//!     generated.append(&mut updates);
//! }
//! assert_eq!(generated.len(), 2);
//! assert_eq!(generated[1].finished, Some(FinishCause::Length));
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod config;
mod error;
mod plan;
mod queue;
pub mod record;
mod request;
mod requests;
mod scheduler;
mod stats;
mod stop;

pub use config::{Policy, SchedulerConfig};
pub use error::{Error, Result};
pub use plan::{FinishCause, PlannedSequence, Sampled, SequenceUpdate, StepPlan};
pub use request::{NewRequest, RequestId};
pub use scheduler::Scheduler;
pub use stats::{FinishCounts, SchedulerStats};
pub use stop::RepetitionDetection;
