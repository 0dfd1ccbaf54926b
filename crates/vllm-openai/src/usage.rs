//! Token counts.

use serde::Serialize;

/// Token counts of a request, as non-streaming answers show them (nulls included).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Tokens of all prompts.
    pub prompt_tokens: usize,
    /// Sum of prompt and completion tokens.
    pub total_tokens: usize,
    /// Tokens generated for all choices, terminating tokens included.
    pub completion_tokens: usize,
    /// How much of the prompt came from the prefix cache; only when the server tells.
    pub prompt_tokens_details: Option<PromptTokensDetails>,
    /// How much of the completion was reasoning; only with a reasoning parser.
    pub completion_tokens_details: Option<CompletionTokensDetails>,
}

/// Where prompt tokens came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PromptTokensDetails {
    /// Tokens found in the prefix cache.
    pub cached_tokens: usize,
    /// Not counted; always null.
    pub created_cache_tokens: Option<usize>,
    /// Not counted; always null.
    pub multimodal_tokens: Option<usize>,
}

/// What completion tokens were spent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CompletionTokensDetails {
    /// Tokens of the reasoning part.
    pub reasoning_tokens: usize,
}

impl Usage {
    /// Counts without details.
    pub fn new(prompt_tokens: usize, completion_tokens: usize) -> Self {
        Self {
            prompt_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            completion_tokens,
            ..Self::default()
        }
    }

    /// Adds the number of cached prompt tokens.
    pub fn with_cached_tokens(mut self, cached_tokens: usize) -> Self {
        self.prompt_tokens_details = Some(PromptTokensDetails {
            cached_tokens,
            created_cache_tokens: None,
            multimodal_tokens: None,
        });
        self
    }

    /// Adds the number of tokens that were reasoning, where that is known.
    pub(crate) fn with_reasoning_tokens(mut self, reasoning_tokens: Option<usize>) -> Self {
        self.completion_tokens_details =
            reasoning_tokens.map(|reasoning_tokens| CompletionTokensDetails { reasoning_tokens });
        self
    }
}

/// Counts as a stream shows them: absent members are left out.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct StreamUsage {
    prompt_tokens: usize,
    total_tokens: usize,
    completion_tokens: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_tokens_details: Option<StreamPromptDetails>,
    /// Running counts of chat streams show this member as null: `Some(None)`.
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_tokens_details: Option<Option<CompletionTokensDetails>>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct StreamPromptDetails {
    cached_tokens: usize,
}

impl StreamUsage {
    /// Counts so far, for a chunk of a stream with continuous usage.
    pub(crate) fn running(prompt_tokens: usize, completion_tokens: usize) -> Self {
        Self {
            prompt_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            completion_tokens,
            prompt_tokens_details: None,
            completion_tokens_details: None,
        }
    }

    /// Counts so far, with the empty detail that chat streams show.
    pub(crate) fn running_chat(prompt_tokens: usize, completion_tokens: usize) -> Self {
        Self {
            completion_tokens_details: Some(None),
            ..Self::running(prompt_tokens, completion_tokens)
        }
    }

    /// Final counts, for the usage chunk.
    pub(crate) fn last(usage: &Usage) -> Self {
        Self {
            prompt_tokens_details: usage
                .prompt_tokens_details
                .map(|details| StreamPromptDetails {
                    cached_tokens: details.cached_tokens,
                }),
            completion_tokens_details: usage.completion_tokens_details.map(Some),
            ..Self::running(usage.prompt_tokens, usage.completion_tokens)
        }
    }
}
