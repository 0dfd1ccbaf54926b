//! From a request to scheduler sequences: every check that needs the model or its tokenizer.

use vllm_sampling::{
    ModelLimits, SamplerContext, SamplingParams, SequenceSampler, StructuredOutputs,
    bad_word_token_ids, validate_bad_words,
};
use vllm_scheduler::{NewRequest, RequestId};
use vllm_structured_output::{Grammar, GrammarCompiler};
use vllm_tokenizer::Tokenizer;

use crate::client::{GenerationRequest, ModelInfo};
use crate::error::{Error, Result};
use crate::submission::SequenceSubmission;

/// The token ids that end a request, split as the stop checks need them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StopIds {
    /// The tokenizer's own end of sequence, unless ignored.
    pub(crate) eos: Option<u32>,
    /// The caller's ids and the model's further end-of-sequence ids.
    pub(crate) stop: Vec<u32>,
    /// Everything that `min_tokens` must suppress.
    pub(crate) suppressed: Vec<u32>,
}

/// Applies the end-of-sequence rules: those of `generation_config.json` other than the
/// tokenizer's own act as stop ids; `ignore_eos` switches off both but not the caller's.
pub(crate) fn effective_stop_ids(
    params: &SamplingParams,
    info: &ModelInfo,
    tokenizer: &Tokenizer,
) -> StopIds {
    let primary = tokenizer.eos_token_id();
    let further = &info.default_sampling.eos_token_ids;
    let mut stop = params.stop_token_ids.clone();
    if !params.ignore_eos {
        stop.extend(further.iter().filter(|id| Some(**id) != primary));
    }
    let mut suppressed = params.stop_token_ids.clone();
    suppressed.extend(primary);
    suppressed.extend(further);
    for ids in [&mut stop, &mut suppressed] {
        ids.sort_unstable();
        ids.dedup();
    }
    StopIds {
        eos: primary.filter(|_| !params.ignore_eos),
        stop,
        suppressed,
    }
}

/// What turns requests into sequences of one engine.
pub(crate) struct Admission<'a> {
    pub(crate) info: &'a ModelInfo,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) stop_ids: &'a StopIds,
    /// Id of the first sample; the others follow.
    pub(crate) first_id: RequestId,
    pub(crate) engine_seed: u64,
}

/// Checks the request and makes one sequence per sample. Normalises the request's parameters in
/// place and fills in `max_tokens`. `compile` is asked only for constrained requests.
pub(crate) fn admit(
    request: &mut GenerationRequest,
    admission: &Admission<'_>,
    compile: impl FnOnce(&StructuredOutputs) -> Result<Grammar>,
) -> Result<Vec<SequenceSubmission>> {
    let Admission {
        info,
        tokenizer,
        stop_ids,
        first_id,
        engine_seed,
    } = *admission;
    let params = &mut request.params;
    params.normalize_and_validate().map_err(invalid)?;
    let limits = ModelLimits {
        vocab_size: info.vocab_size,
        max_logprobs: info.max_logprobs,
    };
    params.validate_for_model(&limits).map_err(invalid)?;
    check_prompt(&request.prompt_token_ids, info, tokenizer)?;
    let room = info.max_model_len - request.prompt_token_ids.len();
    let max_tokens = count(*params.max_tokens.get_or_insert(room as i64));
    let bad_words_token_ids = banned_sequences(&params.bad_words, info, tokenizer)?;

    let grammar = request
        .params
        .structured_outputs
        .as_ref()
        .map(compile)
        .transpose()?;

    let params = &request.params;
    let prompt = &request.prompt_token_ids;
    let sequences = (0..count(params.n)).map(|index| {
        let id = first_id + index as u64;
        let sampler = SequenceSampler::new(
            params,
            SamplerContext {
                vocab_size: info.vocab_size,
                prompt_token_ids: prompt,
                stop_token_ids_for_min_tokens: &stop_ids.suppressed,
                bad_words_token_ids: bad_words_token_ids.clone(),
                fallback_seed: mix(engine_seed, id),
                sample_index: index,
            },
        );
        SequenceSubmission {
            request: NewRequest {
                id,
                prompt_token_ids: prompt.clone(),
                max_tokens,
                min_tokens: count(params.min_tokens),
                eos_token_id: stop_ids.eos,
                stop_token_ids: stop_ids.stop.clone(),
                repetition_detection: params.repetition_detection.map(|detection| {
                    vllm_scheduler::RepetitionDetection {
                        max_pattern_size: count(detection.max_pattern_size),
                        min_pattern_size: count(detection.min_pattern_size),
                        min_count: count(detection.min_count),
                    }
                }),
                priority: request.priority,
                cache_salt: request.cache_salt.clone(),
                lora: None,
                skip_reading_prefix_cache: params.skip_reading_prefix_cache.unwrap_or(false),
            },
            sampler,
            grammar: grammar.clone(),
            prompt_logprobs: params.prompt_logprobs.filter(|_| index == 0),
        }
    });
    Ok(sequences.collect())
}

