//! A few rows in bfloat16 times codes, in vectors of float32: memory is what they wait for, and tiles
//! would only stand in between.
//!
//! The sums have the same bits as those of tiles. `TDPBF16PS` adds the products of the first inputs of all
//! pairs and those of the second inputs apart, each by fused steps in the order of the pairs, and then
//! the two sums (Intel's manual gives its steps). The tests hold both to each other.

use std::arch::x86_64::*;

use super::panels::QuantizedPanels;
use super::unpack::{self, CHUNK_TILE, VECTORS};
use super::vnni::load_halves;
use super::{CHUNK, Operands};
use crate::Result;
use crate::cpu::panels::PANEL;
use crate::cpu::{pool, scratch};

/// More rows than these are faster by tiles.
pub(super) const MAX_ROWS: usize = 4;

/// Writes the products of all rows with the panels of all tasks.
///
/// # Safety
/// The processor has AVX-512 with bfloat16, there are at most [`MAX_ROWS`] rows, and there is room for all
/// outputs.
pub(super) unsafe fn multiply(operands: &Operands<'_>) -> Result<()> {
    let (columns, tasks, num_rows) = (operands.columns, operands.tasks, operands.num_rows());
    let chunks = columns.div_ceil(CHUNK);
    // Kernels are there for some numbers of rows; the rows that fill up are zeros.
    let kernel_rows = num_rows.next_power_of_two();
    let len = kernel_rows * chunks * CHUNK;
    let num_totals = kernel_rows * chunks * 2;
    scratch::for_operation((len + num_totals) * size_of::<f32>(), |memory| {
        let numbers: *mut f32 = memory.cast();
        // SAFETY: the memory has room for the numbers, and behind them for the totals, of all rows.
        unsafe { numbers.write_bytes(0, len + num_totals) };
        for (row, x) in operands.x.chunks_exact(columns).enumerate() {
            // SAFETY: as said above.
            unsafe {
                let to = numbers.add(row * chunks * CHUNK);
                round_row(x, to, numbers.add(len + row * chunks * 2));
            }
        }
        let rows = Rows {
            numbers,
            // SAFETY: as said above.
            totals: unsafe { numbers.add(len) },
            num_rows,
            chunks,
        };
        pool::for_each(tasks.len(), operands.work(), |index| {
            let task = &tasks[index];
            for (n, first) in (0..task.outputs).step_by(PANEL).enumerate() {
                let product = PanelProduct {
                    rows: &rows,
                    panels: task.panels,
                    panel: task.first_panel + n,
                    outputs: (task.outputs - first).min(PANEL),
                    y: operands.y.get().wrapping_add(task.first_output + first),
                    y_stride: operands.y_stride,
                };
                // SAFETY: the task's outputs are its own; the rest is the caller's promise.
                unsafe {
                    match kernel_rows {
                        1 => product.run::<1>(),
                        2 => product.run::<2>(),
                        _ => product.run::<MAX_ROWS>(),
                    }
                }
            }
            // SAFETY: all rows of the task were just written.
            unsafe { operands.add_bias(task, 0..num_rows) };
        })
    })
}

/// Rounds numbers to bfloat16, kept in float32 with zeros up to whole chunks, and sums 16 at a time.
///
/// # Safety
/// The processor has these instructions, and there is room.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn round_row(x: &[f32], to: *mut f32, totals: *mut f32) {
    for (chunk, x) in x.chunks(CHUNK).enumerate() {
        let mut padded = [0f32; CHUNK];
        padded[..x.len()].copy_from_slice(x);
        for (half, numbers) in padded.chunks_exact(16).enumerate() {
            // SAFETY: 16 numbers are there, and there is room by the caller's promise.
            unsafe {
                let rounded: __m256i =
                    std::mem::transmute(_mm512_cvtneps_pbh(_mm512_loadu_ps(numbers.as_ptr())));
                let rounded =
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(rounded)));
                _mm512_storeu_ps(to.add(chunk * CHUNK + half * 16), rounded);
                *totals.add(chunk * 2 + half) = _mm512_reduce_add_ps(rounded);
            }
        }
    }
}

