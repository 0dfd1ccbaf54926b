//! The response as a stream of events.

use std::sync::Arc;

use serde::Serialize;
use vllm_sampling::{CompletionOutput, FinishReason};

use super::ResponsesRequest;
use super::logprobs::{StreamTokenLogprob, TokenLogprob};
use super::response::{
    FunctionCall, OutputItem, OutputMessage, OutputText, Reasoning, ReasoningText, ResponseObject,
    output_logprobs,
};
use crate::context::{ResponseContext, check_not_failed};
use crate::error::Result;
use crate::output::{DeltaSplitter, OutputDelta, OutputParsers};
use crate::reasoning::ReasoningCounter;
use crate::sse;
use crate::tools::ToolDelta;
use crate::usage::Usage;

/// Assembles the events of one stream: `response.created` and `response.in_progress`, items with
/// their parts and deltas, and `response.completed`.
///
/// Feed it what the engine produces; every call appends complete frames to a buffer. A stream that
/// fails just ends: drop it without [`ResponsesStream::finish`] and send nothing more.
pub struct ResponsesStream {
    request: ResponsesRequest,
    context: ResponseContext,
    /// The response so far, with the finished items.
    response: ResponseObject,
    splitter: DeltaSplitter,
    new_call_id: fn() -> String,
    prompt_text: String,
    prompt_token_ids: Arc<[u32]>,
    cached_tokens: usize,
    output_tokens: usize,
    reasoning_counter: Option<ReasoningCounter>,
    /// The output as text and tokens, for requests that want it back.
    raw: Option<(String, Vec<u32>)>,
    finish_reason: Option<FinishReason>,
    begun: bool,
    sequence: Sequence,
    open: Option<OpenItem>,
    /// Logprobs of tokens whose text was not sent yet.
    pending_logprobs: Vec<TokenLogprob>,
}

enum OpenItem {
    Reasoning(Reasoning, ReasoningText),
    Message(OutputMessage, OutputText),
    /// A call and its index among the calls.
    Call(FunctionCall, usize),
}

