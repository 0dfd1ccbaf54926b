//! What can go wrong between here and a store.

use std::path::{Path, PathBuf};

use object_store::Error as StoreError;

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
    pub(crate) fn of(url: &str) -> impl Fn(StoreError) -> Self + '_ {
        move |error| {
            let advice = match &error {
                StoreError::NotFound { .. } => "there is no such object",
                StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => {
                    "the store refuses; check the credentials in the environment \
                     (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, \
                     or AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY)"
                }
                StoreError::Precondition { .. } => "the object has changed meanwhile; start again",
                _ => "the store cannot be used",
            };
            Self::Store {
                url: url.to_owned(),
                reason: format!("{advice}: {}", chain(&error)),
            }
        }
    }
}

/// An error with its causes, as far as they say something new.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let message = next.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = next.source();
    }
    text
}

/// The result of everything fallible in this crate.
pub type Result<T> = std::result::Result<T, Error>;
