//! Powers of two and what attention makes of them. Scores are kept in units of `ln 2`, so that the
//! softmax is one of powers of two.

use crate::cpu::simd::{MAX_LANES, Simd};

/// Powers below this one are zero.
const LOWEST: f32 = -126.0;

/// `2^x` for `x ≤ 127` to about one unit in the last place; exactly 1 for 0, and 0 below
/// [`LOWEST`].
///
/// The fraction's power is the minimax polynomial of degree 6 over ±½, its constant term set to 1.
///
/// # Safety
/// The processor has the instructions of `S`.
#[inline(always)]
pub(in crate::cpu) unsafe fn exp2<S: Simd>(x: S::Vector) -> S::Vector {
    /// Adding this rounds to a whole number, which then lies in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const POLYNOMIAL: [f32; 7] = [
        1.534_581_2e-4,
        1.339_993_1e-3,
        9.618_489e-3,
        5.550_328_8e-2,
        2.402_264_7e-1,
        6.931_472e-1,
        1.0,
    ];
    // SAFETY: the caller's promise.
    unsafe {
        let rounded = S::add(x, S::splat(ROUND));
        let fraction = S::sub(x, S::sub(rounded, S::splat(ROUND)));
        let mut power = S::splat(POLYNOMIAL[0]);
        for coefficient in &POLYNOMIAL[1..] {
            power = S::mul_add(power, fraction, S::splat(*coefficient));
        }
        let power = S::mul(power, S::power_of_two(rounded));
        S::zero_below(power, x, S::splat(LOWEST))
    }
}

/// `cap · tanh(x / cap)`, all in units of `ln 2`.
///
/// # Safety
/// The processor has the instructions of `S`.
#[inline(always)]
pub(super) unsafe fn soft_cap<S: Simd>(x: S::Vector, cap: f32) -> S::Vector {
    // SAFETY: the caller's promise.
    unsafe {
        // tanh y = (1 − e^(−2y)) / (1 + e^(−2y)), and e^(−2y) = 2^(−2 log2(e) y).
        let factor = -2.0 * std::f32::consts::LOG2_E / cap;
        let exponent = S::mul(x, S::splat(factor));
        // Not a number stays so: the first operand is what a comparison with it leaves.
        let exponent = S::max(S::splat(-100.0), S::min(S::splat(100.0), exponent));
        let power = exp2::<S>(exponent);
        let one = S::splat(1.0);
        let tanh = S::div(S::sub(one, power), S::add(one, power));
        S::mul(tanh, S::splat(cap))
    }
}

/// The state of a softmax over a part of the keys: their weighted values are to be divided by `sum`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Softmax {
    /// The greatest score so far.
    pub(super) max: f32,
    /// The sum of `2^(score − max)`.
    pub(super) sum: f32,
}

impl Softmax {
    /// That of no keys.
    pub(super) const EMPTY: Self = Self {
        max: f32::NEG_INFINITY,
        sum: 0.0,
    };

    /// Takes the keys that `next` is of in, too, and returns the factors on the weighted values so
    /// far and on those of `next`. No keys change nothing.
    ///
    /// # Safety
    /// The processor has the instructions of `S`.
    #[inline(always)]
    pub(super) unsafe fn merge<S: Simd>(&mut self, next: Self) -> (f32, f32) {
        if next.max == f32::NEG_INFINITY {
            return (1.0, 0.0);
        }
        let max = if next.max > self.max || next.max.is_nan() {
            next.max
        } else {
            self.max
        };
        // SAFETY: the caller's promise.
        let factors = unsafe { (exp2_of::<S>(self.max - max), exp2_of::<S>(next.max - max)) };
        self.max = max;
        self.sum = self.sum * factors.0 + next.sum * factors.1;
        factors
    }
}

