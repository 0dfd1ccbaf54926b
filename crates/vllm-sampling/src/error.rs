//! The error type of this crate.

/// A [`std::result::Result`] with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong with sampling parameters or with one row of logits.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A parameter has a value the caller must change.
    ///
    /// The text is the message alone. A service that answers as vLLM does appends
    /// ` (parameter=P)` or ` (parameter=P, value=V)` when those are present.
    #[error("{message}")]
    InvalidParameter {
        /// What is wrong, as one sentence.
        message: String,
        /// Name of the offending field, where vLLM names it.
        parameter: Option<&'static str>,
        /// The offending value as Python would print it, where vLLM attaches it.
        value: Option<String>,
    },
    /// A row of logits holds a NaN: the model's output for this sequence is unusable.
    #[error(
        "the logits contain NaN, so no token can be sampled; check the weights and the data type of the model"
    )]
    NanLogits,
    /// Every token of the row is masked.
    #[error(
        "no token is left to sample: the constraints of the request (grammar, allowed_token_ids, bad_words, min_tokens, logit_bias) exclude the whole vocabulary"
    )]
    NoTokenAllowed,
    /// A token id lies outside the row of logits whose probability was asked for.
    #[error("token id {token_id} lies outside the {vocab_size} logits of the row")]
    TokenOutOfRange {
        /// The id that was asked for.
        token_id: u32,
        /// Length of the row.
        vocab_size: usize,
    },
    /// `generation_config.json` cannot be read.
    #[error("generation_config.json cannot be read: {0}; correct the file or leave it out")]
    GenerationConfig(String),
    /// The candidates given to a beam search do not match its live beams.
    #[error("beam search expects candidates for {expected} live beams, got {got}")]
    BeamCandidates {
        /// Number of live beams.
        expected: usize,
        /// Number of candidate lists given.
        got: usize,
    },
}

impl Error {
    /// An invalid parameter, with neither name nor value attached.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::InvalidParameter {
            message: message.into(),
            parameter: None,
            value: None,
        }
    }

    /// An invalid parameter with its name and its value in Python's notation.
    pub(crate) fn invalid_value(
        parameter: &'static str,
        value: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self::InvalidParameter {
            message: message.into(),
            parameter: Some(parameter),
            value: Some(value.into()),
        }
    }
}
