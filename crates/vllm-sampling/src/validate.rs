//! Checks of [`SamplingParams`], in vLLM's order and wording.

use crate::python;
use crate::{Error, ModelLimits, RepetitionDetection, Result, SamplingParams};

/// Most ids in `logprob_token_ids`.
const MAX_LOGPROB_TOKEN_IDS: usize = 128;

/// Most token sequences that `bad_words` may come to.
pub const MAX_BAD_WORDS: usize = 128;

/// The checks that need no model.
pub(crate) fn validate(params: &SamplingParams, max_n: i64) -> Result<()> {
    let p = params;
    if p.n < 1 {
        return invalid(format!("n must be at least 1, got {}.", p.n));
    }
    if p.n > max_n {
        return invalid(format!(
            "n must be at most {max_n}, got {}. To increase this limit, set the \
             VLLM_MAX_N_SEQUENCES environment variable.",
            p.n
        ));
    }
    for (name, penalty) in [
        ("presence_penalty", p.presence_penalty),
        ("frequency_penalty", p.frequency_penalty),
    ] {
        if !(-2.0..=2.0).contains(&penalty) {
            let got = python::float(penalty);
            return invalid(format!("{name} must be in [-2, 2], got {got}."));
        }
    }
    validate_repetition_penalty(p.repetition_penalty)?;
    validate_temperature(p.temperature)?;
    if !(p.top_p > 0.0 && p.top_p <= 1.0) {
        let got = python::float(p.top_p);
        let message = format!("top_p must be in (0, 1], got {got}.");
        return Err(Error::invalid_value("top_p", got, message));
    }
    if p.top_k < -1 {
        return invalid(format!(
            "top_k must be 0 (disable), or at least 1, got {}.",
            p.top_k
        ));
    }
    if !(0.0..=1.0).contains(&p.min_p) {
        return invalid(format!(
            "min_p must be in [0, 1], got {}.",
            python::float(p.min_p)
        ));
    }
    if let Some(max_tokens) = p.max_tokens.filter(|&max_tokens| max_tokens < 1) {
        let message = format!("max_tokens must be at least 1, got {max_tokens}.");
        return Err(Error::invalid_value(
            "max_tokens",
            max_tokens.to_string(),
            message,
        ));
    }
    if p.min_tokens < 0 {
        return invalid(format!(
            "min_tokens must be greater than or equal to 0, got {}.",
            p.min_tokens
        ));
    }
    if let Some(max_tokens) = p.max_tokens.filter(|&max_tokens| p.min_tokens > max_tokens) {
        return invalid(format!(
            "min_tokens must be less than or equal to max_tokens={max_tokens}, got {}.",
            p.min_tokens
        ));
    }
    if let Some(interval) = p.stream_interval.filter(|&interval| interval < 1) {
        return invalid(format!(
            "stream_interval must be at least 1, got {interval}."
        ));
    }
    for (name, count) in [
        ("logprobs", p.logprobs),
        ("prompt_logprobs", p.prompt_logprobs),
    ] {
        if let Some(count) = count.filter(|&count| count < -1) {
            let message = format!("{name} must be non-negative or -1, got {count}.");
            return Err(Error::invalid_value(name, count.to_string(), message));
        }
    }
    validate_stop(p)?;
    if p.bad_words.iter().any(String::is_empty) {
        return invalid(format!(
            "bad_words cannot contain an empty string. Got bad_words={}",
            python::string_list(&p.bad_words)
        ));
    }
    p.repetition_detection
        .as_ref()
        .map_or(Ok(()), validate_repetition_detection)?;
    p.structured_outputs
        .as_ref()
        .map_or(Ok(()), |outputs| outputs.validate())
}

/// The checks that need the vocabulary and the operator's bound on logprobs.
pub(crate) fn validate_for_model(params: &SamplingParams, limits: &ModelLimits) -> Result<()> {
    let vocab_size = limits.vocab_size;
    validate_logprob_count("sample", "logprobs", params.logprobs, limits)?;
    validate_logprob_count("prompt", "prompt_logprobs", params.prompt_logprobs, limits)?;
    if let Some(ids) = &params.logprob_token_ids {
        validate_logprob_token_ids(ids, params.logprobs, vocab_size)?;
    }
    if let Some(ids) = &params.prompt_logprob_token_ids {
        validate_in_vocabulary("prompt_logprob_token_ids", ids.iter().copied(), vocab_size)?;
    }
    validate_in_vocabulary(
        "stop_token_ids",
        params.stop_token_ids.iter().copied(),
        vocab_size,
    )?;
    validate_in_vocabulary(
        "logit_bias",
        params.logit_bias.iter().map(|bias| bias.0),
        vocab_size,
    )?;
    if let Some(ids) = &params.allowed_token_ids {
        let message = if ids.is_empty() {
            "allowed_token_ids is not None and empty!"
        } else if ids.iter().any(|&id| id as usize >= vocab_size) {
            "allowed_token_ids contains out-of-vocab token id!"
        } else {
            return Ok(());
        };
        return Err(Error::invalid_value(
            "allowed_token_ids",
            python::int_list(ids),
            message,
        ));
    }
    Ok(())
}