/// Any event, with the members of all; their order is alphabetical.
#[derive(Default, Serialize)]
struct Event<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<&'a OutputItem>,
    #[serde(skip_serializing_if = "Option::is_none")]
    item_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<StreamTokenLogprob>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    part: Option<Part<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<&'a ResponseObject>,
    sequence_number: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    r#type: &'static str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Part<'a> {
    Reasoning(&'a ReasoningText),
    Text(&'a OutputText),
}

/// Counts the events that were sent.
#[derive(Default)]
struct Sequence(usize);

impl Sequence {
    fn send(&mut self, frames: &mut Vec<u8>, kind: &'static str, event: Event<'_>) {
        let event = Event {
            sequence_number: self.0,
            r#type: kind,
            ..event
        };
        sse::push_event(frames, kind, &event);
        self.0 += 1;
    }
}

impl ResponsesStream {
    /// A stream that goes on from `response`, in which nothing was generated yet. `prompt_text` is
    /// the rendered prompt.
    pub fn new(
        request: ResponsesRequest,
        context: ResponseContext,
        response: ResponseObject,
        prompt_text: String,
        prompt_token_ids: Arc<[u32]>,
        parsers: &OutputParsers,
    ) -> Self {
        Self {
            splitter: DeltaSplitter::new(
                parsers,
                &request.tool_choice,
                request.parallel_tool_calls,
            ),
            reasoning_counter: parsers.reasoning_counter(),
            new_call_id: parsers.new_call_id(),
            raw: request.enable_response_messages.then(Default::default),
            request,
            context,
            response,
            prompt_text,
            prompt_token_ids,
            cached_tokens: 0,
            output_tokens: 0,
            finish_reason: None,
            begun: false,
            sequence: Sequence::default(),
            open: None,
            pending_logprobs: Vec::new(),
        }
    }

    /// Notes how many tokens of the prompt came from the prefix cache.
    pub fn set_cached_tokens(&mut self, tokens: usize) {
        self.cached_tokens = tokens;
    }

    /// Appends the frames for new output; the first call begins with `response.created`.
    ///
    /// # Errors
    /// 500 when the output failed inside the engine; nothing more must be sent then.
    pub fn push(&mut self, outputs: &[CompletionOutput], frames: &mut Vec<u8>) -> Result<()> {
        for output in outputs {
            check_not_failed(output)?;
            self.begin(frames);
            self.output_tokens += output.token_ids.len();
            if let Some(counter) = &mut self.reasoning_counter {
                counter.push(&output.token_ids);
            }
            if let Some((text, token_ids)) = &mut self.raw {
                text.push_str(&output.text);
                token_ids.extend(&output.token_ids);
            }
            let logprobs = output_logprobs(&self.request, &self.context, output);
            self.pending_logprobs.extend(logprobs.unwrap_or_default());
            let is_last = output.finish_reason.is_some();
            for delta in self.splitter.push(&output.text, is_last) {
                self.push_delta(delta, frames);
            }
            self.finish_reason = self.finish_reason.or(output.finish_reason);
        }
        Ok(())
    }

    /// Appends the events that end the stream.
    pub fn finish(&mut self, frames: &mut Vec<u8>) {
        self.begin(frames);
        self.close_item(frames);
        let usage = self.usage();
        self.response.set_end(self.finish_reason, &usage);
        if let Some((text, token_ids)) = &self.raw {
            let prompt = (self.prompt_text.as_str(), &*self.prompt_token_ids);
            self.response.set_messages(prompt, (text, token_ids));
        }
        self.send_response("response.completed", frames);
    }

    /// The token counts so far, for logs and metrics.
    pub fn usage(&self) -> Usage {
        Usage::new(self.prompt_token_ids.len(), self.output_tokens)
            .with_cached_tokens(self.cached_tokens)
            .with_reasoning_tokens(
                self.reasoning_counter
                    .as_ref()
                    .map(ReasoningCounter::tokens),
            )
    }

    fn begin(&mut self, frames: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.begun, true) {
            self.send_response("response.created", frames);
            self.send_response("response.in_progress", frames);
        }
    }

    fn send_response(&mut self, kind: &'static str, frames: &mut Vec<u8>) {
        let event = Event {
            response: Some(&self.response),
            ..Event::default()
        };
        self.sequence.send(frames, kind, event);
    }

    fn push_delta(&mut self, delta: OutputDelta, frames: &mut Vec<u8>) {
        match delta {
            OutputDelta::Reasoning(text) => self.push_reasoning(&text, frames),
            OutputDelta::Answer(ToolDelta::Content(text)) => self.push_text(&text, frames),
            OutputDelta::Answer(ToolDelta::Call { index, name }) => {
                self.open_call(index, name, frames);
            }
            OutputDelta::Answer(ToolDelta::Arguments { index, text }) => {
                self.push_arguments(index, &text, frames);
            }
        }
    }

    fn push_reasoning(&mut self, text: &str, frames: &mut Vec<u8>) {
        // Tokens of reasoning are not reported.
        self.pending_logprobs.clear();
        if !self.request.include_reasoning {
            return;
        }
        if !matches!(self.open, Some(OpenItem::Reasoning(..))) {
            self.close_item(frames);
            self.open_reasoning(frames);
        }
        let Some(OpenItem::Reasoning(item, part)) = &mut self.open else {
            return;
        };
        part.text.push_str(text);
        let event = Event {
            content_index: Some(0),
            delta: Some(text),
            item_id: Some(&item.id),
            output_index: Some(self.response.output.len()),
            ..Event::default()
        };
        self.sequence
            .send(frames, "response.reasoning_text.delta", event);
    }

    fn open_reasoning(&mut self, frames: &mut Vec<u8>) {
        let output_index = Some(self.response.output.len());
        let item = OutputItem::Reasoning(Reasoning::new(Some("in_progress")));
        let event = Event {
            item: Some(&item),
            output_index,
            ..Event::default()
        };
        self.sequence
            .send(frames, "response.output_item.added", event);
        let OutputItem::Reasoning(item) = item else {
            return;
        };
        let part = ReasoningText::new(String::new());
        let event = Event {
            content_index: Some(0),
            item_id: Some(&item.id),
            output_index,
            part: Some(Part::Reasoning(&part)),
            ..Event::default()
        };
        self.sequence
            .send(frames, "response.reasoning_part.added", event);
        self.open = Some(OpenItem::Reasoning(item, part));
    }

    fn push_text(&mut self, text: &str, frames: &mut Vec<u8>) {
        if !matches!(self.open, Some(OpenItem::Message(..))) {
            self.close_item(frames);
            self.open_message(frames);
        }
        let Some(OpenItem::Message(message, part)) = &mut self.open else {
            return;
        };
        let event = Event {
            content_index: Some(0),
            delta: Some(text),
            item_id: Some(&message.id),
            logprobs: Some(stream_logprobs(&self.pending_logprobs)),
            output_index: Some(self.response.output.len()),
            ..Event::default()
        };
        self.sequence
            .send(frames, "response.output_text.delta", event);
        part.text.push_str(text);
        if let Some(logprobs) = &mut part.logprobs {
            logprobs.append(&mut self.pending_logprobs);
        }
    }

    fn open_message(&mut self, frames: &mut Vec<u8>) {
        let output_index = Some(self.response.output.len());
        let item = OutputItem::Message(OutputMessage::new("in_progress"));
        self.sequence.send(
            frames,
            "response.output_item.added",
            Event {
                item: Some(&item),
                output_index,
                ..Event::default()
            },
        );
        let OutputItem::Message(message) = item else {
            return;
        };
        let mut part = OutputText::new(String::new(), Some(Vec::new()));
        self.sequence.send(
            frames,
            "response.content_part.added",
            Event {
                content_index: Some(0),
                item_id: Some(&message.id),
                output_index,
                part: Some(Part::Text(&part)),
                ..Event::default()
            },
        );
        if !self.request.include_logprobs {
            part.logprobs = None;
        }
        self.open = Some(OpenItem::Message(message, part));
    }

    fn open_call(&mut self, index: usize, name: String, frames: &mut Vec<u8>) {
        self.close_item(frames);
        let item = OutputItem::FunctionCall(FunctionCall::new(
            (self.new_call_id)(),
            name,
            String::new(),
            "in_progress",
        ));
        self.sequence.send(
            frames,
            "response.output_item.added",
            Event {
                item: Some(&item),
                output_index: Some(self.response.output.len()),
                ..Event::default()
            },
        );
        if let OutputItem::FunctionCall(call) = item {
            self.open = Some(OpenItem::Call(call, index));
        }
    }

    fn push_arguments(&mut self, index: usize, text: &str, frames: &mut Vec<u8>) {
        // Tokens of calls are not reported.
        self.pending_logprobs.clear();
        let Some(OpenItem::Call(call, open_index)) = &mut self.open else {
            return;
        };
        if *open_index != index {
            return;
        }
        call.arguments.push_str(text);
        let event = Event {
            delta: Some(text),
            item_id: Some(&call.id),
            output_index: Some(self.response.output.len()),
            ..Event::default()
        };
        self.sequence
            .send(frames, "response.function_call_arguments.delta", event);
    }

    fn close_item(&mut self, frames: &mut Vec<u8>) {
        let output_index = Some(self.response.output.len());
        let item = match self.open.take() {
            None => return,
            Some(OpenItem::Reasoning(item, part)) => {
                send_reasoning_done(item, part, output_index, &mut self.sequence, frames)
            }
            Some(OpenItem::Message(message, part)) => {
                send_message_done(message, part, output_index, &mut self.sequence, frames)
            }
            Some(OpenItem::Call(call, _)) => {
                send_call_done(call, output_index, &mut self.sequence, frames)
            }
        };
        self.sequence.send(
            frames,
            "response.output_item.done",
            Event {
                item: Some(&item),
                output_index,
                ..Event::default()
            },
        );
        self.response.output.push(item);
    }
}

