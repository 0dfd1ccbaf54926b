//! The answer to a completion request as a stream.

use std::sync::Arc;

use serde::Serialize;
use vllm_sampling::{CompletionOutput, PositionLogprobs};

use super::CompletionRequest;
use super::response::echoed_logprobs;
use crate::context::{ResponseContext, WireStopReason, check_not_failed};
use crate::error::Result;
use crate::logprobs::CompletionLogprobs;
use crate::options::StreamOptions;
use crate::sse;
use crate::usage::{StreamUsage, Usage};

/// A prompt of a streamed request.
#[derive(Debug, Clone)]
pub struct StreamPrompt {
    /// The prompt as text; needed for `echo`.
    pub text: Option<String>,
    /// The prompt as tokens.
    pub token_ids: Arc<[u32]>,
    /// The first prompt token as text; needed for `echo` with logprobs.
    pub first_token: String,
}

/// Assembles the frames of one stream.
///
/// Feed it what the engine produces, in any order of prompts; every call appends complete frames
/// (`data: …` and an empty line) to a buffer.
#[derive(Debug)]
pub struct CompletionStream {
    request: CompletionRequest,
    context: ResponseContext,
    options: StreamOptions,
    prompts: Vec<StreamPrompt>,
    choices: Vec<ChoiceState>,
    cached_tokens: usize,
}

#[derive(Debug, Clone, Default)]
struct ChoiceState {
    prompt_sent: bool,
    text_chars: usize,
    tokens: usize,
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
}

#[derive(Serialize)]
struct ChunkChoice<'a> {
    index: usize,
    text: &'a str,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<&'static str>,
    stop_reason: WireStopReason,
    prompt_token_ids: Option<&'a [u32]>,
    token_ids: Option<&'a [u32]>,
}

impl CompletionStream {
    /// A stream for `request`, with one entry per prompt.
    pub fn new(
        request: CompletionRequest,
        context: ResponseContext,
        prompts: Vec<StreamPrompt>,
    ) -> Self {
        let per_prompt = usize::try_from(request.options.n).unwrap_or(1);
        let options = context.stream_options(&request.options);
        let choices = vec![ChoiceState::default(); prompts.len() * per_prompt];
        Self {
            request,
            context,
            options,
            prompts,
            choices,
            cached_tokens: 0,
        }
    }

    /// Appends the frames for new output of one prompt. `prompt_logprobs` is needed only with
    /// `echo` and logprobs, and only until each choice has sent its first chunk.
    ///
    /// # Errors
    /// 500 when a choice failed inside the engine; send it with [`push_error`](crate::push_error).
    pub fn push(
        &mut self,
        prompt_index: usize,
        prompt_logprobs: Option<&[Option<PositionLogprobs>]>,
        outputs: &[CompletionOutput],
        frames: &mut Vec<u8>,
    ) -> Result<()> {
        for output in outputs {
            check_not_failed(output)?;
            self.push_output(prompt_index, prompt_logprobs, output, frames);
        }
        Ok(())
    }

    /// Notes how many tokens of a prompt came from the prefix cache; call once per prompt.
    pub fn add_cached_tokens(&mut self, tokens: usize) {
        self.cached_tokens += tokens;
    }

    /// Appends the usage chunk, if wanted, and the end of the stream.
    pub fn finish(&mut self, frames: &mut Vec<u8>) {
        if self.options.include_usage {
            let usage = self.usage();
            let chunk = Chunk {
                usage: Some(StreamUsage::last(&usage)),
                system_fingerprint: self.context.system_fingerprint.as_deref(),
                ..self.chunk(&[])
            };
            sse::push_frame(frames, &chunk);
        }
        sse::push_done(frames);
    }

    /// The token counts so far, for logs and metrics.
    pub fn usage(&self) -> Usage {
        let prompt_tokens = self
            .prompts
            .iter()
            .map(|prompt| prompt.token_ids.len())
            .sum();
        let usage = Usage::new(
            prompt_tokens,
            self.choices.iter().map(|choice| choice.tokens).sum(),
        );
        match self.context.prompt_tokens_details {
            true => usage.with_cached_tokens(self.cached_tokens),
            false => usage,
        }
    }

    fn push_output(
        &mut self,
        prompt_index: usize,
        prompt_logprobs: Option<&[Option<PositionLogprobs>]>,
        output: &CompletionOutput,
        frames: &mut Vec<u8>,
    ) {
        let per_prompt = self.choices.len() / self.prompts.len().max(1);
        let index = prompt_index * per_prompt + output.index;
        let (Some(prompt), Some(state)) = (
            self.prompts.get(prompt_index),
            self.choices.get(index).cloned(),
        ) else {
            debug_assert!(false, "output for prompt {prompt_index} and choice {index}");
            return;
        };
        let request = &self.request;
        let wants_ids = request.options.return_token_ids;
        let echoes = request.echo && !state.prompt_sent;
        let is_nothing = output.text.is_empty()
            && output.token_ids.is_empty()
            && output.finish_reason.is_none()
            && state.tokens == 0;
        if is_nothing && !echoes {
            return;
        }
        let echoed;
        let text = if echoes && !wants_ids {
            let mut whole = prompt.text.clone().unwrap_or_default();
            if !request.is_echo_only() {
                whole.push_str(&output.text);
            }
            echoed = whole;
            &echoed
        } else if request.is_echo_only() {
            ""
        } else {
            &output.text
        };
        let logprobs = request.logprobs.map(|count| {
            let prompt_part = if echoes { prompt_logprobs } else { None };
            let offset = state.text_chars;
            let first = &prompt.first_token;
            echoed_logprobs(
                request,
                &self.context,
                prompt_part,
                first,
                output,
                count,
                offset,
            )
        });
        let choice = ChunkChoice {
            index,
            text,
            logprobs,
            finish_reason: output.finish_reason.map(|reason| reason.as_str()),
            stop_reason: WireStopReason(output.stop_reason.clone()),
            prompt_token_ids: (!state.prompt_sent && (echoes || wants_ids))
                .then_some(&*prompt.token_ids),
            token_ids: wants_ids.then_some(output.token_ids.as_slice()),
        };
        let tokens = state.tokens + output.token_ids.len();
        let running = StreamUsage::running(prompt.token_ids.len(), tokens);
        let is_last = output.finish_reason.is_some();
        let chunk = Chunk {
            usage: self.options.continuous_usage_stats.then_some(running),
            system_fingerprint: self
                .context
                .system_fingerprint
                .as_deref()
                .filter(|_| is_last && !self.options.include_usage),
            ..self.chunk(std::slice::from_ref(&choice))
        };
        sse::push_frame(frames, &chunk);
        self.choices[index] = ChoiceState {
            prompt_sent: true,
            text_chars: state.text_chars + output.text.chars().count(),
            tokens,
        };
    }

    fn chunk<'a>(&'a self, choices: &'a [ChunkChoice<'a>]) -> Chunk<'a> {
        Chunk {
            id: &self.context.id,
            object: "text_completion",
            created: self.context.created,
            model: &self.context.model,
            choices,
            usage: None,
            system_fingerprint: None,
        }
    }
}
