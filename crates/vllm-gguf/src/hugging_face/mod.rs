//! What a GGUF file says, in the terms of a Hugging Face folder.

mod config;
mod family;
mod tokenizer;
mod weights;

pub(crate) use config::attention_scalar;
pub use config::{config_json, generation_config_json};
pub(crate) use family::Family;
pub(crate) use tokenizer::{
    BYTE, CONTROL, GPT4O_WORD, LLAMA3_WORD, NORMAL, QWEN2_WORD, TEKKEN_WORD, UNKNOWN, UNUSED,
    USER_DEFINED,
};
pub use tokenizer::{tokenizer_config_json, tokenizer_json};
pub(crate) use weights::{EXPERT_NAMES, LAYER_NAMES, OUTER_NAMES};
pub use weights::{RowOrder, Weight, weights};
