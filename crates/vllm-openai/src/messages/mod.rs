//! `/v1/messages` and `/v1/messages/count_tokens`, the Anthropic form of chat.
//!
//! A request is read in its own form and then turned into a
//! [`ChatCompletionRequest`](crate::ChatCompletionRequest), which goes the way of every chat
//! request; only the answer is written in the Anthropic form again.

mod convert;
mod error;
mod request;
mod response;
mod stream;

pub use error::push_messages_error;
pub use request::MessagesRequest;
pub use response::{CountTokensResponse, MessagesResponse};
pub use stream::MessagesStream;
