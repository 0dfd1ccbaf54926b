//! The answer to a chat request as a stream.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use vllm_sampling::{CompletionOutput, FinishReason};

use super::ChatCompletionRequest;
use super::response::chat_logprobs;
use crate::context::{ResponseContext, WireStopReason, check_not_failed};
use crate::error::Result;
use crate::logprobs::ChatLogprobs;
use crate::options::StreamOptions;
use crate::output::{DeltaSplitter, OutputDelta, OutputParsers};
use crate::reasoning::ReasoningCounter;
use crate::sse;
use crate::tools::{ToolChoice, ToolDelta};
use crate::usage::{StreamUsage, Usage};

/// Assembles the frames of one stream.
///
/// Feed it what the engine produces; every call appends complete frames (`data: …` and an empty
/// line) to a buffer.
pub struct ChatStream {
    request: ChatCompletionRequest,
    context: ResponseContext,
    options: StreamOptions,
    prompt_token_ids: Arc<[u32]>,
    prompt_text: Option<String>,
    echo_text: Option<String>,
    has_parser: bool,
    new_call_id: fn() -> String,
    roles_sent: bool,
    choices: Vec<ChoiceState>,
    cached_tokens: usize,
}

struct ChoiceState {
    tokens: usize,
    splitter: DeltaSplitter,
    reasoning_counter: Option<ReasoningCounter>,
    sent_calls: bool,
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: &'a [ChunkChoice<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<StreamUsage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_fingerprint: Option<&'a str>,
    /// The outer level says whether the member is there at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Option<&'a [u32]>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_text: Option<Option<&'a str>>,
}

#[derive(Serialize)]
struct ChunkChoice<'a> {
    index: usize,
    delta: Delta<'a>,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<WireStopReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Option<&'a [u32]>>,
}

enum Delta<'a> {
    Role(&'a str),
    Content(Cow<'a, str>),
    Parts {
        content: Option<Cow<'a, str>>,
        reasoning: Option<&'a str>,
        calls: Vec<ToolCallDelta<'a>>,
    },
    Empty,
}

#[derive(Serialize)]
struct ToolCallDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    index: usize,
    function: FunctionDelta<'a>,
}

#[derive(Serialize)]
struct FunctionDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<&'a str>,
}

impl Serialize for Delta<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Delta::Role(role) => {
                map.serialize_entry("role", role)?;
                map.serialize_entry("content", "")?;
            }
            Delta::Content(text) => map.serialize_entry("content", text)?,
            Delta::Parts {
                content,
                reasoning,
                calls,
            } => {
                if content.is_some() || !calls.is_empty() {
                    map.serialize_entry("content", content)?;
                }
                if let Some(reasoning) = reasoning {
                    map.serialize_entry("reasoning", reasoning)?;
                }
                if !calls.is_empty() {
                    map.serialize_entry("tool_calls", calls)?;
                }
            }
            Delta::Empty => {}
        }
        map.end()
    }
}

impl ChatStream {
    /// A stream for `request`.
    pub fn new(
        request: ChatCompletionRequest,
        context: ResponseContext,
        prompt_token_ids: Arc<[u32]>,
        parsers: &OutputParsers,
    ) -> Self {
        let count = usize::try_from(request.options.n).unwrap_or(1);
        let choices = (0..count).map(|_| ChoiceState {
            tokens: 0,
            splitter: DeltaSplitter::new(
                parsers,
                &request.tool_choice,
                request.parallel_tool_calls,
            ),
            reasoning_counter: parsers.reasoning_counter(),
            sent_calls: false,
        });
        Self {
            choices: choices.collect(),
            options: context.stream_options(&request.options),
            request,
            context,
            prompt_token_ids,
            prompt_text: None,
            echo_text: None,
            has_parser: parsers.exist(),
            new_call_id: parsers.new_call_id(),
            roles_sent: false,
            cached_tokens: 0,
        }
    }

    /// Adds the rendered prompt, for requests that want it back.
    pub fn with_prompt_text(mut self, text: String) -> Self {
        self.prompt_text = Some(text).filter(|_| self.request.return_prompt_text);
        self
    }

