//! Vectors of float32 in the widths of the instruction sets, and elements that widen to them.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use half::{bf16, f16};

/// The most lanes that any vector has.
pub(super) const MAX_LANES: usize = 16;

/// A vector of float32. All functions demand the instructions behind it and readable or writable
/// memory for [`Simd::LANES`] elements, at any alignment.
#[allow(clippy::missing_safety_doc)] // Said once above, for all of them.
pub(super) trait Simd {
    type Vector: Copy;
    const LANES: usize;
    /// Whether there are instructions behind it. Where not, there are no registers to fill either.
    const VECTORS: bool = true;

    unsafe fn zero() -> Self::Vector;
    unsafe fn splat(value: f32) -> Self::Vector;
    unsafe fn load_f32(from: *const f32) -> Self::Vector;
    unsafe fn load_f16(from: *const f16) -> Self::Vector;
    unsafe fn load_bf16(from: *const bf16) -> Self::Vector;
    /// The first and the second elements of as many pairs as there are lanes.
    unsafe fn load_bf16_pairs(from: *const bf16) -> (Self::Vector, Self::Vector);
    unsafe fn store(vector: Self::Vector, to: *mut f32);
    /// Rounds to bfloat16. AVX-512 demands AVX512_BF16 for it.
    #[inline(always)]
    unsafe fn store_bf16(vector: Self::Vector, to: *mut bf16) {
        let mut numbers = [0f32; MAX_LANES];
        // SAFETY: the caller's promise; no vector has more lanes.
        unsafe {
            Self::store(vector, numbers.as_mut_ptr());
            for (lane, number) in numbers.iter().enumerate().take(Self::LANES) {
                to.add(lane).write(bf16::from_f32(*number));
            }
        }
    }
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn sub(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn mul(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn div(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn max(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn min(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `value` with zeros in the lanes where `x` is below `limit`.
    unsafe fn zero_below(value: Self::Vector, x: Self::Vector, limit: Self::Vector)
    -> Self::Vector;
    /// `2^n` from the sums `n + 1.5 · 2^23`, `n` whole and within -126 and 127.
    unsafe fn power_of_two(rounded: Self::Vector) -> Self::Vector;
    /// The greatest lane.
    unsafe fn max_lane(vector: Self::Vector) -> f32;
    /// `a * b + c`.
    unsafe fn mul_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The sum of the lanes, in an order of the instruction set's own.
    unsafe fn sum(vector: Self::Vector) -> f32;
}

/// A number as weights and caches store it.
pub(super) trait Stored: Copy + Send + Sync {
    /// # Safety
    /// As [`Simd`]'s loads.
    unsafe fn load<S: Simd>(from: *const Self) -> S::Vector;
    fn from_f32(value: f32) -> Self;
    fn to_f32(self) -> f32;
}

impl Stored for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::Vector {
        // SAFETY: forwarded to the caller.
        unsafe { S::load_f32(from) }
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
}

impl Stored for f16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::Vector {
        // SAFETY: forwarded to the caller.
        unsafe { S::load_f16(from) }
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        f16::from_f32(value)
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
}

impl Stored for bf16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::Vector {
        // SAFETY: forwarded to the caller.
        unsafe { S::load_bf16(from) }
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        bf16::from_f32(value)
    }

    #[inline(always)]
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
}

/// Eight lanes without instructions of their own.
pub(super) struct Scalar;

impl Simd for Scalar {
    type Vector = [f32; 8];
    const LANES: usize = 8;
    const VECTORS: bool = false;

    #[inline(always)]
    unsafe fn zero() -> Self::Vector {
        [0.0; 8]
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::Vector {
        [value; 8]
    }

    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self::Vector {
        // SAFETY: the caller gives eight readable elements.
        unsafe { from.cast::<[f32; 8]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self::Vector {
        // SAFETY: the caller gives eight readable elements.
        unsafe { from.cast::<[f16; 8]>().read_unaligned() }.map(f16::to_f32)
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self::Vector {
        // SAFETY: the caller gives eight readable elements.
        unsafe { from.cast::<[bf16; 8]>().read_unaligned() }.map(bf16::to_f32)
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const bf16) -> (Self::Vector, Self::Vector) {
        // SAFETY: the caller gives eight readable pairs.
        let pairs = unsafe { from.cast::<[[bf16; 2]; 8]>().read_unaligned() };
        (
            pairs.map(|[first, _]| first.to_f32()),
            pairs.map(|[_, second]| second.to_f32()),
        )
    }

    #[inline(always)]
    unsafe fn store(vector: Self::Vector, to: *mut f32) {
        // SAFETY: the caller gives eight writable elements.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(vector) }
    }

    #[inline(always)]
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        std::array::from_fn(|lane| a[lane] + b[lane])
    }

    #[inline(always)]
    unsafe fn sub(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        std::array::from_fn(|lane| a[lane] - b[lane])
    }

    #[inline(always)]
    unsafe fn mul(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        std::array::from_fn(|lane| a[lane] * b[lane])
    }

    #[inline(always)]
    unsafe fn div(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        std::array::from_fn(|lane| a[lane] / b[lane])
    }

    #[inline(always)]
    unsafe fn max(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        std::array::from_fn(|lane| if a[lane] > b[lane] { a[lane] } else { b[lane] })
    }

    #[inline(always)]
    unsafe fn min(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        std::array::from_fn(|lane| if a[lane] < b[lane] { a[lane] } else { b[lane] })
    }

    #[inline(always)]
    unsafe fn zero_below(
        value: Self::Vector,
        x: Self::Vector,
        limit: Self::Vector,
    ) -> Self::Vector {
        std::array::from_fn(|lane| {
            if x[lane] < limit[lane] {
                0.0
            } else {
                value[lane]
            }
        })
    }

    #[inline(always)]
    unsafe fn power_of_two(rounded: Self::Vector) -> Self::Vector {
        rounded.map(|sum| f32::from_bits((sum.to_bits().wrapping_add(127)) << 23))
    }

    #[inline(always)]
    unsafe fn max_lane(vector: Self::Vector) -> f32 {
        vector.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        // Two roundings: fused multiplication is a slow function call without the instruction.
        let mut result = c;
        for lane in 0..8 {
            result[lane] += a[lane] * b[lane];
        }
        result
    }

    #[inline(always)]
    unsafe fn sum(vector: Self::Vector) -> f32 {
        vector.iter().sum()
    }
}

/// Eight lanes of AVX2 with FMA and F16C.
#[cfg(target_arch = "x86_64")]
pub(super) struct Avx2;

#[cfg(target_arch = "x86_64")]
impl Simd for Avx2 {
    type Vector = __m256;
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> Self::Vector {
        // SAFETY: the caller vouches for AVX2, here and below.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::Vector {
        // SAFETY: as above.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self::Vector {
        // SAFETY: as above, and eight readable elements.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self::Vector {
        // SAFETY: as above, and eight readable elements.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self::Vector {
        // SAFETY: as above, and eight readable elements.
        unsafe {
            let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const bf16) -> (Self::Vector, Self::Vector) {
        // SAFETY: as above, and eight readable pairs.
        unsafe {
            let pairs = _mm256_loadu_si256(from.cast());
            let high_half = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
            (
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)),
                _mm256_castsi256_ps(_mm256_and_si256(pairs, high_half)),
            )
        }
    }

    #[inline(always)]
    unsafe fn store(vector: Self::Vector, to: *mut f32) {
        // SAFETY: as above, and eight writable elements.
        unsafe { _mm256_storeu_ps(to, vector) }
    }

    #[inline(always)]
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: as above.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: as above.
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: as above.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn div(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: as above.
        unsafe { _mm256_div_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn max(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: as above.
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn min(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: as above.
        unsafe { _mm256_min_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn zero_below(
        value: Self::Vector,
        x: Self::Vector,
        limit: Self::Vector,
    ) -> Self::Vector {
        // SAFETY: as above.
        unsafe { _mm256_and_ps(value, _mm256_cmp_ps::<_CMP_NLT_UQ>(x, limit)) }
    }

    #[inline(always)]
    unsafe fn power_of_two(rounded: Self::Vector) -> Self::Vector {
        // SAFETY: as above.
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_castps_si256(rounded), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
        }
    }

    #[inline(always)]
    unsafe fn max_lane(vector: Self::Vector) -> f32 {
        // SAFETY: as above.
        unsafe {
            let low = _mm256_castps256_ps128(vector);
            let four = _mm_max_ps(low, _mm256_extractf128_ps::<1>(vector));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        // SAFETY: as above.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn sum(vector: Self::Vector) -> f32 {
        // SAFETY: as above.
        unsafe {
            let low = _mm256_castps256_ps128(vector);
            let four = _mm_add_ps(low, _mm256_extractf128_ps::<1>(vector));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
}

/// Sixteen lanes of AVX-512F.
#[cfg(target_arch = "x86_64")]
pub(super) struct Avx512;

#[cfg(target_arch = "x86_64")]
impl Simd for Avx512 {
    type Vector = __m512;
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn zero() -> Self::Vector {
        // SAFETY: the caller vouches for AVX-512F, here and below.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::Vector {
        // SAFETY: as above.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self::Vector {
        // SAFETY: as above, and sixteen readable elements.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self::Vector {
        // SAFETY: as above, and sixteen readable elements.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self::Vector {
        // SAFETY: as above, and sixteen readable elements.
        unsafe {
            let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const bf16) -> (Self::Vector, Self::Vector) {
        // SAFETY: as above, and sixteen readable pairs.
        unsafe {
            let pairs = _mm512_loadu_si512(from.cast());
            let high_half = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
            (
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)),
                _mm512_castsi512_ps(_mm512_and_si512(pairs, high_half)),
            )
        }
    }

    #[inline(always)]
    unsafe fn store(vector: Self::Vector, to: *mut f32) {
        // SAFETY: as above, and sixteen writable elements.
        unsafe { _mm512_storeu_ps(to, vector) }
    }

    #[inline(always)]
    unsafe fn store_bf16(vector: Self::Vector, to: *mut bf16) {
        // SAFETY: as above, AVX512_BF16, and sixteen writable elements.
        unsafe {
            let rounded: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(vector));
            _mm256_storeu_si256(to.cast(), rounded);
        }
    }

    #[inline(always)]
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: as above.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: as above.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: as above.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn div(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: as above.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn max(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: as above.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn min(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: as above.
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn zero_below(
        value: Self::Vector,
        x: Self::Vector,
        limit: Self::Vector,
    ) -> Self::Vector {
        // SAFETY: as above.
        unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, limit), value) }
    }

    #[inline(always)]
    unsafe fn power_of_two(rounded: Self::Vector) -> Self::Vector {
        // SAFETY: as above.
        unsafe {
            let exponent = _mm512_add_epi32(_mm512_castps_si512(rounded), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        }
    }

    #[inline(always)]
    unsafe fn max_lane(vector: Self::Vector) -> f32 {
        // SAFETY: as above.
        unsafe { _mm512_reduce_max_ps(vector) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn sum(vector: Self::Vector) -> f32 {
        // SAFETY: as above.
        unsafe { _mm512_reduce_add_ps(vector) }
    }
}
