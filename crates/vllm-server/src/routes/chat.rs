//! `/v1/chat/completions`.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use vllm_engine::{GenerationRequest, RequestOutput};
use vllm_openai::tools::ToolChoice;
use vllm_openai::{
    ChatCompletionRequest, ChatCompletionResponse, ChatResult, ChatStream, OutputParsers,
    ResponseContext, Result, check_requested_tokens, effective_max_tokens, parse_body,
};
use vllm_renderer::{Conversation, Rendered, Truncation};

use super::common::{self, WithHeaders};
use super::load_report::LoadReport;
use crate::clock::unix_seconds;
use crate::generation::Generation;
use crate::metrics::RequestType;
use crate::offload;
use crate::reply;
use crate::sse::{self, Frames};
use crate::state::{AppState, Shared};

/// Answers a chat request.
pub(super) async fn create(State(state): State<Shared>, request: Request) -> Response {
    let report = LoadReport::wanted(request.headers());
    let answer = answer(&state, request).await;
    let answer = answer.unwrap_or_else(|error| reply::error(&error));
    LoadReport::add(report, &state, answer)
}

async fn answer(state: &Shared, request: Request) -> Result<Response> {
    let job = common::prepare(state, request, |state, received, arrival| {
        let members = parse_body(received.content_type(), &received.body)?;
        let request = ChatCompletionRequest::from_body(&members)?;
        drop(members);
        Job::new(state, request, &received.headers, arrival)
    })
    .await??;
    serve(state, job).await
}

/// Generates and answers what a job asks for.
pub(super) async fn serve(state: &Shared, job: Job) -> Result<Response> {
    let Job {
        request,
        context,
        prompt,
        parsers,
        engine_request,
    } = job;
    let generation = Generation::start(state, &context.id, vec![engine_request]);
    if request.options.stream {
        let stream = ChatStream::new(request, context, prompt.token_ids, &parsers)
            .with_prompt_text(prompt.text)
            .with_echo_text(prompt.echo_text);
        let frames = ChatFrames {
            stream,
            begun: false,
        };
        return sse::answer(state, generation, frames);
    }
    let output = common::collect_one(state, generation).await?;
    let heavy = request.logprobs || request.prompt_logprobs().is_some() || request.tools.is_some();
    offload::run(state, heavy, move || {
        respond(&request, &context, &prompt, &output, &parsers)
    })
    .await
}

/// A checked request and what the engine gets of it.
pub(super) struct Job {
    pub(super) request: ChatCompletionRequest,
    pub(super) context: ResponseContext,
    pub(super) prompt: ChatPrompt,
    pub(super) parsers: OutputParsers,
    pub(super) engine_request: GenerationRequest,
}

/// What of the prompt may be needed for the answer.
pub(super) struct ChatPrompt {
    pub(super) text: String,
    pub(super) token_ids: Arc<[u32]>,
    pub(super) echo_text: Option<String>,
}

impl Job {
    /// Checks a request against the server, renders and tokenizes its conversation.
    ///
    /// # Errors
    /// 404 for an unknown model, 400 for what is not allowed or does not fit.
    pub(super) fn new(
        state: &AppState,
        mut request: ChatCompletionRequest,
        headers: &HeaderMap,
        arrival: Instant,
    ) -> Result<Self> {
        common::check_model(state, request.options.model.as_deref())?;
        request.check_supported(state.request_policy())?;
        request.options.apply_headers(headers);
        common::check_data_parallel_rank(headers)?;

        let limits = state.length_limits();
        let (requested, field) = request.requested_tokens();
        check_requested_tokens(requested, field, limits.max_model_len)?;
        let truncation = Truncation::of(&request.options, requested, limits.max_model_len)?;

        let rendered = render(state, &request)?;
        let add_special_tokens = request.options.add_special_tokens;
        let token_ids = state
            .renderer()
            .encode(&rendered.text, add_special_tokens, truncation)?;
        let tools = request.tools.as_deref().unwrap_or_default();
        let text = &rendered.text;
        let parsers = state.output_parsers(RequestType::ChatCompletions, text, tools, || {
            request.template_kwargs(&state.api.default_chat_template_kwargs)
        });
        let max_tokens = effective_max_tokens(requested, token_ids.len(), limits);
        let params = request.sampling_params(
            max_tokens,
            &state.sampling_defaults(),
            state.engine.info().vocab_size,
            &parsers,
        )?;

        let id = format!("chatcmpl-{}", request.options.request_id);
        let context = common::context(state, id, unix_seconds());
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
        Ok(Self {
            request,
            context,
            prompt,
            parsers,
            engine_request,
        })
    }
}

/// The conversation of a request as text.
///
/// # Errors
/// 400 when there is no template, or in its own words when it refuses.
pub(super) fn render(state: &AppState, request: &ChatCompletionRequest) -> Result<Rendered> {
    let hides_tools =
        state.api.exclude_tools_when_tool_choice_none && request.tool_choice == ToolChoice::None;
    state.renderer().render(&Conversation {
        messages: &request.messages,
        tools: request.tools.as_deref().filter(|_| !hides_tools),
        documents: request.documents.as_deref(),
        template: request.chat_template.as_deref(),
        add_generation_prompt: request.add_generation_prompt,
        continue_final_message: request.continue_final_message,
        kwargs: request.template_kwargs(&state.api.default_chat_template_kwargs),
    })
}

fn respond(
    request: &ChatCompletionRequest,
    context: &ResponseContext,
    prompt: &ChatPrompt,
    output: &RequestOutput,
    parsers: &OutputParsers,
) -> Result<Response> {
    let result = ChatResult {
        prompt_text: Some(&prompt.text),
        prompt_token_ids: &prompt.token_ids,
        prompt_logprobs: output.prompt_logprobs.as_deref(),
        echo_text: prompt.echo_text.as_deref(),
        outputs: &output.outputs,
        num_cached_tokens: output.num_cached_tokens,
    };
    let answer = ChatCompletionResponse::new(request, context, &result, parsers)?;
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
