//! The twin that the others are tested against, and what runs where there is nothing better.

use super::panels::{code_place, unpack_chunk};
use super::{CHUNK, Product};
use crate::cpu::panels::PANEL;

/// # Safety
/// As [`Product::run`].
pub(super) unsafe fn run(product: Product<'_>) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: forwarded to the caller; the instructions are there.
        return unsafe { run_avx2(product) };
    }
    // SAFETY: forwarded to the caller.
    unsafe { sum(product) }
}

/// # Safety
/// As [`Product::run`], on a processor with AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2(product: Product<'_>) {
    // SAFETY: forwarded to the caller.
    unsafe { sum(product) }
}

/// Rows in a block: the codes are unpacked once for each.
const BLOCK: usize = 16;

/// # Safety
/// As [`Product::run`].
#[inline(always)]
unsafe fn sum(product: Product<'_>) {
    let Product {
        rows,
        panels,
        panel,
        ..
    } = product;
    let form = panels.form();
    let (scales, mins) = (panels.scales(panel), panels.mins(panel));
    let groups_of_chunk = CHUNK / form.group_len();
    let mut codes = [0; CHUNK * PANEL];
    for first in (0..product.num_rows).step_by(BLOCK) {
        let block = BLOCK.min(product.num_rows - first);
        let mut sums = [[0f32; PANEL]; BLOCK];
        let chunks = panels
            .codes(panel)
            .chunks_exact(form.code_bytes())
            .enumerate();
        for (chunk, packed) in chunks {
            unpack_chunk(form.bits(), packed, &mut codes);
            for (row, sums) in (first..).zip(&mut sums[..block]) {
                let row = rows.row(row);
                let x = &row.codes[chunk * CHUNK..][..CHUNK];
                for within in 0..groups_of_chunk {
                    let group = chunk * groups_of_chunk + within;
                    let mut dots = [0i32; PANEL];
                    for column in within * form.group_len()..(within + 1) * form.group_len() {
                        let factor = i32::from(x[column]);
                        for (lane, dot) in dots.iter_mut().enumerate() {
                            *dot += i32::from(codes[code_place(column, lane)]) * factor;
                        }
                    }
                    let offset = i32::from(form.zero()) * row.sums[group];
                    for (lane, (sum, dot)) in sums.iter_mut().zip(dots).enumerate() {
                        let scale = scales[group * PANEL + lane].to_f32() * row.scales[chunk];
                        *sum += (dot - offset) as f32 * scale;
                        if form.has_mins() {
                            *sum -= mins[group * PANEL + lane].to_f32() * row.scaled_sums[group];
                        }
                    }
                }
            }
        }
        for (row, sums) in (first..).zip(&sums[..block]) {
            for (lane, sum) in sums[..product.outputs].iter().enumerate() {
                // SAFETY: forwarded to the caller.
                unsafe {
                    *product.y.add(row * product.y_stride + lane) = sum * panels.factor(panel)
                };
            }
        }
    }
}
