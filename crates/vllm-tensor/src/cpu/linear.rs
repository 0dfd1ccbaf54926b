use std::ops::Range;

use candle_core::{Device, Tensor};
use half::{bf16, f16};

use super::gated::{Gate, GateRow};
use super::isa::Isa;
use super::matmul::{Factor, PanelProduct};
use super::panels::{PANEL, PanelElement, Panels};
use super::scaled::ScaledPanels;
use super::storage::{f32_slice, filled};
use super::{pool, scratch};
use crate::{DType, Result};

/// A weight that is multiplied panel by panel.
#[derive(Clone, Copy)]
pub(crate) enum PanelWeight<'a> {
    /// As the kernels read it.
    Plain(&'a Panels),
    /// To be widened first.
    Scaled(&'a ScaledPanels),
}

impl PanelWeight<'_> {
    fn out_features(self) -> usize {
        match self {
            Self::Plain(panels) => panels.out_features(),
            Self::Scaled(panels) => panels.rows(),
        }
    }

    fn in_features(self) -> usize {
        match self {
            Self::Plain(panels) => panels.in_features(),
            Self::Scaled(panels) => panels.columns(),
        }
    }
}

/// Panels that one task computes: 64 outputs, whose weights fit the second-level cache.
const TASK_PANELS: usize = 4;

/// Rows that one task computes: in bfloat16 they fit the second-level cache, too.
const TASK_ROWS: usize = 256;

/// `x · Wᵀ + b + r` for a contiguous float32 `x`, `[rows, in]`, a `weight`, `[out, in]`, a `bias`,
/// `[out]`, and a contiguous `residual`, `[rows, out]`.
///
/// Where the processor multiplies bfloat16 and the weight is stored so, `x` is rounded to bfloat16.
pub(crate) fn linear(
    x: &Tensor,
    weight: PanelWeight<'_>,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let rows = x.dim(0)?;
    let residual = residual.map(Tensor::storage_and_layout);
    let residual = residual
        .as_ref()
        .map(|(storage, layout)| f32_slice(storage, layout))
        .transpose()?;
    let y = with_operands(x, bias, |x, bias| {
        let finish = Finish::Sum { bias, residual };
        multiply(Isa::current()?, x, weight, finish)
    })?;
    Ok(Tensor::from_vec(
        y,
        (rows, weight.out_features()),
        &Device::Cpu,
    )?)
}

/// `f(x · Gᵀ + g) · (x · Uᵀ + u)` for a `weight` of gates `G` above ups `U`, `[2 · size, in]`, and a
/// bias, `[2 · size]`: `[rows, size]`, the same bits as the two steps would give. `None` where the
/// halves do not fall on panels.
pub(crate) fn linear_gated(
    x: &Tensor,
    weight: PanelWeight<'_>,
    bias: Option<&Tensor>,
    gate: Gate,
) -> Result<Option<Tensor>> {
    let rows = x.dim(0)?;
    let size = weight.out_features() / 2;
    if !size.is_multiple_of(PANEL) || 2 * size != weight.out_features() {
        return Ok(None);
    }
    let y = with_operands(x, bias, |x, bias| {
        multiply(Isa::current()?, x, weight, Finish::Gated { bias, gate })
    })?;
    Ok(Some(Tensor::from_vec(y, (rows, size), &Device::Cpu)?))
}

fn with_operands<T>(
    x: &Tensor,
    bias: Option<&Tensor>,
    run: impl FnOnce(&[f32], Option<&[f32]>) -> Result<T>,
) -> Result<T> {
    let bias = bias.map(Tensor::storage_and_layout);
    let bias = bias
        .as_ref()
        .map(|(storage, layout)| f32_slice(storage, layout))
        .transpose()?;
    let (storage, layout) = x.storage_and_layout();
    run(f32_slice(&storage, layout)?, bias)
}

