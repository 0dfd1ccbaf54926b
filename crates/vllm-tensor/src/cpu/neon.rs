//! Four lanes of 64-bit Arm's vectors.

use std::arch::aarch64::*;

use half::{bf16, f16};

use super::simd::Simd;

/// Four lanes of NEON.
pub(super) struct Neon;

impl Simd for Neon {
    type Vector = float32x4_t;
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn zero() -> Self::Vector {
        // SAFETY: every 64-bit Arm processor has NEON, here and below.
        unsafe { vdupq_n_f32(0.0) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::Vector {
        // SAFETY: as above.
        unsafe { vdupq_n_f32(value) }
    }

    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> Self::Vector {
        // SAFETY: as above, and four readable elements.
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const f16) -> Self::Vector {
        // SAFETY: the caller gives four readable elements.
        let elements = unsafe { from.cast::<[f16; 4]>().read_unaligned() };
        let elements = elements.map(f16::to_f32);
        // SAFETY: as above.
        unsafe { vld1q_f32(elements.as_ptr()) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self::Vector {
        // SAFETY: as above, and four readable elements.
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_bf16_pairs(from: *const bf16) -> (Self::Vector, Self::Vector) {
        // SAFETY: as above, and four readable pairs.
        unsafe {
            let pairs = vreinterpretq_u32_u16(vld1q_u16(from.cast()));
            let high_half = vdupq_n_u32(0xffff_0000);
            (
                vreinterpretq_f32_u32(vshlq_n_u32::<16>(pairs)),
                vreinterpretq_f32_u32(vandq_u32(pairs, high_half)),
            )
        }
    }

    #[inline(always)]
    unsafe fn store(vector: Self::Vector, to: *mut f32) {
        // SAFETY: as above, and four writable elements.
        unsafe { vst1q_f32(to, vector) }
    }

    #[inline(always)]
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: as above.
        unsafe { vaddq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: as above.
        unsafe { vsubq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: as above.
        unsafe { vmulq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn div(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: as above.
        unsafe { vdivq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn max(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: as above.
        unsafe { vmaxq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn min(a: Self::Vector, b: Self::Vector) -> Self::Vector {
        // SAFETY: as above.
        unsafe { vminq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn zero_below(
        value: Self::Vector,
        x: Self::Vector,
        limit: Self::Vector,
    ) -> Self::Vector {
        // SAFETY: as above.
        unsafe { vbslq_f32(vcltq_f32(x, limit), vdupq_n_f32(0.0), value) }
    }

    #[inline(always)]
    unsafe fn power_of_two(rounded: Self::Vector) -> Self::Vector {
        // SAFETY: as above.
        unsafe {
            let exponent = vaddq_u32(vreinterpretq_u32_f32(rounded), vdupq_n_u32(127));
            vreinterpretq_f32_u32(vshlq_n_u32::<23>(exponent))
        }
    }

    #[inline(always)]
    unsafe fn max_lane(vector: Self::Vector) -> f32 {
        // SAFETY: as above.
        unsafe { vmaxvq_f32(vector) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
        // SAFETY: as above.
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    unsafe fn sum(vector: Self::Vector) -> f32 {
        // SAFETY: as above.
        unsafe { vaddvq_f32(vector) }
    }
}
