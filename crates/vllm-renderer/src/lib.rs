//! From API requests to prompts: conversations become text by their template, texts become token
//! ids, and what does not fit the model is refused in the API's words.
//!
//! The server and offline jobs prepare requests alike; what they share stands here. It must never
//! know sockets, HTTP, files or devices.

#![forbid(unsafe_code)]

mod conversation;
mod engine;
mod prompt;

use std::sync::Arc;

use vllm_chat_template::ChatTemplate;
use vllm_engine::EngineClient;

pub use conversation::{ContentFormatOption, Conversation, Rendered};
pub use engine::{error_response, sampling_defaults};
pub use prompt::Truncation;

/// Makes prompts for one engine.
#[derive(Clone, Copy)]
pub struct Renderer<'a> {
    /// Whose tokenizer, template and context count.
    pub engine: &'a dyn EngineClient,
    /// The name of the model in messages to clients.
    pub model_name: &'a str,
    /// A template that replaces the model's own.
    pub chat_template: Option<&'a Arc<ChatTemplate>>,
    /// How message contents are handed to the template.
    pub content_format: ContentFormatOption,
}
