//! Text to token ids and back, incrementally, with stop strings.
//!
//! # What this room knows
//!
//! - how a checkpoint's files (`tokenizer.json`, or `vocab.json` with `merges.txt`, and the
//!   configuration beside them) become a tokenizer that gives the ids `transformers` gives
//!   ([`Tokenizer`], [`TokenizerFiles`]);
//! - how generated ids become text one by one without ever showing half a character
//!   ([`IncrementalDetokenizer`]) and what single ids look like in log probabilities
//!   ([`decode_logprob_token`]);
//! - where a stop string ends a text and how much text may be shown before that is certain
//!   ([`OutputText`]).
//!
//! # What it must never know
//!
//! Requests, engines, schedulers, HTTP, where files come from (it is given bytes), and what a
//! chat template says (it only picks which one applies).
//!
//! # Example
//!
//! ```
//! use std::sync::Arc;
//! use vllm_tokenizer::{IncrementalDetokenizer, Tokenizer, TokenizerFiles};
//!
//! # fn file(name: &str) -> Option<&'static [u8]> {
//! #     vllm_demo_model::FILES.iter().find(|(n, _)| *n == name).map(|(_, bytes)| *bytes)
//! # }
//! let tokenizer = Arc::new(Tokenizer::from_files(&TokenizerFiles {
//!     tokenizer_json: file("tokenizer.json"),
//!     tokenizer_config_json: file("tokenizer_config.json"),
//!     ..TokenizerFiles::default()
//! })?);
//!
//! let ids = tokenizer.encode("The capital of France is Paris.", true)?;
//! let (prompt, output) = ids.split_at(4);
//! let mut detokenizer = IncrementalDetokenizer::new(tokenizer.clone(), prompt, true, true);
//! let text: String = output.iter().map(|&id| detokenizer.push(id)).collect();
//! assert!(text.ends_with(" is Paris."));
//! # Ok::<(), vllm_tokenizer::Error>(())
//! ```

#![forbid(unsafe_code)]

mod backend;
mod chat_templates;
mod class;
mod detokenizer;
mod error;
mod files;
mod logprob_token;
mod output_text;
mod placeholder;
mod sentencepiece;
mod settings;
mod tokenizer;

pub use detokenizer::IncrementalDetokenizer;
pub use error::{Error, Result};
pub use files::TokenizerFiles;
pub use logprob_token::decode_logprob_token;
pub use output_text::{OutputText, StopMatch};
pub use tokenizer::{Tokenizer, TruncationSide};
