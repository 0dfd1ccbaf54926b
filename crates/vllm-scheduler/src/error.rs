//! Why a configuration, a request or a recording is refused.

use crate::RequestId;

/// What the scheduler refuses; the text says what to change.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A limit that must be positive is zero.
    #[error("{0} must be at least 1, got 0.")]
    ZeroLimit(&'static str),
    /// Without chunked prefill, a prompt must fit into one step.
    #[error(
        "max_num_batched_tokens ({max_num_batched_tokens}) is smaller than max_model_len \
         ({max_model_len}). This effectively limits the maximum sequence length to \
         max_num_batched_tokens and makes vLLM reject longer sequences. Please increase \
         max_num_batched_tokens or decrease max_model_len."
    )]
    BatchBelowModelLen {
        /// Token budget of a step.
        max_num_batched_tokens: usize,
        /// Longest sequence.
        max_model_len: usize,
    },
    /// Every running sequence needs a token of the budget.
    #[error(
        "max_num_batched_tokens ({max_num_batched_tokens}) must be greater than or equal to \
         max_num_seqs ({max_num_seqs})."
    )]
    BatchBelowSeqs {
        /// Token budget of a step.
        max_num_batched_tokens: usize,
        /// Sequences that run at once.
        max_num_seqs: usize,
    },
    /// The threshold would never take effect.
    #[error(
        "long_prefill_token_threshold ({threshold}) cannot be greater than the max_model_len \
         ({max_model_len})."
    )]
    ThresholdAboveModelLen {
        /// Longest chunk of a prompt.
        threshold: usize,
        /// Longest sequence.
        max_model_len: usize,
    },
    /// The watermark is not a share of the cache.
    #[error("watermark must be in [0, 1), got {0}.")]
    Watermark(f64),
    /// The cache has no usable size.
    #[error(transparent)]
    KvCache(#[from] vllm_kv_cache::Error),

    /// A prompt without tokens.
    #[error("The decoder prompt cannot be empty")]
    EmptyPrompt,
    /// A prompt longer than any sequence may be.
    #[error(
        "The decoder prompt (length {prompt_len}) is longer than the maximum model length of \
         {max_model_len}. Shorten the prompt or raise `max_model_len`."
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt_len: usize,
        /// Longest sequence.
        max_model_len: usize,
    },
    /// A prompt that leaves no room for an output token.
    #[error(
        "The decoder prompt (length {prompt_len}) plus the number of requested output tokens (at \
         least 1) is longer than the maximum model length of {max_model_len}. Shorten the prompt \
         or raise `max_model_len`."
    )]
    NoRoomForOutput {
        /// Tokens of the prompt.
        prompt_len: usize,
        /// Longest sequence.
        max_model_len: usize,
    },
    /// A sequence that the whole cache cannot hold.
    #[error(
        "The request can never run: {prompt_len} prompt tokens and up to {max_output} output \
         tokens need {needed_blocks} KV-cache blocks of {block_size} tokens, and the whole cache \
         has {usable_blocks} ({usable_tokens} tokens). Shorten the prompt, lower `max_tokens`, or \
         give the KV cache more memory."
    )]
    NeverFits {
        /// Tokens of the prompt.
        prompt_len: usize,
        /// Output tokens before `max_tokens` or the model length ends the sequence.
        max_output: usize,
        /// Blocks for all of them but the last, whose keys and values nobody reads.
        needed_blocks: usize,
        /// Tokens per block.
        block_size: usize,
        /// Blocks of the cache without the null block.
        usable_blocks: usize,
        /// Tokens in those blocks.
        usable_tokens: usize,
    },
    /// A request for no output.
    #[error("max_tokens must be at least 1, got 0.")]
    MaxTokens,
    /// A lower bound above the upper one.
    #[error("min_tokens must be less than or equal to max_tokens={max_tokens}, got {min_tokens}.")]
    MinTokens {
        /// Least output tokens.
        min_tokens: usize,
        /// Most output tokens.
        max_tokens: usize,
    },
    /// Pattern sizes in the wrong order.
    #[error(
        "max_pattern_size, min_pattern_size must be >=0, with min_pattern_size <= \
         max_pattern_size. Set both to 0 to disable repetitive pattern detection."
    )]
    RepetitionSizes,
    /// Too few copies to speak of a repetition.
    #[error(
        "min_count must be >= 2 to detect repetitive patterns in engine output. If you do not \
         wish to detect repetitive patterns, set max_pattern_size to 0."
    )]
    RepetitionCount,
    /// An id that another unfinished request has.
    #[error("request {0} is still unfinished; every request needs an id of its own.")]
    DuplicateRequest(RequestId),

    /// A recording that cannot be read or written.
    #[error("step recording: {0}")]
    RecordingIo(#[from] std::io::Error),
    /// A line of a recording that is no event, or stands in the wrong place.
    #[error("step recording, line {line}: {message}")]
    Recording {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
