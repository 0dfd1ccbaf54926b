//! `/v1/responses`. Nothing is stored, so no response can be fetched or cancelled later.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Path, Request, State};
use axum::response::Response;
use http::StatusCode;
use vllm_engine::{GenerationRequest, RequestOutput};
use vllm_openai::{
    ErrorResponse, OutputParsers, ResponseContext, ResponseObject, ResponsesRequest,
    ResponsesResult, ResponsesStream, Result, check_requested_tokens, effective_max_tokens,
    parse_body,
};
use vllm_renderer::{Conversation, Truncation};

use super::common::{self, WithHeaders};
use crate::body::Received;
use crate::clock::unix_seconds;
use crate::generation::Generation;
use crate::metrics::RequestType;
use crate::offload;
use crate::reply;
use crate::sse::{self, Frames};
use crate::state::{AppState, Shared};

/// Answers a request for a response.
pub(super) async fn create(State(state): State<Shared>, request: Request) -> Response {
    answer(&state, request)
        .await
        .unwrap_or_else(|error| reply::error(&error))
}

/// 404 for whatever is asked of an earlier response.
pub(super) async fn unknown(Path(id): Path<String>) -> Response {
    reply::error(&ErrorResponse::unknown_response(&id))
}

async fn answer(state: &Shared, request: Request) -> Result<Response> {
    let Job {
        request,
        context,
        response,
        prompt_text,
        prompt_token_ids,
        parsers,
        engine_request,
    } = common::prepare(state, request, prepare).await??;
    let generation = Generation::start(state, &context.id, vec![engine_request]);
    if request.options.stream {
        let stream = ResponsesStream::new(
            request,
            context,
            response,
            prompt_text,
            prompt_token_ids,
            &parsers,
        );
        let frames = ResponsesFrames {
            stream,
            begun: false,
        };
        return sse::answer(state, generation, frames);
    }
    let output = common::collect_one(state, generation).await?;
    let heavy = request.include_logprobs || !request.functions.is_empty();
    let answer = offload::run(state, heavy, move || {
        let result = ResponsesResult {
            prompt_text: &prompt_text,
            prompt_token_ids: &prompt_token_ids,
            output: output.outputs.first().ok_or_else(ErrorResponse::internal)?,
            num_cached_tokens: output.num_cached_tokens,
        };
        response.complete(&request, &context, &result, &parsers)
    })
    .await?;
    Ok(reply::json(StatusCode::OK, &answer))
}

/// A checked request and what the engine gets of it.
struct Job {
    request: ResponsesRequest,
    context: ResponseContext,
    /// The answer as far as it is known.
    response: ResponseObject,
    prompt_text: String,
    prompt_token_ids: Arc<[u32]>,
    parsers: OutputParsers,
    engine_request: GenerationRequest,
}

fn prepare(state: &AppState, received: &Received, arrival: Instant) -> Result<Job> {
    let members = parse_body(received.content_type(), &received.body)?;
    let mut request = ResponsesRequest::from_body(&members)?;
    drop(members);
    common::check_model(state, request.options.model.as_deref())?;
    request.check_supported(state.request_policy())?;
    request.options.apply_priority(&received.headers);
    common::check_data_parallel_rank(&received.headers)?;

    let limits = state.length_limits();
    let requested = request.max_output_tokens;
    check_requested_tokens(requested, "max_output_tokens", limits.max_model_len)?;
    let truncation = Truncation::of(&request.options, requested, limits.max_model_len)?;
    let tools = (!request.functions.is_empty()).then_some(request.functions.as_slice());
    let rendered = state.renderer().render(&Conversation {
        messages: &request.messages,
        tools,
        documents: None,
        template: None,
        add_generation_prompt: !request.continue_final_message,
        continue_final_message: request.continue_final_message,
        kwargs: request.template_kwargs(&state.api.default_chat_template_kwargs),
    })?;
    let add_special_tokens = request.options.add_special_tokens;
    let token_ids = state
        .renderer()
        .encode(&rendered.text, add_special_tokens, truncation)?;
    ResponsesRequest::check_room(token_ids.len(), limits.max_model_len)?;
    let text = &rendered.text;
    let functions = &request.functions;
    let parsers = state.output_parsers(RequestType::Responses, text, functions, || {
        request.template_kwargs(&state.api.default_chat_template_kwargs)
    });
    let max_tokens = effective_max_tokens(requested, token_ids.len(), limits);
    let params = request.sampling_params(
        max_tokens,
        &state.sampling_defaults(),
        state.engine.info().vocab_size,
        &parsers,
    )?;

    let id = request.options.request_id.clone();
    let context = common::context(state, id, unix_seconds());
    let response = ResponseObject::new(&request, &context, &params);
    let prompt_token_ids = token_ids.as_slice().into();
    let engine_request = GenerationRequest {
        prompt: Some(rendered.text.clone()),
        priority: request.options.priority,
        cache_salt: request.options.cache_salt.clone(),
        arrival,
        ..GenerationRequest::new(context.id.clone(), token_ids, params)
    };
    Ok(Job {
        request,
        context,
        response,
        prompt_text: rendered.text,
        prompt_token_ids,
        parsers,
        engine_request,
    })
}

/// The frames of a response stream.
struct ResponsesFrames {
    stream: ResponsesStream,
    begun: bool,
}

impl Frames for ResponsesFrames {
    fn push(&mut self, _: usize, output: RequestOutput, frames: &mut Vec<u8>) -> Result<()> {
        if !std::mem::replace(&mut self.begun, true) {
            self.stream.set_cached_tokens(output.num_cached_tokens);
        }
        self.stream.push(&output.outputs, frames)
    }

    fn finish(&mut self, frames: &mut Vec<u8>) {
        self.stream.finish(frames);
    }

    /// A stream that fails ends without a last event.
    fn fail(&mut self, _: &ErrorResponse, _: &mut Vec<u8>) {}
}
