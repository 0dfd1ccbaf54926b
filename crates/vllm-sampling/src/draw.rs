//! The random draw: the token with the largest sum of logit and Gumbel noise, which is a sample
//! from the softmax of the logits (Gumbel 1954). The noise of a token is a hash of the row's seed
//! and the token's id, so it does not depend on which other tokens take part.

use crate::kernels::{self, BLOCK, mix, random_bits};
use crate::mt19937::Mt19937;
use crate::scan::RowScan;
use crate::select::Candidate;

/// The seeds of successive rows of one sequence.
pub(crate) enum RowSeeds {
    /// A seed of the caller: every second output of a Mersenne Twister.
    Seeded {
        seed: u32,
        generator: Option<Box<Mt19937>>,
    },
    /// No seed of the caller: a counter hash, free of charge per sequence.
    Unseeded { key: u64, draws: u64 },
}

impl RowSeeds {
    /// `sample_index` tells the sequences of one request apart.
    pub(crate) fn new(seed: Option<i64>, fallback_seed: u64, sample_index: usize) -> Self {
        match seed {
            Some(seed) => Self::Seeded {
                // The low 32 bits are the remainder modulo 2^32, for negative seeds, too.
                seed: seed.wrapping_add(sample_index as i64) as u32,
                generator: None,
            },
            None => Self::Unseeded {
                key: mix(mix(fallback_seed).wrapping_add(sample_index as u64 + 1)),
                draws: 0,
            },
        }
    }

    /// The next seed, 31 bits.
    pub(crate) fn next(&mut self) -> u32 {
        match self {
            Self::Seeded { seed, generator } => {
                let generator = generator.get_or_insert_with(|| Box::new(Mt19937::new(*seed)));
                generator.next_u32();
                generator.next_u32() & 0x7fff_ffff
            }
            Self::Unseeded { key, draws } => {
                let bits = random_bits(*key, *draws);
                *draws += 1;
                (bits >> 22) as u32
            }
        }
    }
}

/// The noise of one row and the best token seen so far.
struct Race {
    key: u64,
    best_id: u32,
    best_score: f64,
}

impl Race {
    fn new(row_seed: u32) -> Self {
        Self {
            key: mix(u64::from(row_seed)),
            best_id: u32::MAX,
            best_score: f64::NEG_INFINITY,
        }
    }

    fn enter(&mut self, id: u32, logit: f32) {
        let logit = f64::from(logit);
        let bits = random_bits(self.key, u64::from(id));
        if bits < self.least_winning_bits(logit) || logit == f64::NEG_INFINITY {
            return;
        }
        let score = logit + gumbel(bits);
        if score > self.best_score || (score == self.best_score && id < self.best_id) {
            self.best_score = score;
            self.best_id = id;
        }
    }

    /// A lower bound of the random bits with which a token of this logit could still win. Cheap,
    /// and low enough to make up for rounding.
    ///
    /// To win, the noise `-ln(-ln u)` must be at least `d = best - logit`, so `-ln u <= exp(-d)`,
    /// and `1 - u <= -ln u`. `exp(-d)` in turn is at most the chord between the neighbouring powers
    /// of two, which is what a number's exponent and mantissa bits give when read as one integer.
    #[inline]
    fn least_winning_bits(&self, logit: f64) -> u64 {
        const MANTISSA_SCALE: f64 = (1_u64 << 52) as f64;
        const EXPONENT_BIAS: f64 = 1023.0;
        const BITS_SCALE: f64 = (1_u64 << 53) as f64;
        let slack = 1e-9 + 1e-14 * (self.best_score.abs() + logit.abs());
        let distance = self.best_score - logit - slack;
        if distance.is_nan() || distance <= 0.0 {
            return 0;
        }
        let exponent = EXPONENT_BIAS - distance * std::f64::consts::LOG2_E;
        let chord = f64::from_bits((exponent * MANTISSA_SCALE) as u64);
        // Float to integer casts saturate, which is right at both ends.
        (((1.0 - chord) * BITS_SCALE) as u64).saturating_sub(8)
    }
}

