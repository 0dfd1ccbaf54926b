//! [`SamplingParams`]: how the tokens of one request are chosen and when it stops.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::LazyLock;

use crate::{Error, Result, StructuredOutputs};

/// The largest `n` accepted unless the operator raises `VLLM_MAX_N_SEQUENCES`.
pub const DEFAULT_MAX_N: i64 = 16_384;

/// The largest `n` that this process accepts, read from its environment once.
fn max_n() -> i64 {
    static MAX_N: LazyLock<i64> = LazyLock::new(|| {
        let raised = std::env::var("VLLM_MAX_N_SEQUENCES").ok();
        let raised = raised.and_then(|value| value.trim().parse().ok());
        raised.filter(|&count| count > 0).unwrap_or(DEFAULT_MAX_N)
    });
    *MAX_N
}

/// Temperatures above zero are raised to this value, below which the division loses meaning.
const MIN_TEMPERATURE: f64 = 0.01;

/// Temperatures below this value mean greedy decoding.
const GREEDY_TEMPERATURE: f64 = 1e-5;

/// How one request is sampled. [`Default`] gives vLLM's defaults.
///
/// Numbers keep the width in which a caller can get them wrong (signed integers, `f64`), so that
/// [`normalize_and_validate`](Self::normalize_and_validate) can refuse them in the caller's own
/// terms. Call it once before use; the samplers expect normalised parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Number of sequences generated for the prompt, 1 to 16,384 or `VLLM_MAX_N_SEQUENCES`.
    pub n: i64,
    /// Subtracted once from every token already generated, in `[-2, 2]`.
    pub presence_penalty: f64,
    /// Subtracted from every generated token times its count, in `[-2, 2]`.
    pub frequency_penalty: f64,
    /// Divides positive and multiplies negative logits of tokens of the prompt or the output;
    /// above zero, 1 is off.
    pub repetition_penalty: f64,
    /// Divides the logits before the draw, in `[0, 2]`; 0 is greedy.
    pub temperature: f64,
    /// Probability mass of the nucleus that is kept, in `(0, 1]`; 1 is off.
    pub top_p: f64,
    /// Number of most probable tokens kept; 0 or -1 is off.
    pub top_k: i64,
    /// Tokens less probable than this share of the most probable one are dropped, in `[0, 1]`.
    pub min_p: f64,
    /// Seed of the request; `None` or -1 leaves the choice to the engine.
    pub seed: Option<i64>,
    /// Strings that end the generation when they appear in the text.
    pub stop: Vec<String>,
    /// Token ids that end the generation.
    pub stop_token_ids: Vec<u32>,
    /// Goes on after the model's end-of-sequence tokens.
    pub ignore_eos: bool,
    /// Most tokens to generate; `None` is as many as the model's context allows.
    pub max_tokens: Option<i64>,
    /// Stop tokens are masked and stop strings ignored until this many tokens exist.
    pub min_tokens: i64,
    /// Number of most probable tokens to report per generated token: 0 reports the sampled one
    /// alone, -1 the whole vocabulary.
    pub logprobs: Option<i64>,
    /// As `logprobs`, for the tokens of the prompt.
    pub prompt_logprobs: Option<i64>,
    /// Reports exactly these ids per generated token instead of the most probable ones.
    pub logprob_token_ids: Option<Vec<u32>>,
    /// Reports the logprobs of these ids at the positions of the prompt.
    pub prompt_logprob_token_ids: Option<Vec<u32>>,
    /// First position of the prompt to report logprobs for.
    pub prompt_logprob_start: Option<usize>,
    /// Produces text; `false` leaves the output as token ids.
    pub detokenize: bool,
    /// Leaves special tokens out of the text.
    pub skip_special_tokens: bool,
    /// Puts spaces between special tokens that are kept in the text.
    pub spaces_between_special_tokens: bool,
    /// Keeps the stop string, or the text of the stop token, at the end of the text.
    pub include_stop_str_in_output: bool,
    /// Added to the logits of these token ids.
    pub logit_bias: Vec<(u32, f32)>,
    /// The only token ids that may be generated.
    pub allowed_token_ids: Option<Vec<u32>>,
    /// Strings that must not be generated.
    pub bad_words: Vec<String>,
    /// Ends the generation when its tail repeats.
    pub repetition_detection: Option<RepetitionDetection>,
    /// Computes the whole prompt instead of reading the prefix cache; `None` is resolved to
    /// "logprobs of the prompt were asked for".
    pub skip_reading_prefix_cache: Option<bool>,
    /// Which part of the output each message carries.
    pub output_kind: OutputKind,
    /// Tokens per streamed message; the engine's own interval is the lower bound.
    pub stream_interval: Option<i64>,
    /// The form the text must have.
    pub structured_outputs: Option<StructuredOutputs>,
    /// Most tokens of reasoning; `None` or -1 is unlimited.
    pub thinking_token_budget: Option<i64>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            n: 1,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            seed: None,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            ignore_eos: false,
            max_tokens: Some(16),
            min_tokens: 0,
            logprobs: None,
            prompt_logprobs: None,
            logprob_token_ids: None,
            prompt_logprob_token_ids: None,
            prompt_logprob_start: None,
            detokenize: true,
            skip_special_tokens: true,
            spaces_between_special_tokens: true,
            include_stop_str_in_output: false,
            logit_bias: Vec::new(),
            allowed_token_ids: None,
            bad_words: Vec::new(),
            repetition_detection: None,
            skip_reading_prefix_cache: None,
            output_kind: OutputKind::Cumulative,
            stream_interval: None,
            structured_outputs: None,
            thinking_token_budget: None,
        }
    }
}

