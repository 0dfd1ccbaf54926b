//! What can go wrong between here and a store.

use std::path::{Path, PathBuf};

use crate::advice::explain;
use crate::store::Direction;
use crate::url::ObjectUrl;

/// Everything that stops a transfer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address that no store has.
    #[error("{url}: {reason}")]
    Url {
        /// The address.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The store refused, or could not be reached.
    #[error("{url}: {reason}")]
    Store {
        /// The object's address.
        url: String,
        /// What happened, and what to do.
        reason: String,
    },
    /// A local file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn at(path: &Path) -> impl Fn(std::io::Error) -> Self + '_ {
        move |source| Self::File {
            path: path.to_owned(),
            source,
        }
    }

    /// For `map_err` around operations on the object at `url`.
    pub(crate) fn of(
        url: &ObjectUrl,
        direction: Direction,
    ) -> impl Fn(object_store::Error) -> Self + '_ {
        move |error| Self::store(url, explain(url.provider(), direction, &error))
    }

    pub(crate) fn store(url: &ObjectUrl, reason: String) -> Self {
        Self::Store {
            url: url.to_string(),
            reason,
        }
    }
}

/// The result of everything fallible in this crate.
pub type Result<T> = std::result::Result<T, Error>;