struct Rows {
    /// `[rows][chunks][32]`.
    numbers: *const f32,
    /// Sums of 16 numbers, `[rows][2 chunks]`.
    totals: *const f32,
    num_rows: usize,
    chunks: usize,
}

// SAFETY: they are only read.
unsafe impl Sync for Rows {}

/// All rows times one panel.
struct PanelProduct<'a> {
    rows: &'a Rows,
    panels: &'a QuantizedPanels,
    panel: usize,
    /// Outputs that the panel really has.
    outputs: usize,
    /// The panel's first output of row 0.
    y: *mut f32,
    y_stride: usize,
}

impl PanelProduct<'_> {
    /// # Safety
    /// As [`multiply`], for at most `ROWS` rows, with zeros for those that are not there.
    unsafe fn run<const ROWS: usize>(&self) {
        let form = self.panels.form();
        // SAFETY: forwarded to the caller.
        unsafe {
            match (form.bits(), form.group_len(), form.has_mins()) {
                (2, ..) => self.sum::<ROWS, 2, 2, true>(),
                (3, ..) => self.sum::<ROWS, 3, 2, false>(),
                (4, _, false) => self.sum::<ROWS, 4, 1, false>(),
                (4, _, true) => self.sum::<ROWS, 4, 1, true>(),
                (5, _, false) => self.sum::<ROWS, 5, 1, false>(),
                (5, _, true) => self.sum::<ROWS, 5, 1, true>(),
                (6, ..) => self.sum::<ROWS, 6, 2, false>(),
                (_, 32, false) => self.sum::<ROWS, 8, 1, false>(),
                (_, 32, true) => self.sum::<ROWS, 8, 1, true>(),
                (_, _, false) => self.sum::<ROWS, 8, 2, false>(),
                (_, _, true) => self.sum::<ROWS, 8, 2, true>(),
            }
        }
    }

    /// # Safety
    /// As [`Self::run`], for codes of `BITS` bits and `GROUPS` groups in a chunk.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn sum<const ROWS: usize, const BITS: u32, const GROUPS: usize, const MINS: bool>(
        &self,
    ) {
        let panels = self.panels;
        let decode = Decode::<BITS>::new(panels.form().zero());
        let codes = panels.codes(self.panel).as_ptr();
        let scales = panels.scales(self.panel).as_ptr();
        let mins = panels.mins(self.panel).as_ptr();
        let chunks = self.rows.chunks;
        let mut sums = [_mm512_setzero_ps(); ROWS];
        // SAFETY: the panel has codes, scales and minima for all chunks, the rows have numbers and
        // totals; `y` is the caller's promise.
        unsafe {
            for chunk in 0..chunks {
                let vectors = decode.vectors(codes.add(chunk * CHUNK_TILE * BITS as usize / 8));
                for part in 0..GROUPS {
                    let group = chunk * GROUPS + part;
                    let mut dots = [[_mm512_setzero_ps(); 2]; ROWS];
                    for vector in part * VECTORS / GROUPS..(part + 1) * VECTORS / GROUPS {
                        let columns = decode.columns(&vectors, vector);
                        for (row, [first, second]) in dots.iter_mut().enumerate() {
                            let x = self.rows.numbers.add((row * chunks + chunk) * CHUNK);
                            let x = |n: usize| _mm512_set1_ps(*x.add(4 * vector + n));
                            *first = _mm512_fmadd_ps(columns[0], x(0), *first);
                            *first = _mm512_fmadd_ps(columns[1], x(1), *first);
                            *second = _mm512_fmadd_ps(columns[2], x(2), *second);
                            *second = _mm512_fmadd_ps(columns[3], x(3), *second);
                        }
                    }
                    let scale = load_halves(scales.add(group * PANEL).cast());
                    let min = if MINS {
                        load_halves(mins.add(group * PANEL).cast())
                    } else {
                        _mm512_setzero_ps()
                    };
                    for (row, (sum, [first, second])) in sums.iter_mut().zip(dots).enumerate() {
                        *sum = _mm512_fmadd_ps(scale, _mm512_add_ps(first, second), *sum);
                        if MINS {
                            let total = self.rows.totals.add((row * chunks + chunk) * 2);
                            let total = match GROUPS {
                                1 => *total + *total.add(1),
                                _ => *total.add(part),
                            };
                            *sum = _mm512_fnmadd_ps(min, _mm512_set1_ps(total), *sum);
                        }
                    }
                }
            }
            let factor = _mm512_set1_ps(panels.factor(self.panel));
            let mask = (0xffffu32 >> (PANEL - self.outputs)) as __mmask16;
            for (row, sum) in sums.into_iter().enumerate().take(self.rows.num_rows) {
                let y = self.y.add(row * self.y_stride);
                _mm512_mask_storeu_ps(y, mask, _mm512_mul_ps(sum, factor));
            }
        }
    }
}

