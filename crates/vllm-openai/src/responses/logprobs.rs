//! Logprobs objects of responses.

use serde::Serialize;
use vllm_sampling::{DecodedLogprob, PositionLogprobs};

use crate::logprobs::{finite, token_text};

/// One token of a finished text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct TokenLogprob {
    #[serde(flatten)]
    chosen: Candidate,
    top_logprobs: Vec<Candidate>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Candidate {
    token: String,
    bytes: Vec<u8>,
    logprob: f64,
}

/// One token of a text that streams; it comes without its bytes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct StreamTokenLogprob {
    token: String,
    logprob: f64,
    top_logprobs: Vec<StreamCandidate>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct StreamCandidate {
    token: String,
    logprob: f64,
}

/// Logprobs of `positions`, each with `count` likeliest tokens (-1: all), the chosen one first and
/// counted.
pub(super) fn token_logprobs(
    positions: &[PositionLogprobs],
    count: i64,
    as_token_id: bool,
) -> Vec<TokenLogprob> {
    let shown = usize::try_from(count).unwrap_or(usize::MAX);
    let candidate = |entry: &DecodedLogprob| {
        let token = token_text(entry, as_token_id);
        Candidate {
            bytes: token.clone().into_bytes(),
            token,
            logprob: finite(entry.logprob),
        }
    };
    let positions = positions.iter().filter_map(|entries| {
        Some(TokenLogprob {
            chosen: candidate(entries.first()?),
            top_logprobs: entries.iter().take(shown).map(candidate).collect(),
        })
    });
    positions.collect()
}

impl From<&TokenLogprob> for StreamTokenLogprob {
    fn from(token: &TokenLogprob) -> Self {
        let candidate = |candidate: &Candidate| StreamCandidate {
            token: candidate.token.clone(),
            logprob: candidate.logprob,
        };
        Self {
            token: token.chosen.token.clone(),
            logprob: token.chosen.logprob,
            top_logprobs: token.top_logprobs.iter().map(candidate).collect(),
        }
    }
}
