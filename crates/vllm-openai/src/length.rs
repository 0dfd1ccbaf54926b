//! How long prompts and answers may be.

use crate::error::{ErrorResponse, Result};

/// What bounds the length of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LengthLimits {
    /// Tokens of prompt and answer together.
    pub max_model_len: usize,
    /// Answer length when the request names none.
    pub default_max_tokens: Option<i64>,
    /// Answer length that no request may exceed.
    pub max_tokens_cap: Option<i64>,
}

/// Refuses a request for more output than the context holds. `field` is the name of the request
/// field. Runs before tokenizing.
///
/// # Errors
/// 400 that names `field`.
pub fn check_requested_tokens(
    requested: Option<i64>,
    field: &str,
    max_model_len: usize,
) -> Result<()> {
    match requested {
        Some(tokens) if i64::try_from(max_model_len).is_ok_and(|limit| tokens > limit) => {
            let message = format!(
                "{field}={tokens} cannot be greater than max_model_len={max_model_len}. Please \
                 request fewer output tokens."
            );
            Err(ErrorResponse::invalid_value(
                &message,
                field,
                &tokens.to_string(),
            ))
        }
        _ => Ok(()),
    }
}

/// Refuses a truncation that keeps more than the context holds.
///
/// # Errors
/// 400 with vLLM's wording.
pub fn check_truncation(truncate_prompt_tokens: Option<i64>, max_model_len: usize) -> Result<()> {
    match truncate_prompt_tokens {
        Some(tokens) if i64::try_from(max_model_len).is_ok_and(|limit| tokens > limit) => {
            let message = format!(
                "truncate_prompt_tokens={tokens} cannot be greater than max_model_len = \
                 {max_model_len}. Please request a smaller truncation size."
            );
            let value = tokens.to_string();
            Err(ErrorResponse::invalid_value(
                &message,
                "truncate_prompt_tokens",
                &value,
            ))
        }
        _ => Ok(()),
    }
}

/// How many prompt tokens a truncating request keeps: what it says, or with -1 as many as leave
/// room for one token of output (if there is to be any).
pub fn truncated_length(
    truncate_prompt_tokens: Option<i64>,
    requested: Option<i64>,
    max_model_len: usize,
) -> Option<usize> {
    match truncate_prompt_tokens? {
        -1 => {
            let reserved = usize::from(requested.is_some_and(|tokens| tokens > 0));
            Some(max_model_len.saturating_sub(reserved))
        }
        tokens => usize::try_from(tokens).ok(),
    }
}

/// Refuses a text that cannot fit however well it is tokenized. Runs before tokenizing and not
/// for requests that truncate.
///
/// # Errors
/// 400 when the text has more characters than `max_model_len` longest tokens.
pub fn check_text_length(
    text: &str,
    max_chars_per_token: usize,
    max_model_len: usize,
) -> Result<()> {
    let limit = max_model_len.saturating_mul(max_chars_per_token);
    if text.len() <= limit {
        return Ok(());
    }
    let characters = text.chars().count();
    if characters <= limit {
        return Ok(());
    }
    let message = format!(
        "This model's maximum context length is {max_model_len} tokens. However, your prompt \
         contains {characters} characters (more than {limit} characters, which is the upper bound \
         for {max_model_len} input tokens). Please reduce the length of the input prompt."
    );
    Err(ErrorResponse::invalid_value(
        &message,
        "input_text",
        &characters.to_string(),
    ))
}

/// Refuses a prompt longer than the context. Text is tokenized up to one token more than fits, so
/// a longer text is reported with that length and the words "at least".
///
/// # Errors
/// 400 with the counted length.
pub fn check_prompt_length(prompt_tokens: usize, max_model_len: usize) -> Result<()> {
    if prompt_tokens <= max_model_len {
        return Ok(());
    }
    let at_least = if prompt_tokens == max_model_len + 1 {
        "at least "
    } else {
        ""
    };
    let message = format!(
        "This model's maximum context length is {max_model_len} tokens. However, your prompt \
         contains {at_least}{prompt_tokens} input tokens, which exceeds this limit even without \
         any output tokens. Please reduce the length of the input prompt."
    );
    Err(ErrorResponse::invalid_value(
        &message,
        "input_tokens",
        &prompt_tokens.to_string(),
    ))
}

/// How many tokens may be generated: the request's or the default number, clamped to what the
/// context leaves and to the server's cap. Zero and less are left for
/// [`SamplingParams::normalize_and_validate`](vllm_sampling::SamplingParams::normalize_and_validate)
/// to refuse.
pub fn effective_max_tokens(
    requested: Option<i64>,
    prompt_tokens: usize,
    limits: LengthLimits,
) -> i64 {
    let left = limits.max_model_len.saturating_sub(prompt_tokens);
    let bounds = [
        requested.or(limits.default_max_tokens),
        limits.max_tokens_cap,
    ];
    let left = i64::try_from(left).unwrap_or(i64::MAX);
    bounds.into_iter().flatten().fold(left, i64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_clamped_to_what_is_left() {
        let limits = |default_max_tokens, max_tokens_cap| LengthLimits {
            max_model_len: 100,
            default_max_tokens,
            max_tokens_cap,
        };
        let check = |requested, prompt, limits, expected| {
            assert_eq!(effective_max_tokens(requested, prompt, limits), expected);
        };
        check(None, 10, limits(None, None), 90);
        check(Some(16), 10, limits(None, None), 16);
        check(Some(95), 10, limits(None, None), 90);
        check(None, 10, limits(Some(20), None), 20);
        check(Some(30), 10, limits(Some(20), None), 30);
        check(Some(30), 10, limits(Some(20), Some(25)), 25);
        check(Some(5), 100, limits(None, None), 0);
        check(Some(-3), 10, limits(None, None), -3);
    }

    #[test]
    fn lengths_beyond_the_context_are_refused() {
        let message = |outcome: Result<()>| outcome.err().map(|error| error.message);
        assert_eq!(message(check_prompt_length(100, 100)), None);
        assert!(message(check_prompt_length(101, 100)).is_some_and(|m| m.contains("at least 101")));
        assert!(message(check_prompt_length(120, 100)).is_some_and(|m| m.contains("contains 120")));
        assert_eq!(message(check_text_length("ééé", 3, 1)), None);
        assert_eq!(
            message(check_text_length("éééé", 3, 1)).as_deref(),
            Some(
                "This model's maximum context length is 1 tokens. However, your prompt contains 4 \
                 characters (more than 3 characters, which is the upper bound for 1 input tokens). \
                 Please reduce the length of the input prompt. (parameter=input_text, value=4)"
            )
        );
        assert_eq!(
            message(check_truncation(Some(600), 512)).as_deref(),
            Some(
                "truncate_prompt_tokens=600 cannot be greater than max_model_len = 512. Please \
                 request a smaller truncation size. (parameter=truncate_prompt_tokens, value=600)"
            )
        );
    }

    #[test]
    fn truncation_leaves_room_for_output() {
        assert_eq!(truncated_length(None, Some(8), 100), None);
        assert_eq!(truncated_length(Some(-1), Some(8), 100), Some(99));
        assert_eq!(truncated_length(Some(-1), None, 100), Some(100));
        assert_eq!(truncated_length(Some(7), Some(8), 100), Some(7));
    }
}
