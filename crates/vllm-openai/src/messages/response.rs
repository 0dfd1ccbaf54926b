//! Answers in the Anthropic form.

use serde::Serialize;
use serde_json::{Map, Value as Json};
use vllm_sampling::{CompletionOutput, FinishReason, StopReason};

use crate::chat::{ChatCompletionRequest, ChatResult, reports_tool_calls};
use crate::context::{ResponseContext, check_not_failed};
use crate::decode::json::parse;
use crate::error::{ErrorResponse, Result};
use crate::ids::random_id;
use crate::output::{OutputParsers, extract};
use crate::tools::ToolCall;
use crate::usage::Usage;

/// The answer of `/v1/messages`; serialize it for the body.
#[derive(Debug, Clone, Serialize)]
pub struct MessagesResponse {
    id: String,
    r#type: &'static str,
    role: &'static str,
    content: Vec<ContentBlock>,
    model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_sequence: Option<String>,
    usage: MessagesUsage,
    #[serde(skip)]
    counts: Usage,
}

/// One block of an answer, or the empty start of one.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum ContentBlock {
    Thinking {
        thinking: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        signature: Option<String>,
    },
    Text {
        text: String,
    },
    ToolUse {
        id: String,
        name: String,
        input: Json,
    },
}

/// Token counts; where the cache is told about, cached tokens are not counted as input.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct MessagesUsage {
    input_tokens: usize,
    output_tokens: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_creation_input_tokens: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_read_input_tokens: Option<usize>,
}

impl From<&Usage> for MessagesUsage {
    fn from(usage: &Usage) -> Self {
        let cached = usage.prompt_tokens_details.map(|it| it.cached_tokens);
        Self {
            input_tokens: usage.prompt_tokens.saturating_sub(cached.unwrap_or(0)),
            output_tokens: usage.completion_tokens,
            cache_creation_input_tokens: cached.map(|_| 0),
            cache_read_input_tokens: cached,
        }
    }
}

impl MessagesResponse {
    /// Builds the answer to the request whose chat form is `request`. Only the first output
    /// counts.
    ///
    /// # Errors
    /// 500 when the output failed inside the engine, or is missing.
    pub fn new(
        request: &ChatCompletionRequest,
        context: &ResponseContext,
        result: &ChatResult<'_>,
        parsers: &OutputParsers,
    ) -> Result<Self> {
        let output = result.outputs.first().ok_or_else(ErrorResponse::internal)?;
        check_not_failed(output)?;
        let parallel = request.parallel_tool_calls;
        let extracted = extract(parsers, &request.tool_choice, parallel, &output.text);
        let made_calls = output.finish_reason.is_some_and(|reason| {
            reports_tool_calls(&request.tool_choice, &extracted.calls, reason)
                || (!extracted.calls.is_empty() && reason == FinishReason::Stop)
        });
        let text = extracted.content.filter(|text| !text.is_empty());
        let calls = extracted.calls.into_iter();
        let calls = calls.map(|call| ContentBlock::call(call, parsers.new_call_id()));
        let reasoning = extracted.reasoning.filter(|_| request.include_reasoning);
        let mut content: Vec<ContentBlock> = reasoning
            .map(ContentBlock::thinking)
            .into_iter()
            .chain(text.map(|text| ContentBlock::Text { text }))
            .chain(calls)
            .collect();
        if content.is_empty() {
            content.push(ContentBlock::Text {
                text: String::new(),
            });
        }
        let mut usage = Usage::new(result.prompt_token_ids.len(), output.token_ids.len());
        if context.prompt_tokens_details {
            usage = usage.with_cached_tokens(result.num_cached_tokens);
        }
        let (stop_reason, stop_sequence) = stop_reason(output, made_calls);
        Ok(Self {
            id: context.id.clone(),
            r#type: "message",
            role: "assistant",
            content,
            model: context.model.clone(),
            stop_reason,
            stop_sequence,
            usage: MessagesUsage::from(&usage),
            counts: usage,
        })
    }

    /// The token counts, for logs and metrics.
    pub fn usage(&self) -> &Usage {
        &self.counts
    }
}

impl ContentBlock {
    /// Finished reasoning, signed as clients of this form expect it.
    fn thinking(thinking: String) -> Self {
        Self::Thinking {
            thinking,
            signature: Some(random_id()),
        }
    }

    fn call(call: ToolCall, new_id: fn() -> String) -> Self {
        let arguments = parse(call.arguments.as_bytes()).map(|arguments| arguments.to_json());
        Self::ToolUse {
            id: new_id(),
            name: call.name,
            input: match arguments {
                Ok(arguments @ Json::Object(_)) => arguments,
                _ => Json::Object(Map::new()),
            },
        }
    }
}

/// `stop_reason` and `stop_sequence` of a finished output; `None` for ends that the Anthropic form
/// has no word for.
pub(super) fn stop_reason(
    output: &CompletionOutput,
    made_calls: bool,
) -> (Option<&'static str>, Option<String>) {
    match (output.finish_reason, &output.stop_reason) {
        _ if made_calls => (Some("tool_use"), None),
        (Some(FinishReason::Stop), Some(StopReason::Text(text))) => {
            (Some("stop_sequence"), Some(text.clone()))
        }
        (Some(FinishReason::Stop), _) => (Some("end_turn"), None),
        (Some(FinishReason::Length), _) => (Some("max_tokens"), None),
        _ => (None, None),
    }
}

/// The answer of `/v1/messages/count_tokens`.
#[derive(Debug, Clone, Serialize)]
pub struct CountTokensResponse {
    input_tokens: usize,
    context_management: ContextManagement,
}

#[derive(Debug, Clone, Serialize)]
struct ContextManagement {
    original_input_tokens: usize,
}

impl CountTokensResponse {
    /// The answer for a prompt of so many tokens.
    pub fn new(input_tokens: usize) -> Self {
        Self {
            input_tokens,
            context_management: ContextManagement {
                original_input_tokens: input_tokens,
            },
        }
    }
}
