//! `/v1/responses`.
//!
//! Nothing is stored: what refers to an earlier response is answered as unknown, and background
//! work is refused.

mod format;
mod input;
mod logprobs;
mod request;
mod response;
mod stream;
mod tools;

pub use request::ResponsesRequest;
pub use response::{ResponseObject, ResponsesResult};
pub use stream::ResponsesStream;
