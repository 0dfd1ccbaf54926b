//! What all answers to one request have in common.

use serde::Serialize;
use serde::ser::Serializer;
use vllm_sampling::{CompletionOutput, FinishReason, StopReason};

use crate::error::{ErrorResponse, Result};
use crate::options::{GenerationOptions, StreamOptions};

/// The head of an answer and the server's settings that show in it.
#[derive(Debug, Clone, Default)]
pub struct ResponseContext {
    /// `cmpl-…` or `chatcmpl-…`.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The first served model name.
    pub model: String,
    /// `--fingerprint-mode`'s value; `None` shows null.
    pub system_fingerprint: Option<String>,
    /// `--enable-prompt-tokens-details`
    pub prompt_tokens_details: bool,
    /// `--return-tokens-as-token-ids`
    pub return_tokens_as_token_ids: bool,
    /// `--enable-force-include-usage`
    pub force_include_usage: bool,
}

impl ResponseContext {
    pub(crate) fn tokens_as_ids(&self, options: &GenerationOptions) -> bool {
        options
            .return_tokens_as_token_ids
            .unwrap_or(self.return_tokens_as_token_ids)
    }

    pub(crate) fn stream_options(&self, options: &GenerationOptions) -> StreamOptions {
        match self.force_include_usage {
            true => StreamOptions {
                include_usage: true,
                continuous_usage_stats: true,
            },
            false => options.stream_options,
        }
    }
}

/// `stop_reason` on the wire: null, a token id or a string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WireStopReason(pub(crate) Option<StopReason>);

impl Serialize for WireStopReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match &self.0 {
            None => serializer.serialize_none(),
            Some(StopReason::TokenId(id)) => serializer.serialize_u32(*id),
            Some(StopReason::Text(text)) => serializer.serialize_str(text),
            Some(StopReason::RepetitionDetected) => {
                serializer.serialize_str(StopReason::REPETITION_DETECTED)
            }
        }
    }
}

/// A choice that failed inside the engine fails the whole request.
pub(crate) fn check_not_failed(output: &CompletionOutput) -> Result<()> {
    match output.finish_reason {
        Some(FinishReason::Error) => Err(ErrorResponse::internal()),
        _ => Ok(()),
    }
}
