//! The response object and what it consists of.

use serde::Serialize;
use serde_json::{Map, Value as Json};
use vllm_sampling::{CompletionOutput, FinishReason, SamplingParams};

use super::ResponsesRequest;
use super::logprobs::{TokenLogprob, token_logprobs};
use crate::context::{ResponseContext, check_not_failed};
use crate::error::Result;
use crate::ids::random_id;
use crate::output::{OutputParsers, extract};
use crate::tools::ToolCall;
use crate::usage::Usage;

/// The response in one of its states; serialize it for the body.
#[derive(Debug, Clone, Serialize)]
pub struct ResponseObject {
    id: String,
    created_at: u64,
    incomplete_details: Option<IncompleteDetails>,
    instructions: Option<String>,
    metadata: Option<Map<String, Json>>,
    model: String,
    object: &'static str,
    pub(super) output: Vec<OutputItem>,
    parallel_tool_calls: bool,
    temperature: f64,
    tool_choice: Json,
    tools: Vec<Json>,
    top_p: f64,
    background: bool,
    max_output_tokens: Option<i64>,
    max_tool_calls: Option<i64>,
    previous_response_id: Option<()>,
    prompt: Option<()>,
    reasoning: Option<Json>,
    service_tier: &'static str,
    status: &'static str,
    text: Option<Json>,
    top_logprobs: Option<i64>,
    truncation: &'static str,
    usage: Option<ResponseUsage>,
    user: Option<String>,
    presence_penalty: f64,
    frequency_penalty: f64,
    kv_transfer_params: Option<()>,
    ec_transfer_params: Option<()>,
    input_messages: Option<[RawMessage; 1]>,
    output_messages: Option<[RawMessage; 1]>,
}

#[derive(Debug, Clone, Serialize)]
struct IncompleteDetails {
    reason: &'static str,
}

