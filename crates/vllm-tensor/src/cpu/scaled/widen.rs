//! A panel of codes becomes a plain one.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::ops::Range;

use super::panels::{ScaledForm, ScaledPanels, Sizes};
use crate::cpu::isa::{Isa, Kernel};
use crate::cpu::narrow::fp8_to_bf16;
use crate::cpu::panels::PANEL;
use crate::cpu::scratch;
use crate::cpu::simd::Simd;

impl ScaledPanels {
    /// Calls `run` with some panels as float32, `[columns][16]` each.
    pub(in crate::cpu) fn with_f32(
        &self,
        isa: Isa,
        panels: Range<usize>,
        run: &mut dyn FnMut(*const f32),
    ) {
        let panel_len = self.columns() * PANEL;
        scratch::for_panels(panels.len() * panel_len * size_of::<f32>(), |scratch| {
            let widened: *mut f32 = scratch.cast();
            for (index, panel) in panels.enumerate() {
                let kernel = WidenToF32 {
                    panels: self,
                    panel,
                    to: widened.wrapping_add(index * panel_len),
                };
                // SAFETY: the scratch has room for the panels.
                unsafe { isa.run(kernel) };
            }
            run(widened);
        });
    }

    /// Calls `run` with some panels as bfloat16, `[columns / 2][16][2]` each, filled up to whole tiles.
    #[cfg(target_arch = "x86_64")]
    pub(in crate::cpu) fn with_bf16(
        &self,
        isa: Isa,
        panels: Range<usize>,
        run: impl FnOnce(*const u16),
    ) {
        assert!(isa.multiplies_bf16());
        let panel_len = self.sizes().padded_columns() * PANEL;
        scratch::for_panels(panels.len() * panel_len * size_of::<u16>(), |scratch| {
            let widened: *mut u16 = scratch.cast();
            for (index, panel) in panels.enumerate() {
                // SAFETY: the processor has the instructions, and the scratch room for the panels.
                unsafe { widen_to_bf16(self, panel, widened.add(index * panel_len)) };
            }
            run(widened);
        });
    }
}

/// Numbers of a panel as float32, `[columns][16]`.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct WidenToF32<'a> {
    pub(in crate::cpu) panels: &'a ScaledPanels,
    pub(in crate::cpu) panel: usize,
    /// Room for all of the panel's columns.
    pub(in crate::cpu) to: *mut f32,
}

impl Kernel for WidenToF32<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Sizes {
            form,
            columns,
            group_len,
            ..
        } = self.panels.sizes();
        let (codes, scales) = self.panels.panel(self.panel);
        // SAFETY: the caller gives room for the columns.
        let to = unsafe { std::slice::from_raw_parts_mut(self.to, columns * PANEL) };
        let pairs = codes.chunks_exact(form.pair_bytes());
        for ((pair, codes), to) in pairs.enumerate().zip(to.chunks_mut(2 * PANEL)) {
            let scales = &scales[2 * pair / group_len * PANEL..][..PANEL];
            for (column, to) in to.chunks_exact_mut(PANEL).enumerate() {
                match form {
                    ScaledForm::Fp8 => {
                        let codes = &codes[column * PANEL..][..PANEL];
                        for ((to, code), scale) in to.iter_mut().zip(codes).zip(scales) {
                            let bits = u32::from(fp8_to_bf16(*code).to_bits()) << 16;
                            *to = f32::from_bits(bits) * scale;
                        }
                    }
                    ScaledForm::Table(numbers) => {
                        let codes = &codes[..PANEL];
                        for ((to, code), scale) in to.iter_mut().zip(codes).zip(scales) {
                            *to = numbers[usize::from(code >> (4 * column) & 15)] * scale;
                        }
                    }
                }
            }
        }
    }
}

/// Numbers of a panel rounded to bfloat16, as plain panels hold them: `[columns / 2][16][2]`.
///
/// # Safety
/// The processor has AVX512_BF16, and `to` room for the panel's columns, filled up to whole tiles.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(in crate::cpu) unsafe fn widen_to_bf16(panels: &ScaledPanels, panel: usize, to: *mut u16) {
    let sizes = panels.sizes();
    let (codes, scales) = panels.panel(panel);
    // SAFETY: codes and scales are as long as the sizes say, and so is the room at `to`.
    unsafe {
        match sizes.form {
            ScaledForm::Fp8 => {
                // As float16 with the same bits the numbers are 2^-8 of what they are.
                let by_scale = |scale| _mm512_mul_ps(scale, _mm512_set1_ps(256.0));
                widen_pairs(sizes, codes, scales, to, by_scale, |codes| {
                    let signed = _mm512_cvtepi8_epi16(_mm256_loadu_si256(codes.cast()));
                    let shifted = _mm512_slli_epi16::<7>(signed);
                    let halves = _mm512_and_si512(shifted, _mm512_set1_epi16(0xbfffu16 as i16));
                    (
                        _mm512_cvtph_ps(_mm512_castsi512_si256(halves)),
                        _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(halves)),
                    )
                });
            }
            ScaledForm::Table(numbers) => {
                let table = _mm512_loadu_ps(numbers.as_ptr());
                widen_pairs(
                    sizes,
                    codes,
                    scales,
                    to,
                    |scale| scale,
                    |codes| {
                        let indices = _mm512_cvtepu8_epi32(_mm_loadu_si128(codes.cast()));
                        // Of an index, four bits count.
                        (
                            _mm512_permutexvar_ps(indices, table),
                            _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(indices), table),
                        )
                    },
                );
            }
        }
    }
}

/// # Safety
/// As [`widen_to_bf16`].
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn widen_pairs(
    sizes: Sizes,
    codes: &[u8],
    scales: &[f32],
    to: *mut u16,
    by_scale: impl Fn(__m512) -> __m512,
    numbers: impl Fn(*const u8) -> (__m512, __m512),
) {
    let pairs = sizes.padded_columns() / 2;
    let pairs_of_group = match sizes.group_len {
        len if len == sizes.columns => pairs,
        len => len / 2,
    };
    // SAFETY: forwarded to the caller.
    unsafe {
        // The first column's number of each row, then the second's.
        let lanes = _mm512_set_epi16(
            31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20,
            4, 19, 3, 18, 2, 17, 1, 16, 0,
        );
        let mut scale = _mm512_setzero_ps();
        let mut left_in_group = 0;
        let mut next_scales = scales.chunks_exact(PANEL);
        for pair in 0..pairs {
            if left_in_group == 0 {
                left_in_group = pairs_of_group;
                // Behind the last group there is nothing but padding.
                if let Some(scales) = next_scales.next() {
                    scale = by_scale(_mm512_loadu_ps(scales.as_ptr()));
                }
            }
            left_in_group -= 1;
            let (first, second) = numbers(codes.as_ptr().add(pair * sizes.form.pair_bytes()));
            let rounded =
                _mm512_cvtne2ps_pbh(_mm512_mul_ps(second, scale), _mm512_mul_ps(first, scale));
            let rounded = std::mem::transmute::<__m512bh, __m512i>(rounded);
            let ordered = _mm512_permutexvar_epi16(lanes, rounded);
            _mm512_storeu_si512(to.add(pair * 2 * PANEL).cast(), ordered);
        }
    }
}
