//! Products with weights in panels: `y = x · Wᵀ + b`, block by block, in whatever width the processor
//! multiplies.

mod blocks;

use std::borrow::Cow;

use candle_core::{Device, Tensor};
use half::{bf16, f16};

use self::blocks::{Block, Finish, Output, by_blocks};
use super::gated::Gate;
use super::isa::Isa;
use super::matmul::{Factor, PanelProduct};
use super::panels::{PANEL, PanelElement, Panels};
use super::rows::{RoundedRows, RowForm, RowLayout, TILE_INPUTS};
use super::scaled::ScaledPanels;
use super::storage::{f32_slice, filled};
use crate::linear_input::Input;
use crate::{DType, LinearInput, Result};

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

    /// Whether it may be multiplied in bfloat16.
    fn takes_bf16(self) -> bool {
        match self {
            Self::Plain(panels) => panels.dtype() == DType::BF16,
            Self::Scaled(panels) => panels.takes_bf16(),
        }
    }
}

/// The rows of a product.
#[derive(Clone, Copy)]
enum Rows<'a> {
    /// One after the other.
    Wide(&'a [f32]),
    Rounded(&'a RoundedRows),
}

impl<'a> Rows<'a> {
    fn len(self, in_features: usize) -> usize {
        match self {
            Self::Wide(x) => {
                assert!(x.len().is_multiple_of(in_features));
                x.len() / in_features
            }
            Self::Rounded(rows) => {
                assert_eq!(rows.columns(), in_features);
                rows.rows()
            }
        }
    }

    fn wide(self) -> Cow<'a, [f32]> {
        match self {
            Self::Wide(x) => Cow::Borrowed(x),
            Self::Rounded(rows) => Cow::Owned(rows.to_f32()),
        }
    }
}

/// The form in which rows are best handed to a product with a weight, on the instruction set in use.
pub(crate) fn row_form(weight: PanelWeight<'_>) -> Result<RowForm> {
    let isa = Isa::current()?;
    // Whoever makes rows writes them in whole vectors.
    let fits = weight.in_features().is_multiple_of(TILE_INPUTS);
    Ok(match weight.takes_bf16() && isa.multiplies_bf16() && fits {
        true => RowForm::Rounded(layout_for(isa)),
        false => RowForm::Wide,
    })
}

fn layout_for(isa: Isa) -> RowLayout {
    match isa {
        Isa::Amx => RowLayout::Tiles,
        _ => RowLayout::Rows,
    }
}

/// `x · Wᵀ + b + r` for rows `[rows, in]` on the CPU, a `weight`, `[out, in]`, a `bias`, `[out]`, and a
/// contiguous float32 `residual`, `[rows, out]`.
///
/// Where the processor multiplies bfloat16 and the weight is stored so, `x` is rounded to bfloat16.
pub(crate) fn linear(
    x: &LinearInput,
    weight: PanelWeight<'_>,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let residual = residual.map(Tensor::storage_and_layout);
    let residual = residual
        .as_ref()
        .map(|(storage, layout)| f32_slice(storage, layout))
        .transpose()?;
    let out_features = weight.out_features();
    let (y, rows) = with_operands(x, bias, |x, bias| {
        let rows = x.len(weight.in_features());
        let y = filled(rows * out_features, |y| {
            let to = Output(y);
            let finish = Finish::Sum { bias, residual, to };
            multiply(Isa::current()?, x, weight, finish)
        })?;
        Ok((y, rows))
    })?;
    Ok(Tensor::from_vec(y, (rows, out_features), &Device::Cpu)?)
}

/// `f(x · Gᵀ + g) · (x · Uᵀ + u)` for a `weight` of gates `G` above ups `U`, `[2 · size, in]`, and a
/// bias, `[2 · size]`: `[rows, size]` in the form asked for, the same bits as the two steps would give.
/// `None` where the halves do not fall on panels.
pub(crate) fn linear_gated(
    x: &LinearInput,
    weight: PanelWeight<'_>,
    bias: Option<&Tensor>,
    gate: Gate,
    form: RowForm,
) -> Result<Option<LinearInput>> {
    let size = weight.out_features() / 2;
    if !size.is_multiple_of(PANEL) || 2 * size != weight.out_features() {
        return Ok(None);
    }
    let gated = with_operands(x, bias, |x, bias| {
        let rows = x.len(weight.in_features());
        LinearInput::filled((rows, size), form, |to| {
            let finish = Finish::Gated { bias, gate, to };
            multiply(Isa::current()?, x, weight, finish)
        })
    })?;
    Ok(Some(gated))
}

