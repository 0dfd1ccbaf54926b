//! From a model's name to its files.
//!
//! This crate knows folders, memory maps, embedded file tables, the Hugging Face and ModelScope hubs
//! and the cache layouts of their Python tools. It must never know what the files mean: it does not
//! parse a configuration, load a tensor or run a model, and it must never know about the engine,
//! HTTP serving or command lines.
//!
//! ```no_run
//! use vllm_hub::{ResolveOptions, resolve};
//!
//! let files = resolve("/models/opt-125m", &ResolveOptions::from_env())?;
//! let config = files.open("config.json")?;
//! println!("{} has a {}-byte config.json", files.name(), config.len());
//! # Ok::<(), vllm_hub::Error>(())
//! ```
#![deny(unsafe_code)]

mod bytes;
mod digest;
mod download;
mod error;
mod files;
mod http;
mod hub;
mod hugging_face;
mod modelscope;
mod name;
mod options;
mod progress;
mod resolve;
mod select;

pub use bytes::FileBytes;
pub use error::{Error, Result};
pub use files::ModelFiles;
pub use options::{HubKind, ResolveOptions, Token};
pub use progress::{Progress, ProgressCallback};
pub use resolve::resolve;