/// Checks bad words once they are token ids (see [`bad_word_token_ids`](crate::bad_word_token_ids)).
///
/// # Errors
/// [`Error::InvalidParameter`] for a word without tokens, too many words or an id outside of the
/// vocabulary.
pub fn validate_bad_words(bad_words: &[Vec<u32>], vocab_size: usize) -> Result<()> {
    if bad_words.iter().any(Vec::is_empty) {
        return invalid("bad_words entries must tokenize to at least one token.");
    }
    if bad_words.len() > MAX_BAD_WORDS {
        return invalid(format!(
            "Too many bad words after tokenization: {}. The max number is {MAX_BAD_WORDS}.",
            bad_words.len()
        ));
    }
    let outside = bad_words
        .iter()
        .flatten()
        .filter(|&&id| id as usize >= vocab_size);
    let outside: Vec<u32> = outside.copied().collect();
    if outside.is_empty() {
        return Ok(());
    }
    invalid(format!(
        "The model vocabulary size is {vocab_size}, but the following tokens were specified as \
         bad: {}. All token id values should be integers satisfying: 0 <= token_id < \
         {vocab_size}.",
        python::int_list(outside)
    ))
}

/// The error for ids of `parameter` that lie outside of the vocabulary. Public because a service
/// meets ids that do not even fit a `u32`.
pub fn out_of_vocabulary(parameter: &'static str, ids: &[i64], vocab_size: usize) -> Error {
    let ids = python::int_list(ids);
    let message = format!(
        "token_id(s) {ids} in {parameter} contain out-of-vocab token ids. \
         Vocabulary size: {vocab_size}"
    );
    Error::invalid_value(parameter, ids, message)
}

fn validate_repetition_penalty(penalty: f64) -> Result<()> {
    let problem = if !penalty.is_finite() {
        "must be a finite number"
    } else if penalty <= 0.0 {
        "must be greater than zero"
    } else {
        return Ok(());
    };
    invalid(format!(
        "repetition_penalty {problem}, got {}.",
        python::float(penalty)
    ))
}

fn validate_temperature(temperature: f64) -> Result<()> {
    let problem = if !temperature.is_finite() {
        "must be a finite number"
    } else if temperature < 0.0 {
        "must be non-negative"
    } else if temperature > 2.0 {
        "must be in [0, 2]"
    } else {
        return Ok(());
    };
    let got = python::float(temperature);
    let message = format!("temperature {problem}, got {got}.");
    Err(Error::invalid_value("temperature", got, message))
}

fn validate_stop(params: &SamplingParams) -> Result<()> {
    if params.stop.iter().any(String::is_empty) {
        return invalid("stop cannot contain an empty string.");
    }
    if !params.stop.is_empty() && !params.detokenize {
        return invalid(
            "stop strings are only supported when detokenize is True. \
             Set detokenize=True to use stop.",
        );
    }
    Ok(())
}

fn validate_repetition_detection(detection: &RepetitionDetection) -> Result<()> {
    let RepetitionDetection {
        max_pattern_size,
        min_pattern_size,
        min_count,
    } = *detection;
    if min_pattern_size < 0 || max_pattern_size < 0 || min_pattern_size > max_pattern_size {
        return invalid(
            "max_pattern_size, min_pattern_size must be >=0, with min_pattern_size <= \
             max_pattern_size. Set both to 0 to disable repetitive pattern detection.",
        );
    }
    if max_pattern_size > 0 && min_count < 2 {
        return invalid(
            "min_count must be >= 2 to detect repetitive patterns in engine output. If you do \
             not wish to detect repetitive patterns, set max_pattern_size to 0.",
        );
    }
    Ok(())
}

fn validate_logprob_count(
    kind: &str,
    parameter: &'static str,
    count: Option<i64>,
    limits: &ModelLimits,
) -> Result<()> {
    let vocab_size = i64::try_from(limits.vocab_size).unwrap_or(i64::MAX);
    let resolve = |count: i64| if count == -1 { vocab_size } else { count };
    let Some(requested) = count.map(resolve) else {
        return Ok(());
    };
    let allowed = resolve(limits.max_logprobs);
    if requested <= allowed {
        return Ok(());
    }
    let message = format!(
        "Requested {kind} logprobs of {requested}, which is greater than max allowed: {allowed}"
    );
    Err(Error::invalid_value(
        parameter,
        requested.to_string(),
        message,
    ))
}

fn validate_logprob_token_ids(ids: &[u32], logprobs: Option<i64>, vocab_size: usize) -> Result<()> {
    const NAME: &str = "logprob_token_ids";
    if ids.len() > MAX_LOGPROB_TOKEN_IDS {
        let message = format!(
            "Requested logprob_token_ids of length {}, which is greater than max allowed: \
             {MAX_LOGPROB_TOKEN_IDS}",
            ids.len()
        );
        return Err(Error::invalid_value(NAME, ids.len().to_string(), message));
    }
    validate_in_vocabulary(NAME, ids.iter().copied(), vocab_size)?;
    match logprobs {
        Some(logprobs) if usize::try_from(logprobs) != Ok(ids.len()) => {
            let message = format!(
                "When both logprobs and logprob_token_ids are set, logprobs must equal \
                 len(logprob_token_ids). Got logprobs={logprobs}, len(logprob_token_ids)={}.",
                ids.len()
            );
            Err(Error::invalid_value(
                "logprobs",
                logprobs.to_string(),
                message,
            ))
        }
        _ => Ok(()),
    }
}

fn validate_in_vocabulary(
    parameter: &'static str,
    ids: impl Iterator<Item = u32>,
    vocab_size: usize,
) -> Result<()> {
    let outside: Vec<i64> = ids
        .filter(|&id| id as usize >= vocab_size)
        .map(i64::from)
        .collect();
    if outside.is_empty() {
        Ok(())
    } else {
        Err(out_of_vocabulary(parameter, &outside, vocab_size))
    }
}

fn invalid(message: impl Into<String>) -> Result<()> {
    Err(Error::invalid(message))
}

#[cfg(test)]
mod tests;
