//! `/v1/chat/completions`.

mod messages;
mod request;
mod response;
mod schema;
mod stream;

pub use messages::{ContentFormat, normalize_messages};
pub use request::{ChatCompletionRequest, RequestPolicy};
pub use response::{ChatCompletionResponse, ChatResult};
pub use stream::ChatStream;

pub(crate) use request::{
    check_generation_prompt, check_media_kwargs, check_template_kwargs, merge_template_kwargs,
};
pub(crate) use schema::{decode_messages, decode_tools};
