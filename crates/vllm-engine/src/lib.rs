//! The engine: scheduler, model, sampler and detokenizer composed.
//!
//! Knows how a request becomes tokens and text: it loads a model by name, plans the memory, runs
//! the step loop on a thread of its own and hands out streams. It must never know HTTP, command
//! lines, or what a wire format looks like.
//!
//! [`Llm`] waits for whole batches, [`AsyncLlm`] streams; both are the same engine.
#![forbid(unsafe_code)]

mod admission;
mod async_llm;
mod beam;
mod chat;
mod client;
mod config;
mod convert;
mod core;
mod error;
mod event;
mod llm;
mod load;
mod memory;
pub mod mock;
mod model_folder;
mod numbers;
mod prompt;
mod recorder;
mod runner;
mod sample;
pub mod statistics;
mod stream;
mod submission;

pub use async_llm::AsyncLlm;
pub use beam::{BeamSearchOutput, BeamSequence};
pub use chat::{ChatOptions, NO_CHAT_TEMPLATE, render_chat};
pub use client::{EngineClient, GenerationRequest, ModelInfo, RequestMetrics, RequestOutput};
pub use config::{DEMO_MODEL, EngineConfig, LoadObserver, UsageContext};
pub use convert::{OutputFormat, convert};
pub use error::{Error, Result};
pub use llm::{Llm, encode};
pub use load::{open_tokenizer, plan_memory};
pub use memory::{MemoryPlan, available_memory_bytes};
pub use numbers::{ContextLength, human_number};
pub use prompt::Prompt;
pub use statistics::Statistics;
pub use stream::RequestStream;
pub use vllm_models::{LoadFormat, LoadProgress};
pub use vllm_sampling::{
    BeamSearchParams, CompletionOutput, DecodedLogprob, DefaultSampling, FinishReason, OutputKind,
    PositionLogprobs, SamplingParams, StopReason, StructuredOutputs,
};
pub use vllm_scheduler::Policy;
