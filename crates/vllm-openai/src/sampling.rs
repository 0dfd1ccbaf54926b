//! From request fields to sampling parameters.

use vllm_sampling::{OutputKind, SamplingParams, StructuredOutputs, out_of_vocabulary};

use crate::chat::ChatCompletionRequest;
use crate::completion::CompletionRequest;
use crate::error::{ErrorResponse, Result};
use crate::options::GenerationOptions;
use crate::output::OutputParsers;
use crate::responses::ResponsesRequest;
use crate::structured::combined_constraint;
use crate::tools::tool_constraint;

/// What a request gets when it leaves a field out: the values of the model's generation
/// configuration, as far as the server uses it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SamplingDefaults {
    /// Sampling temperature.
    pub temperature: Option<f64>,
    /// Nucleus size as probability mass.
    pub top_p: Option<f64>,
    /// Nucleus size as a number of tokens.
    pub top_k: Option<i64>,
    /// Smallest probability relative to the likeliest token.
    pub min_p: Option<f64>,
    /// Factor on the logits of tokens that occurred.
    pub repetition_penalty: Option<f64>,
    /// Penalty on tokens that occurred.
    pub presence_penalty: Option<f64>,
    /// Penalty on tokens by how often they occurred.
    pub frequency_penalty: Option<f64>,
}

impl CompletionRequest {
    /// Sampling parameters, normalised and validated. `max_tokens` comes from
    /// [`effective_max_tokens`](crate::effective_max_tokens); `vocab_size` only words the refusal
    /// of impossible token ids.
    ///
    /// # Errors
    /// 400 for values out of range.
    pub fn sampling_params(
        &self,
        max_tokens: i64,
        defaults: &SamplingDefaults,
        vocab_size: usize,
    ) -> Result<SamplingParams> {
        let constraint = combined_constraint(
            self.options.structured_outputs.as_ref(),
            self.options.response_format.as_ref(),
        )?;
        let max_tokens = if self.is_echo_only() { 1 } else { max_tokens };
        let mut params = base_params(&self.options, max_tokens, defaults, vocab_size)?;
        params.logprobs = self.logprobs.filter(|_| params.logprob_token_ids.is_none());
        params.prompt_logprobs = self.prompt_logprobs();
        validated(params, constraint)
    }
}

impl ChatCompletionRequest {
    /// Sampling parameters, normalised and validated; see
    /// [`CompletionRequest::sampling_params`]. A demanded call becomes a constraint to the form
    /// that `parsers` read, constraints leave room for reasoning, and special tokens stay where a
    /// parser needs to see them.
    ///
    /// # Errors
    /// 400 for values out of range.
    pub fn sampling_params(
        &self,
        max_tokens: i64,
        defaults: &SamplingDefaults,
        vocab_size: usize,
        parsers: &OutputParsers,
    ) -> Result<SamplingParams> {
        let asked = combined_constraint(
            self.options.structured_outputs.as_ref(),
            self.options.response_format.as_ref(),
        )?;
        let tools = self.tools.as_deref().unwrap_or_default();
        let (choice, parallel) = (&self.tool_choice, self.parallel_tool_calls);
        let constraint = tool_constraint(choice, tools, parsers, parallel).or(asked);
        let mut params = base_params(&self.options, max_tokens, defaults, vocab_size)?;
        let wants_logprobs = self.logprobs && params.logprob_token_ids.is_none();
        params.logprobs = wants_logprobs.then_some(self.top_logprobs);
        params.prompt_logprobs = self.prompt_logprobs();
        params.skip_special_tokens &= !parsers.need_special_tokens(choice);
        validated(params, constraint.map(|it| parsers.around(it)))
    }
}

impl ResponsesRequest {
    /// Sampling parameters, normalised and validated; see
    /// [`ChatCompletionRequest::sampling_params`].
    ///
    /// # Errors
    /// 400 for values out of range.
    pub fn sampling_params(
        &self,
        max_tokens: i64,
        defaults: &SamplingDefaults,
        vocab_size: usize,
        parsers: &OutputParsers,
    ) -> Result<SamplingParams> {
        let asked = self.options.structured_outputs.as_ref();
        let format = self.text_format.as_ref();
        if asked.is_some() && format.is_some() {
            return Err(ErrorResponse::bad_request(
                "Cannot specify both structured_outputs and text.format",
            ));
        }
        let asked = combined_constraint(asked, format)?;
        let (choice, parallel) = (&self.tool_choice, self.parallel_tool_calls);
        let constraint = tool_constraint(choice, &self.functions, parsers, parallel).or(asked);
        let mut params = base_params(&self.options, max_tokens, defaults, vocab_size)?;
        params.logprobs = self.include_logprobs.then_some(self.top_logprobs);
        params.skip_special_tokens &= !parsers.need_special_tokens(choice);
        validated(params, constraint.map(|it| parsers.around(it)))
    }
}

