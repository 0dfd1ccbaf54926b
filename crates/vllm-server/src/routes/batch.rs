//! `/v1/chat/completions/batch`: several conversations in one body, one choice each.

use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use vllm_engine::{CompletionOutput, GenerationRequest, RequestOutput};
use vllm_openai::decode::{Dict, Fields, SchemaError, Scope, Value, list_of};
use vllm_openai::{
    ChatCompletionRequest, ChatCompletionResponse, ChatResult, ErrorResponse, OutputParsers,
    ResponseContext, Result, parse_body,
};

use super::chat;
use super::common;
use crate::body::Received;
use crate::generation::Generation;
use crate::reply;
use crate::state::{AppState, Shared};

/// Answers all conversations in one answer.
pub(super) async fn create(State(state): State<Shared>, request: Request) -> Response {
    answer(&state, request)
        .await
        .unwrap_or_else(|error| reply::error(&error))
}

async fn answer(state: &Shared, request: Request) -> Result<Response> {
    let batch = common::prepare(state, request, prepare).await??;
    let generation = Generation::start(state, &batch.context.id, batch.engine_requests);
    let outputs = common::collect(state, generation, batch.echoes.len()).await?;
    let (choices, num_cached_tokens) = merge(outputs, &batch.echoes)?;
    let result = ChatResult {
        prompt_text: None,
        prompt_token_ids: &batch.prompt_token_ids,
        prompt_logprobs: None,
        echo_text: None,
        outputs: &choices,
        num_cached_tokens,
    };
    let answer =
        ChatCompletionResponse::new(&batch.request, &batch.context, &result, &batch.parsers)?;
    Ok(reply::json(StatusCode::OK, &answer))
}

struct Batch {
    /// The request of the first conversation, which stands for all: they differ in messages only.
    request: ChatCompletionRequest,
    context: ResponseContext,
    parsers: OutputParsers,
    /// The prompts one after the other, for the token counts.
    prompt_token_ids: Vec<u32>,
    /// Per conversation, what the answer repeats of it.
    echoes: Vec<Option<String>>,
    engine_requests: Vec<GenerationRequest>,
}

fn prepare(state: &AppState, received: &Received, arrival: Instant) -> Result<Batch> {
    let mut members = parse_body(received.content_type(), &received.body)?;
    check_single_answers(&members)?;
    let conversations = conversations(&members)?;
    let mut batch: Option<Batch> = None;
    for (index, messages) in conversations.into_iter().enumerate() {
        members.insert("messages".to_owned(), Value::List(messages));
        let mut request = ChatCompletionRequest::from_body(&members)?;
        if let Some(batch) = &batch {
            request.options.request_id = batch.request.options.request_id.clone();
        }
        let job = chat::Job::new(state, request, &received.headers, arrival)?;
        let batch = batch.get_or_insert_with(|| Batch {
            request: job.request,
            context: job.context,
            parsers: job.parsers,
            prompt_token_ids: Vec::new(),
            echoes: Vec::new(),
            engine_requests: Vec::new(),
        });
        batch.prompt_token_ids.extend(&*job.prompt.token_ids);
        batch.echoes.push(job.prompt.echo_text);
        let mut engine_request = job.engine_request;
        engine_request.request_id = format!("{}-{index}", engine_request.request_id);
        batch.engine_requests.push(engine_request);
    }
    batch.ok_or_else(ErrorResponse::internal)
}

/// Refuses what a batch cannot have.
fn check_single_answers(members: &Dict) -> Result<()> {
    let truthy = |name: &str| members.get(name).is_some_and(Value::is_truthy);
    let refusals = [
        ("stream", "Batch chat completions do not support streaming."),
        ("tools", "Batch chat completions do not support tool use."),
        (
            "use_beam_search",
            "Batch chat completions do not support beam search.",
        ),
    ];
    for (name, message) in refusals {
        if truthy(name) {
            return Err(ErrorResponse::invalid(message, name));
        }
    }
    let n = members.get("n").and_then(Value::as_number);
    if n.is_some_and(|n| n != 1.0) {
        let message = "Batch chat completions do not support `n` greater than 1.";
        return Err(ErrorResponse::invalid(message, "n"));
    }
    Ok(())
}

/// The lists of messages.
fn conversations(members: &Dict) -> Result<Vec<Vec<Value>>> {
    let mut scope = Scope::new();
    let mut fields = Fields::new(members, &mut scope);
    let listed = fields.required("messages", |value, scope| {
        not_empty(list_of(conversation)(value, scope)?, value, scope)
    });
    scope
        .finish(listed)
        .map_err(|errors| ErrorResponse::schema(&errors))
}

fn conversation(value: &Value, scope: &mut Scope) -> Option<Vec<Value>> {
    let messages = list_of(|message, _| Some(message.clone()))(value, scope)?;
    not_empty(messages, value, scope)
}

fn not_empty<T>(items: Vec<T>, value: &Value, scope: &mut Scope) -> Option<Vec<T>> {
    if !items.is_empty() {
        return Some(items);
    }
    let message = "List should have at least 1 item after validation, not 0";
    let error = SchemaError::new("too_short", scope.loc(), message, value)
        .with_context("field_type", "'List'")
        .with_context("min_length", "1")
        .with_context("actual_length", "0");
    scope.push(error)
}

/// The choices of all conversations, numbered through, and how many prompt tokens were cached.
fn merge(
    outputs: Vec<RequestOutput>,
    echoes: &[Option<String>],
) -> Result<(Vec<CompletionOutput>, usize)> {
    let mut choices = Vec::with_capacity(outputs.len());
    let mut num_cached_tokens = 0;
    for (index, (output, echo)) in outputs.into_iter().zip(echoes).enumerate() {
        num_cached_tokens += output.num_cached_tokens;
        let choice = output.outputs.into_iter().next();
        let mut choice = choice.ok_or_else(ErrorResponse::internal)?;
        choice.index = index;
        choice
            .text
            .insert_str(0, echo.as_deref().unwrap_or_default());
        choices.push(choice);
    }
    Ok((choices, num_cached_tokens))
}
