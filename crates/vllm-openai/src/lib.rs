//! The OpenAI wire protocol as vLLM speaks it: types, validation, errors, stream assembly.
//!
//! This room knows what the wire looks like: which bodies are requests, what is wrong with the
//! others and in which words, what an answer consists of and in which order, and how tool calls
//! are found in generated text. It must never know sockets, HTTP libraries, engines, tokenizers or
//! templates; it only says what is needed from them.
//!
//! # How a handler uses it
//!
//! ```
//! use vllm_openai::*;
//! use vllm_sampling::{CompletionOutput, FinishReason};
//!
//! # fn handle() -> Result<(), ErrorResponse> {
//! # let served = vec!["demo".to_owned()];
//! # let (content_type, body) = (Some("application/json"), br#"{"prompt": "Hi", "max_tokens": 2}"#);
//! // 1. Bytes to a checked request. An error has `.status` and `.to_json()`.
//! let members = parse_body(content_type, body)?;
//! let request = CompletionRequest::from_body(&members)?;
//! check_model(request.options.model.as_deref(), &served)?;
//! request.check_supported()?;
//!
//! // 2. Lengths, around the caller's tokenizer.
//! let limits = LengthLimits { max_model_len: 512, ..LengthLimits::default() };
//! let requested = Some(request.max_tokens);
//! check_requested_tokens(requested, "max_tokens", limits.max_model_len)?;
//! let prompt_token_ids: Vec<u32> = vec![2, 7]; // tokenized from request.prompts[0]
//! check_prompt_length(prompt_token_ids.len(), limits.max_model_len)?;
//! let max_tokens = effective_max_tokens(requested, prompt_token_ids.len(), limits);
//! let params = request.sampling_params(max_tokens, &SamplingDefaults::default(), 2048)?;
//!
//! // 3. The engine's output to an answer …
//! let context = ResponseContext {
//!     id: format!("cmpl-{}", request.options.request_id),
//!     model: "demo".to_owned(),
//!     ..ResponseContext::default()
//! };
//! let outputs = [CompletionOutput {
//!     text: " there".to_owned(),
//!     token_ids: vec![9],
//!     finish_reason: Some(FinishReason::Stop),
//!     ..CompletionOutput::default()
//! }];
//! let result = PromptResult {
//!     prompt_text: Some("Hi"),
//!     prompt_token_ids: &prompt_token_ids,
//!     first_prompt_token: "",
//!     prompt_logprobs: None,
//!     outputs: &outputs,
//!     num_cached_tokens: 0,
//! };
//! let answer = CompletionResponse::new(&request, &context, &[result])?;
//! assert_eq!(answer.usage().total_tokens, 3);
//!
//! // … or, when `request.options.stream` is set, to frames of an event stream.
//! let prompt = StreamPrompt {
//!     text: Some("Hi".to_owned()),
//!     token_ids: prompt_token_ids.into(),
//!     first_token: String::new(),
//! };
//! let mut stream = CompletionStream::new(request, context, vec![prompt]);
//! let mut frames = Vec::new();
//! if let Err(error) = stream.push(0, None, &outputs, &mut frames) {
//!     push_error(&mut frames, &error); // also ends the stream
//! } else {
//!     stream.finish(&mut frames);
//! }
//! assert!(frames.starts_with(b"data: {") && frames.ends_with(b"data: [DONE]\n\n"));
//! # Ok(())
//! # }
//! # handle().expect("the example works");
//! ```
//!
//! Chat is the same with [`ChatCompletionRequest`], [`normalize_messages`] in front of the
//! template, [`ChatCompletionResponse`] and [`ChatStream`]. [`MessagesRequest::to_chat`] makes a
//! chat request of an Anthropic one, which [`MessagesResponse`] and [`MessagesStream`] answer.
//! [`ResponsesRequest`] brings its messages, and a [`ResponseObject`] made from it and its sampling
//! parameters is completed at once or by a [`ResponsesStream`].

#![forbid(unsafe_code)]

mod body;
mod chat;
mod completion;
mod context;
pub mod decode;
mod error;
mod ids;
mod length;
mod logprobs;
mod marks;
mod messages;
mod models;
mod options;
mod output;
pub mod reasoning;
mod responses;
mod sampling;
mod schema;
mod scoring;
mod scrub;
mod sse;
mod structured;
mod tokenize;
pub mod tools;
mod usage;

pub use body::parse_body;
pub use chat::{
    ChatCompletionRequest, ChatCompletionResponse, ChatResult, ChatStream, ContentFormat,
    RequestPolicy, normalize_messages,
};
pub use completion::{
    CompletionRequest, CompletionResponse, CompletionStream, Prompt, PromptResult, StreamPrompt,
};
pub use context::ResponseContext;
pub use error::{ErrorResponse, Result};
pub use ids::{random_id, tool_call_id};
pub use length::{
    LengthLimits, check_prompt_length, check_requested_tokens, check_text_length, check_truncation,
    effective_max_tokens, truncated_length,
};
pub use messages::{
    CountTokensResponse, MessagesRequest, MessagesResponse, MessagesStream, push_messages_error,
};
pub use models::{ModelList, PROTOCOL_VERSION, Version, check_model};
pub use options::{GenerationOptions, StreamOptions, TruncationSide};
pub use output::OutputParsers;
pub use responses::{ResponseObject, ResponsesRequest, ResponsesResult, ResponsesStream};
pub use sampling::SamplingDefaults;
pub use schema::request_schemas;
pub use scoring::{ScoringRequest, ScoringResponse, ScoringText};
pub use sse::{DONE, push_error};
pub use structured::{ResponseFormat, combined_constraint};
pub use tokenize::{
    DetokenizeRequest, DetokenizeResponse, TokenizeChat, TokenizeInput, TokenizeRequest,
    TokenizeResponse,
};
pub use usage::{CompletionTokensDetails, PromptTokensDetails, Usage};
