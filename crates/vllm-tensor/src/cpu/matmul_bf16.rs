//! Products of bfloat16 rows with bfloat16 panels by the instructions made for them.
//!
//! The rows are rounded to bfloat16 first, as processors multiply two factors of the same kind. Sums
//! are float32; the order in which an instruction adds to a sum is its own, and the same for every row
//! and panel. On a processor with tiles, tiles are used for a single row as well: `VDPBF16PS` would
//! add in another order, and a row must not depend on how many there are.

use std::arch::x86_64::*;

use super::amx::{self, Operands, TILE, TILE_INPUTS};
use super::panels::PANEL;
#[cfg(doc)]
use super::rows::RowLayout;

/// Some panels of a product, for all rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bf16Product {
    /// Rows as the kernel's [`RowLayout`] has them.
    pub(super) x: *const u16,
    pub(super) rows: usize,
    pub(super) padded_inputs: usize,
    /// The first of the panels.
    pub(super) weights: *const u16,
    pub(super) num_panels: usize,
    /// The first panel's sums of the first row.
    pub(super) y: *mut f32,
    /// Elements from one row of the result to the next.
    pub(super) y_stride: usize,
    /// Outputs that the panels really have; those behind them are not written.
    pub(super) outputs: usize,
}

impl Bf16Product {
    /// Multiplies rows in [`RowLayout::Tiles`] with AMX.
    ///
    /// # Safety
    /// AMX is available, and the pointers are good for the sizes.
    pub(super) unsafe fn multiply_tiles(&self) {
        let whole_panels = self.outputs / PANEL;
        // SAFETY: the caller's promise.
        unsafe {
            let mut row = 0;
            while self.rows - row > TILE {
                self.two_blocks(row, whole_panels);
                row += 2 * TILE;
                if row >= self.rows {
                    break;
                }
            }
            if row < self.rows {
                self.one_block(row, whole_panels);
            }
            if whole_panels < self.num_panels {
                self.ragged_panel(whole_panels);
            }
        }
    }

    /// The 17 to 32 rows from `row` on, times the first `panels` panels.
    ///
    /// # Safety
    /// As [`Self::multiply_tiles`].
    unsafe fn two_blocks(&self, row: usize, panels: usize) {
        let config = amx::two_block_config((self.rows - row - TILE).min(TILE));
        let mut panel = 0;
        // SAFETY: the caller's promise.
        unsafe {
            while panel + 2 <= panels {
                let operands = self.operands(row, panel);
                amx::two_blocks_by_two_panels(&config, operands, row == 0);
                panel += 2;
            }
            if panel < panels {
                self.one_block_by_panel(row, panel);
                self.one_block_by_panel(row + TILE, panel);
            }
        }
    }

    /// The at most 16 rows from `row` on, times the first `panels` panels.
    ///
    /// # Safety
    /// As [`Self::multiply_tiles`].
    unsafe fn one_block(&self, row: usize, panels: usize) {
        let config = amx::one_block_config(self.rows - row);
        let mut panel = 0;
        // SAFETY: the caller's promise.
        unsafe {
            while panel + 4 <= panels {
                amx::rows_by_four_panels(&config, self.operands(row, panel));
                panel += 4;
            }
            while panel < panels {
                self.one_block_by_panel(row, panel);
                panel += 1;
            }
        }
    }

    /// # Safety
    /// As [`Self::multiply_tiles`].
    unsafe fn one_block_by_panel(&self, row: usize, panel: usize) {
        let config = amx::one_block_config((self.rows - row).min(TILE));
        // SAFETY: the caller's promise.
        unsafe { amx::rows_by_panel(&config, self.operands(row, panel)) }
    }

