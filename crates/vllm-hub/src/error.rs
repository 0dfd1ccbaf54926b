//! What can go wrong between a model's name and its files, and what to do about it.

use std::path::{Path, PathBuf};

/// The result type of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a model's files could not be found or read. Every message says what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name is neither an existing path nor shaped like a hub name.
    #[error(
        "model `{model}` is neither an existing folder nor a hub name of the form `organization/name`; \
         check the path, or name a hub model such as `facebook/opt-125m`"
    )]
    UnknownModel {
        /// The name as given.
        model: String,
    },
    /// The model exists but lacks a file that is needed.
    #[error("model `{model}` has no file `{file}`; its files are: {available}")]
    MissingFile {
        /// The model's name or folder.
        model: String,
        /// The file that was asked for.
        file: String,
        /// The files that are there, comma-separated.
        available: String,
    },
    /// A file name inside a model points outside the model.
    #[error(
        "file name `{file}` of model `{model}` is not a plain relative path; \
         the checkpoint's index is damaged or malicious, download the model again"
    )]
    UnsafeFileName {
        /// The model's name or folder.
        model: String,
        /// The offending file name.
        file: String,
    },
    /// An operating-system error on a path.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was being done, as a verb: "open", "read", "write".
        action: &'static str,
        /// The path it was being done to.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_path_buf(),
            source,
        }
    }
}