/// What becomes of the products while they are in the cache.
#[derive(Clone, Copy)]
enum Finish<'a> {
    Sum {
        bias: Option<&'a [f32]>,
        residual: Option<&'a [f32]>,
    },
    /// The first half of the outputs gates the second.
    Gated { bias: Option<&'a [f32]>, gate: Gate },
}

fn multiply(isa: Isa, x: &[f32], weight: PanelWeight<'_>, finish: Finish<'_>) -> Result<Vec<f32>> {
    match weight {
        PanelWeight::Plain(panels) => match panels.dtype() {
            #[cfg(target_arch = "x86_64")]
            DType::BF16 if isa.multiplies_bf16() => multiply_bf16(isa, x, weight, finish),
            DType::BF16 => multiply_wide(isa, x, weight, finish, stored::<bf16>(panels)),
            DType::F16 => multiply_wide(isa, x, weight, finish, stored::<f16>(panels)),
            _ => multiply_wide(isa, x, weight, finish, stored::<f32>(panels)),
        },
        #[cfg(target_arch = "x86_64")]
        PanelWeight::Scaled(panels) if panels.takes_bf16() && isa.multiplies_bf16() => {
            multiply_bf16(isa, x, weight, finish)
        }
        PanelWeight::Scaled(panels) => {
            let widened = |block: &Block, run: &mut dyn FnMut(*const f32)| {
                panels.with_f32(isa, block.panels(), run);
            };
            multiply_wide(isa, x, weight, finish, widened)
        }
    }
}

/// Gives the first of a block's panels where they lie.
fn stored<E: PanelElement>(panels: &Panels) -> impl Fn(&Block, &mut dyn FnMut(*const E)) + Sync {
    let weights = panels.elements::<E>();
    |block, run| run(weights[block.first_panel * panels.panel_len()..].as_ptr())
}

/// In float32 arithmetic, with the panels of a block as `panels` hands them over.
fn multiply_wide<E: Factor>(
    isa: Isa,
    x: &[f32],
    weight: PanelWeight<'_>,
    finish: Finish<'_>,
    panels: impl Fn(&Block, &mut dyn FnMut(*const E)) + Sync,
) -> Result<Vec<f32>> {
    let in_features = weight.in_features();
    let panel_len = in_features.next_multiple_of(E::PADDING) * PANEL;
    by_blocks(isa, x, weight, finish, |block, y, y_stride| {
        panels(&block, &mut |weights| {
            let product = PanelProduct {
                x: &x[block.rows.start * in_features..block.rows.end * in_features],
                in_features,
                weights,
                panel_len,
                num_panels: block.panels().len(),
                y,
                y_stride,
                outputs: block.outputs,
            };
            // SAFETY: the panels are the weight's, and `by_blocks` gives room for the outputs.
            unsafe { isa.run(product) }
        });
    })
}

/// With the instructions for bfloat16.
#[cfg(target_arch = "x86_64")]
fn multiply_bf16(
    isa: Isa,
    x: &[f32],
    weight: PanelWeight<'_>,
    finish: Finish<'_>,
) -> Result<Vec<f32>> {
    use super::matmul_bf16::{Bf16Product, RowLayout, round_rows};

    let in_features = weight.in_features();
    let padded_inputs = in_features.next_multiple_of(bf16::PADDING);
    let rows = x.len() / in_features;
    let layout = match isa {
        Isa::Amx => RowLayout::Tiles,
        _ => RowLayout::Rows,
    };
    scratch::for_operation(2 * layout.len(rows, padded_inputs), |scratch| {
        let rounded: *mut u16 = scratch.cast();
        round_rows(x, in_features, padded_inputs, layout, rounded)?;
        let rounded = Shared(rounded.cast_const());
        by_blocks(isa, x, weight, finish, |block, y, y_stride| {
            let run = |weights: *const u16| {
                let product = Bf16Product {
                    // Blocks begin at whole tiles.
                    x: rounded.get().wrapping_add(block.rows.start * padded_inputs),
                    rows: block.rows.len(),
                    padded_inputs,
                    weights,
                    num_panels: block.panels().len(),
                    y,
                    y_stride,
                    outputs: block.outputs,
                };
                // SAFETY: `multiplies_bf16` is only said of available instructions; the rounded rows,
                // the panels and the outputs have the sizes given.
                unsafe {
                    match layout {
                        RowLayout::Tiles => product.multiply_tiles(),
                        RowLayout::Rows => product.multiply_rows(),
                    }
                }
            };
            match weight {
                PanelWeight::Plain(panels) => {
                    let first = block.first_panel * panels.panel_len();
                    run(panels.elements::<bf16>()[first..].as_ptr().cast());
                }
                PanelWeight::Scaled(panels) => panels.with_bf16(isa, block.panels(), run),
            }
        })
    })
}

