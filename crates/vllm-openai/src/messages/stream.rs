//! The answer of `/v1/messages` as a stream.

use serde::Serialize;
use serde_json::{Map, Value as Json};
use vllm_sampling::{CompletionOutput, FinishReason};

use super::response::{ContentBlock, MessagesUsage, stop_reason};
use crate::chat::ChatCompletionRequest;
use crate::context::{ResponseContext, check_not_failed};
use crate::error::Result;
use crate::ids::random_id;
use crate::output::{DeltaSplitter, OutputDelta, OutputParsers};
use crate::sse;
use crate::tools::ToolDelta;
use crate::usage::Usage;

/// Assembles the events of one stream: `message_start`, blocks with their deltas,
/// `message_delta` and `message_stop`.
///
/// Feed it what the engine produces; every call appends complete frames to a buffer. When
/// something fails, [`push_messages_error`](super::push_messages_error) ends the stream instead of
/// [`MessagesStream::finish`].
pub struct MessagesStream {
    context: ResponseContext,
    splitter: DeltaSplitter,
    include_reasoning: bool,
    new_call_id: fn() -> String,
    prompt_tokens: usize,
    cached_tokens: usize,
    output_tokens: usize,
    begun: bool,
    open: Option<OpenBlock>,
    /// Index of the open block, or of the next one.
    index: usize,
    made_calls: bool,
    stop_reason: Option<&'static str>,
    stop_sequence: Option<String>,
}

#[derive(Clone, Copy, PartialEq)]
enum OpenBlock {
    Thinking,
    Text,
    /// The block of the call with this index.
    Call(usize),
}

#[derive(Serialize)]
struct MessageStart<'a> {
    r#type: &'static str,
    message: StartedMessage<'a>,
}

#[derive(Serialize)]
struct StartedMessage<'a> {
    id: &'a str,
    r#type: &'static str,
    role: &'static str,
    content: [(); 0],
    model: &'a str,
    stop_reason: Option<()>,
    stop_sequence: Option<()>,
    usage: MessagesUsage,
}

#[derive(Serialize)]
struct BlockStart {
    r#type: &'static str,
    content_block: ContentBlock,
    index: usize,
}

#[derive(Serialize)]
struct BlockDelta<'a> {
    r#type: &'static str,
    delta: Delta<'a>,
    index: usize,
}

#[derive(Serialize)]
#[serde(tag = "type")]
enum Delta<'a> {
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: &'a str },
    #[serde(rename = "signature_delta")]
    Signature { signature: String },
    #[serde(rename = "text_delta")]
    Text { text: &'a str },
    #[serde(rename = "input_json_delta")]
    InputJson { partial_json: &'a str },
}

#[derive(Serialize)]
struct BlockStop {
    r#type: &'static str,
    index: usize,
}

#[derive(Serialize)]
struct MessageDelta<'a> {
    r#type: &'static str,
    delta: Stop<'a>,
    usage: MessagesUsage,
}

#[derive(Serialize)]
struct Stop<'a> {
    stop_reason: Option<&'static str>,
    stop_sequence: Option<&'a str>,
}

#[derive(Serialize)]
struct MessageStop {
    r#type: &'static str,
}

impl MessagesStream {
    /// A stream for the request whose chat form is `request`.
    pub fn new(
        request: &ChatCompletionRequest,
        context: ResponseContext,
        prompt_tokens: usize,
        parsers: &OutputParsers,
    ) -> Self {
        Self {
            context,
            splitter: DeltaSplitter::new(
                parsers,
                &request.tool_choice,
                request.parallel_tool_calls,
            ),
            include_reasoning: request.include_reasoning,
            new_call_id: parsers.new_call_id(),
            prompt_tokens,
            cached_tokens: 0,
            output_tokens: 0,
            begun: false,
            open: None,
            index: 0,
            made_calls: false,
            stop_reason: None,
            stop_sequence: None,
        }
    }

    /// Notes how many tokens of the prompt came from the prefix cache.
    pub fn set_cached_tokens(&mut self, tokens: usize) {
        self.cached_tokens = tokens;
    }

    /// Appends the frames for new output; the first call begins with `message_start`.
    ///
    /// # Errors
    /// 500 when the output failed inside the engine.
    pub fn push(&mut self, outputs: &[CompletionOutput], frames: &mut Vec<u8>) -> Result<()> {
        for output in outputs {
            check_not_failed(output)?;
            self.begin(frames);
            self.output_tokens += output.token_ids.len();
            let is_last = output.finish_reason.is_some();
            for delta in self.splitter.push(&output.text, is_last) {
                self.push_delta(delta, frames);
            }
            if is_last {
                let made_calls =
                    self.made_calls && output.finish_reason == Some(FinishReason::Stop);
                (self.stop_reason, self.stop_sequence) = stop_reason(output, made_calls);
            }
        }
        Ok(())
    }