/// Gumbel noise from 53 random bits.
fn gumbel(bits: u64) -> f64 {
    const UNIT: f64 = 1.0 / (1_u64 << 53) as f64;
    let uniform = (bits as f64 + 0.5) * UNIT;
    -(-uniform.ln()).ln()
}

/// Draws one of `candidates`, which must not be empty.
pub(crate) fn draw_candidate(row_seed: u32, candidates: &[Candidate]) -> u32 {
    let mut race = Race::new(row_seed);
    for candidate in candidates {
        race.enter(candidate.id, candidate.value);
    }
    race.best_id
}

/// Draws from the whole row at `temperature`. `bits_maxima` is a work area.
///
/// All random bits are hashed, but only the maximum of each block is kept; a block is looked at
/// again only if its largest logit together with its largest bits could win.
pub(crate) fn draw_from_row(
    row_seed: u32,
    row: &[f32],
    scan: &RowScan,
    temperature: f32,
    bits_maxima: &mut Vec<u64>,
) -> u32 {
    let mut race = Race::new(row_seed);
    bits_maxima.resize(scan.block_maxima().len(), 0);
    kernels::random_bits_maxima(race.key, bits_maxima);

    // The most probable token first: it sets a high mark.
    race.enter(scan.argmax(row), scan.max() / temperature);
    for (block, (&maximum, &bits)) in scan.block_maxima().iter().zip(&*bits_maxima).enumerate() {
        if bits >= race.least_winning_bits(f64::from(maximum / temperature)) {
            let first = block * BLOCK;
            let logits = row[first..].iter().take(BLOCK);
            for (id, &logit) in (first as u32..).zip(logits) {
                race.enter(id, logit / temperature);
            }
        }
    }
    race.best_id
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn draw_naively(row_seed: u32, row: &[f32], temperature: f32) -> u32 {
        let key = mix(u64::from(row_seed));
        let mut best = (f64::NEG_INFINITY, u32::MAX);
        for (id, &logit) in (0..).zip(row) {
            let score = f64::from(logit / temperature) + gumbel(random_bits(key, u64::from(id)));
            if score > best.0 {
                best = (score, id);
            }
        }
        best.1
    }

    fn draw(row_seed: u32, row: &[f32], temperature: f32) -> u32 {
        let mut scan = RowScan::default();
        scan.scan(row).expect("a usable row");
        draw_from_row(row_seed, row, &scan, temperature, &mut Vec::new())
    }

    fn seeds(mut seeds: RowSeeds, count: usize) -> Vec<u32> {
        (0..count).map(|_| seeds.next()).collect()
    }

    /// Values computed from the published definitions in another language.
    #[test]
    fn seeded_draws_equal_the_reference() {
        let row: Vec<f32> = (0..100).map(|id| ((id * 37) % 11) as f32 / 2.0).collect();
        let check = |seed, row_seeds: [u32; 3], tokens: [u32; 6]| {
            assert_eq!(
                seeds(RowSeeds::new(Some(seed), 9, 0), 3),
                row_seeds,
                "seed {seed}"
            );
            let drawn = seeds(RowSeeds::new(Some(seed), 9, 0), 6);
            assert_eq!(
                drawn
                    .into_iter()
                    .map(|s| draw(s, &row, 1.0))
                    .collect::<Vec<_>>(),
                tokens
            );
        };
        check(
            0,
            [398764591, 1478610112, 1537364731],
            [5, 38, 16, 93, 4, 98],
        );
        check(
            42,
            [1273642419, 787846414, 1201263687],
            [0, 82, 79, 16, 93, 60],
        );
        check(
            -2,
            [437438088, 1923705168, 1412758201],
            [82, 13, 5, 38, 95, 52],
        );
        check(
            (1 << 32) + 42,
            [1273642419, 787846414, 1201263687],
            [0, 82, 79, 16, 93, 60],
        );
    }

    #[test]
    fn sequences_of_one_request_have_their_own_seeds() {
        let of = |seed, fallback, index| seeds(RowSeeds::new(seed, fallback, index), 4);
        assert_eq!(of(Some(40), 1, 2), of(Some(42), 5, 0));
        assert_eq!(of(Some(i64::MAX), 1, 1), of(Some(i64::MIN), 1, 0));
        assert_eq!(of(None, 3, 1), of(None, 3, 1));
        let unseeded = [of(None, 3, 0), of(None, 3, 1), of(None, 4, 0)].concat();
        let distinct: std::collections::HashSet<_> = unseeded.iter().collect();
        assert_eq!(distinct.len(), unseeded.len());
        assert!(unseeded.iter().all(|&seed| seed < 1 << 31));
    }

    #[test]
    fn extreme_bits_give_ordered_noise() {
        let largest = (1 << 53) - 1;
        assert_eq!(gumbel(largest), f64::INFINITY);
        assert!(gumbel(0).is_finite() && gumbel(0) < gumbel(1));
        let mut race = Race::new(0);
        race.best_score = 100.0;
        // Whatever the distance, noise without bound may still win.
        assert!(race.least_winning_bits(-1e6) <= largest);
    }

    /// The frequencies of draws with fixed seeds against the softmax. At five degrees of freedom
    /// chi-square exceeds 20.5 for one set of seeds in a thousand; these are not among them.
    #[test]
    fn draws_follow_the_softmax() {
        let logits = [0.0_f32, 1.0, 2.0, -1.0, 0.5, 1.5];
        for temperature in [0.5_f32, 1.0, 2.0] {
            let weights = logits.map(|x| f64::from(x / temperature).exp());
            let total: f64 = weights.iter().sum();
            for seed in [Some(5), None] {
                let draws = seeds(RowSeeds::new(seed, 11, 0), 100_000);
                let mut counts = [0.0; 6];
                for &row_seed in &draws {
                    counts[draw(row_seed, &logits, temperature) as usize] += 1.0;
                }
                let chi_square: f64 = counts
                    .iter()
                    .zip(weights)
                    .map(|(count, weight)| {
                        let expected = draws.len() as f64 * weight / total;
                        (count - expected) * (count - expected) / expected
                    })
                    .sum();
                assert!(
                    chi_square < 20.5,
                    "{chi_square} at {temperature} with seed {seed:?}"
                );
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn skipping_tokens_that_cannot_win_changes_nothing(
            key in any::<u64>(),
            row_seed in 0..1_u32 << 31,
            length in 1..2000_u64,
            scale in prop_oneof![
                Just(0.0_f32), Just(1e-3), Just(1.0), Just(10.0), Just(40.0), Just(1e9), Just(1e20)
            ],
            temperature in prop_oneof![Just(1.0_f32), 0.01..2.0_f32],
            masks in 0..8_u64,
        ) {
            let mut row: Vec<f32> = (0..length)
                .map(|id| {
                    let bits = random_bits(key, id);
                    let bell = (bits & 0xffff) as f32 + (bits >> 16 & 0xffff) as f32 - 65536.0;
                    if bits >> 40 & 7 < masks { f32::NEG_INFINITY } else { scale * bell / 65536.0 }
                })
                .collect();
            row[(key % length) as usize] = 0.0;
            let expected = draw_naively(row_seed, &row, temperature);
            prop_assert_eq!(draw(row_seed, &row, temperature), expected);
            let mut candidates: Vec<Candidate> = (0..)
                .zip(&row)
                .map(|(id, &x)| Candidate { value: x / temperature, weight: 0.0, id })
                .collect();
            candidates.reverse();
            prop_assert_eq!(draw_candidate(row_seed, &candidates), expected);
        }
    }
}