fn with_operands<T>(
    x: &LinearInput,
    bias: Option<&Tensor>,
    run: impl FnOnce(Rows<'_>, Option<&[f32]>) -> Result<T>,
) -> Result<T> {
    let bias = bias.map(Tensor::storage_and_layout);
    let bias = bias
        .as_ref()
        .map(|(storage, layout)| f32_slice(storage, layout))
        .transpose()?;
    match &x.0 {
        Input::Rounded(rows) => run(Rows::Rounded(rows), bias),
        Input::Wide(x) => {
            let x = x.to_dtype(DType::F32)?.contiguous()?;
            let (storage, layout) = x.storage_and_layout();
            run(Rows::Wide(f32_slice(&storage, layout)?), bias)
        }
    }
}

fn multiply(isa: Isa, x: Rows<'_>, weight: PanelWeight<'_>, finish: Finish<'_>) -> Result<()> {
    if weight.takes_bf16() && isa.multiplies_bf16() {
        #[cfg(target_arch = "x86_64")]
        return multiply_bf16(isa, x, weight, finish);
    }
    match weight {
        PanelWeight::Plain(panels) => match panels.dtype() {
            DType::BF16 => multiply_wide(isa, x, weight, finish, stored::<bf16>(panels)),
            DType::F16 => multiply_wide(isa, x, weight, finish, stored::<f16>(panels)),
            _ => multiply_wide(isa, x, weight, finish, stored::<f32>(panels)),
        },
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
    x: Rows<'_>,
    weight: PanelWeight<'_>,
    finish: Finish<'_>,
    panels: impl Fn(&Block, &mut dyn FnMut(*const E)) + Sync,
) -> Result<()> {
    let in_features = weight.in_features();
    let panel_len = in_features.next_multiple_of(E::PADDING) * PANEL;
    let rows = x.len(in_features);
    let x = x.wide();
    by_blocks(isa, rows, weight, finish, |block, y, y_stride| {
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
fn multiply_bf16(isa: Isa, x: Rows<'_>, weight: PanelWeight<'_>, finish: Finish<'_>) -> Result<()> {
    use super::matmul_bf16::Bf16Product;

    let in_features = weight.in_features();
    let layout = layout_for(isa);
    let rounded_here;
    let rounded = match x {
        Rows::Rounded(rows) if rows.layout() == layout => rows,
        other => {
            rounded_here = RoundedRows::round(&other.wide(), in_features, layout)?;
            &rounded_here
        }
    };
    let padded_inputs = in_features.next_multiple_of(TILE_INPUTS);
    by_blocks(isa, rounded.rows(), weight, finish, |block, y, y_stride| {
        let run = |weights: *const u16| {
            let product = Bf16Product {
                // Blocks begin at whole tiles.
                x: rounded
                    .as_ptr()
                    .wrapping_add(block.rows.start * padded_inputs),
                rows: block.rows.len(),
                padded_inputs,
                weights,
                num_panels: block.panels().len(),
                y,
                y_stride,
                outputs: block.outputs,
            };
            // SAFETY: `multiplies_bf16` is only said of available instructions; the rounded rows, the
            // panels and the outputs have the sizes given.
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
}

#[cfg(test)]
mod tests {
    use super::blocks::TASK_ROWS;
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

    fn product(isa: Isa, x: &[f32], weight: PanelWeight<'_>, bias: Option<&[f32]>) -> Vec<f32> {
        let len = x.len() / weight.in_features() * weight.out_features();
        let product = filled(len, |y| {
            let finish = Finish::Sum {
                bias,
                residual: None,
                to: Output(y),
            };
            multiply(isa, Rows::Wide(x), weight, finish)
        });
        product.unwrap()
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
                let y = product(isa, &x, PanelWeight::Plain(&packed), Some(&bias));
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
            let together = product(isa, &x, PanelWeight::Plain(&packed), None);
            for chunk in [1, 2, 7, 16, 17, 32, 40, 270] {
                let pieces: Vec<f32> = x
                    .chunks(chunk * in_features)
                    .flat_map(|rows| product(isa, rows, PanelWeight::Plain(&packed), None))
                    .collect();
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
                    let y = product(isa, &x, PanelWeight::Scaled(&narrow), None);
                    let plain = if isa.multiplies_bf16() {
                        let rounded: Vec<bf16> =
                            weight.iter().copied().map(bf16::from_f32).collect();
                        panels(&rounded, in_features)
                    } else {
                        panels(&weight, in_features)
                    };
                    let expected = product(isa, &x, PanelWeight::Plain(&plain), None);
                    assert_eq!(y, expected, "{isa:?} {form:?}");
                }
            }
        }
    }
}
