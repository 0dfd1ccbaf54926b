//! What ends a benchmark.

use std::path::PathBuf;

/// Everything that stops a benchmark.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file at fault.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A data set is not what it was said to be, or has no usable prompts.
    #[error("{}: {reason}", path.display())]
    DataSet {
        /// The file at fault.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The workload that was asked for does not exist.
    #[error("{0}")]
    Workload(String),
    /// The engine refused or failed a request.
    #[error(transparent)]
    Engine(#[from] vllm_engine::Error),
    /// Text could not be turned into tokens or back.
    #[error(transparent)]
    Tokenizer(#[from] vllm_tokenizer::Error),
    /// The server gave no answer to a first request.
    #[error("{url}: {reason}")]
    Server {
        /// Where the request went.
        url: String,
        /// What became of it.
        reason: String,
    },
}

/// The result of everything fallible in this crate.
pub type Result<T> = std::result::Result<T, Error>;
