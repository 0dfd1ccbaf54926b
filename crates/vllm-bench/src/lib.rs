//! Benchmarks: workloads in, throughput and latency figures out, under vLLM's names.
//!
//! Knows how to make up or read prompts and vLLM's flags for them ([`WorkloadArgs`]), how to time an
//! engine ([`measure_throughput`], [`measure_latency`]) and how to load a server over HTTP
//! ([`serve`]). It must never know terminals, how a server comes to its answers, or tensors.
#![forbid(unsafe_code)]

mod error;
mod figures;
mod latency;
mod random;
pub mod serve;
mod share_gpt;
mod throughput;
mod workload;
mod workload_args;

pub use error::{Error, Result};
pub use figures::Figures;
pub use latency::{LatencyReport, LatencySettings, measure_latency};
pub use random::RandomWorkload;
pub use share_gpt::ShareGptWorkload;
pub use throughput::{ThroughputReport, measure_throughput};
pub use workload::{Generation, SampleRequest};
pub use workload_args::WorkloadArgs;