/// A part of the products: of some rows with some panels.
#[derive(Clone, Debug)]
struct Block {
    rows: Range<usize>,
    first_panel: usize,
    /// Outputs that the panels really have.
    outputs: usize,
}

impl Block {
    fn panels(&self) -> Range<usize> {
        self.first_panel..self.first_panel + self.outputs.div_ceil(PANEL)
    }
}

/// Makes the result block by block. `product` gets a block, where to write its first row, and how far
/// it is to the next row.
fn by_blocks(
    isa: Isa,
    x: &[f32],
    weight: PanelWeight<'_>,
    finish: Finish<'_>,
    product: impl Fn(Block, *mut f32, usize) + Sync,
) -> Result<Vec<f32>> {
    let (in_features, out_features) = (weight.in_features(), weight.out_features());
    let rows = x.len() / in_features;
    assert_eq!(x.len(), rows * in_features);
    let width = match finish {
        Finish::Sum { .. } => out_features,
        Finish::Gated { .. } => out_features / 2,
    };
    let (Finish::Sum { bias, .. } | Finish::Gated { bias, .. }) = finish;
    assert!(bias.is_none_or(|bias| bias.len() == out_features));
    let work = rows
        .saturating_mul(out_features)
        .saturating_mul(in_features);
    filled(rows * width, |y| {
        let y = Output(y);
        let panel_tasks = width.div_ceil(TASK_PANELS * PANEL);
        // Tasks with the same rows follow one another, so that the rows stay in the cache.
        pool::for_each(rows.div_ceil(TASK_ROWS) * panel_tasks, work, |task| {
            let first_row = task / panel_tasks * TASK_ROWS;
            let first_panel = task % panel_tasks * TASK_PANELS;
            let first = first_panel * PANEL;
            let block = Block {
                rows: first_row..(first_row + TASK_ROWS).min(rows),
                first_panel,
                outputs: (width - first).min(TASK_PANELS * PANEL),
            };
            // SAFETY: the block is a part of the result that no other task writes to.
            unsafe {
                let y = y.get().add(first_row * width + first);
                match finish {
                    Finish::Sum { bias, residual } => {
                        product(block.clone(), y, width);
                        let bias = bias.map(|bias| &bias[first..]);
                        let residual = residual.map(|r| &r[first_row * width + first..]);
                        add(&block, bias, residual, y, width);
                    }
                    Finish::Gated { bias, gate } => {
                        gate_block(isa, &block, bias, gate, &product, y, width);
                    }
                }
            }
        })
    })
}

/// Adds to the sums of a block at `y`.
///
/// # Safety
/// `y` leads to the block's sums, in rows `y_stride` apart.
unsafe fn add(
    block: &Block,
    bias: Option<&[f32]>,
    residual: Option<&[f32]>,
    y: *mut f32,
    y_stride: usize,
) {
    if bias.is_none() && residual.is_none() {
        return;
    }
    for row in 0..block.rows.len() {
        // SAFETY: the caller's promise.
        let y = unsafe { std::slice::from_raw_parts_mut(y.add(row * y_stride), block.outputs) };
        if let Some(bias) = bias {
            y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
        }
        if let Some(residual) = residual {
            let residual = &residual[row * y_stride..];
            y.iter_mut()
                .zip(residual)
                .for_each(|(y, residual)| *y += residual);
        }
    }
}

