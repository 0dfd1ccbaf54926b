//! Which tokens may be drawn: min-p, top-k and top-p by partial selection.
//!
//! The rules are those of vLLM's sort-based sampler. Top-k keeps every value that is at least the
//! k-th largest. Top-p, on what is left, drops the tokens up to which the cumulative probability
//! in ascending order is at most `1 - p`; equal values are in the order of their ids, and the
//! last token always stays.

use std::cmp::Ordering;

use crate::SamplingParams;
use crate::kernels;
use crate::scan::RowScan;

/// A token that may be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Candidate {
    /// Its logit divided by the temperature.
    pub(crate) value: f32,
    /// Its probability relative to the most probable token.
    pub(crate) weight: f32,
    /// Its id.
    pub(crate) id: u32,
}

/// The parameters that restrict the draw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Restriction {
    pub(crate) temperature: f32,
    /// 0 is off.
    pub(crate) top_k: usize,
    /// 1 is off.
    pub(crate) top_p: f32,
    /// 0 is off.
    pub(crate) min_p: f32,
}

/// How many candidates a nucleus is looked for in, before the whole row is taken.
const NUCLEUS_GUESSES: [usize; 2] = [64, 1024];

/// Ranges of this size are sorted instead of halved.
const SORTED_RANGE: usize = 32;

impl Restriction {
    /// The restriction of normalised parameters over `vocab_size` tokens.
    pub(crate) fn new(params: &SamplingParams, vocab_size: usize) -> Self {
        let top_k = usize::try_from(params.top_k).unwrap_or(0);
        Self {
            temperature: params.temperature as f32,
            top_k: if top_k < vocab_size { top_k } else { 0 },
            top_p: params.top_p as f32,
            min_p: params.min_p as f32,
        }
    }

    /// Whether every token may be drawn.
    pub(crate) fn is_off(&self) -> bool {
        self.top_k == 0 && self.top_p >= 1.0 && self.min_p <= 0.0
    }

    /// Writes the tokens of the scanned `row` that may be drawn to `candidates`, at least one, in
    /// no particular order.
    pub(crate) fn select(&self, row: &[f32], scan: &mut RowScan, candidates: &mut Vec<Candidate>) {
        if self.top_k == 0 && self.min_p <= 0.0 {
            self.select_nucleus(row, scan, candidates);
            return;
        }
        let floor = scan
            .floor_of_largest(self.top_k)
            .max(self.min_p_floor(scan.max()));
        self.collect(row, scan, floor, candidates);
        if self.min_p > 0.0 {
            candidates.retain(|candidate| candidate.weight >= self.min_p);
        }
        if self.top_k > 0 {
            keep_largest(candidates, self.top_k);
        }
        if self.top_p < 1.0 {
            let total = candidates
                .iter()
                .map(|candidate| f64::from(candidate.weight))
                .sum();
            keep_nucleus(candidates, total, self.top_p);
        }
    }

    /// Top-p alone. The nucleus of a model's distribution is small, so it is looked for among the
    /// largest logits before all of them are taken.
    fn select_nucleus(&self, row: &[f32], scan: &mut RowScan, candidates: &mut Vec<Candidate>) {
        let max = scan.max() / self.temperature;
        let total = kernels::weight_sum(row, self.temperature, max);
        for guess in NUCLEUS_GUESSES {
            let floor = scan.floor_of_largest(guess);
            if floor == f32::NEG_INFINITY {
                break;
            }
            self.collect(row, scan, floor, candidates);
            let mass = candidates
                .iter()
                .map(|candidate| f64::from(candidate.weight))
                .sum();
            if !is_kept(total, mass, self.top_p) {
                keep_nucleus(candidates, total, self.top_p);
                return;
            }
        }
        self.collect(row, scan, f32::NEG_INFINITY, candidates);
        keep_nucleus(candidates, total, self.top_p);
    }

    /// Replaces `candidates` by the tokens that are at least `floor` after division by the
    /// temperature.
    fn collect(&self, row: &[f32], scan: &RowScan, floor: f32, candidates: &mut Vec<Candidate>) {
        candidates.clear();
        let max = scan.max() / self.temperature;
        let value_floor = (floor / self.temperature).max(f32::MIN);
        // The division makes some neighbours of the floor equal to it.
        let logit_floor = (floor - floor.abs() * 1e-6 - f32::MIN_POSITIVE).max(f32::MIN);
        scan.for_each_at_least(row, logit_floor, |id, logit| {
            // The addition turns a negative zero into the zero it is equal to.
            let value = logit / self.temperature + 0.0;
            if value >= value_floor {
                let weight = kernels::weight(logit, self.temperature, max);
                candidates.push(Candidate { value, weight, id });
            }
        });
    }

    /// A logit below which the weight is surely less than `min_p`.
    fn min_p_floor(&self, max: f32) -> f32 {
        if self.min_p <= 0.0 {
            return f32::NEG_INFINITY;
        }
        let max = max / self.temperature;
        let slack = 1e-3 + max.abs() * 1e-6;
        (max + self.min_p.ln() - slack) * self.temperature
    }
}

/// Keeps the `k` largest values and those equal to the smallest of them.
fn keep_largest(candidates: &mut Vec<Candidate>, k: usize) {
    if candidates.len() > k {
        let (_, threshold, _) = candidates.select_nth_unstable_by(k - 1, descending);
        let threshold = threshold.value;
        candidates.retain(|candidate| candidate.value >= threshold);
    }
}

/// Keeps the nucleus of a distribution with the sum of weights `total`, of which `candidates` are
/// the most probable tokens and reach beyond the nucleus.
///
/// In descending order the kept tokens are a prefix, because the weight above a token only grows.
/// Its end is found by halving: each step orders the middle of the range in question and looks at
/// the weight above it, so the steps together touch about twice as many tokens as there are.
fn keep_nucleus(candidates: &mut Vec<Candidate>, total: f64, top_p: f32) {
    let (mut start, mut end) = (0, candidates.len());
    let mut above = 0.0;
    while end - start > SORTED_RANGE {
        let range = &mut candidates[start..end];
        let middle = range.len() / 2;
        range.select_nth_unstable_by(middle, descending);
        let upper: f64 = range[..middle]
            .iter()
            .map(|candidate| f64::from(candidate.weight))
            .sum();
        if is_kept(total, above + upper, top_p) {
            above += upper;
            start += middle;
        } else {
            end = start + middle;
        }
    }
    candidates[start..end].sort_unstable_by(descending);
    while start < end && is_kept(total, above, top_p) {
        above += f64::from(candidates[start].weight);
        start += 1;
    }
    candidates.truncate(start.max(1));
}

/// Whether top-p keeps a token when the tokens before it in descending order weigh `above`.
fn is_kept(total: f64, above: f64, top_p: f32) -> bool {
    ((total - above) / total) as f32 > 1.0 - top_p
}

/// From the most to the least probable; of equal values the later id first, as in an ascending
/// stable sort read backwards.
fn descending(a: &Candidate, b: &Candidate) -> Ordering {
    b.value.total_cmp(&a.value).then(b.id.cmp(&a.id))
}
