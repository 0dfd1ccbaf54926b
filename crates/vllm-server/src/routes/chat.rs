//! `/v1/chat/completions`.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use vllm_engine::{Error as EngineError, GenerationRequest, RequestOutput};
use vllm_openai::tools::{ToolChoice, ToolParser};
use vllm_openai::{
    ChatCompletionRequest, ChatCompletionResponse, ChatResult, ChatStream, ErrorResponse,
    ResponseContext, Result, check_requested_tokens, effective_max_tokens, parse_body,
};

use super::common::{self, WithHeaders};
use crate::body::Received;
use crate::clock::unix_seconds;
use crate::generation::{Generation, to_response};
use crate::offload::{self, HEAVY_BODY_BYTES};
use crate::prompts::{Conversation, Truncation};
use crate::reply;
use crate::sse::{self, Frames};
use crate::state::{AppState, Shared};

/// Answers a chat request.
pub(super) async fn create(State(state): State<Shared>, request: Request) -> Response {
    answer(&state, request)
        .await
        .unwrap_or_else(|error| reply::error(&error))
}

async fn answer(state: &Shared, request: Request) -> Result<Response> {
    let arrival = Instant::now();
    let received = Received::read(request, state.max_body_bytes).await?;
    let heavy = received.body.len() >= HEAVY_BODY_BYTES;
    let shared = Arc::clone(state);
    let job = offload::run(state, heavy, move || prepare(&shared, &received, arrival)).await?;
    let Job {
        request,
        context,
        prompt,
        engine_request,
    } = job;
    let generation = match Generation::start(state, &context.id, vec![engine_request]) {
        Ok(generation) => generation,
        Err(error @ EngineError::InvalidRequest { .. }) if request.options.stream => {
            return Ok(sse::respond_error(&to_response(&error)));
        }
        Err(error) => return Err(to_response(&error)),
    };
    let parser = state.tool_parser.clone();
    if request.options.stream {
        let stream = ChatStream::new(request, context, prompt.token_ids, parser.as_deref())
            .with_prompt_text(prompt.text)
            .with_echo_text(prompt.echo_text);
        let frames = ChatFrames {
            stream,
            begun: false,
        };
        return Ok(sse::respond(
            generation,
            frames,
            state.api.sse_keep_alive_interval,
        ));
    }
    let mut outputs = generation.collect(1).await?;
    common::log_outputs(state, &outputs);
    let output = outputs.pop().ok_or_else(ErrorResponse::internal)?;
    let heavy = request.logprobs || request.prompt_logprobs().is_some() || request.tools.is_some();
    offload::run(state, heavy, move || {
        respond(&request, &context, &prompt, &output, parser.as_deref())
    })
    .await
}

/// A checked request and what the engine gets of it.
struct Job {
    request: ChatCompletionRequest,
    context: ResponseContext,
    prompt: ChatPrompt,
    engine_request: GenerationRequest,
}

/// What of the prompt may be needed for the answer.
struct ChatPrompt {
    text: String,
    token_ids: Arc<[u32]>,
    echo_text: Option<String>,
}

fn prepare(state: &AppState, received: &Received, arrival: Instant) -> Result<Job> {
    let members = parse_body(received.content_type(), &received.body)?;
    let mut request = ChatCompletionRequest::from_body(&members)?;
    drop(members);
    common::check_model(state, request.options.model.as_deref())?;
    request.check_supported(state.request_policy())?;
    request.options.apply_headers(&received.headers);

    let limits = state.length_limits();
    let (requested, field) = request.requested_tokens();
    check_requested_tokens(requested, field, limits.max_model_len)?;
    let truncation = Truncation::of(&request.options, requested, limits.max_model_len)?;

    let hides_tools =
        state.api.exclude_tools_when_tool_choice_none && request.tool_choice == ToolChoice::None;
    let rendered = state.render(&Conversation {
        messages: &request.messages,
        tools: request.tools.as_deref().filter(|_| !hides_tools),
        documents: request.documents.as_deref(),
        template: request.chat_template.as_deref(),
        add_generation_prompt: request.add_generation_prompt,
        continue_final_message: request.continue_final_message,
        kwargs: request.template_kwargs(&state.api.default_chat_template_kwargs),
    })?;
    let add_special_tokens = request.options.add_special_tokens;
    let token_ids = state.encode(&rendered.text, add_special_tokens, truncation)?;
    let max_tokens = effective_max_tokens(requested, token_ids.len(), limits);
    let keeps_special_tokens = state
        .tool_parser
        .as_ref()
        .is_some_and(|parser| parser.needs_special_tokens());
    let params = request.sampling_params(
        max_tokens,
        &state.sampling_defaults(),
        state.engine.info().vocab_size,
        keeps_special_tokens,
    )?;

    let context = common::context(state, "chatcmpl", &request.options, unix_seconds());
    let prompt = ChatPrompt {
        echo_text: request.echo_text(&rendered.messages),
        text: rendered.text,
        token_ids: token_ids.as_slice().into(),
    };
    let engine_request = GenerationRequest {
        prompt: Some(prompt.text.clone()),
        priority: request.options.priority,
        cache_salt: request.options.cache_salt.clone(),
        arrival,
        ..GenerationRequest::new(context.id.clone(), token_ids, params)
    };
    Ok(Job {
        request,
        context,
        prompt,
        engine_request,
    })
}

fn respond(
    request: &ChatCompletionRequest,
    context: &ResponseContext,
    prompt: &ChatPrompt,
    output: &RequestOutput,
    parser: Option<&dyn ToolParser>,
) -> Result<Response> {
    let result = ChatResult {
        prompt_text: Some(&prompt.text),
        prompt_token_ids: &prompt.token_ids,
        prompt_logprobs: output.prompt_logprobs.as_deref(),
        echo_text: prompt.echo_text.as_deref(),
        outputs: &output.outputs,
        num_cached_tokens: output.num_cached_tokens,
    };
    let answer = ChatCompletionResponse::new(request, context, &result, parser)?;
    Ok(reply::json(StatusCode::OK, &answer))
}

/// The frames of a chat stream.
struct ChatFrames {
    stream: ChatStream,
    begun: bool,
}

impl Frames for ChatFrames {
    fn push(&mut self, _: usize, output: RequestOutput, frames: &mut Vec<u8>) -> Result<()> {
        if !std::mem::replace(&mut self.begun, true) {
            self.stream.set_cached_tokens(output.num_cached_tokens);
        }
        self.stream.push(&output.outputs, frames)
    }

    fn finish(&mut self, frames: &mut Vec<u8>) {
        self.stream.finish(frames);
    }
}