/// A validated count; the wire's negative numbers have been refused by then.
pub(crate) fn count(value: i64) -> usize {
    usize::try_from(value).unwrap_or(0)
}

/// Compiles a request's constraint.
///
/// # Errors
/// A sentence for the client about what is wrong with the constraint.
pub(crate) fn compile_grammar(
    compiler: &GrammarCompiler,
    params: &StructuredOutputs,
) -> Result<Grammar> {
    compiler.compile(params).map_err(|error| match error {
        vllm_structured_output::Error::Parameters(error) => invalid(error),
        other => Error::invalid(other.to_string()),
    })
}

fn invalid(error: vllm_sampling::Error) -> Error {
    match error {
        vllm_sampling::Error::InvalidParameter {
            message,
            parameter,
            value,
        } => Error::InvalidRequest {
            message,
            parameter: parameter.map(str::to_owned),
            value,
        },
        other => Error::invalid(other.to_string()),
    }
}

fn check_prompt(prompt: &[u32], info: &ModelInfo, tokenizer: &Tokenizer) -> Result<()> {
    let max_len = info.max_model_len;
    let len = prompt.len();
    if len == 0 {
        return Err(Error::invalid("The decoder prompt cannot be empty"));
    }
    let last_id = tokenizer
        .max_token_id()
        .max(info.vocab_size.saturating_sub(1) as u32);
    if let Some(id) = prompt.iter().find(|id| **id > last_id) {
        return Err(Error::invalid(format!(
            "Token id {id} is out of vocabulary"
        )));
    }
    const HINT: &str = "Make sure that `max_model_len` is no smaller than the number of text \
                        tokens (prompt + requested output tokens).";
    if len > max_len {
        return Err(Error::invalid(format!(
            "The decoder prompt (length {len}) is longer than the maximum model length of \
             {max_len}. {HINT}"
        )));
    }
    if len == max_len {
        return Err(Error::invalid(format!(
            "The decoder prompt (length {len}) plus the number of requested output tokens (at \
             least 1) is longer than the maximum model length of {max_len}. {HINT}"
        )));
    }
    Ok(())
}

/// Token sequences of the banned words, each with and without a space in front.
fn banned_sequences(
    words: &[String],
    info: &ModelInfo,
    tokenizer: &Tokenizer,
) -> Result<Vec<Vec<u32>>> {
    let encode = |text: &str| tokenizer.encode(text, false);
    let banned =
        bad_word_token_ids(words, encode).map_err(|error| Error::invalid(error.to_string()))?;
    validate_bad_words(&banned, info.vocab_size).map_err(invalid)?;
    Ok(banned)
}

/// Spreads a sequence's id over the seed (the splitmix64 finaliser).
fn mix(seed: u64, id: u64) -> u64 {
    let mut z = seed.wrapping_add(id.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