    /// All rows times a panel that has fewer than 16 outputs.
    ///
    /// # Safety
    /// As [`Self::multiply_tiles`].
    unsafe fn ragged_panel(&self, panel: usize) {
        let outputs = self.outputs - panel * PANEL;
        for row in (0..self.rows).step_by(TILE) {
            let rows = (self.rows - row).min(TILE);
            let mut sums = [0f32; TILE * PANEL];
            let operands = Operands {
                y: sums.as_mut_ptr(),
                y_stride: PANEL,
                ..self.operands(row, panel)
            };
            // SAFETY: the caller's promise, and the sums have room for a tile.
            unsafe {
                amx::rows_by_panel(&amx::one_block_config(rows), operands);
                for (r, sums) in sums.chunks_exact(PANEL).enumerate().take(rows) {
                    let y = self.y.add((row + r) * self.y_stride + panel * PANEL);
                    y.copy_from_nonoverlapping(sums.as_ptr(), outputs);
                }
            }
        }
    }

    fn operands(&self, row: usize, panel: usize) -> Operands {
        Operands {
            x: self.x.wrapping_add(row * self.padded_inputs),
            x_stride: TILE * self.padded_inputs,
            weights: self
                .weights
                .wrapping_add(panel * PANEL * self.padded_inputs),
            panel_stride: PANEL * self.padded_inputs,
            k_tiles: self.padded_inputs / TILE_INPUTS,
            y: self.y.wrapping_add(row * self.y_stride + panel * PANEL),
            y_stride: self.y_stride,
        }
    }

    /// Multiplies rows in [`RowLayout::Rows`] with AVX512_BF16.
    ///
    /// # Safety
    /// AVX512_BF16 is available, and the pointers are good for the sizes.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub(super) unsafe fn multiply_rows(&self) {
        let mut row = 0;
        // SAFETY: the caller's promise.
        unsafe {
            while row + 6 <= self.rows {
                self.all_panels::<6>(row);
                row += 6;
            }
            while row < self.rows {
                self.all_panels::<1>(row);
                row += 1;
            }
        }
    }

    /// # Safety
    /// As [`Self::multiply_rows`], with `row + R` rows.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn all_panels<const R: usize>(&self, row: usize) {
        let mut panel = 0;
        // SAFETY: the caller's promise.
        unsafe {
            while panel + 4 <= self.num_panels {
                self.tile::<R, 4>(row, panel);
                panel += 4;
            }
            while panel < self.num_panels {
                self.tile::<R, 1>(row, panel);
                panel += 1;
            }
        }
    }

    /// # Safety
    /// As [`Self::multiply_rows`], with `row + R` rows and `panel + P` panels.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn tile<const R: usize, const P: usize>(&self, row: usize, panel: usize) {
        // SAFETY: all accesses are within the rows and panels by the caller's promise.
        unsafe {
            let x = self.x.add(row * self.padded_inputs).cast::<i32>();
            let weights = self.weights.add(panel * PANEL * self.padded_inputs);
            let pairs = self.padded_inputs / 2;
            let mut sums = [[_mm512_setzero_ps(); P]; R];
            for pair in 0..pairs {
                let mut factors = [_mm512_setzero_si512(); P];
                for (p, factor) in factors.iter_mut().enumerate() {
                    let from = weights.add((p * pairs + pair) * 2 * PANEL);
                    *factor = _mm512_loadu_si512(from.cast());
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = _mm512_set1_epi32(*x.add(r * pairs + pair));
                    for (sum, factor) in sums.iter_mut().zip(factors) {
                        *sum = _mm512_dpbf16_ps(
                            *sum,
                            std::mem::transmute::<__m512i, __m512bh>(x),
                            std::mem::transmute::<__m512i, __m512bh>(factor),
                        );
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                for (p, sum) in sums.iter().enumerate() {
                    let output = (panel + p) * PANEL;
                    let lanes = self.outputs.saturating_sub(output).min(PANEL);
                    let mask = ((1u32 << lanes) - 1) as u16;
                    let y = self.y.add((row + r) * self.y_stride + output);
                    _mm512_mask_storeu_ps(y, mask, *sum);
                }
            }
        }
    }
}