/// Which part of the output each message of a request carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutputKind {
    /// Everything generated so far.
    #[default]
    Cumulative,
    /// What was generated since the last message.
    Delta,
    /// One message at the end.
    FinalOnly,
}

/// Ends a generation whose last `L * min_count` tokens are `min_count` copies of `L` tokens, for
/// any `L` between the two sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepetitionDetection {
    /// Longest pattern looked for, in tokens; 0 is off.
    pub max_pattern_size: i64,
    /// Shortest pattern looked for, in tokens.
    pub min_pattern_size: i64,
    /// Copies that end the generation, at least 2.
    pub min_count: i64,
}

/// What of a model bounds the sampling parameters of its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelLimits {
    /// Number of token ids.
    pub vocab_size: usize,
    /// Most logprobs per token; -1 is no bound.
    pub max_logprobs: i64,
}

impl SamplingParams {
    /// Deterministic decoding: the most probable token each time.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            ..Self::default()
        }
    }

    /// Whether the most probable token is taken without a draw.
    pub fn is_greedy(&self) -> bool {
        self.temperature < GREEDY_TEMPERATURE
    }

    /// Whether logprobs are reported for the generated tokens.
    pub fn wants_logprobs(&self) -> bool {
        self.logprobs.is_some() || self.logprob_token_ids.is_some()
    }

    /// Whether logprobs are reported for the tokens of the prompt.
    pub fn wants_prompt_logprobs(&self) -> bool {
        self.prompt_logprobs.is_some() || self.prompt_logprob_token_ids.is_some()
    }

    /// Characters (code points) withheld from the text of an unfinished sequence, because a stop
    /// string may begin in them.
    pub fn num_held_back_chars(&self) -> usize {
        if self.include_stop_str_in_output {
            return 0;
        }
        let longest = self.stop.iter().map(|stop| stop.chars().count()).max();
        longest.map_or(0, |chars| chars.saturating_sub(1))
    }

    /// Brings the parameters into their normal form and checks what can be checked without a
    /// model. Idempotent.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] with vLLM's wording.
    pub fn normalize_and_validate(&mut self) -> Result<()> {
        self.normalize_and_validate_within(max_n())
    }

    /// As [`normalize_and_validate`](Self::normalize_and_validate) with another bound on `n`.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] with vLLM's wording.
    pub fn normalize_and_validate_within(&mut self, max_n: i64) -> Result<()> {
        if 0.0 < self.temperature && self.temperature < MIN_TEMPERATURE {
            tracing::warn!(
                "temperature {} is too small to divide by and was raised to {MIN_TEMPERATURE}",
                self.temperature
            );
            self.temperature = MIN_TEMPERATURE;
        }
        self.seed = self.seed.filter(|&seed| seed != -1);
        if self.thinking_token_budget.is_some_and(|budget| budget < -1) {
            return Err(Error::invalid(
                "`thinking_token_budget` must be a non-negative integer or -1 for unlimited.",
            ));
        }
        self.thinking_token_budget = self.thinking_token_budget.filter(|&budget| budget != -1);
        remove_duplicates(&mut self.stop_token_ids);
        remove_duplicates(&mut self.bad_words);

        crate::validate::validate(self, max_n)?;

        if self.is_greedy() {
            self.top_p = 1.0;
            self.top_k = 0;
            self.min_p = 0.0;
            if self.n > 1 {
                let message = format!("n must be 1 when using greedy sampling, got {}.", self.n);
                return Err(Error::invalid(message));
            }
        }
        let wants_prompt_logprobs = self.wants_prompt_logprobs();
        self.skip_reading_prefix_cache
            .get_or_insert(wants_prompt_logprobs);
        Ok(())
    }

    /// Checks what depends on the model, after normalisation. Bad words are checked once they are
    /// token ids, by [`validate_bad_words`](crate::validate_bad_words).
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] with vLLM's wording.
    pub fn validate_for_model(&self, limits: &ModelLimits) -> Result<()> {
        crate::validate::validate_for_model(self, limits)
    }
}

