//! Whole-row loops, compiled once per vector width and chosen at run time.
//!
//! Each loop is plain Rust over fixed lanes, so every width performs the same operations in the
//! same order and gives the same bits; the compiler does the vectorising. The only unsafe step is
//! entering the version for the processor at hand.

/// Tokens per block. Rows are summarised by block, so that most of a row is never looked at again.
pub(crate) const BLOCK: usize = 64;

/// Elements handled side by side: one 512-bit register of `f32`.
const LANES: usize = 16;

/// Defines a function that runs `$plain` compiled for the widest vectors of this processor.
macro_rules! widest {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $plain:ident) => {
        $(#[$doc])*
        pub(crate) fn $name($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    $plain($($arg),*)
                }
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    $plain($($arg),*)
                }
                match Width::detect() {
                    // SAFETY: the processor has the four AVX-512 extensions of this function.
                    Width::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: the processor has AVX2.
                    Width::Avx2 => return unsafe { avx2($($arg),*) },
                    Width::Baseline => {}
                }
            }
            $plain($($arg),*)
        }
    };
}

/// Vector extensions of the processor, as far as they matter here.
#[cfg(target_arch = "x86_64")]
enum Width {
    Avx512,
    Avx2,
    Baseline,
}

#[cfg(target_arch = "x86_64")]
impl Width {
    /// The standard library remembers the answer, so this costs a few loads.
    fn detect() -> Self {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
        {
            Self::Avx512
        } else if is_x86_feature_detected!("avx2") {
            Self::Avx2
        } else {
            Self::Baseline
        }
    }
}

widest! {
    /// Writes the maximum of every [`BLOCK`] of the row to `maxima` and says whether the row holds
    /// a NaN (which no maximum shows).
    fn block_maxima(row: &[f32], maxima: &mut [f32]) -> bool = block_maxima_plain
}

widest! {
    /// Sum of [`weight`] over the row, in double precision.
    fn weight_sum(row: &[f32], max: f32, inverse_temperature: f32) -> f64 = weight_sum_plain
}

widest! {
    /// Number of elements that are at least `floor`.
    fn count_at_least(row: &[f32], floor: f32) -> u32 = count_at_least_plain
}

widest! {
    /// Writes the largest [`random_bits`] of the ids of every [`BLOCK`] to `maxima`.
    fn random_bits_maxima(key: u64, maxima: &mut [u64]) = random_bits_maxima_plain
}

/// Probability of a logit relative to that of the largest logit of its row, `max`.
#[inline(always)]
pub(crate) fn weight(logit: f32, max: f32, inverse_temperature: f32) -> f32 {
    exp_nonpositive((logit - max) * inverse_temperature)
}

/// `exp(x)` for `x <= 0` within 2 units in the last place; 0 below -87, where results stop being
/// normal numbers. `exp(0)` is exactly 1.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`, then the Taylor polynomial of degree 7 for `exp(r)`
/// (its remainder is below 6e-9) and the exponent bits for `2^n`.
#[inline(always)]
pub(crate) fn exp_nonpositive(x: f32) -> f32 {
    const LOWEST: f32 = -87.0;
    /// Adding this rounds to a whole number and leaves that number in the low bits.
    const ROUNDER: f32 = 12_582_912.0;
    /// `ln 2` in two parts; products of the first with small integers are exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const MANTISSA_BITS: u32 = 23;
    const EXPONENT_BIAS: u32 = 127;

    let clamped = if x > LOWEST { x } else { LOWEST };
    let rounded = clamped * std::f32::consts::LOG2_E + ROUNDER;
    let n = rounded - ROUNDER;
    let r = (clamped - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut polynomial = 1.0 / 5040.0;
    for coefficient in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        polynomial = polynomial * r + coefficient;
    }
    let exponent = rounded.to_bits().wrapping_add(EXPONENT_BIAS) << MANTISSA_BITS;
    if x > LOWEST {
        polynomial * f32::from_bits(exponent)
    } else {
        0.0
    }
}

/// Increment of the counter whose hashes are the random bits: 2^64 divided by the golden ratio.
const COUNTER_STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// Finaliser of SplitMix64 (Steele, Lea, Flood 2014), with the shifts of Stafford's variant 13.
#[inline(always)]
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The 53 random bits of token `id` in the row with this key.
#[inline(always)]
pub(crate) fn random_bits(key: u64, id: u64) -> u64 {
    mix(key.wrapping_add((id + 1).wrapping_mul(COUNTER_STEP))) >> 11
}