fn stream_logprobs(logprobs: &[TokenLogprob]) -> Vec<StreamTokenLogprob> {
    logprobs.iter().map(StreamTokenLogprob::from).collect()
}

fn send_reasoning_done(
    mut item: Reasoning,
    part: ReasoningText,
    output_index: Option<usize>,
    sequence: &mut Sequence,
    frames: &mut Vec<u8>,
) -> OutputItem {
    let event = Event {
        content_index: Some(0),
        item_id: Some(&item.id),
        output_index,
        text: Some(&part.text),
        ..Event::default()
    };
    sequence.send(frames, "response.reasoning_text.done", event);
    let event = Event {
        content_index: Some(0),
        item_id: Some(&item.id),
        output_index,
        part: Some(Part::Reasoning(&part)),
        ..Event::default()
    };
    sequence.send(frames, "response.reasoning_part.done", event);
    item.content = Some([part]);
    item.status = Some("completed");
    OutputItem::Reasoning(item)
}

fn send_message_done(
    mut message: OutputMessage,
    part: OutputText,
    output_index: Option<usize>,
    sequence: &mut Sequence,
    frames: &mut Vec<u8>,
) -> OutputItem {
    let logprobs = part.logprobs.as_deref().unwrap_or_default();
    sequence.send(
        frames,
        "response.output_text.done",
        Event {
            content_index: Some(0),
            item_id: Some(&message.id),
            logprobs: Some(stream_logprobs(logprobs)),
            output_index,
            text: Some(&part.text),
            ..Event::default()
        },
    );
    sequence.send(
        frames,
        "response.content_part.done",
        Event {
            content_index: Some(0),
            item_id: Some(&message.id),
            output_index,
            part: Some(Part::Text(&part)),
            ..Event::default()
        },
    );
    message.content.push(part);
    message.status = "completed";
    OutputItem::Message(message)
}

fn send_call_done(
    mut call: FunctionCall,
    output_index: Option<usize>,
    sequence: &mut Sequence,
    frames: &mut Vec<u8>,
) -> OutputItem {
    sequence.send(
        frames,
        "response.function_call_arguments.done",
        Event {
            arguments: Some(&call.arguments),
            item_id: Some(&call.id),
            name: Some(&call.name),
            output_index,
            ..Event::default()
        },
    );
    call.status = "completed";
    OutputItem::FunctionCall(call)
}