/// # Safety
/// The processor has the instructions of `S`.
#[inline(always)]
unsafe fn exp2_of<S: Simd>(x: f32) -> f32 {
    let mut powers = [0f32; MAX_LANES];
    // SAFETY: the caller's promise; no vector has more lanes.
    unsafe { S::store(exp2::<S>(S::splat(x)), powers.as_mut_ptr()) };
    powers[0]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::cpu::isa::Kernel;
    use crate::cpu::simd::Scalar;

    /// Applies a function to numbers, a vector at a time.
    struct Map<'a> {
        numbers: &'a mut [f32],
        cap: Option<f32>,
    }

    impl Kernel for Map<'_> {
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            for chunk in self.numbers.chunks_exact_mut(S::LANES) {
                // SAFETY: the chunk is a vector long.
                unsafe {
                    let x = S::load_f32(chunk.as_ptr());
                    let y = match self.cap {
                        Some(cap) => soft_cap::<S>(x, cap),
                        None => exp2::<S>(x),
                    };
                    S::store(y, chunk.as_mut_ptr());
                }
            }
        }
    }

    fn map(isa: Isa, numbers: &[f32], cap: Option<f32>) -> Vec<f32> {
        let mut numbers = numbers.to_vec();
        // SAFETY: the kernel stays within its numbers.
        unsafe {
            isa.run(Map {
                numbers: &mut numbers,
                cap,
            });
        }
        numbers
    }

    #[test]
    fn powers_are_close() {
        let numbers: Vec<f32> = (-126_000..=127_000).map(|n| n as f32 / 1000.0).collect();
        let numbers = &numbers[..numbers.len() / 16 * 16];
        for isa in Isa::available() {
            for (x, actual) in numbers.iter().zip(map(isa, numbers, None)) {
                let expected = f64::from(*x).exp2();
                let error = ((f64::from(actual) - expected) / expected).abs();
                assert!(
                    error < 2e-7,
                    "{isa:?}: 2^{x} = {actual}, expected {expected}"
                );
            }
        }
    }

    #[test]
    fn special_powers() {
        let mut numbers = [0.0; 16];
        numbers[..6].copy_from_slice(&[-0.0, f32::NEG_INFINITY, -126.1, -1e30, f32::NAN, 1.0]);
        for isa in Isa::available() {
            let powers = map(isa, &numbers, None);
            assert_eq!(powers[..4], [1.0, 0.0, 0.0, 0.0], "{isa:?}");
            assert!(powers[4].is_nan(), "{isa:?}");
            assert_eq!(powers[5], 2.0, "{isa:?}");
            assert_eq!(powers[6..], [1.0; 10], "{isa:?}");
        }
    }

    #[test]
    fn caps_are_close() {
        let numbers: Vec<f32> = (-8000..8000).map(|n| n as f32 / 7.0).collect();
        for isa in Isa::available() {
            for cap in [0.5f32, 30.0, 50.0] {
                let scaled = cap * std::f32::consts::LOG2_E;
                for (x, actual) in numbers.iter().zip(map(isa, &numbers, Some(scaled))) {
                    let wide = f64::from(scaled);
                    let expected = wide * (f64::from(*x) / wide).tanh();
                    let error = (f64::from(actual) - expected).abs();
                    // A few roundings, one of them of a number about as large as the cap.
                    let allowed = 3e-7 * wide + 1e-6;
                    assert!(
                        error < allowed,
                        "{isa:?}: {x} capped at {cap}: {actual}, not {expected}"
                    );
                }
            }
            let capped = map(isa, &[f32::NAN; 16], Some(30.0));
            assert!(capped[0].is_nan());
        }
    }

    #[test]
    fn nothing_changes_nothing() {
        let mut softmax = Softmax { max: 3.0, sum: 2.5 };
        // SAFETY: needs no instructions of its own.
        let merge = |to: &mut Softmax, next| unsafe { to.merge::<Scalar>(next) };
        assert_eq!(merge(&mut softmax, Softmax::EMPTY), (1.0, 0.0));
        assert_eq!((softmax.max, softmax.sum), (3.0, 2.5));
        let mut empty = Softmax::EMPTY;
        let factors = merge(&mut empty, Softmax { max: 3.0, sum: 2.5 });
        assert_eq!(factors, (0.0, 1.0));
        assert_eq!((empty.max, empty.sum), (3.0, 2.5));
    }
}
