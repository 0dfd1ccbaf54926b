//! AVX-512 with byte products: `VPDPBUSD` adds four products of a code and an activation to each of 16
//! sums.

use std::arch::x86_64::*;

use super::unpack::{self, VECTORS};
use super::{CHUNK, Product};
use crate::cpu::panels::PANEL;

/// # Safety
/// As [`Product::run`], on a processor with AVX512_VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn run(product: Product<'_>) {
    let form = product.panels.form();
    // SAFETY: forwarded to the caller.
    unsafe {
        match (form.bits(), form.group_len(), form.has_mins()) {
            (2, 16, true) => by_blocks::<2, 2, true>(product),
            (3, 16, false) => by_blocks::<3, 2, false>(product),
            (4, 32, false) => by_blocks::<4, 1, false>(product),
            (4, 32, true) => by_blocks::<4, 1, true>(product),
            (5, 32, false) => by_blocks::<5, 1, false>(product),
            (5, 32, true) => by_blocks::<5, 1, true>(product),
            (6, 16, false) => by_blocks::<6, 2, false>(product),
            (8, 32, false) => by_blocks::<8, 1, false>(product),
            (8, 32, true) => by_blocks::<8, 1, true>(product),
            (8, 16, false) => by_blocks::<8, 2, false>(product),
            (8, 16, true) => by_blocks::<8, 2, true>(product),
            // `CodeForm::new` gives no other.
            (bits, ..) => unreachable!("no kernel for {bits} bits"),
        }
    }
}

/// # Safety
/// As [`run`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn by_blocks<const BITS: u32, const GROUPS: usize, const MINS: bool>(product: Product<'_>) {
    let end = product.num_rows;
    let mut row = 0;
    // SAFETY: forwarded to the caller.
    unsafe {
        while row < end {
            match end - row {
                8.. => {
                    block::<BITS, GROUPS, MINS, 8>(product, row);
                    row += 8;
                }
                4.. => {
                    block::<BITS, GROUPS, MINS, 4>(product, row);
                    row += 4;
                }
                2.. => {
                    block::<BITS, GROUPS, MINS, 2>(product, row);
                    row += 2;
                }
                _ => {
                    block::<BITS, GROUPS, MINS, 1>(product, row);
                    row += 1;
                }
            }
        }
    }
}

/// `ROWS` rows from `first` on; chunks have `GROUPS` groups.
///
/// # Safety
/// As [`run`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn block<const BITS: u32, const GROUPS: usize, const MINS: bool, const ROWS: usize>(
    product: Product<'_>,
    first: usize,
) {
    let Product { panels, panel, .. } = product;
    let zero = i32::from(panels.form().zero());
    let rows: [_; ROWS] = std::array::from_fn(|row| product.rows.row(first + row));
    let codes = panels.codes(panel).as_ptr();
    let scales = panels.scales(panel).as_ptr();
    let mins = panels.mins(panel).as_ptr();
    let mut sums = [_mm512_setzero_ps(); ROWS];
    // SAFETY: the panel has codes, scales and minima, and the rows have codes, scales and sums, for all
    // chunks and groups.
    unsafe {
        for chunk in 0..panels.chunks() {
            let vectors =
                unpack::bytes::<BITS>(codes.add(chunk * CHUNK * PANEL * BITS as usize / 8));
            for within in 0..GROUPS {
                let group = chunk * GROUPS + within;
                let scale = load_halves(scales.add(group * PANEL).cast());
                let min = if MINS {
                    load_halves(mins.add(group * PANEL).cast())
                } else {
                    _mm512_setzero_ps()
                };
                for (row, sum) in rows.iter().zip(&mut sums) {
                    let x = row.codes.as_ptr().add(chunk * CHUNK).cast::<i32>();
                    let offset = if MINS {
                        0
                    } else {
                        -zero * *row.sums.get_unchecked(group)
                    };
                    let mut dots = _mm512_set1_epi32(offset);
                    let first_vector = within * VECTORS / GROUPS;
                    let group_vectors = vectors.iter().skip(first_vector).take(VECTORS / GROUPS);
                    for (vector, codes) in (first_vector..).zip(group_vectors) {
                        let four = _mm512_set1_epi32(x.add(vector).read_unaligned());
                        dots = _mm512_dpbusd_epi32(dots, *codes, four);
                    }
                    let factor = _mm512_set1_ps(*row.scales.get_unchecked(chunk));
                    let factor = _mm512_mul_ps(scale, factor);
                    *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), factor, *sum);
                    if MINS {
                        let total = _mm512_set1_ps(*row.scaled_sums.get_unchecked(group));
                        *sum = _mm512_fnmadd_ps(min, total, *sum);
                    }
                }
            }
        }
        let factor = _mm512_set1_ps(panels.factor(panel));
        let mask = (0xffffu32 >> (PANEL - product.outputs)) as __mmask16;
        for (row, sum) in (first..).zip(sums) {
            let y = product.y.add(row * product.y_stride);
            _mm512_mask_storeu_ps(y, mask, _mm512_mul_ps(sum, factor));
        }
    }
}

/// # Safety
/// 16 float16 numbers can be read there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,f16c")]
pub(super) unsafe fn load_halves(halves: *const u8) -> __m512 {
    // SAFETY: forwarded to the caller.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(halves.cast()) })
}
