//! The answer to a completion request that does not stream.

use serde::Serialize;
use vllm_sampling::{CompletionOutput, PositionLogprobs};

use super::CompletionRequest;
use crate::context::{ResponseContext, WireStopReason, check_not_failed};
use crate::error::Result;
use crate::logprobs::{CompletionLogprobs, PromptLogprobs};
use crate::usage::Usage;

/// What came of one prompt: its tokens and its choices in whole.
#[derive(Debug, Clone, Copy)]
pub struct PromptResult<'a> {
    /// The prompt as text; needed for `echo`.
    pub prompt_text: Option<&'a str>,
    /// The prompt as tokens.
    pub prompt_token_ids: &'a [u32],
    /// The first prompt token as text; needed for `echo` with logprobs.
    pub first_prompt_token: &'a str,
    /// One entry per prompt token, the first `None`.
    pub prompt_logprobs: Option<&'a [Option<PositionLogprobs>]>,
    /// The choices.
    pub outputs: &'a [CompletionOutput],
    /// How many prompt tokens came from the prefix cache.
    pub num_cached_tokens: usize,
}

/// The answer; serialize it for the body.
#[derive(Debug, Clone, Serialize)]
pub struct CompletionResponse {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<Choice>,
    service_tier: Option<()>,
    system_fingerprint: Option<String>,
    usage: Usage,
    kv_transfer_params: Option<()>,
    ec_transfer_params: Option<()>,
    metrics: Option<()>,
}

#[derive(Debug, Clone, Serialize)]
struct Choice {
    index: usize,
    text: String,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<&'static str>,
    stop_reason: WireStopReason,
    token_ids: Option<Vec<u32>>,
    prompt_logprobs: Option<PromptLogprobs>,
    prompt_token_ids: Option<Vec<u32>>,
    routed_experts: Option<()>,
}

impl CompletionResponse {
    /// Builds the answer; `results` has one entry per prompt.
    ///
    /// # Errors
    /// 500 when a choice failed inside the engine.
    pub fn new(
        request: &CompletionRequest,
        context: &ResponseContext,
        results: &[PromptResult<'_>],
    ) -> Result<Self> {
        let mut choices = Vec::new();
        let mut usage = Usage::default();
        let mut cached_tokens = 0;
        for result in results {
            for output in result.outputs {
                check_not_failed(output)?;
                choices.push(choice(request, context, result, output, choices.len()));
                usage.completion_tokens += output.token_ids.len();
            }
            usage.prompt_tokens += result.prompt_token_ids.len();
            cached_tokens += result.num_cached_tokens;
        }
        usage.total_tokens = usage.prompt_tokens + usage.completion_tokens;
        if context.prompt_tokens_details {
            usage = usage.with_cached_tokens(cached_tokens);
        }
        Ok(Self {
            id: context.id.clone(),
            object: "text_completion",
            created: context.created,
            model: context.model.clone(),
            choices,
            service_tier: None,
            system_fingerprint: context.system_fingerprint.clone(),
            usage,
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
    request: &CompletionRequest,
    context: &ResponseContext,
    result: &PromptResult<'_>,
    output: &CompletionOutput,
    index: usize,
) -> Choice {
    let wants_ids = request.options.return_token_ids;
    let mut text = String::new();
    if request.echo && !wants_ids {
        text.push_str(result.prompt_text.unwrap_or_default());
    }
    if !request.is_echo_only() {
        text.push_str(&output.text);
    }
    let logprobs = request.logprobs.map(|count| {
        let prompt = if request.echo {
            result.prompt_logprobs
        } else {
            None
        };
        echoed_logprobs(
            request,
            context,
            prompt,
            result.first_prompt_token,
            output,
            count,
            0,
        )
    });
    Choice {
        index,
        text,
        logprobs,
        finish_reason: output.finish_reason.map(|reason| reason.as_str()),
        stop_reason: WireStopReason(output.stop_reason.clone()),
        token_ids: wants_ids.then(|| output.token_ids.clone()),
        prompt_logprobs: result.prompt_logprobs.map(PromptLogprobs::new),
        prompt_token_ids: wants_ids.then(|| result.prompt_token_ids.to_vec()),
        routed_experts: None,
    }
}

/// Logprobs of the echoed prompt, if any, and of the generated tokens, unless only the prompt is
/// wanted.
pub(super) fn echoed_logprobs(
    request: &CompletionRequest,
    context: &ResponseContext,
    prompt: Option<&[Option<PositionLogprobs>]>,
    first_prompt_token: &str,
    output: &CompletionOutput,
    count: i64,
    initial_offset: usize,
) -> CompletionLogprobs {
    let generated = match request.is_echo_only() {
        true => &[],
        false => output.logprobs.as_deref().unwrap_or_default(),
    };
    let positions = prompt.unwrap_or_default().iter().map(Option::as_ref);
    let positions = positions.chain(generated.iter().map(Some));
    // Explicitly chosen tokens are all shown.
    let count = if request.options.logprob_token_ids.is_some() {
        -1
    } else {
        count
    };
    let as_ids = context.tokens_as_ids(&request.options);
    CompletionLogprobs::new(positions, first_prompt_token, count, as_ids, initial_offset)
}
