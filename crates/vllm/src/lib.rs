//! Fast LLM inference for Rust applications: the vLLM engine as a library.
//!
//! Knows only what an application needs: [`Llm`] for whole batches, [`AsyncLlm`] for streams, and
//! the types that go in and out. It must never know HTTP or command lines.
//!
//! ```
//! use vllm::{Llm, SamplingParams};
//!
//! let llm = Llm::new("demo")?;
//! let params = SamplingParams { temperature: 0.0, max_tokens: Some(2), ..Default::default() };
//! let outputs = llm.generate(&["The capital of France is"], &params)?;
//! assert_eq!(outputs[0].outputs[0].text, " Paris.");
//! # Ok::<(), vllm::Error>(())
//! ```
#![forbid(unsafe_code)]

pub use vllm_engine::{
    AsyncLlm, ChatOptions, CompletionOutput, DEMO_MODEL, DecodedLogprob, EngineClient,
    EngineConfig, Error, FinishReason, GenerationRequest, Llm, LoadFormat, LoadObserver,
    LoadProgress, ModelInfo, OutputKind, Policy, PositionLogprobs, Prompt, RequestMetrics,
    RequestOutput, RequestStream, Result, SamplingParams, Statistics, StopReason, UsageContext,
};

/// Everything that most programs want, for `use vllm::prelude::*`.
pub mod prelude {
    pub use crate::{
        AsyncLlm, EngineClient, EngineConfig, Llm, Prompt, RequestOutput, SamplingParams,
    };
}
