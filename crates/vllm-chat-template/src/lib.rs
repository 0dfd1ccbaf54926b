//! Jinja chat templates as the model ecosystem writes them.
//!
//! A conversation becomes the exact text that the model was trained on. Templates are written
//! against Python's Jinja as `transformers` sets it up, so this room knows Python: how it prints
//! values, what its string methods do, how it writes JSON. It must never know how text becomes
//! tokens, what an engine is, or that HTTP exists.
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! use serde_json::{Map, json};
//! use vllm_chat_template::{ChatTemplate, RenderInput};
//!
//! let template = ChatTemplate::new(
//!     "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}\
//!      {% if add_generation_prompt %}<|assistant|>{% endif %}",
//! )?;
//! let messages = [json!({"role": "user", "content": "Hi"})];
//! let text = template.render(&RenderInput {
//!     messages: &messages,
//!     tools: None,
//!     documents: None,
//!     add_generation_prompt: true,
//!     continue_final_message: false,
//!     kwargs: &Map::new(),
//!     special_tokens: &BTreeMap::from([("eos_token".to_owned(), "</s>".to_owned())]),
//! })?;
//! assert_eq!(text, "<|user|>Hi</s><|assistant|>");
//! # Ok::<(), vllm_chat_template::Error>(())
//! ```
//!
//! # Where Python differs
//! `continue_final_message` is not a template variable, as in `transformers`. Some expressions
//! that Python refuses render here (comparing a number with a string, looping over `None`, a
//! generator as JSON), and a few rare constructs are missing (`varargs` in macros, a bare tuple
//! in `{{ }}`, `cycler`, `!r` in formats). `tests/snippets.txt` lists them behind `!!`; the tests
//! fail if one of them is gone.
#![forbid(unsafe_code)]

mod analysis;
mod arguments;
mod continuation;
mod environment;
mod error;
mod filters;
mod json;
mod methods;
mod prepare;
mod python;
mod strftime;
mod strings;
mod template;
mod value;
mod visit;

pub use analysis::ContentFormat;
pub use error::{Error, Result};
pub use template::{ChatTemplate, RenderInput};
