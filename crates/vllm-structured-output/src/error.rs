//! The one error type of this crate.

/// What can go wrong when a constraint is compiled or followed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model has no token that could end a constrained text.
    #[error(
        "structured outputs need a token that ends the text, but none of the end-of-sequence ids \
         lies within the vocabulary of {vocab_size} tokens; set eos_token_id in config.json or \
         generation_config.json"
    )]
    NoStopToken {
        /// Number of rows of the model's output.
        vocab_size: usize,
    },
    /// The parameters contradict each other; the message is the one of their own check.
    #[error(transparent)]
    Parameters(#[from] vllm_sampling::Error),
    /// A JSON schema is not JSON.
    #[error("Invalid JSON grammar specification.")]
    InvalidJson,
    /// A structural tag is not understood.
    #[error("Invalid structural tag specification: {0}")]
    StructuralTag(String),
    /// A regular expression cannot be compiled, or is too large to be.
    #[error("Failed to transform regex into a grammar: {0}")]
    Regex(String),
    /// A JSON schema cannot be compiled, or is too large to be.
    #[error("Failed to transform json schema into a grammar: {0}")]
    JsonSchema(String),
    /// A grammar or a choice cannot be compiled, or is too large to be.
    #[error("Grammar error: {0}")]
    Grammar(String),
    /// A token was sampled that the constraint does not allow.
    #[error("token {token_id} cannot continue the text under its structured output constraint")]
    Rejected {
        /// The token.
        token_id: u32,
    },
    /// The state of a constraint has outgrown its limits, or the vocabulary cannot spell what the
    /// constraint demands.
    #[error("cannot tell which tokens the structured output constraint allows: {0}")]
    Mask(String),
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Longest message of the grammar engine that is passed on; it may quote the whole constraint.
const MAX_MESSAGE_CHARS: usize = 2_000;

/// The grammar engine's message, without its marks for left-out state.
pub(crate) fn message(error: impl ToString) -> String {
    let text = error.to_string();
    let end = ["\n<non-verbose/>", "\n<backtrace>"]
        .iter()
        .filter_map(|mark| text.find(mark))
        .min();
    let text = text[..end.unwrap_or(text.len())].trim_end();
    if text == "NoExtensionBias" {
        return "no token of the vocabulary can continue the text".to_owned();
    }
    if let Some(reason) = text.strip_prefix("panic: ") {
        return format!("the grammar engine does not support this constraint ({reason})");
    }
    match text.char_indices().nth(MAX_MESSAGE_CHARS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_fit_for_clients() {
        let check = |text: &str, expected: &str| assert_eq!(message(text), expected);
        check("no rule\n<non-verbose/>", "no rule");
        check(
            "NoExtensionBias\n<non-verbose/>",
            "no token of the vocabulary can continue the text",
        );
        check(
            "panic: overflow\n<backtrace>\n0: main",
            "the grammar engine does not support this constraint (overflow)",
        );
        assert_eq!(
            message("é".repeat(9_000)).chars().count(),
            MAX_MESSAGE_CHARS + 1
        );
    }
}