    /// Appends the events that end the stream.
    pub fn finish(&mut self, frames: &mut Vec<u8>) {
        self.begin(frames);
        if self.index == 0 && self.open.is_none() {
            self.open_text(frames);
        }
        self.close_block(frames);
        let event = MessageDelta {
            r#type: "message_delta",
            delta: Stop {
                stop_reason: self.stop_reason,
                stop_sequence: self.stop_sequence.as_deref(),
            },
            usage: MessagesUsage::from(&self.usage()),
        };
        sse::push_event(frames, event.r#type, &event);
        let event = MessageStop {
            r#type: "message_stop",
        };
        sse::push_event(frames, event.r#type, &event);
    }

    /// The token counts so far, for logs and metrics.
    pub fn usage(&self) -> Usage {
        let usage = Usage::new(self.prompt_tokens, self.output_tokens);
        match self.context.prompt_tokens_details {
            true => usage.with_cached_tokens(self.cached_tokens),
            false => usage,
        }
    }

    fn begin(&mut self, frames: &mut Vec<u8>) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let event = MessageStart {
            r#type: "message_start",
            message: StartedMessage {
                id: &self.context.id,
                r#type: "message",
                role: "assistant",
                content: [],
                model: &self.context.model,
                stop_reason: None,
                stop_sequence: None,
                usage: MessagesUsage::from(&self.usage()),
            },
        };
        sse::push_event(frames, event.r#type, &event);
    }

    fn push_delta(&mut self, delta: OutputDelta, frames: &mut Vec<u8>) {
        let delta = match delta {
            OutputDelta::Answer(delta) => delta,
            OutputDelta::Reasoning(text) => return self.push_thinking(&text, frames),
        };
        match &delta {
            ToolDelta::Content(text) => {
                if self.open != Some(OpenBlock::Text) {
                    self.open_text(frames);
                }
                self.push_block_delta(Delta::Text { text }, frames);
            }
            ToolDelta::Call { index, name } => {
                let block = ContentBlock::ToolUse {
                    id: (self.new_call_id)(),
                    name: name.clone(),
                    input: Json::Object(Map::new()),
                };
                self.open_block(OpenBlock::Call(*index), block, frames);
                self.made_calls = true;
            }
            ToolDelta::Arguments { index, text } => {
                if self.open == Some(OpenBlock::Call(*index)) {
                    let delta = Delta::InputJson { partial_json: text };
                    self.push_block_delta(delta, frames);
                }
            }
        }
    }

    fn push_thinking(&mut self, thinking: &str, frames: &mut Vec<u8>) {
        if !self.include_reasoning {
            return;
        }
        if self.open != Some(OpenBlock::Thinking) {
            let block = ContentBlock::Thinking {
                thinking: String::new(),
                signature: None,
            };
            self.open_block(OpenBlock::Thinking, block, frames);
        }
        self.push_block_delta(Delta::Thinking { thinking }, frames);
    }

    fn open_text(&mut self, frames: &mut Vec<u8>) {
        let block = ContentBlock::Text {
            text: String::new(),
        };
        self.open_block(OpenBlock::Text, block, frames);
    }

    fn open_block(&mut self, open: OpenBlock, content_block: ContentBlock, frames: &mut Vec<u8>) {
        self.close_block(frames);
        self.open = Some(open);
        let event = BlockStart {
            r#type: "content_block_start",
            content_block,
            index: self.index,
        };
        sse::push_event(frames, event.r#type, &event);
    }

    fn push_block_delta(&self, delta: Delta<'_>, frames: &mut Vec<u8>) {
        let event = BlockDelta {
            r#type: "content_block_delta",
            delta,
            index: self.index,
        };
        sse::push_event(frames, event.r#type, &event);
    }

    fn close_block(&mut self, frames: &mut Vec<u8>) {
        if self.open == Some(OpenBlock::Thinking) {
            let signature = random_id();
            self.push_block_delta(Delta::Signature { signature }, frames);
        }
        if self.open.take().is_none() {
            return;
        }
        let event = BlockStop {
            r#type: "content_block_stop",
            index: self.index,
        };
        sse::push_event(frames, event.r#type, &event);
        self.index += 1;
    }
}