/// Makes numbers of codes of `BITS` bits.
struct Decode<const BITS: u32> {
    zero: u8,
    /// What codes up to 31 are less the zero.
    low: __m512,
    high: __m512,
}

impl<const BITS: u32> Decode<BITS> {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(zero: u8) -> Self {
        let numbers: [f32; 32] = std::array::from_fn(|code| code as f32 - f32::from(zero));
        // SAFETY: there are 32 numbers.
        let half = |first: usize| unsafe { _mm512_loadu_ps(numbers.as_ptr().add(first)) };
        Self {
            zero,
            low: half(0),
            high: half(16),
        }
    }

    /// The codes of a chunk for [`Self::columns`].
    ///
    /// # Safety
    /// The chunk's bytes can be read there.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
    unsafe fn vectors(&self, packed: *const u8) -> [__m512i; VECTORS] {
        unpack::fetch_ahead::<BITS>(packed);
        // SAFETY: forwarded to the caller.
        unsafe {
            match BITS {
                // Halves of bytes are told apart by column.
                4 => std::array::from_fn(|n| _mm512_loadu_si512(packed.add(n % 4 * 64).cast())),
                // What is left fits a signed byte.
                6 | 8 if BITS == 6 || self.zero == 128 => {
                    let zero = _mm512_set1_epi8(self.zero as i8);
                    unpack::bytes::<BITS>(packed).map(|codes| _mm512_sub_epi8(codes, zero))
                }
                _ => unpack::bytes::<BITS>(packed),
            }
        }
    }

    /// The numbers of four neighbouring columns.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn columns(&self, vectors: &[__m512i; VECTORS], vector: usize) -> [__m512; 4] {
        let codes = vectors[vector];
        match BITS {
            8 if self.zero != 128 => {
                let zero = _mm512_set1_epi32(i32::from(self.zero));
                let byte = _mm512_set1_epi32(255);
                [
                    _mm512_and_si512(codes, byte),
                    _mm512_and_si512(_mm512_srli_epi32::<8>(codes), byte),
                    _mm512_and_si512(_mm512_srli_epi32::<16>(codes), byte),
                    _mm512_srli_epi32::<24>(codes),
                ]
                .map(|code| _mm512_cvtepi32_ps(_mm512_sub_epi32(code, zero)))
            }
            6 | 8 => [
                _mm512_slli_epi32::<24>(codes),
                _mm512_slli_epi32::<16>(codes),
                _mm512_slli_epi32::<8>(codes),
                codes,
            ]
            .map(|code| _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(code))),
            // Only the lowest 4 or 5 bits of an index count.
            4 if vector >= VECTORS / 2 => [
                _mm512_srli_epi32::<4>(codes),
                _mm512_srli_epi32::<12>(codes),
                _mm512_srli_epi32::<20>(codes),
                _mm512_srli_epi32::<28>(codes),
            ]
            .map(|code| _mm512_permutexvar_ps(code, self.low)),
            _ => [
                codes,
                _mm512_srli_epi32::<8>(codes),
                _mm512_srli_epi32::<16>(codes),
                _mm512_srli_epi32::<24>(codes),
            ]
            .map(|code| match BITS {
                5 => _mm512_permutex2var_ps(self.low, code, self.high),
                _ => _mm512_permutexvar_ps(code, self.low),
            }),
        }
    }
}
