//! What sampling produces, in the words shared by the engine and the protocol.

/// The token chosen for one sequence in one step.
#[derive(Clone, Debug, PartialEq)]
pub struct SampledToken {
    /// The chosen id.
    pub token_id: u32,
    /// Its logprob and those of its rivals, if the request asked for them.
    pub logprobs: Option<TokenLogprobs>,
}

/// The logprobs reported at one position: the sampled (or given) token first, then the others in
/// rank order, without repeating the first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenLogprobs {
    /// At least one entry.
    pub entries: Vec<TokenLogprob>,
}

/// The logprob of one token at one position.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The id.
    pub token_id: u32,
    /// Natural logarithm of its probability; `-inf` if it was impossible.
    pub logprob: f32,
    /// 1 for the most probable token. Outside of the reported most probable ones, the number of
    /// tokens at least as probable, itself included.
    pub rank: u32,
}

/// A [`TokenLogprob`] with the text of its token.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodedLogprob {
    /// The id.
    pub token_id: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// As in [`TokenLogprob::rank`].
    pub rank: u32,
    /// The token decoded alone; empty for an incomplete character.
    pub decoded_token: String,
}

/// The logprobs of one position, the sampled (or given) token first.
pub type PositionLogprobs = Vec<DecodedLogprob>;

/// One of the `n` sequences of a request: the whole of it or what is new, by
/// [`OutputKind`](crate::OutputKind).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CompletionOutput {
    /// Which of the `n` sequences, from 0.
    pub index: usize,
    /// Text, without the terminating stop string or token unless asked for.
    pub text: String,
    /// Generated ids, the terminating one included.
    pub token_ids: Vec<u32>,
    /// Sum of the logprobs of all generated tokens; `None` unless logprobs were asked for.
    pub cumulative_logprob: Option<f64>,
    /// One entry per generated id; `None` unless asked for.
    pub logprobs: Option<Vec<PositionLogprobs>>,
    /// Why the sequence ended; `None` while it goes on.
    pub finish_reason: Option<FinishReason>,
    /// What exactly ended it, where there is more to say.
    pub stop_reason: Option<StopReason>,
}

impl CompletionOutput {
    /// Whether the sequence has ended.
    pub fn is_finished(&self) -> bool {
        self.finish_reason.is_some()
    }
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// An end-of-sequence token, a stop token or a stop string.
    Stop,
    /// `max_tokens` or the model's context was reached.
    Length,
    /// The caller gave up.
    Abort,
    /// This sequence failed inside the engine.
    Error,
    /// The tail of the output repeated itself.
    Repetition,
}

impl FinishReason {
    /// All reasons, for counters that report each.
    pub const ALL: [Self; 5] = [
        Self::Stop,
        Self::Length,
        Self::Abort,
        Self::Error,
        Self::Repetition,
    ];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Abort => "abort",
            Self::Error => "error",
            Self::Repetition => "repetition",
        }
    }
}

impl std::fmt::Display for FinishReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What ended a sequence. The end-of-sequence token of the tokenizer and the length leave none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// A stop token, reported as its id.
    TokenId(u32),
    /// A stop string, reported as itself.
    Text(String),
    /// Repetition, reported as [`StopReason::REPETITION_DETECTED`].
    RepetitionDetected,
}

impl StopReason {
    /// How [`StopReason::RepetitionDetected`] is written on the wire.
    pub const REPETITION_DETECTED: &'static str = "repetition_detected";
}
