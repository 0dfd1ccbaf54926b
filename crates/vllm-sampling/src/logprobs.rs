//! Logprobs of a row: the sampled token and its rivals.

use crate::kernels;
use crate::scan::RowScan;
use crate::{Error, Result, SamplerScratch, SamplingParams, TokenLogprob, TokenLogprobs};

/// Which tokens are reported besides the sampled one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Rivals {
    /// This many of the most probable.
    Top(usize),
    /// The whole vocabulary.
    All,
    /// These ids, in this order.
    Ids(Vec<u32>),
}

impl Rivals {
    /// What normalised parameters ask for, if anything.
    pub(crate) fn of_sampled(params: &SamplingParams) -> Option<Self> {
        match &params.logprob_token_ids {
            Some(ids) => Some(Self::Ids(ids.clone())),
            None => params.logprobs.map(Self::of_count),
        }
    }

    fn of_count(count: i64) -> Self {
        usize::try_from(count).map_or(Self::All, Self::Top)
    }
}

/// The logprobs at a position of a prompt: `token_id`, the token that follows there, and the `k`
/// most probable ones (-1: the whole vocabulary). `logits` is the unprocessed row of the position
/// before.
///
/// # Errors
/// [`Error::NanLogits`], [`Error::NoTokenAllowed`] if all logits are `-inf`, and
/// [`Error::TokenOutOfRange`].
pub fn prompt_token_logprobs(
    logits: &[f32],
    token_id: u32,
    k: i64,
    scratch: &mut SamplerScratch,
) -> Result<TokenLogprobs> {
    scratch.scan.scan(logits)?;
    report(logits, &mut scratch.scan, token_id, &Rivals::of_count(k))
}

/// As [`prompt_token_logprobs`], reporting exactly `ids` besides `token_id`.
///
/// # Errors
/// As [`prompt_token_logprobs`].
pub fn prompt_token_id_logprobs(
    logits: &[f32],
    token_id: u32,
    ids: &[u32],
    scratch: &mut SamplerScratch,
) -> Result<TokenLogprobs> {
    scratch.scan.scan(logits)?;
    report(
        logits,
        &mut scratch.scan,
        token_id,
        &Rivals::Ids(ids.to_vec()),
    )
}

/// Logprobs of the scanned `row`. The entry of `token_id` comes first; where it is also a rival,
/// it has the rank it has among them.
pub(crate) fn report(
    row: &[f32],
    scan: &mut RowScan,
    token_id: u32,
    rivals: &Rivals,
) -> Result<TokenLogprobs> {
    let out_of_range = |token_id| Error::TokenOutOfRange {
        token_id,
        vocab_size: row.len(),
    };
    let logit_of = |id: u32| {
        row.get(id as usize)
            .copied()
            .ok_or_else(|| out_of_range(id))
    };
    let normalizer = Normalizer::new(row, scan.max());
    let sampled_logit = logit_of(token_id)?;

    let ranked: Vec<(u32, f32)> = match rivals {
        Rivals::Top(k) => most_probable(row, scan, *k),
        Rivals::All => most_probable(row, scan, row.len()),
        Rivals::Ids(ids) => ids
            .iter()
            .map(|&id| Ok((id, logit_of(id)?)))
            .collect::<Result<_>>()?,
    };
    let entry = |id: u32, logit: f32, rank: u32| TokenLogprob {
        token_id: id,
        logprob: normalizer.logprob(logit),
        rank,
    };
    let sampled_rank = match ranked.iter().position(|&(id, _)| id == token_id) {
        Some(position) => position as u32 + 1,
        None => kernels::count_at_least(row, sampled_logit),
    };
    let mut entries = Vec::with_capacity(ranked.len() + 1);
    entries.push(entry(token_id, sampled_logit, sampled_rank));
    for (&(id, logit), rank) in ranked.iter().zip(1..) {
        if id != token_id {
            entries.push(entry(id, logit, rank));
        }
    }
    Ok(TokenLogprobs { entries })
}

/// The `k` largest logits with their ids, largest first; of equal ones the lower id first.
fn most_probable(row: &[f32], scan: &mut RowScan, k: usize) -> Vec<(u32, f32)> {
    let k = k.min(row.len());
    if k == 0 {
        return Vec::new();
    }
    let descending = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let floor = scan.floor_of_largest(k);
    let mut found = Vec::new();
    scan.for_each_at_least(row, floor, |id, logit| found.push((id, logit + 0.0)));
    if k < found.len() {
        found.select_nth_unstable_by(k, descending);
        found.truncate(k);
    }
    found.sort_unstable_by(descending);
    found
}

/// Turns the logits of one row into logprobs.
enum Normalizer {
    /// `logit - max - ln(sum)`.
    Finite { max: f32, log_sum: f64 },
    /// Tokens with an infinite logit share the probability evenly.
    Infinite { logprob: f32 },
}

impl Normalizer {
    fn new(row: &[f32], max: f32) -> Self {
        if max == f32::INFINITY {
            let sharers = kernels::count_at_least(row, f32::INFINITY);
            return Self::Infinite {
                logprob: -(sharers as f32).ln(),
            };
        }
        Self::Finite {
            max,
            log_sum: kernels::weight_sum(row, 1.0, max).ln(),
        }
    }

    fn logprob(&self, logit: f32) -> f32 {
        match *self {
            Self::Finite { max, log_sum } => (f64::from(logit - max) - log_sum) as f32,
            Self::Infinite { logprob } if logit == f32::INFINITY => logprob,
            Self::Infinite { .. } => f32::NEG_INFINITY,
        }
    }
}