#[inline(always)]
fn block_maxima_plain(row: &[f32], maxima: &mut [f32]) -> bool {
    let mut unordered = [0_u32; LANES];
    for (block, maximum) in row.chunks(BLOCK).zip(maxima) {
        let mut best = [f32::NEG_INFINITY; LANES];
        let (chunks, rest) = block.as_chunks::<LANES>();
        for chunk in chunks {
            for lane in 0..LANES {
                let x = chunk[lane];
                best[lane] = if x > best[lane] { x } else { best[lane] };
                unordered[lane] |= u32::from(x.is_nan());
            }
        }
        for (lane, &x) in rest.iter().enumerate() {
            best[lane] = if x > best[lane] { x } else { best[lane] };
            unordered[lane] |= u32::from(x.is_nan());
        }
        let mut width = LANES / 2;
        while width > 0 {
            for lane in 0..width {
                let other = best[lane + width];
                best[lane] = if other > best[lane] {
                    other
                } else {
                    best[lane]
                };
            }
            width /= 2;
        }
        *maximum = best[0];
    }
    unordered.iter().any(|&lane| lane != 0)
}

#[inline(always)]
fn weight_sum_plain(row: &[f32], max: f32, inverse_temperature: f32) -> f64 {
    let mut sums = [0.0_f64; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        // All weights first: the conversion would halve the width of the vectors.
        let mut weights = [0.0; LANES];
        for lane in 0..LANES {
            weights[lane] = weight(chunk[lane], max, inverse_temperature);
        }
        for lane in 0..LANES {
            sums[lane] += f64::from(weights[lane]);
        }
    }
    for (lane, &x) in rest.iter().enumerate() {
        sums[lane] += f64::from(weight(x, max, inverse_temperature));
    }
    sums.iter().sum()
}

#[inline(always)]
fn count_at_least_plain(row: &[f32], floor: f32) -> u32 {
    let mut counts = [0_u32; LANES];
    let (chunks, rest) = row.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            counts[lane] += u32::from(chunk[lane] >= floor);
        }
    }
    for (lane, &x) in rest.iter().enumerate() {
        counts[lane] += u32::from(x >= floor);
    }
    counts.iter().sum()
}

#[inline(always)]
fn random_bits_maxima_plain(key: u64, maxima: &mut [u64]) {
    const WIDE_LANES: usize = LANES / 2;
    for (block, maximum) in maxima.iter_mut().enumerate() {
        let mut best = [0_u64; WIDE_LANES];
        let first = (block * BLOCK) as u64;
        for chunk in 0..(BLOCK / WIDE_LANES) as u64 {
            for (lane, best) in (0..).zip(&mut best) {
                let bits = random_bits(key, first + chunk * WIDE_LANES as u64 + lane);
                *best = if bits > *best { bits } else { *best };
            }
        }
        *maximum = best.into_iter().fold(0, u64::max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(length: usize) -> Vec<f32> {
        (0..length as u64)
            .map(|id| (random_bits(7, id) % 4001) as f32 / 100.0 - 20.0)
            .collect()
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        assert_eq!(exp_nonpositive(0.0), 1.0);
        assert_eq!(exp_nonpositive(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp_nonpositive(-87.5), 0.0);
        for step in 0..870_000 {
            let x = -(step as f32) * 1e-4;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp_nonpositive(x)) - exact).abs() / exact;
            assert!(
                error < 2.0 * f64::from(f32::EPSILON),
                "exp({x}) is off by {error}"
            );
        }
    }

    #[test]
    fn every_width_gives_the_bits_of_the_plain_loop() {
        for length in [0, 1, 15, 16, 63, 64, 65, 130, 1000] {
            let row = row(length);
            let blocks = length.div_ceil(BLOCK);
            let (mut maxima, mut expected) = (vec![0.0; blocks], vec![0.0; blocks]);
            assert!(!block_maxima(&row, &mut maxima));
            block_maxima_plain(&row, &mut expected);
            assert_eq!(maxima, expected);
            let naive: Vec<f32> = row
                .chunks(BLOCK)
                .map(|block| block.iter().copied().fold(f32::NEG_INFINITY, f32::max))
                .collect();
            assert_eq!(maxima, naive);

            let sum = weight_sum(&row, 20.0, 1.4);
            assert_eq!(sum.to_bits(), weight_sum_plain(&row, 20.0, 1.4).to_bits());
            let naive: f64 = row.iter().map(|&x| f64::from(weight(x, 20.0, 1.4))).sum();
            assert!((sum - naive).abs() <= 1e-12 * naive);

            let count = count_at_least(&row, 3.0);
            assert_eq!(count, count_at_least_plain(&row, 3.0));
            assert_eq!(count as usize, row.iter().filter(|&&x| x >= 3.0).count());

            let (mut bits, mut expected) = (vec![0; blocks], vec![0; blocks]);
            random_bits_maxima(99, &mut bits);
            random_bits_maxima_plain(99, &mut expected);
            assert_eq!(bits, expected);
            for (block, &maximum) in bits.iter().enumerate() {
                let ids = (block * BLOCK) as u64..((block + 1) * BLOCK) as u64;
                assert_eq!(Some(maximum), ids.map(|id| random_bits(99, id)).max());
            }
        }
    }

    #[test]
    fn a_nan_is_seen_wherever_it_is() {
        for position in 0..130 {
            let mut row = row(130);
            row[position] = f32::NAN;
            assert!(block_maxima(&row, &mut [0.0; 3]), "position {position}");
        }
    }
}
