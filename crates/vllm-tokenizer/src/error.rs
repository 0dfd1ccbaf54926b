//! The one error type of this crate.

/// What can go wrong when a tokenizer is loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// None of the supported vocabulary files was given.
    #[error(
        "no tokenizer found: expected tokenizer.json, vocab.json together with merges.txt, or \
         tokenizer.model; convert other formats with transformers' save_pretrained"
    )]
    MissingVocabulary,
    /// A file is not what its name promises.
    #[error("cannot read {file}: {reason}")]
    InvalidFile {
        /// Name of the file.
        file: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Text could not be turned into ids.
    #[error("cannot tokenize the text: {0}")]
    Encode(String),
    /// Ids could not be turned into text.
    #[error("cannot decode the token ids: {0}")]
    Decode(String),
    /// Several named chat templates, none of them named `default`, and no name was asked for.
    #[error(
        "this model has several chat templates and none is named \"default\"; choose one of: {}",
        available.join(", ")
    )]
    NoDefaultChatTemplate {
        /// Names that can be chosen.
        available: Vec<String>,
    },
    /// A chat template was asked for by a name that the tokenizer does not have.
    #[error(
        "this model has no chat template named {name:?}; available: {}",
        if available.is_empty() { "none".to_owned() } else { available.join(", ") }
    )]
    UnknownChatTemplate {
        /// The name that was asked for.
        name: String,
        /// Names that can be chosen.
        available: Vec<String>,
    },
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::InvalidFile`] from anything that can be shown.
    pub(crate) fn invalid_file(file: &'static str, reason: impl ToString) -> Self {
        Self::InvalidFile {
            file,
            reason: reason.to_string(),
        }
    }
}
