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
    REASONING_EFFORTS, check_generation_prompt, check_media_kwargs, check_template_kwargs,
    decode_media_io_kwargs, merge_template_kwargs, template_kwargs,
};
pub(crate) use response::reports_tool_calls;
pub(crate) use schema::{decode_function, decode_messages, decode_tools};
