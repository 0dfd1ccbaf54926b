//! Intel's matrix tiles of int8, for many rows: `TDPBSSD` multiplies a tile of activations, 16 rows of a
//! group, by a tile of codes, less their zero, of 16 outputs.
//!
//! The whole-number sums of a group are the same as those of `VPDPBUSD`, and the same float32 operations
//! follow in the same order, so a row's result does not depend on which of the two made it.

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::RefCell;

use super::rows::BLOCK_ROWS;
use super::{CHUNK, Product, vnni};
use crate::cpu::amx::TileConfig;
use crate::cpu::panels::PANEL;

/// Fewer rows than these are not worth a tile.
pub(super) const MIN_ROWS: usize = 6;

/// Sums of 16 rows and 16 outputs.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Sums([i32; BLOCK_ROWS * PANEL]);

/// Groups that are multiplied before the sums of the groups before them are taken up.
const RUN: usize = 4;

/// Where tiles are read and written.
struct Operands {
    x: *const i8,
    x_stride: usize,
    codes: *const __m512i,
    dots: *mut Sums,
}

/// One product of tiles, given as the numbers of those of sums, activations and codes.
macro_rules! multiply_tiles {
    ($sums:literal, $x:literal, $codes:literal, $operands:expr) => {{
        let Operands { x, x_stride, codes, dots } = $operands;
        asm!(
            concat!("tilezero tmm", $sums),
            concat!("tileloadd tmm", $x, ", [{x}+{x_stride}*1]"),
            concat!("tileloadd tmm", $codes, ", [{codes}+{row}*1]"),
            concat!("tdpbssd tmm", $sums, ", tmm", $x, ", tmm", $codes),
            concat!("tilestored [{dots}+{row}*1], tmm", $sums),
            x = in(reg) x,
            x_stride = in(reg) x_stride,
            codes = in(reg) codes,
            dots = in(reg) dots,
            row = in(reg) 64usize,
            options(nostack),
        )
    }};
}

/// # Safety
/// As [`Product::run`], on a processor with tiles of int8 and AVX512_VNNI.
pub(super) unsafe fn run(product: Product<'_>) {
    thread_local! {
        static CODES: RefCell<Vec<__m512i>> = const { RefCell::new(Vec::new()) };
    }
    let form = product.panels.form();
    let tiled_rows = match product.num_rows % BLOCK_ROWS {
        rest if rest < MIN_ROWS => product.num_rows - rest,
        _ => product.num_rows,
    };
    if tiled_rows > 0 {
        CODES.with_borrow_mut(|codes| {
            // SAFETY: forwarded to the caller.
            unsafe {
                vnni::unpack_panel(product, codes);
                let tiled = Product {
                    num_rows: tiled_rows,
                    ..product
                };
                match (form.group_len(), form.has_mins()) {
                    (16, false) => by_blocks::<2, false>(tiled, codes),
                    (16, true) => by_blocks::<2, true>(tiled, codes),
                    (_, false) => by_blocks::<1, false>(tiled, codes),
                    (_, true) => by_blocks::<1, true>(tiled, codes),
                }
            }
        });
    }
    if tiled_rows < product.num_rows {
        let rest = Product {
            first_row: product.first_row + tiled_rows,
            num_rows: product.num_rows - tiled_rows,
            ..product
        };
        // SAFETY: forwarded to the caller.
        unsafe { vnni::run(rest) };
    }
}

/// # Safety
/// As [`run`].
unsafe fn by_blocks<const GROUPS: usize, const MINS: bool>(
    product: Product<'_>,
    codes: &[__m512i],
) {
    let end = product.first_row + product.num_rows;
    for first in (product.first_row..end).step_by(BLOCK_ROWS) {
        let rows = BLOCK_ROWS.min(end - first);
        // SAFETY: forwarded to the caller.
        unsafe { block::<GROUPS, MINS>(product, codes, first, rows) };
    }
}

/// `rows` rows from `first` on, which is the first of a block.
///
/// # Safety
/// As [`run`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn block<const GROUPS: usize, const MINS: bool>(
    product: Product<'_>,
    codes: &[__m512i],
    first: usize,
    rows: usize,
) {
    let Product { panels, panel, .. } = product;
    let group_len = CHUNK / GROUPS;
    let num_groups = panels.chunks() * GROUPS;
    let config = TileConfig::with_shapes([
        (rows, 64),
        (rows, 64),
        (rows, 64),
        (rows, 64),
        (rows, group_len),
        (group_len / 4, 64),
        (rows, group_len),
        (group_len / 4, 64),
    ]);
    let x = product.rows.row(first).codes.as_ptr();
    let x_stride = panels.chunks() * CHUNK;
    let codes = codes.as_ptr();
    let (factors, totals) = product.rows.block(first);
    let (factors, totals) = (factors.as_ptr(), totals.as_ptr());
    let scales = panels.scales(panel).as_ptr();
    let mins = panels.mins(panel).as_ptr();
    let mut dots = [Sums([0; BLOCK_ROWS * PANEL]); 2 * RUN];
    let dots = dots.as_mut_ptr();
    let mut sums = [_mm512_setzero_ps(); BLOCK_ROWS];

    // SAFETY: the panel's codes, scales and minima, the rows and the block's factors are there for all
    // groups; nothing else uses tiles.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &config, options(nostack));
        // Tiles are multiplied a run ahead of the sums: what they store is not there at once.
        let multiply = |first: usize| {
            for group in first..num_groups.min(first + RUN) {
                let operands = Operands {
                    x: x.add(group * group_len),
                    x_stride,
                    codes: codes.add(group * group_len / 4),
                    dots: dots.add(group % (2 * RUN)),
                };
                match group % RUN {
                    0 => multiply_tiles!("0", "4", "5", operands),
                    1 => multiply_tiles!("1", "6", "7", operands),
                    2 => multiply_tiles!("2", "4", "5", operands),
                    _ => multiply_tiles!("3", "6", "7", operands),
                }
            }
        };
        multiply(0);
        for group in 0..num_groups {
            if group % RUN == 0 {
                multiply(group + RUN);
            }
            let scale = vnni::load_halves(scales.add(group * PANEL).cast());
            let group_dots = dots.add(group % (2 * RUN)).cast::<i32>();
            let row_factors = factors.add(group / GROUPS * BLOCK_ROWS);
            for (row, sum) in sums.iter_mut().enumerate() {
                let dots = _mm512_load_si512(group_dots.add(row * PANEL).cast());
                let factor = _mm512_mul_ps(scale, _mm512_set1_ps(*row_factors.add(row)));
                *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), factor, *sum);
            }
            if MINS {
                let min = vnni::load_halves(mins.add(group * PANEL).cast());
                let row_totals = totals.add(group * BLOCK_ROWS);
                for (row, sum) in sums.iter_mut().enumerate() {
                    let total = _mm512_set1_ps(*row_totals.add(row));
                    *sum = _mm512_fnmadd_ps(min, total, *sum);
                }
            }
        }
        asm!("tilerelease", options(nostack, nomem));
        let factor = _mm512_set1_ps(panels.factor(panel));
        let mask = (0xffffu32 >> (PANEL - product.outputs)) as __mmask16;
        for (row, sum) in sums.into_iter().enumerate().take(rows) {
            let y = product.y.add((first + row) * product.y_stride);
            _mm512_mask_storeu_ps(y, mask, _mm512_mul_ps(sum, factor));
        }
    }
}
