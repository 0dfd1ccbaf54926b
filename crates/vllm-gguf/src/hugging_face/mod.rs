//! What a GGUF file says, in the terms of a Hugging Face folder.

mod config;
mod family;
mod tokenizer;
mod weights;

pub use config::{config_json, generation_config_json};
pub use tokenizer::{tokenizer_config_json, tokenizer_json};
pub use weights::{RowOrder, Weight, weights};
