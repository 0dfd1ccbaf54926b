//! Why the service could not start or go on.

use std::io;
use std::path::PathBuf;

/// Everything that the service reports to whoever runs it. What goes wrong within one request is
/// told to its client instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process listens there already.
    #[error(
        "{address} is already in use: another server listens there; stop it or choose another port with --port"
    )]
    AddressInUse {
        /// The address as shown to people.
        address: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address as shown to people.
        address: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// A host name has no address.
    #[error("the host name {host} has no address: {reason}")]
    Resolve {
        /// The name as given.
        host: String,
        /// What the resolver said.
        reason: String,
    },
    /// A certificate, key or authority file cannot be used.
    #[error("cannot use {path} for HTTPS: {reason}", path = path.display())]
    Tls {
        /// The file at fault.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Options that do not go together or have a value that cannot be used.
    #[error("{0}")]
    Config(String),
}

/// The result of everything fallible in this crate.
pub type Result<T> = std::result::Result<T, Error>;