fn base_params(
    options: &GenerationOptions,
    max_tokens: i64,
    defaults: &SamplingDefaults,
    vocab_size: usize,
) -> Result<SamplingParams> {
    let ids = |name: &'static str, ids: &[i64]| narrow_ids(name, ids, vocab_size);
    let optional_ids = |name: &'static str, given: &Option<Vec<i64>>| {
        given.as_ref().map(|given| ids(name, given)).transpose()
    };
    let logit_bias = options.logit_bias.as_deref().unwrap_or_default();
    Ok(SamplingParams {
        n: options.n,
        presence_penalty: options
            .presence_penalty
            .or(defaults.presence_penalty)
            .unwrap_or(0.0),
        frequency_penalty: options
            .frequency_penalty
            .or(defaults.frequency_penalty)
            .unwrap_or(0.0),
        repetition_penalty: options
            .repetition_penalty
            .or(defaults.repetition_penalty)
            .unwrap_or(1.0),
        temperature: options.temperature.or(defaults.temperature).unwrap_or(1.0),
        top_p: options.top_p.or(defaults.top_p).unwrap_or(1.0),
        top_k: options.top_k.or(defaults.top_k).unwrap_or(0),
        min_p: options.min_p.or(defaults.min_p).unwrap_or(0.0),
        seed: options.seed,
        stop: options.stop.clone(),
        stop_token_ids: ids("stop_token_ids", &options.stop_token_ids)?,
        ignore_eos: options.ignore_eos,
        max_tokens: Some(max_tokens),
        min_tokens: options.min_tokens,
        logprob_token_ids: optional_ids("logprob_token_ids", &options.logprob_token_ids)?,
        skip_special_tokens: options.skip_special_tokens,
        spaces_between_special_tokens: options.spaces_between_special_tokens,
        include_stop_str_in_output: options.include_stop_str_in_output,
        logit_bias: decode_logit_bias(logit_bias, vocab_size)?,
        allowed_token_ids: optional_ids("allowed_token_ids", &options.allowed_token_ids)?,
        bad_words: options.bad_words.clone(),
        repetition_detection: options.repetition_detection,
        output_kind: if options.stream {
            OutputKind::Delta
        } else {
            OutputKind::FinalOnly
        },
        stream_interval: options.stream_interval,
        thinking_token_budget: options.thinking_token_budget,
        ..SamplingParams::default()
    })
}

fn validated(
    mut params: SamplingParams,
    constraint: Option<StructuredOutputs>,
) -> Result<SamplingParams> {
    params.structured_outputs = constraint;
    params.normalize_and_validate()?;
    Ok(params)
}

/// Ids that fit 32 bits; others are out of every vocabulary.
fn narrow_ids(name: &'static str, ids: &[i64], vocab_size: usize) -> Result<Vec<u32>> {
    let narrowed: Result<Vec<u32>, _> = ids.iter().map(|id| u32::try_from(*id)).collect();
    narrowed.map_err(|_| {
        let limit = i64::try_from(vocab_size).unwrap_or(i64::MAX);
        let strangers: Vec<i64> = ids
            .iter()
            .copied()
            .filter(|id| !(0..limit).contains(id))
            .collect();
        out_of_vocabulary(name, &strangers, vocab_size).into()
    })
}

/// Token ids from text keys; the addends are clamped to [-100, 100].
fn decode_logit_bias(bias: &[(String, f64)], vocab_size: usize) -> Result<Vec<(u32, f32)>> {
    let mut ids = Vec::with_capacity(bias.len());
    let mut strangers = Vec::new();
    for (key, _) in bias {
        match key.trim().parse::<i64>() {
            Ok(id) => ids.push(id),
            Err(_) => strangers.push(crate::decode::string_repr(key)),
        }
    }
    if !strangers.is_empty() {
        let message = format!(
            "logit_bias contains key(s) that cannot be converted to integer token IDs: [{}]",
            strangers.join(", ")
        );
        return Err(ErrorResponse::bad_request(&message));
    }
    let ids = narrow_ids("logit_bias", &ids, vocab_size)?;
    let addends = bias
        .iter()
        .map(|(_, addend)| addend.clamp(-100.0, 100.0) as f32);
    Ok(ids.into_iter().zip(addends).collect())
}
