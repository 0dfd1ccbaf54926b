//! What ends a job, as opposed to what ends a row.

use std::path::PathBuf;

/// Everything that stops a whole job.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened, read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file at fault.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The engine can serve no more rows.
    #[error(transparent)]
    Engine(#[from] vllm_engine::Error),
    /// A result could not be handed on.
    #[error("cannot write the results: {0}")]
    Output(#[from] std::io::Error),
}

/// The result of everything fallible in this crate.
pub type Result<T> = std::result::Result<T, Error>;