/// One item of the output.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(super) enum OutputItem {
    Reasoning(Reasoning),
    Message(OutputMessage),
    FunctionCall(FunctionCall),
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Reasoning {
    pub(super) id: String,
    summary: [(); 0],
    r#type: &'static str,
    pub(super) content: Option<[ReasoningText; 1]>,
    encrypted_content: Option<()>,
    pub(super) status: Option<&'static str>,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct ReasoningText {
    pub(super) text: String,
    r#type: &'static str,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct OutputMessage {
    pub(super) id: String,
    pub(super) content: Vec<OutputText>,
    role: &'static str,
    pub(super) status: &'static str,
    r#type: &'static str,
    phase: Option<()>,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct OutputText {
    annotations: [(); 0],
    pub(super) text: String,
    r#type: &'static str,
    pub(super) logprobs: Option<Vec<TokenLogprob>>,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct FunctionCall {
    pub(super) arguments: String,
    call_id: String,
    pub(super) name: String,
    r#type: &'static str,
    pub(super) id: String,
    namespace: Option<()>,
    pub(super) status: &'static str,
}

/// What the model was shown or wrote, as text and as tokens.
#[derive(Debug, Clone, Serialize)]
struct RawMessage {
    message: String,
    tokens: Vec<u32>,
    r#type: &'static str,
}

#[derive(Debug, Clone, Serialize)]
struct ResponseUsage {
    input_tokens: usize,
    input_tokens_details: InputTokensDetails,
    output_tokens: usize,
    output_tokens_details: OutputTokensDetails,
    total_tokens: usize,
}

/// The lists are about turns with tools that a server runs itself.
#[derive(Debug, Clone, Default, Serialize)]
struct InputTokensDetails {
    cached_tokens: usize,
    cache_write_tokens: usize,
    input_tokens_per_turn: [usize; 0],
    cached_tokens_per_turn: [usize; 0],
}

#[derive(Debug, Clone, Default, Serialize)]
struct OutputTokensDetails {
    reasoning_tokens: usize,
    tool_output_tokens: usize,
    output_tokens_per_turn: [usize; 0],
    tool_output_tokens_per_turn: [usize; 0],
}

/// What came of a request: its tokens and its output in whole.
#[derive(Debug, Clone, Copy)]
pub struct ResponsesResult<'a> {
    /// The rendered prompt.
    pub prompt_text: &'a str,
    /// The prompt as tokens.
    pub prompt_token_ids: &'a [u32],
    /// The only choice.
    pub output: &'a CompletionOutput,
    /// How many prompt tokens came from the prefix cache.
    pub num_cached_tokens: usize,
}

impl ResponseObject {
    /// The response before anything was generated. `params` are the effective sampling parameters;
    /// of `context` only the time, the model and the form of tokens count.
    pub fn new(
        request: &ResponsesRequest,
        context: &ResponseContext,
        params: &SamplingParams,
    ) -> Self {
        let echo = request.echo.clone();
        Self {
            id: request.options.request_id.clone(),
            created_at: context.created,
            incomplete_details: None,
            instructions: echo.instructions,
            metadata: echo.metadata,
            model: context.model.clone(),
            object: "response",
            output: Vec::new(),
            parallel_tool_calls: request.parallel_tool_calls,
            temperature: params.temperature,
            tool_choice: echo.tool_choice,
            tools: echo.tools,
            top_p: params.top_p,
            background: false,
            max_output_tokens: params.max_tokens,
            max_tool_calls: echo.max_tool_calls,
            previous_response_id: None,
            prompt: None,
            reasoning: echo.reasoning,
            service_tier: echo.service_tier,
            status: "in_progress",
            text: echo.text,
            top_logprobs: params.logprobs,
            truncation: echo.truncation,
            usage: None,
            user: echo.user,
            presence_penalty: params.presence_penalty,
            frequency_penalty: params.frequency_penalty,
            kv_transfer_params: None,
            ec_transfer_params: None,
            input_messages: None,
            output_messages: None,
        }
    }

    /// The response after everything was generated.
    ///
    /// # Errors
    /// 500 when the output failed inside the engine.
    pub fn complete(
        mut self,
        request: &ResponsesRequest,
        context: &ResponseContext,
        result: &ResponsesResult<'_>,
        parsers: &OutputParsers,
    ) -> Result<Self> {
        let output = result.output;
        check_not_failed(output)?;
        let parallel = request.parallel_tool_calls;
        let extracted = extract(parsers, &request.tool_choice, parallel, &output.text);
        if let Some(text) = extracted.reasoning.filter(|_| request.include_reasoning) {
            let mut reasoning = Reasoning::new(None);
            reasoning.content = Some([ReasoningText::new(text)]);
            self.output.push(OutputItem::Reasoning(reasoning));
        }
        if let Some(text) = extracted.content.filter(|text| !text.is_empty()) {
            let mut message = OutputMessage::new("completed");
            let logprobs = output_logprobs(request, context, output);
            message.content.push(OutputText::new(text, logprobs));
            self.output.push(OutputItem::Message(message));
        }
        for call in extracted.calls {
            let ToolCall { name, arguments } = call;
            let call = FunctionCall::new(parsers.new_call_id()(), name, arguments, "completed");
            self.output.push(OutputItem::FunctionCall(call));
        }
        if request.enable_response_messages {
            let prompt = (result.prompt_text, result.prompt_token_ids);
            self.set_messages(prompt, (&output.text, &output.token_ids));
        }
        let usage = Usage::new(result.prompt_token_ids.len(), output.token_ids.len());
        let reasoning_tokens = parsers.count_reasoning(std::iter::once(&*output.token_ids));
        let usage = usage
            .with_cached_tokens(result.num_cached_tokens)
            .with_reasoning_tokens(reasoning_tokens);
        self.set_end(output.finish_reason, &usage);
        Ok(self)
    }

    /// Sets what is known when the generation has ended.
    pub(super) fn set_end(&mut self, reason: Option<FinishReason>, usage: &Usage) {
        self.status = match reason {
            Some(FinishReason::Length) => "incomplete",
            Some(FinishReason::Abort) => "cancelled",
            _ => "completed",
        };
        self.incomplete_details = (self.status == "incomplete").then_some(IncompleteDetails {
            reason: "max_output_tokens",
        });
        let cached = usage.prompt_tokens_details.map(|it| it.cached_tokens);
        let reasoning = usage
            .completion_tokens_details
            .map(|it| it.reasoning_tokens);
        self.usage = Some(ResponseUsage {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: InputTokensDetails {
                cached_tokens: cached.unwrap_or(0),
                ..InputTokensDetails::default()
            },
            output_tokens: usage.completion_tokens,
            output_tokens_details: OutputTokensDetails {
                reasoning_tokens: reasoning.unwrap_or(0),
                ..OutputTokensDetails::default()
            },
            total_tokens: usage.total_tokens,
        });
    }

    /// Adds prompt and output, each as text and as tokens.
    pub(super) fn set_messages(&mut self, prompt: (&str, &[u32]), output: (&str, &[u32])) {
        let raw_message = |(text, tokens): (&str, &[u32])| RawMessage {
            message: text.to_owned(),
            tokens: tokens.to_vec(),
            r#type: "raw_message_tokens",
        };
        self.input_messages = Some([raw_message(prompt)]);
        self.output_messages = Some([raw_message(output)]);
    }
}

impl Reasoning {
    /// Reasoning without content.
    pub(super) fn new(status: Option<&'static str>) -> Self {
        Self {
            id: format!("rs_{}", random_id()),
            summary: [],
            r#type: "reasoning",
            content: None,
            encrypted_content: None,
            status,
        }
    }
}

impl ReasoningText {
    pub(super) fn new(text: String) -> Self {
        Self {
            text,
            r#type: "reasoning_text",
        }
    }
}

impl OutputMessage {
    /// A message without content.
    pub(super) fn new(status: &'static str) -> Self {
        Self {
            id: format!("msg_{}", random_id()),
            content: Vec::new(),
            role: "assistant",
            status,
            r#type: "message",
            phase: None,
        }
    }
}

impl OutputText {
    pub(super) fn new(text: String, logprobs: Option<Vec<TokenLogprob>>) -> Self {
        Self {
            annotations: [],
            text,
            r#type: "output_text",
            logprobs,
        }
    }
}

impl FunctionCall {
    pub(super) fn new(
        call_id: String,
        name: String,
        arguments: String,
        status: &'static str,
    ) -> Self {
        Self {
            arguments,
            call_id,
            name,
            r#type: "function_call",
            id: format!("fc_{}", random_id()),
            namespace: None,
            status,
        }
    }
}

/// The logprobs of one output, if the request wants them.
pub(super) fn output_logprobs(
    request: &ResponsesRequest,
    context: &ResponseContext,
    output: &CompletionOutput,
) -> Option<Vec<TokenLogprob>> {
    if !request.include_logprobs {
        return None;
    }
    let positions = output.logprobs.as_deref()?;
    let as_token_id = context.tokens_as_ids(&request.options);
    Some(token_logprobs(positions, request.top_logprobs, as_token_id))
}