    /// Adds the text to put in front of the answers; see [`ChatCompletionRequest::echo_text`].
    pub fn with_echo_text(mut self, text: Option<String>) -> Self {
        self.echo_text = text;
        self
    }

    /// Appends the frames for new output; the first call begins with the role chunks.
    ///
    /// # Errors
    /// 500 when a choice failed inside the engine; send it with
    /// [`push_error`](crate::push_error).
    pub fn push(&mut self, outputs: &[CompletionOutput], frames: &mut Vec<u8>) -> Result<()> {
        if !self.roles_sent {
            self.roles_sent = true;
            self.push_prelude(frames);
        }
        for output in outputs {
            check_not_failed(output)?;
            self.push_output(output, frames);
        }
        Ok(())
    }

    /// Notes how many tokens of the prompt came from the prefix cache.
    pub fn set_cached_tokens(&mut self, tokens: usize) {
        self.cached_tokens = tokens;
    }

    /// Appends the usage chunk, if wanted, and the end of the stream.
    pub fn finish(&mut self, frames: &mut Vec<u8>) {
        if self.options.include_usage {
            let chunk = Chunk {
                usage: Some(StreamUsage::last(&self.usage())),
                system_fingerprint: self.context.system_fingerprint.as_deref(),
                ..self.chunk(&[])
            };
            sse::push_frame(frames, &chunk);
        }
        sse::push_done(frames);
    }

    /// The token counts so far, for logs and metrics.
    pub fn usage(&self) -> Usage {
        let generated = self.choices.iter().map(|choice| choice.tokens).sum();
        let counters = self.choices.iter().map(|choice| &choice.reasoning_counter);
        let reasoning = counters
            .map(|counter| counter.as_ref().map(ReasoningCounter::tokens))
            .sum();
        let usage =
            Usage::new(self.prompt_token_ids.len(), generated).with_reasoning_tokens(reasoning);
        match self.context.prompt_tokens_details {
            true => usage.with_cached_tokens(self.cached_tokens),
            false => usage,
        }
    }

    fn push_prelude(&self, frames: &mut Vec<u8>) {
        let role = self.request.response_role();
        let wants_ids = self.request.options.return_token_ids;
        for index in 0..self.choices.len() {
            let choice = ChunkChoice {
                index,
                delta: Delta::Role(role),
                logprobs: None,
                finish_reason: None,
                stop_reason: None,
                token_ids: None,
            };
            let chunk = Chunk {
                usage: self.running_usage(0),
                prompt_token_ids: Some(wants_ids.then_some(&*self.prompt_token_ids)),
                prompt_text: Some(self.prompt_text.as_deref()),
                ..self.chunk(std::slice::from_ref(&choice))
            };
            sse::push_frame(frames, &chunk);
        }
        let Some(echo) = &self.echo_text else {
            return;
        };
        for index in 0..self.choices.len() {
            let choice = ChunkChoice {
                index,
                delta: Delta::Content(Cow::Borrowed(echo)),
                logprobs: None,
                finish_reason: None,
                stop_reason: None,
                token_ids: None,
            };
            let usage = self.running_usage(0);
            let chunk = Chunk {
                usage,
                ..self.chunk(std::slice::from_ref(&choice))
            };
            sse::push_frame(frames, &chunk);
        }
    }

