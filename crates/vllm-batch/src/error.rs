//! What ends a job, as opposed to what ends a row.

use std::path::{Path, PathBuf};

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
    /// Another process works on the same output.
    #[error(
        "{}: another process is working on this output; wait for it or choose another output",
        path.display()
    )]
    Locked {
        /// The journal that the other process holds.
        path: PathBuf,
    },
    /// The journal was not left by this job.
    #[error("{}: {reason}; run the job as it was begun, or begin it anew", path.display())]
    OtherJob {
        /// The journal that is in the way.
        path: PathBuf,
        /// What tells the jobs apart.
        reason: String,
    },
    /// More rows failed than the job may lose.
    #[error("{failed} rows failed, at most {limit} may; the last one: {message}")]
    TooManyFailures {
        /// Rows without an answer so far.
        failed: u64,
        /// How many were allowed.
        limit: u64,
        /// What was wrong with the row that went over the limit.
        message: String,
    },
    /// The data set is another one than the job was begun with.
    #[error(
        "the data set is not the one that the job was begun with: it differs at row {row} or \
         before; give the same one, or begin the job anew"
    )]
    OtherInput {
        /// The first row at which the difference was seen, from 0.
        row: u64,
    },
    /// A table has no column for prompts.
    #[error("{name}: no column `{column}`; name the prompt's column, one of: {columns}")]
    NoPromptColumn {
        /// The table.
        name: String,
        /// The column that was looked for.
        column: String,
        /// The columns there are.
        columns: String,
    },
    /// The data set cannot be read the way it was asked for.
    #[error("{0}")]
    Input(String),
}

impl Error {
    /// For `map_err` around operations on the file at `path`.
    pub(crate) fn at(path: &Path) -> impl Fn(std::io::Error) -> Self + '_ {
        move |source| Self::File {
            path: path.to_owned(),
            source,
        }
    }
}

/// The result of everything fallible in this crate.
pub type Result<T> = std::result::Result<T, Error>;
