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
