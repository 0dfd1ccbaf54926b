//! Sampling parameters, logits processing, token drawing and logprobs.

mod error;
mod output;
mod params;
mod python;
mod structured;
mod validate;

pub use error::{Error, Result};
pub use output::{
    CompletionOutput, DecodedLogprob, FinishReason, PositionLogprobs, SampledToken, StopReason,
    TokenLogprob, TokenLogprobs,
};
pub use params::{DEFAULT_MAX_N, ModelLimits, OutputKind, RepetitionDetection, SamplingParams};
pub use structured::StructuredOutputs;
pub use validate::{MAX_BAD_WORDS, out_of_vocabulary, validate_bad_words};