/// Computes a block of gates and the block of ups behind it, and writes what the gates let through to
/// `y`.
///
/// # Safety
/// `y` leads to the block's outputs, in rows `size` apart.
unsafe fn gate_block(
    isa: Isa,
    block: &Block,
    bias: Option<&[f32]>,
    gate: Gate,
    product: &impl Fn(Block, *mut f32, usize),
    y: *mut f32,
    size: usize,
) {
    let outputs = block.outputs;
    let up_block = Block {
        first_panel: block.first_panel + size / PANEL,
        ..block.clone()
    };
    let len = block.rows.len() * outputs;
    scratch::for_task(2 * len * size_of::<f32>(), |scratch| {
        // SAFETY: the scratch has room for both blocks, one row after the other; `y` is the caller's
        // promise.
        unsafe {
            let gates: *mut f32 = scratch.cast();
            let ups = gates.add(len);
            product(block.clone(), gates, outputs);
            product(up_block.clone(), ups, outputs);
            if let Some(bias) = bias {
                add(
                    block,
                    Some(&bias[block.first_panel * PANEL..]),
                    None,
                    gates,
                    outputs,
                );
                add(
                    &up_block,
                    Some(&bias[up_block.first_panel * PANEL..]),
                    None,
                    ups,
                    outputs,
                );
            }
            for row in 0..block.rows.len() {
                isa.run(GateRow {
                    gate,
                    gates: std::slice::from_raw_parts(gates.add(row * outputs), outputs),
                    ups: std::slice::from_raw_parts(ups.add(row * outputs), outputs),
                    to: y.add(row * size),
                });
            }
        }
    });
}

/// The result, written by all tasks at once, each to a block of its own.
struct Output(*mut f32);

// SAFETY: as said above.
unsafe impl Sync for Output {}

impl Output {
    /// A function, so that closures take the whole and not the pointer inside.
    fn get(&self) -> *mut f32 {
        self.0
    }
}

/// Rounded rows, read by all tasks at once.
struct Shared(*const u16);

// SAFETY: they are only read.
unsafe impl Sync for Shared {}

impl Shared {
    /// A function, so that closures take the whole and not the pointer inside.
    fn get(&self) -> *const u16 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::ScaledForm;
    use crate::test_support::random;

    const SIZES: [(usize, usize, usize); 12] = [
        (1, 1, 1),
        (1, 16, 4),
        (3, 7, 5),
        (4, 17, 33),
        (5, 64, 31),
        (9, 100, 70),
        (2, 33, 129),
        (13, 96, 64),
        (16, 160, 150),
        (17, 32, 48),
        (33, 70, 100),
        (50, 64, 17),
    ];

    fn panels<E: PanelElement>(weight: &[E], in_features: usize) -> Panels {
        let out_features = weight.len() / in_features;
        let mut panels = Panels::zeroed(E::DTYPE, out_features, in_features).unwrap();
        panels.fill(0, weight).unwrap();
        panels
    }

