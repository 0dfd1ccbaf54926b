use std::cell::RefCell;

use candle_core::{Device, Tensor};
use half::{bf16, f16};

use super::aligned::AlignedBytes;
use super::isa::Isa;
use super::matmul::{Factor, PanelProduct, TASK_PANELS};
use super::panels::{PANEL, Panels};
use super::pool;
use super::storage::{f32_slice, filled};
use crate::{DType, Error, Result};

/// `x · Wᵀ + b` for a contiguous float32 `x`, `[rows, in]`, and `weight`, `[out, in]`.
///
/// Where the processor multiplies bfloat16 and the weight is stored so, `x` is rounded to bfloat16.
pub(crate) fn linear(x: &Tensor, weight: &Panels, bias: Option<&Tensor>) -> Result<Tensor> {
    let rows = x.dim(0)?;
    let bias = bias.map(Tensor::storage_and_layout);
    let bias = bias
        .as_ref()
        .map(|(storage, layout)| f32_slice(storage, layout))
        .transpose()?;
    let (storage, layout) = x.storage_and_layout();
    let x = f32_slice(&storage, layout)?;
    let out_features = weight.out_features();
    let y = multiply(Isa::current()?, x, weight, bias)?;
    Ok(Tensor::from_vec(y, (rows, out_features), &Device::Cpu)?)
}

fn multiply(isa: Isa, x: &[f32], weight: &Panels, bias: Option<&[f32]>) -> Result<Vec<f32>> {
    match weight.dtype() {
        #[cfg(target_arch = "x86_64")]
        DType::BF16 if isa.multiplies_bf16() => multiply_bf16(isa, x, weight, bias),
        DType::BF16 => multiply_wide::<bf16>(isa, x, weight, bias),
        DType::F16 => multiply_wide::<f16>(isa, x, weight, bias),
        _ => multiply_wide::<f32>(isa, x, weight, bias),
    }
}

/// In float32 arithmetic.
fn multiply_wide<E: Factor>(
    isa: Isa,
    x: &[f32],
    weight: &Panels,
    bias: Option<&[f32]>,
) -> Result<Vec<f32>> {
    let weights = weight.elements::<E>();
    by_panels(x, weight, bias, |first_panel, num_panels, outputs, y| {
        let product = PanelProduct {
            x,
            in_features: weight.in_features(),
            weights: weights[first_panel * weight.panel_len()..].as_ptr(),
            panel_len: weight.panel_len(),
            num_panels,
            y,
            y_stride: weight.out_features(),
            outputs,
        };
        // SAFETY: the panels are the weight's, and `by_panels` gives room for the outputs.
        unsafe { isa.run(product) }
    })
}

/// With the instructions for bfloat16.
#[cfg(target_arch = "x86_64")]
fn multiply_bf16(isa: Isa, x: &[f32], weight: &Panels, bias: Option<&[f32]>) -> Result<Vec<f32>> {
    use super::matmul_bf16::{Bf16Product, RowLayout, round_rows};

    let (rows, padded_inputs) = (x.len() / weight.in_features(), weight.padded_inputs());
    let layout = match isa {
        Isa::Amx => RowLayout::Tiles,
        _ => RowLayout::Rows,
    };
    let weights = weight.elements::<bf16>();
    with_scratch(2 * layout.len(rows, padded_inputs), |scratch| {
        let rounded: *mut u16 = scratch.cast();
        round_rows(x, weight.in_features(), padded_inputs, layout, rounded)?;
        let rounded = Shared(rounded.cast_const());
        by_panels(x, weight, bias, |first_panel, num_panels, outputs, y| {
            let product = Bf16Product {
                x: rounded.get(),
                rows,
                padded_inputs,
                weights: weights[first_panel * weight.panel_len()..].as_ptr().cast(),
                num_panels,
                y,
                y_stride: weight.out_features(),
                outputs,
            };
            // SAFETY: `multiplies_bf16` is only said of available instructions; the rounded rows, the
            // panels and the outputs have the sizes given.
            unsafe {
                match layout {
                    RowLayout::Tiles => product.multiply_tiles(),
                    RowLayout::Rows => product.multiply_rows(),
                }
            }
        })
    })
}

/// Makes the result by tasks of a few panels each. `product` gets the first panel, the number of
/// panels, the outputs that they have, and where to write their sums of the first row. The bias is
/// added here.
fn by_panels(
    x: &[f32],
    weight: &Panels,
    bias: Option<&[f32]>,
    product: impl Fn(usize, usize, usize, *mut f32) + Sync,
) -> Result<Vec<f32>> {
    let (in_features, out_features) = (weight.in_features(), weight.out_features());
    let rows = x.len() / in_features;
    assert_eq!(x.len(), rows * in_features);
    assert!(bias.is_none_or(|bias| bias.len() == out_features));
    let work = rows
        .saturating_mul(out_features)
        .saturating_mul(in_features);
    filled(rows * out_features, |y| {
        let y = Output(y);
        let num_panels = out_features.div_ceil(PANEL);
        pool::for_each(num_panels.div_ceil(TASK_PANELS), work, |task| {
            let first_panel = task * TASK_PANELS;
            let first = first_panel * PANEL;
            let outputs = (out_features - first).min(TASK_PANELS * PANEL);
            // SAFETY: `first` is an output of the first row.
            let y = unsafe { y.get().add(first) };
            product(first_panel, outputs.div_ceil(PANEL), outputs, y);
            let Some(bias) = bias else { return };
            for row in 0..rows {
                // SAFETY: these outputs are this task's, and written by the product.
                let y =
                    unsafe { std::slice::from_raw_parts_mut(y.add(row * out_features), outputs) };
                y.iter_mut()
                    .zip(&bias[first..])
                    .for_each(|(y, bias)| *y += bias);
            }
        })
    })
}

/// The result, written by all tasks at once, each to columns of its own.
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

/// Runs `f` with `len` bytes of memory that this thread keeps for the next time. Their contents are
/// left from the last time.
fn with_scratch<T>(len: usize, f: impl FnOnce(*mut u8) -> Result<T>) -> Result<T> {
    thread_local! {
        static SCRATCH: RefCell<Option<AlignedBytes>> = const { RefCell::new(None) };
    }
    SCRATCH.with_borrow_mut(|scratch| {
        let bytes = match scratch.take_if(|bytes| bytes.len() < len) {
            None if scratch.is_some() => scratch.as_mut(),
            _ => None,
        };
        let bytes = match bytes {
            Some(bytes) => bytes,
            None => {
                // A quarter more, so that a slowly growing batch does not ask each time.
                let grown =
                    AlignedBytes::zeroed(len + len / 4).map_err(|e| Error::Memory(len, e))?;
                scratch.insert(grown)
            }
        };
        f(bytes.as_mut_ptr())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::panels::PanelElement;
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
                let y = multiply(isa, &x, &packed, Some(&bias)).unwrap();
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
        let (rows, in_features, out_features) = (41, 75, 150);
        let x = random(4, rows * in_features);
        let weight: Vec<E> = random(5, out_features * in_features)
            .into_iter()
            .map(E::from_f32)
            .collect();
        let packed = panels(&weight, in_features);
        for isa in Isa::available() {
            let together = multiply(isa, &x, &packed, None).unwrap();
            for chunk in [1, 2, 7, 16, 17, 32, 40] {
                let pieces = x
                    .chunks(chunk * in_features)
                    .flat_map(|rows| multiply(isa, rows, &packed, None).unwrap());
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
}
