//! `/v1/completions`.

mod request;
mod response;
mod stream;

pub use request::{CompletionRequest, Prompt};
pub use response::{CompletionResponse, PromptResult};
pub use stream::{CompletionStream, StreamPrompt};
