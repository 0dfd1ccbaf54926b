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

/// How many candidates a nucleus is looked for in at first.
const NUCLEUS_GUESS: usize = 512;

/// Size of the sample that tells where a wide nucleus ends.
const SAMPLE_SIZE: usize = 2048;

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
    /// no particular order. Not for a restriction that is off.
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
    /// largest logits first, then among those that a sample of the row suggests, and only then
    /// among all.
    fn select_nucleus(&self, row: &[f32], scan: &mut RowScan, candidates: &mut Vec<Candidate>) {
        let total = kernels::weight_sum(row, scan.max(), self.temperature.recip());
        for attempt in 0..3 {
            let floor = match attempt {
                0 => scan.floor_of_largest(NUCLEUS_GUESS),
                1 => self.sampled_floor(row, scan, total, candidates),
                _ => f32::NEG_INFINITY,
            };
            self.collect(row, scan, floor, candidates);
            let mass = candidates
                .iter()
                .map(|candidate| f64::from(candidate.weight))
                .sum();
            let reaches_beyond = !is_kept(total, mass, self.top_p);
            if reaches_beyond || floor == f32::NEG_INFINITY {
                break;
            }
        }
        keep_nucleus(candidates, total, self.top_p);
    }

    /// A logit below which, judging by a sample, the tokens have half of the probability that
    /// top-p drops. `sample` is a work area.
    fn sampled_floor(
        &self,
        row: &[f32],
        scan: &RowScan,
        total: f64,
        sample: &mut Vec<Candidate>,
    ) -> f32 {
        let stride = row.len().div_ceil(SAMPLE_SIZE);
        let inverse_temperature = self.temperature.recip();
        sample.clear();
        sample.extend(row.iter().step_by(stride).map(|&value| {
            let weight = kernels::weight(value, scan.max(), inverse_temperature);
            Candidate {
                value,
                weight,
                id: 0,
            }
        }));
        sample.sort_unstable_by(descending);
        let mut allowance = f64::from(1.0 - self.top_p) * total / (2 * stride) as f64;
        let end = sample.iter().rev().find(|candidate| {
            allowance -= f64::from(candidate.weight);
            allowance < 0.0
        });
        end.map_or(f32::NEG_INFINITY, |candidate| candidate.value)
    }

    /// Replaces `candidates` by the tokens that are at least `floor` after division by the
    /// temperature.
    fn collect(&self, row: &[f32], scan: &RowScan, floor: f32, candidates: &mut Vec<Candidate>) {
        candidates.clear();
        let (max, inverse_temperature) = (scan.max(), self.temperature.recip());
        let value_floor = (floor / self.temperature).max(f32::MIN);
        // The division makes some neighbours of the floor equal to it.
        let logit_floor = (floor - floor.abs() * 1e-6 - f32::MIN_POSITIVE).max(f32::MIN);
        scan.for_each_at_least(row, logit_floor, |id, logit| {
            // The addition turns a negative zero into the zero it is equal to.
            let value = logit / self.temperature + 0.0;
            if value >= value_floor {
                let weight = kernels::weight(logit, max, inverse_temperature);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The contract word by word, with a full sort. Returns the kept ids in ascending order.
    fn select_naively(row: &[f32], restriction: &Restriction) -> Vec<u32> {
        let Restriction {
            temperature,
            top_k,
            top_p,
            min_p,
        } = *restriction;
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sorted: Vec<Candidate> = row
            .iter()
            .zip(0..)
            .map(|(&logit, id)| Candidate {
                value: logit / temperature,
                weight: kernels::weight(logit, max, temperature.recip()),
                id,
            })
            .filter(|candidate| candidate.value > f32::NEG_INFINITY && candidate.weight >= min_p)
            .collect();
        sorted.sort_by(|a, b| a.value.partial_cmp(&b.value).expect("no NaN"));
        if top_k > 0 && top_k < sorted.len() {
            let threshold = sorted[sorted.len() - top_k].value;
            sorted.retain(|candidate| candidate.value >= threshold);
        }
        if top_p < 1.0 {
            let total: f64 = sorted
                .iter()
                .map(|candidate| f64::from(candidate.weight))
                .sum();
            let mut cumulative = 0.0;
            let last = sorted.len() - 1;
            let mut position = 0;
            sorted.retain(|candidate| {
                cumulative += f64::from(candidate.weight);
                let is_last = position == last;
                position += 1;
                is_last || (cumulative / total) as f32 > 1.0 - top_p
            });
        }
        let mut ids: Vec<u32> = sorted.iter().map(|candidate| candidate.id).collect();
        ids.sort_unstable();
        ids
    }

    fn select_ids(row: &[f32], restriction: &Restriction) -> Vec<u32> {
        let mut scan = RowScan::default();
        scan.scan(row).expect("a usable row");
        let mut candidates = Vec::new();
        restriction.select(row, &mut scan, &mut candidates);
        let mut ids: Vec<u32> = candidates.iter().map(|candidate| candidate.id).collect();
        ids.sort_unstable();
        ids
    }

    const OFF: Restriction = Restriction {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
    };

    fn check(row: &[f32], restriction: Restriction, expected: &[u32]) {
        assert_eq!(select_ids(row, &restriction), expected, "{restriction:?}");
        assert_eq!(
            select_naively(row, &restriction),
            expected,
            "naive {restriction:?}"
        );
    }

    #[test]
    fn top_k_keeps_all_ties_of_the_threshold() {
        let row = [1.0, 3.0, 2.0, 2.0, 2.0, 0.0];
        check(&row, Restriction { top_k: 1, ..OFF }, &[1]);
        check(&row, Restriction { top_k: 2, ..OFF }, &[1, 2, 3, 4]);
        check(&row, Restriction { top_k: 5, ..OFF }, &[0, 1, 2, 3, 4]);
        check(&[0.0, -0.0, -1.0], Restriction { top_k: 1, ..OFF }, &[0, 1]);
    }

    #[test]
    fn top_p_drops_up_to_and_including_one_minus_p() {
        // Four equal probabilities: ascending sums 0.25, 0.5, 0.75, 1.
        check(&[0.0; 4], Restriction { top_p: 0.5, ..OFF }, &[2, 3]);
        check(&[0.0; 4], Restriction { top_p: 0.51, ..OFF }, &[1, 2, 3]);
        check(&[0.0; 4], Restriction { top_p: 1e-9, ..OFF }, &[3]);
        // 0.1 is at most 1 - 0.9 in single precision.
        check(
            &[0.0; 10],
            Restriction { top_p: 0.9, ..OFF },
            &[1, 2, 3, 4, 5, 6, 7, 8, 9],
        );
        check(
            &[5.0, 9.0, 7.0, f32::NEG_INFINITY],
            Restriction { top_p: 0.9, ..OFF },
            &[1, 2],
        );
        // After top-k the rest is renormalised: of 0.88 and 0.12 only the first is needed.
        check(
            &[5.0, 9.0, 7.0],
            Restriction {
                top_p: 0.85,
                top_k: 2,
                ..OFF
            },
            &[1],
        );
    }

    #[test]
    fn min_p_is_relative_to_the_most_probable_token_after_temperature() {
        let row = [0.0, -1.0, -2.0, -3.0];
        check(&row, Restriction { min_p: 0.3, ..OFF }, &[0, 1]);
        check(
            &row,
            Restriction {
                min_p: 0.3,
                temperature: 2.0,
                ..OFF
            },
            &[0, 1, 2],
        );
        check(
            &[1.0, 1.0, 0.99],
            Restriction { min_p: 1.0, ..OFF },
            &[0, 1],
        );
    }

    /// Rows of many shapes: narrow and wide, smooth and full of ties, with masked tokens.
    fn arbitrary_row() -> impl Strategy<Value = Vec<f32>> {
        let length = prop_oneof![1..200_usize, 4000..12_000_usize];
        let scale = prop_oneof![Just(0.0_f32), Just(0.3), Just(3.0), Just(1e4)];
        let step = prop_oneof![Just(0.0_f32), Just(0.25)];
        (length, scale, step, 0..4_u64, any::<u64>()).prop_map(
            |(length, scale, step, masks, key)| {
                let mut row: Vec<f32> = (0..length as u64)
                    .map(|id| {
                        let bits = |n| kernels::random_bits(key, 4 * id + n);
                        let uniform = |n| bits(n) as f32 / (1_u64 << 53) as f32;
                        let bell = uniform(0) + uniform(1) + uniform(2) - 1.5;
                        let smooth = scale * 4.0 * bell;
                        let x = if step > 0.0 {
                            (smooth / step).round() * step
                        } else {
                            smooth
                        };
                        if bits(3) % 8 < masks {
                            f32::NEG_INFINITY
                        } else {
                            x
                        }
                    })
                    .collect();
                row[0] = 0.5;
                row
            },
        )
    }

    fn arbitrary_restriction() -> impl Strategy<Value = Restriction> {
        let temperature = prop_oneof![Just(1.0_f32), Just(0.01), 0.1..2.0_f32];
        let top_k = prop_oneof![Just(0_usize), 1..100_usize, 100..5000_usize];
        let top_p = prop_oneof![Just(1.0_f32), Just(0.5), Just(0.95), 0.0001..1.0_f32];
        let min_p = prop_oneof![2 => Just(0.0_f32), 1 => 0.0..1.0_f32, 1 => Just(1.0)];
        (temperature, top_k, top_p, min_p).prop_map(|(temperature, top_k, top_p, min_p)| {
            Restriction {
                temperature,
                top_k,
                top_p,
                min_p,
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(600))]

        #[test]
        fn partial_selection_keeps_what_a_full_sort_keeps(
            row in arbitrary_row(),
            restriction in arbitrary_restriction(),
        ) {
            prop_assume!(!restriction.is_off());
            prop_assert_eq!(select_ids(&row, &restriction), select_naively(&row, &restriction));
        }

        #[test]
        fn a_nucleus_alone_is_that_of_a_full_sort(
            row in arbitrary_row(),
            temperature in 0.1..2.0_f32,
            top_p in 0.0001..1.0_f32,
        ) {
            let restriction = Restriction { temperature, top_p, ..OFF };
            prop_assert_eq!(select_ids(&row, &restriction), select_naively(&row, &restriction));
        }
    }
}
