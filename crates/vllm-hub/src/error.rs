//! What can go wrong between a model's name and its files, and what to do about it.

use std::path::{Path, PathBuf};

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

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
    /// The hub has no such model, or does not show it to this account.
    #[error(
        "model `{model}` is neither a local folder nor known to {endpoint}; \
         check the spelling, and for a private model set {token_variable} or pass --hf-token"
    )]
    ModelNotFound {
        /// The model's name.
        model: String,
        /// The hub that was asked.
        endpoint: String,
        /// The environment variable that a token for this hub is read from.
        token_variable: &'static str,
    },
    /// The model exists, but not in this revision.
    #[error(
        "model `{model}` has no revision `{revision}` on {endpoint}; \
         name a branch, a tag or a whole commit hash, or leave --revision out"
    )]
    RevisionNotFound {
        /// The model's name.
        model: String,
        /// The revision that was asked for.
        revision: String,
        /// The hub that was asked.
        endpoint: String,
    },
    /// The model's owner wants its terms accepted first.
    #[error(
        "model `{model}` is gated: accept its terms at {endpoint}/{model} with your account, \
         then set {token_variable} or pass --hf-token with a token of that account"
    )]
    Gated {
        /// The model's name.
        model: String,
        /// The hub that was asked.
        endpoint: String,
        /// The environment variable that a token for this hub is read from.
        token_variable: &'static str,
    },
    /// The hub knows the model but does not accept the token.
    #[error(
        "{endpoint} refuses access to model `{model}` with this token; \
         make a new one in your account's settings, then set {token_variable} or pass --hf-token"
    )]
    TokenRefused {
        /// The model's name.
        model: String,
        /// The hub that was asked.
        endpoint: String,
        /// The environment variable that a token for this hub is read from.
        token_variable: &'static str,
    },
    /// The hub wants fewer requests.
    #[error(
        "{endpoint} has had too many requests from here; \
         wait some minutes and start again (downloads go on where they stopped), \
         or set {token_variable} for a higher limit"
    )]
    RateLimited {
        /// The hub that was asked.
        endpoint: String,
        /// The environment variable that a token for this hub is read from.
        token_variable: &'static str,
    },
    /// The hub cannot be reached, or stops answering.
    #[error(
        "cannot download model `{model}` from {endpoint}: {reason}; \
         check the network and the proxy variables (HTTPS_PROXY, NO_PROXY), name a mirror with \
         {endpoint_variable}, or pass a folder with the model's files. \
         A later start goes on where this one stopped"
    )]
    Unreachable {
        /// The model's name.
        model: String,
        /// The hub that was asked.
        endpoint: String,
        /// What happened.
        reason: String,
        /// The environment variable that names another address of this hub.
        endpoint_variable: &'static str,
    },
    /// Downloads are switched off and the cache lacks the model or a part of it.
    #[error(
        "model `{model}` is not complete in `{}` and downloads are switched off (HF_HUB_OFFLINE); \
         unset it to download the model, or pass a folder with the model's files", cache.display()
    )]
    Offline {
        /// The model's name.
        model: String,
        /// The cache that was searched.
        cache: PathBuf,
    },
    /// The repository has nothing that weights could be loaded from.
    #[error(
        "model `{model}` has no safetensors or pytorch_model.bin weights; its files are: {available}"
    )]
    NoWeights {
        /// The model's name.
        model: String,
        /// The files that are there, comma-separated.
        available: String,
    },
    /// The model has several GGUF models, or none of the wanted name.
    #[error(
        "one GGUF model of `{model}` has to be named, by what its file's name ends in: \
         `{model}:Q4_K_M` and the like; there are: {available}"
    )]
    GgufChoice {
        /// The model's name.
        model: String,
        /// The GGUF models that are there, comma-separated.
        available: String,
    },
    /// A downloaded file is not what the hub promised, twice.
    #[error(
        "file `{file}` of model `{model}` arrives damaged from {endpoint}: its hash is wrong; \
         try again later, or use another mirror"
    )]
    Corrupt {
        /// The model's name.
        model: String,
        /// The damaged file.
        file: String,
        /// The hub that was asked.
        endpoint: String,
    },
    /// There is no room for the download.
    #[error(
        "no space left for `{}`; free some, or name a folder on another disk with {cache_variable} \
         (what has arrived is kept, a later start goes on from there)", path.display()
    )]
    DiskFull {
        /// The file that was being written.
        path: PathBuf,
        /// The environment variable that names the cache folder.
        cache_variable: &'static str,
    },
    /// There is no folder to keep downloads in.
    #[error(
        "there is no home folder to keep downloads in; name a folder with {cache_variable}, \
         or pass a folder with the model's files"
    )]
    NoCacheFolder {
        /// The environment variable that names the cache folder.
        cache_variable: &'static str,
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
