//! Sampling parameters, logits processing, token drawing and logprobs.
//!
//! This crate knows [`SamplingParams`] and their rules, and how one row of logits becomes one
//! token: [`SequenceSampler`] is the whole pipeline for one sequence. It reproduces vLLM's CPU
//! sampler: the same order of steps, the same treatment of ties, the same draw for the same seed.
//!
//! It must never know requests, schedules, text or tokenizers, tensors or devices, or HTTP: logits
//! are rows of `f32` in host memory.
//!
//! ```
//! use vllm_sampling::{SamplerContext, SamplerScratch, SamplingParams, SequenceSampler};
//!
//! let mut params = SamplingParams { temperature: 0.8, top_p: 0.95, ..Default::default() };
//! params.normalize_and_validate()?;
//! let context = SamplerContext { vocab_size: 4, fallback_seed: 1, ..Default::default() };
//! let mut sampler = SequenceSampler::new(&params, context);
//! let mut scratch = SamplerScratch::default();
//! let sampled = sampler.sample(&mut [0.1, 9.0, 0.2, -1.0], &[], None, &mut scratch)?;
//! assert_eq!(sampled.token_id, 1);
//! # Ok::<(), vllm_sampling::Error>(())
//! ```
#![deny(unsafe_code)]

mod beam;
mod defaults;
mod draw;
mod error;
#[allow(unsafe_code)]
mod kernels;
mod logprobs;
mod mt19937;
mod output;
mod params;
mod penalties;
mod processors;
mod python;
mod sampler;
mod scan;
mod select;
mod structured;
mod validate;

pub use beam::{Beam, BeamSearch, BeamSearchParams};
pub use defaults::DefaultSampling;
pub use error::{Error, Result};
pub use logprobs::{prompt_token_id_logprobs, prompt_token_logprobs};
pub use output::{
    CompletionOutput, DecodedLogprob, FinishReason, PositionLogprobs, SampledToken, StopReason,
    TokenLogprob, TokenLogprobs,
};
pub use params::{DEFAULT_MAX_N, ModelLimits, OutputKind, RepetitionDetection, SamplingParams};
pub use processors::bad_word_token_ids;
pub use sampler::{SamplerContext, SamplerScratch, SequenceSampler};
pub use structured::StructuredOutputs;
pub use validate::{MAX_BAD_WORDS, out_of_vocabulary, validate_bad_words};