    fn sum(bias: Option<&[f32]>) -> Finish<'_> {
        Finish::Sum {
            bias,
            residual: None,
        }
    }

    /// Every instruction set against float64, at sizes around the tiles and lanes.
    fn check<E: PanelElement>() {
        for (rows, in_features, out_features) in SIZES {
            let x = random(1, rows * in_features);
            let weight: Vec<E> = random(2, out_features * in_features)
                .into_iter()
                .map(E::from_f32)
                .collect();
            let bias = random(3, out_features);
            let packed = panels(&weight, in_features);
            for isa in Isa::available() {
                let rounds = E::DTYPE == DType::BF16 && isa.multiplies_bf16();
                let factor = |x: f32| {
                    if rounds {
                        bf16::from_f32(x).to_f32()
                    } else {
                        x
                    }
                };
                let y = multiply(isa, &x, PanelWeight::Plain(&packed), sum(Some(&bias))).unwrap();
                for (index, actual) in y.iter().enumerate() {
                    let (row, column) = (index / out_features, index % out_features);
                    let products = (0..in_features).map(|k| {
                        let w = weight[column * in_features + k].to_f32();
                        f64::from(factor(x[row * in_features + k])) * f64::from(w)
                    });
                    let expected = products.sum::<f64>() + f64::from(bias[column]);
                    assert!(
                        (f64::from(*actual) - expected).abs()
                            < 1e-5 * (1.0 + in_features as f64).sqrt(),
                        "{isa:?} {rows}x{in_features}x{out_features} at {row}, {column}: {actual}, \
                         expected {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn products_are_right_at_odd_sizes() {
        check::<f32>();
        check::<f16>();
        check::<bf16>();
    }

    fn check_invariance<E: PanelElement>() {
        let (rows, in_features, out_features) = (TASK_ROWS + 41, 75, 150);
        let x = random(4, rows * in_features);
        let weight: Vec<E> = random(5, out_features * in_features)
            .into_iter()
            .map(E::from_f32)
            .collect();
        let packed = panels(&weight, in_features);
        for isa in Isa::available() {
            let together = multiply(isa, &x, PanelWeight::Plain(&packed), sum(None)).unwrap();
            for chunk in [1, 2, 7, 16, 17, 32, 40, 270] {
                let pieces = x.chunks(chunk * in_features).flat_map(|rows| {
                    multiply(isa, rows, PanelWeight::Plain(&packed), sum(None)).unwrap()
                });
                let pieces: Vec<f32> = pieces.collect();
                assert_eq!(pieces, together, "{isa:?} {:?} by {chunk}", E::DTYPE);
            }
        }
    }

    #[test]
    fn rows_do_not_depend_on_the_batch() {
        check_invariance::<f32>();
        check_invariance::<f16>();
        check_invariance::<bf16>();
    }

    /// Bytes of FP8 or indices of a table, and what they stand for.
    fn scaled(form: ScaledForm, out_features: usize, in_features: usize) -> ScaledPanels {
        let read = |row: usize, codes: &mut [u8], scales: &mut [f32]| {
            for (number, code) in random(row as u64, in_features).iter().zip(codes) {
                *code = match form {
                    ScaledForm::Fp8 => crate::fp8_from_f32(*number),
                    ScaledForm::Table(_) => (number.abs() * 15.0) as u8,
                };
            }
            scales.copy_from_slice(&random(row as u64, scales.len()));
            Ok::<_, crate::Error>(())
        };
        let size = (out_features, in_features);
        ScaledPanels::from_rows(form, size, 32, true, read).unwrap()
    }

    #[test]
    fn narrow_weights_are_multiplied_as_their_numbers_are() {
        let mut table = [0.0; 16];
        table.copy_from_slice(&random(6, 16));
        for form in [ScaledForm::Fp8, ScaledForm::Table(table)] {
            for (rows, in_features, out_features) in SIZES {
                let narrow = scaled(form, out_features, in_features);
                let mut weight = vec![0.0; out_features * in_features];
                for (row, numbers) in weight.chunks_exact_mut(in_features).enumerate() {
                    narrow.copy_row(row, numbers);
                }
                let x = random(7, rows * in_features);
                for isa in Isa::available() {
                    let y = multiply(isa, &x, PanelWeight::Scaled(&narrow), sum(None)).unwrap();
                    let plain = if isa.multiplies_bf16() {
                        let rounded: Vec<bf16> =
                            weight.iter().copied().map(bf16::from_f32).collect();
                        panels(&rounded, in_features)
                    } else {
                        panels(&weight, in_features)
                    };
                    let expected = multiply(isa, &x, PanelWeight::Plain(&plain), sum(None));
                    assert_eq!(y, expected.unwrap(), "{isa:?} {form:?}");
                }
            }
        }
    }
}
