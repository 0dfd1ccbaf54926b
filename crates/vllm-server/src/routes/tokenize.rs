//! `/tokenize` and `/detokenize`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use vllm_openai::{
    DetokenizeRequest, DetokenizeResponse, ErrorResponse, Result, TokenizeInput, TokenizeRequest,
    TokenizeResponse, parse_body,
};
use vllm_renderer::Conversation;

use super::common;
use crate::body::Received;
use crate::offload::{self, HEAVY_BODY_BYTES};
use crate::reply;
use crate::state::{AppState, Shared};

/// Answers with the token ids of a text or a conversation.
pub(super) async fn tokenize(State(state): State<Shared>, request: Request) -> Response {
    answer(&state, request, encode).await
}

/// Answers with the text of token ids.
pub(super) async fn detokenize(State(state): State<Shared>, request: Request) -> Response {
    answer(&state, request, decode).await
}

async fn answer(
    state: &Shared,
    request: Request,
    work: fn(&AppState, &Received) -> Result<Response>,
) -> Response {
    let answer = match Received::read(request, state.max_body_bytes).await {
        Ok(received) => {
            let heavy = received.body.len() >= HEAVY_BODY_BYTES;
            let shared = Arc::clone(state);
            offload::run(state, heavy, move || work(&shared, &received)).await
        }
        Err(error) => Err(error),
    };
    answer.unwrap_or_else(|error| reply::error(&error))
}

fn encode(state: &AppState, received: &Received) -> Result<Response> {
    let request = TokenizeRequest::parse(received.content_type(), &received.body)?;
    common::check_model(state, request.model.as_deref())?;
    request.check_supported(state.request_policy())?;
    let rendered;
    let text = match &request.input {
        TokenizeInput::Prompt(text) => text,
        TokenizeInput::Chat(chat) => {
            rendered = state.renderer().render(&Conversation {
                messages: &chat.messages,
                tools: chat.tools.as_deref(),
                documents: None,
                template: chat.chat_template.as_deref(),
                add_generation_prompt: chat.add_generation_prompt,
                continue_final_message: chat.continue_final_message,
                kwargs: chat.template_kwargs(&state.api.default_chat_template_kwargs),
            })?;
            &rendered.text
        }
    };
    let tokenizer = state.engine.tokenizer();
    let tokens = tokenizer
        .encode(text, request.add_special_tokens)
        .map_err(|error| ErrorResponse::bad_request(&error.to_string()))?;
    let token_strs = request.return_token_strs.then(|| {
        tokens
            .iter()
            .map(|id| tokenizer.id_to_token(*id).unwrap_or_default())
            .collect()
    });
    let max_model_len = state.engine.info().max_model_len;
    Ok(reply::json(
        StatusCode::OK,
        &TokenizeResponse::new(tokens, token_strs, max_model_len),
    ))
}

fn decode(state: &AppState, received: &Received) -> Result<Response> {
    let members = parse_body(received.content_type(), &received.body)?;
    let request = DetokenizeRequest::from_body(&members)?;
    common::check_model(state, request.model.as_deref())?;
    let prompt = state
        .engine
        .tokenizer()
        .decode(&request.tokens, false)
        .map_err(|error| ErrorResponse::bad_request(&error.to_string()))?;
    Ok(reply::json(StatusCode::OK, &DetokenizeResponse { prompt }))
}
