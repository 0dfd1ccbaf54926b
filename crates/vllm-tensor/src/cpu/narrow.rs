//! Elements of one byte, as a KV cache may store them, and their way to bfloat16, which holds all of
//! their values.
//!
//! The functions are without branches, so that loops over them become vector instructions.

use half::bf16;

/// The largest number of [`fp8_from_f32`].
const FP8_MAX: f32 = 448.0;

/// The nearest number of four exponent bits and three mantissa bits, ties to even; beyond the largest
/// one, that one. There are no infinities (`float8_e4m3fn`; Micikevicius et al. 2022).
#[inline(always)]
pub fn fp8_from_f32(value: f32) -> u8 {
    let sign = (value.to_bits() >> 24) as u8 & 0x80;
    let magnitude = value.abs().min(FP8_MAX);
    let bits = magnitude.to_bits();
    // Below the smallest normal number, 2^-6, they are the multiples of 2^-9.
    let small = (magnitude * 512.0 + 12_582_912.0).to_bits() as u8 & 0x0f;
    let rounded = bits.wrapping_add(0x7_ffff + (bits >> 20 & 1)) >> 20;
    let normal = rounded.wrapping_sub(120 << 3) as u8;
    let finite = if magnitude < 0.015_625 { small } else { normal };
    sign | if value.is_nan() { 0x7f } else { finite }
}

/// Its value.
#[inline(always)]
pub(super) fn fp8_to_bf16(byte: u8) -> bf16 {
    let byte = u16::from(byte);
    let magnitude = byte & 0x7f;
    let normal = (magnitude << 4) + (120 << 7);
    // Multiples of 2^-9 up to 7, by their leading bit.
    let small = match magnitude {
        4.. => (120 << 7) + (magnitude.wrapping_sub(4) << 5),
        2.. => (119 << 7) + (magnitude.wrapping_sub(2) << 6),
        1 => 118 << 7,
        0 => 0,
    };
    let finite = if magnitude < 8 { small } else { normal };
    let bits = if magnitude == 0x7f { 0x7fc0 } else { finite };
    bf16::from_bits(bits | (byte & 0x80) << 8)
}

/// The nearest whole number, ties to even, within ±127.
#[inline(always)]
pub(super) fn int8_from_f32(value: f32) -> i8 {
    let rounded = value.clamp(-127.0, 127.0) + 12_582_912.0;
    rounded.to_bits() as u8 as i8
}

/// Its value.
#[inline(always)]
pub(super) fn int8_to_bf16(number: i8) -> bf16 {
    bf16::from_bits((f32::from(number).to_bits() >> 16) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Exponent bias 7; no exponent bits are multiples of 2^-9.
    fn by_definition(byte: u8) -> f32 {
        let (exponent, mantissa) = (i32::from(byte >> 3 & 0xf), f32::from(byte & 7));
        let magnitude = match (exponent, byte & 7) {
            (15, 7) => f32::NAN,
            (0, _) => mantissa / 512.0,
            _ => (1.0 + mantissa / 8.0) * (exponent as f32 - 7.0).exp2(),
        };
        if byte & 0x80 == 0 {
            magnitude
        } else {
            -magnitude
        }
    }

    #[test]
    fn fp8_numbers_mean_what_they_should() {
        for byte in 0..=255 {
            let (actual, expected) = (fp8_to_bf16(byte).to_f32(), by_definition(byte));
            if expected.is_nan() {
                assert!(actual.is_nan(), "{byte:#x}");
            } else {
                assert_eq!(actual.to_bits(), expected.to_bits(), "{byte:#x}");
                assert_eq!(fp8_from_f32(expected), byte, "{byte:#x}");
            }
        }
        assert_eq!(fp8_from_f32(f32::NAN) & 0x7f, 0x7f);
    }

    #[test]
    fn fp8_rounds_to_the_nearest() {
        for (low, high) in (0u8..0x7e).zip(1u8..) {
            let (below, above) = (by_definition(low), by_definition(high));
            let middle = (below + above) / 2.0;
            let even = if low % 2 == 0 { low } else { high };
            assert_eq!(fp8_from_f32(middle), even, "{middle}");
            assert_eq!(fp8_from_f32(middle.next_down()), low, "below {middle}");
            assert_eq!(
                fp8_from_f32(-middle.next_up()),
                high | 0x80,
                "above {middle}"
            );
        }
        for large in [449.0, 1e9, f32::INFINITY] {
            assert_eq!(fp8_from_f32(large), 0x7e, "{large}");
        }
    }

    #[test]
    fn int8_goes_both_ways() {
        for number in -127..=127i8 {
            assert_eq!(int8_to_bf16(number).to_f32(), f32::from(number));
            for near in [-0.49, 0.0, 0.49] {
                assert_eq!(int8_from_f32(f32::from(number) + near), number);
            }
        }
        assert_eq!(int8_from_f32(1e9), 127);
        assert_eq!(int8_from_f32(-1e9), -127);
        assert_eq!(int8_from_f32(2.5), 2);
    }
}
