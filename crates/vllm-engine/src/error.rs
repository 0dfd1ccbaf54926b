//! What can go wrong between a model's name and a finished request.

/// Everything that the engine reports to its callers.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request cannot be served as it stands; the caller can mend it.
    #[error("{message}")]
    InvalidRequest {
        /// What was wrong, as one sentence.
        message: String,
        /// The request field at fault, where there is one.
        parameter: Option<String>,
        /// The offending value as it should be shown, where it helps.
        value: Option<String>,
    },
    /// The model, its files or the engine's configuration do not fit together.
    #[error("{0}")]
    Setup(String),
    /// Admission limits are reached; the same request may succeed later.
    #[error(
        "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."
    )]
    Busy,
    /// The engine thread has ended; no request can be served any more.
    #[error("the engine has stopped: {0}")]
    Dead(String),
    /// This request failed inside the engine; others go on.
    #[error("the request failed inside the engine: {0}")]
    Failed(String),
}

impl Error {
    /// An [`Error::InvalidRequest`] that names no field.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::InvalidRequest {
            message: message.into(),
            parameter: None,
            value: None,
        }
    }

    /// An [`Error::Setup`] from anything that can be shown.
    pub fn setup(error: impl std::fmt::Display) -> Self {
        Self::Setup(error.to_string())
    }
}

/// The result of everything fallible in this crate.
pub type Result<T> = std::result::Result<T, Error>;