/// Keeps the first of equal values, in order.
fn remove_duplicates<T: Clone + Eq + Hash>(values: &mut Vec<T>) {
    if values.len() > 1 {
        let mut seen = HashSet::with_capacity(values.len());
        values.retain(|value| seen.insert(value.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalized(mut params: SamplingParams) -> SamplingParams {
        params.normalize_and_validate().expect("valid parameters");
        let once = params.clone();
        params
            .normalize_and_validate()
            .expect("normal form is valid");
        assert_eq!(params, once, "normalising twice changes nothing");
        params
    }

    #[test]
    fn parameters_are_brought_into_normal_form() {
        let params = normalized(SamplingParams {
            temperature: 0.001,
            seed: Some(-1),
            thinking_token_budget: Some(-1),
            stop_token_ids: vec![3, 1, 3],
            bad_words: vec!["b".into(), "a".into(), "b".into()],
            ..SamplingParams::default()
        });
        let expected = SamplingParams {
            temperature: 0.01,
            seed: None,
            thinking_token_budget: None,
            stop_token_ids: vec![3, 1],
            bad_words: vec!["b".into(), "a".into()],
            skip_reading_prefix_cache: Some(false),
            ..SamplingParams::default()
        };
        assert_eq!(params, expected);
    }

    #[test]
    fn greedy_decoding_restricts_nothing() {
        let params = SamplingParams {
            top_p: 0.5,
            top_k: 9,
            min_p: 0.5,
            ..SamplingParams::greedy()
        };
        let params = normalized(params);
        assert!(params.is_greedy());
        assert_eq!((params.top_p, params.top_k, params.min_p), (1.0, 0, 0.0));
        let smallest = SamplingParams {
            temperature: 1e-9,
            ..SamplingParams::default()
        };
        assert!(!normalized(smallest).is_greedy());
    }

    #[test]
    fn prompt_logprobs_bypass_the_prefix_cache_unless_told_otherwise() {
        let check = |params: SamplingParams, expected| {
            assert_eq!(normalized(params).skip_reading_prefix_cache, Some(expected));
        };
        let default = SamplingParams::default;
        check(
            SamplingParams {
                prompt_logprobs: Some(0),
                ..default()
            },
            true,
        );
        check(
            SamplingParams {
                prompt_logprob_token_ids: Some(vec![1]),
                ..default()
            },
            true,
        );
        check(
            SamplingParams {
                logprobs: Some(1),
                ..default()
            },
            false,
        );
        let told = SamplingParams {
            prompt_logprobs: Some(1),
            skip_reading_prefix_cache: Some(false),
            ..default()
        };
        check(told, false);
    }

    #[test]
    fn held_back_text_is_one_short_of_the_longest_stop_string() {
        let check = |stop: &[&str], include_stop_str_in_output, expected| {
            let stop = stop.iter().map(|stop| (*stop).to_owned()).collect();
            let params = SamplingParams {
                stop,
                include_stop_str_in_output,
                ..SamplingParams::default()
            };
            assert_eq!(params.num_held_back_chars(), expected);
        };
        check(&[], false, 0);
        check(&["a", "\u{e9}\u{e9}\u{e9}"], false, 2);
        check(&["abc"], true, 0);
    }
}
