//! Objects of cloud and web storage, to and from local files.
//!
//! Knows addresses (`s3://`, `gs://`, `az://`, `http(s)://`), where credentials come from (the
//! environment variables of each store's own tools), and how a transfer that was cut off goes on.
//! It must never know what the objects hold, the engine, or command lines.
//!
//! ```no_run
//! use std::path::Path;
//!
//! let data: vllm_storage::ObjectUrl = "s3://bucket/prompts.jsonl".parse()?;
//! let file = data.fetch(Path::new("scratch"), |_, _| ())?;
//! # let answers = file;
//! let output: vllm_storage::ObjectUrl = "s3://bucket/answers.jsonl".parse()?;
//! output.upload(&answers, |_, _| ())?;
//! # Ok::<(), vllm_storage::Error>(())
//! ```
#![forbid(unsafe_code)]

mod advice;
mod error;
mod fetch;
mod provider;
mod store;
mod upload;
mod url;

pub use error::{Error, Result};
pub use url::ObjectUrl;
