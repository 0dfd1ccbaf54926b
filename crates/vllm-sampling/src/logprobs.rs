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
            log_sum: kernels::weight_sum(row, max, 1.0).ln(),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn report_of(row: &[f32], token_id: u32, rivals: Rivals) -> Result<TokenLogprobs> {
        let mut scan = RowScan::default();
        scan.scan(row)?;
        report(row, &mut scan, token_id, &rivals)
    }

    /// Checks ids and ranks as given and the logprobs against the definition.
    fn check(row: &[f32], token_id: u32, rivals: Rivals, expected: &[(u32, u32)]) {
        let entries = report_of(row, token_id, rivals)
            .expect("a usable row")
            .entries;
        let got: Vec<(u32, u32)> = entries.iter().map(|e| (e.token_id, e.rank)).collect();
        assert_eq!(got, expected);
        let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        for entry in entries {
            let exact = f64::from(row[entry.token_id as usize]) - sum.ln();
            let close = (f64::from(entry.logprob) - exact).abs() < 1e-5;
            assert!(
                close || f64::from(entry.logprob) == exact,
                "{entry:?}, exact {exact}"
            );
        }
    }

    const ROW: [f32; 6] = [1.0, 3.0, 2.0, 3.0, f32::NEG_INFINITY, 2.0];

    #[test]
    fn the_sampled_token_comes_first_and_is_not_repeated() {
        check(&ROW, 1, Rivals::Top(0), &[(1, 2)]);
        check(&ROW, 1, Rivals::Top(2), &[(1, 1), (3, 2)]);
        check(&ROW, 3, Rivals::Top(3), &[(3, 2), (1, 1), (2, 3)]);
        // Not among the reported: the rank counts ties.
        check(&ROW, 5, Rivals::Top(3), &[(5, 4), (1, 1), (3, 2), (2, 3)]);
        check(&ROW, 0, Rivals::Top(1), &[(0, 5), (1, 1)]);
    }

    #[test]
    fn the_whole_vocabulary_includes_masked_tokens() {
        let all = [(5, 4), (1, 1), (3, 2), (2, 3), (0, 5), (4, 6)];
        check(&ROW, 5, Rivals::All, &all);
        check(&ROW, 5, Rivals::Top(99), &all);
    }

    #[test]
    fn given_ids_are_reported_in_their_order() {
        check(&ROW, 0, Rivals::Ids(vec![5, 3]), &[(0, 5), (5, 1), (3, 2)]);
        check(&ROW, 3, Rivals::Ids(vec![5, 3]), &[(3, 2), (5, 1)]);
    }

    #[test]
    fn the_most_probable_are_found_in_long_rows() {
        let row: Vec<f32> = (0..10_000)
            .map(|id| ((id * 7919) % 5003) as f32 / 500.0)
            .collect();
        let mut expected: Vec<u32> = (0..10_000).collect();
        expected.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]));
        for k in [1, 20, 156, 157, 158, 5000] {
            let ranked: Vec<(u32, u32)> = expected[..k].iter().copied().zip(1..).collect();
            check(&row, expected[0], Rivals::Top(k), &ranked);
        }
    }

    #[test]
    fn infinite_logits_share_the_probability() {
        let row = [f32::INFINITY, 1.0, f32::INFINITY];
        let entries = report_of(&row, 2, Rivals::All)
            .expect("a usable row")
            .entries;
        let logprobs: Vec<f32> = entries.iter().map(|entry| entry.logprob).collect();
        assert_eq!(logprobs, [-2.0_f32.ln(), -2.0_f32.ln(), f32::NEG_INFINITY]);
    }

    #[test]
    fn unusable_rows_and_ids_are_errors() {
        let mut scratch = SamplerScratch::default();
        let mut check = |row: &[f32], token_id, expected| {
            assert_eq!(
                prompt_token_logprobs(row, token_id, 1, &mut scratch),
                Err(expected)
            );
        };
        check(&[0.0, f32::NAN], 0, Error::NanLogits);
        check(&[f32::NEG_INFINITY; 3], 0, Error::NoTokenAllowed);
        check(&[], 0, Error::NoTokenAllowed);
        check(
            &[0.0; 3],
            3,
            Error::TokenOutOfRange {
                token_id: 3,
                vocab_size: 3,
            },
        );
        let result = prompt_token_id_logprobs(&[0.0; 3], 0, &[7], &mut scratch);
        assert_eq!(
            result,
            Err(Error::TokenOutOfRange {
                token_id: 7,
                vocab_size: 3
            })
        );
    }
}