    fn push_output(&mut self, output: &CompletionOutput, frames: &mut Vec<u8>) {
        let Some(state) = self.choices.get_mut(output.index) else {
            debug_assert!(false, "output for choice {}", output.index);
            return;
        };
        let is_last = output.finish_reason.is_some();
        let is_nothing = output.text.is_empty() && output.token_ids.is_empty() && state.tokens == 0;
        if is_nothing && !is_last {
            return;
        }
        state.tokens += output.token_ids.len();

        if let Some(counter) = &mut state.reasoning_counter {
            counter.push(&output.token_ids);
        }
        let mut deltas;
        let delta = if self.has_parser {
            deltas = state.splitter.push(&output.text, is_last);
            if !self.request.include_reasoning {
                deltas.retain(|delta| !matches!(delta, OutputDelta::Reasoning(_)));
            }
            state.sent_calls |= deltas
                .iter()
                .any(|delta| matches!(delta, OutputDelta::Answer(ToolDelta::Call { .. })));
            joined(&deltas, self.new_call_id)
        } else {
            Delta::Content(Cow::Borrowed(&output.text))
        };
        let (tokens, sent_calls) = (state.tokens, state.sent_calls);

        let hides_tokens = !self.request.include_reasoning && self.has_parser;
        let logprobs =
            chat_logprobs(&self.request, &self.context, output).filter(|_| !hides_tokens);
        let wants_ids = self.request.options.return_token_ids && !hides_tokens;
        let is_silent = matches!(delta, Delta::Empty);
        if !is_silent || is_last || wants_ids || logprobs.is_some() {
            let finish_reason = output.finish_reason.map(|reason| {
                let calls_count = matches!(
                    self.request.tool_choice,
                    ToolChoice::Auto | ToolChoice::Required
                );
                match calls_count && sent_calls && reason == FinishReason::Stop {
                    true => "tool_calls",
                    false => reason.as_str(),
                }
            });
            let choice = ChunkChoice {
                index: output.index,
                delta,
                logprobs,
                finish_reason,
                stop_reason: is_last.then(|| WireStopReason(output.stop_reason.clone())),
                token_ids: Some(wants_ids.then_some(output.token_ids.as_slice())),
            };
            let chunk = Chunk {
                usage: self.running_usage(tokens),
                system_fingerprint: self
                    .context
                    .system_fingerprint
                    .as_deref()
                    .filter(|_| is_last && !self.options.include_usage),
                ..self.chunk(std::slice::from_ref(&choice))
            };
            sse::push_frame(frames, &chunk);
        }
    }

    fn running_usage(&self, tokens: usize) -> Option<StreamUsage> {
        let prompt_tokens = self.prompt_token_ids.len();
        let shows_usage = self.options.continuous_usage_stats;
        shows_usage.then(|| StreamUsage::running_chat(prompt_tokens, tokens))
    }

    fn chunk<'a>(&'a self, choices: &'a [ChunkChoice<'a>]) -> Chunk<'a> {
        Chunk {
            id: &self.context.id,
            object: "chat.completion.chunk",
            created: self.context.created,
            model: &self.context.model,
            choices,
            usage: None,
            system_fingerprint: None,
            prompt_token_ids: None,
            prompt_text: None,
        }
    }
}

/// One delta from what the parsers made of a piece: all of it goes into one chunk.
fn joined(deltas: &[OutputDelta], new_id: fn() -> String) -> Delta<'_> {
    let mut content: Option<Cow<'_, str>> = None;
    let mut reasoning: Option<&str> = None;
    let mut calls: Vec<ToolCallDelta<'_>> = Vec::new();
    for delta in deltas {
        let delta = match delta {
            OutputDelta::Answer(delta) => delta,
            OutputDelta::Reasoning(text) => {
                reasoning = Some(text);
                continue;
            }
        };
        match delta {
            ToolDelta::Content(text) => match &mut content {
                Some(content) => content.to_mut().push_str(text),
                None => content = Some(Cow::Borrowed(text)),
            },
            ToolDelta::Call { index, name } => calls.push(ToolCallDelta {
                id: Some(new_id()),
                r#type: Some("function"),
                index: *index,
                function: FunctionDelta {
                    name: Some(name),
                    arguments: None,
                },
            }),
            ToolDelta::Arguments { index, text } => match calls.last_mut() {
                Some(call) if call.index == *index && call.function.arguments.is_none() => {
                    call.function.arguments = Some(text);
                }
                _ => calls.push(ToolCallDelta {
                    id: None,
                    r#type: None,
                    index: *index,
                    function: FunctionDelta {
                        name: None,
                        arguments: Some(text),
                    },
                }),
            },
        }
    }
    if content.is_none() && reasoning.is_none() && calls.is_empty() {
        return Delta::Empty;
    }
    Delta::Parts {
        content,
        reasoning,
        calls,
    }
}
