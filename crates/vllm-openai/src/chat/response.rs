//! The answer to a chat request that does not stream.

use serde::Serialize;
use vllm_sampling::{CompletionOutput, FinishReason, PositionLogprobs};

use super::ChatCompletionRequest;
use crate::context::{ResponseContext, WireStopReason, check_not_failed};
use crate::error::Result;
use crate::logprobs::{ChatLogprobs, PromptLogprobs};
use crate::output::{OutputParsers, extract};
use crate::tools::{ToolCall, ToolChoice};
use crate::usage::Usage;

/// What came of the conversation: its tokens and its choices in whole.
#[derive(Debug, Clone, Copy)]
pub struct ChatResult<'a> {
    /// The rendered prompt.
    pub prompt_text: Option<&'a str>,
    /// The prompt as tokens.
    pub prompt_token_ids: &'a [u32],
    /// One entry per prompt token, the first `None`.
    pub prompt_logprobs: Option<&'a [Option<PositionLogprobs>]>,
    /// Text to put in front of the answers; see [`ChatCompletionRequest::echo_text`].
    pub echo_text: Option<&'a str>,
    /// The choices.
    pub outputs: &'a [CompletionOutput],
    /// How many prompt tokens came from the prefix cache.
    pub num_cached_tokens: usize,
}

/// The answer; serialize it for the body.
#[derive(Debug, Clone, Serialize)]
pub struct ChatCompletionResponse {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<Choice>,
    service_tier: Option<()>,
    system_fingerprint: Option<String>,
    usage: Usage,
    prompt_logprobs: Option<PromptLogprobs>,
    prompt_token_ids: Option<Vec<u32>>,
    prompt_text: Option<String>,
    kv_transfer_params: Option<()>,
    ec_transfer_params: Option<()>,
    metrics: Option<()>,
}

#[derive(Debug, Clone, Serialize)]
struct Choice {
    index: usize,
    message: Message,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
    stop_reason: WireStopReason,
    token_ids: Option<Vec<u32>>,
    routed_experts: Option<()>,
}

#[derive(Debug, Clone, Serialize)]
struct Message {
    role: String,
    content: Option<String>,
    refusal: Option<()>,
    annotations: Option<()>,
    audio: Option<()>,
    function_call: Option<()>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<WireToolCall>,
    reasoning: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
struct WireToolCall {
    id: String,
    r#type: &'static str,
    function: WireFunction,
}

#[derive(Debug, Clone, Serialize)]
struct WireFunction {
    name: String,
    arguments: String,
}

impl ChatCompletionResponse {
    /// Builds the answer.
    ///
    /// # Errors
    /// 500 when a choice failed inside the engine.
    pub fn new(
        request: &ChatCompletionRequest,
        context: &ResponseContext,
        result: &ChatResult<'_>,
        parsers: &OutputParsers,
    ) -> Result<Self> {
        let mut choices = Vec::with_capacity(result.outputs.len());
        let mut completion_tokens = 0;
        for output in result.outputs {
            check_not_failed(output)?;
            completion_tokens += output.token_ids.len();
            choices.push(choice(request, context, result, parsers, output));
        }
        let mut usage = Usage::new(result.prompt_token_ids.len(), completion_tokens);
        let token_ids = result.outputs.iter().map(|output| &*output.token_ids);
        usage = usage.with_reasoning_tokens(parsers.count_reasoning(token_ids));
        if context.prompt_tokens_details {
            usage = usage.with_cached_tokens(result.num_cached_tokens);
        }
        let wants_ids = request.options.return_token_ids;
        let prompt_text = result.prompt_text.filter(|_| request.return_prompt_text);
        Ok(Self {
            id: context.id.clone(),
            object: "chat.completion",
            created: context.created,
            model: context.model.clone(),
            choices,
            service_tier: None,
            system_fingerprint: context.system_fingerprint.clone(),
            usage,
            prompt_logprobs: result.prompt_logprobs.map(PromptLogprobs::new),
            prompt_token_ids: wants_ids.then(|| result.prompt_token_ids.to_vec()),
            prompt_text: prompt_text.map(str::to_owned),
            kv_transfer_params: None,
            ec_transfer_params: None,
            metrics: None,
        })
    }

    /// The token counts, for logs and metrics.
    pub fn usage(&self) -> &Usage {
        &self.usage
    }
}

fn choice(
    request: &ChatCompletionRequest,
    context: &ResponseContext,
    result: &ChatResult<'_>,
    parsers: &OutputParsers,
    output: &CompletionOutput,
) -> Choice {
    let parallel = request.parallel_tool_calls;
    let extracted = extract(parsers, &request.tool_choice, parallel, &output.text);
    let finish_reason = output.finish_reason.map(|reason| {
        match reports_tool_calls(&request.tool_choice, &extracted.calls, reason) {
            true => "tool_calls",
            false => reason.as_str(),
        }
    });
    let mut content = extracted.content;
    if let Some(echo) = result.echo_text {
        content = Some(echo.to_owned() + content.as_deref().unwrap_or_default());
    }
    let hides_tokens = !request.include_reasoning && parsers.exist();
    Choice {
        index: output.index,
        message: Message {
            role: request.response_role().to_owned(),
            content,
            refusal: None,
            annotations: None,
            audio: None,
            function_call: None,
            tool_calls: extracted
                .calls
                .into_iter()
                .map(|call| WireToolCall::new(call, parsers.new_call_id()))
                .collect(),
            reasoning: extracted.reasoning.filter(|_| request.include_reasoning),
        },
        logprobs: chat_logprobs(request, context, output).filter(|_| !hides_tokens),
        finish_reason,
        stop_reason: WireStopReason(output.stop_reason.clone()),
        token_ids: (request.options.return_token_ids && !hides_tokens)
            .then(|| output.token_ids.clone()),
        routed_experts: None,
    }
}

impl WireToolCall {
    fn new(call: ToolCall, new_id: fn() -> String) -> Self {
        let function = WireFunction {
            name: call.name,
            arguments: call.arguments,
        };
        Self {
            id: new_id(),
            r#type: "function",
            function,
        }
    }
}

/// Whether a finished choice ends with `tool_calls`: with automatic choice whenever a call was
/// found, with a demanded call only when the model was not cut off, with a named one never.
pub(crate) fn reports_tool_calls(
    choice: &ToolChoice,
    calls: &[ToolCall],
    reason: FinishReason,
) -> bool {
    match choice {
        ToolChoice::Auto => !calls.is_empty(),
        ToolChoice::Required => !calls.is_empty() && reason == FinishReason::Stop,
        ToolChoice::None | ToolChoice::Named(_) => false,
    }
}

/// The logprobs of one output, if the request wants them.
pub(super) fn chat_logprobs(
    request: &ChatCompletionRequest,
    context: &ResponseContext,
    output: &CompletionOutput,
) -> Option<ChatLogprobs> {
    if !request.logprobs {
        return None;
    }
    // Explicitly chosen tokens are all shown.
    let count = match request.options.logprob_token_ids {
        Some(_) => -1,
        None => request.top_logprobs,
    };
    let positions = output.logprobs.as_deref()?;
    Some(ChatLogprobs::new(
        positions,
        count,
        context.tokens_as_ids(&request.options),
    ))
}
