//! Products with weights kept as whole-number codes of 2 to 8 bits.
//!
//! A weight is `scale · (code − zero) − min`, with a scale and perhaps a minimum for each group of 16 or
//! 32 inputs of an output. Rows of activations are rounded to int8, 32 at a time, each with a scale of
//! its own, so that the sums within a group are sums of whole numbers: exact, and the same in any order.
//! The groups are added in float32 in the order of the inputs. A row's result therefore depends on
//! nothing but the row.

mod panels;
mod plain;
mod rows;
#[cfg(target_arch = "x86_64")]
mod tiles;
#[cfg(target_arch = "x86_64")]
mod vnni;

use std::sync::Arc;

use candle_core::{Device, Tensor};

pub(crate) use panels::QuantizedPanels;
pub use panels::{CodeForm, RowCodes};
use rows::QuantizedRows;

use super::isa::Isa;
use super::panels::PANEL;
use super::pool;
use super::storage::{f32_slice, filled};
use crate::Result;

/// Panels that one task computes: 64 outputs.
const TASK_PANELS: usize = 4;

/// Inputs that share a scale in a row of activations, and that a kernel takes at a time.
const CHUNK: usize = 32;

/// What computes the sums of a block of rows with one panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tier {
    Plain,
    /// AVX-512 with byte products.
    #[cfg(target_arch = "x86_64")]
    Vnni,
    /// The same for few rows, tiles of int8 for many.
    #[cfg(target_arch = "x86_64")]
    Tiles,
}

impl Tier {
    fn of(isa: Isa) -> Self {
        #[cfg(target_arch = "x86_64")]
        if isa >= Isa::Avx512 && isa != Isa::Neon && is_x86_feature_detected!("avx512vnni") {
            return if isa == Isa::Amx {
                Self::Tiles
            } else {
                Self::Vnni
            };
        }
        let _ = isa;
        Self::Plain
    }
}

/// Sums of some rows with one panel.
#[derive(Clone, Copy)]
struct Product<'a> {
    rows: &'a QuantizedRows,
    first_row: usize,
    num_rows: usize,
    panels: &'a QuantizedPanels,
    panel: usize,
    /// Outputs of the panel, at most 16.
    outputs: usize,
    /// Where the panel's first sum of row 0 goes.
    y: *mut f32,
    y_stride: usize,
}

/// `x · Wᵀ + b` for a contiguous float32 `x`, `[rows, in]`, and a weight whose outputs are those of
/// `parts`, one after the other.
pub(crate) fn linear_quantized(
    x: &Tensor,
    parts: &[Arc<QuantizedPanels>],
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let num_rows = x.dim(0)?;
    let bias = bias.map(Tensor::storage_and_layout);
    let bias = bias
        .as_ref()
        .map(|(storage, layout)| f32_slice(storage, layout))
        .transpose()?;
    let (storage, layout) = x.storage_and_layout();
    let x = f32_slice(&storage, layout)?;
    let out_features: usize = parts.iter().map(|part| part.rows()).sum();
    let y = multiply(Tier::of(Isa::current()?), x, parts, bias)?;
    Ok(Tensor::from_vec(y, (num_rows, out_features), &Device::Cpu)?)
}

fn multiply(
    tier: Tier,
    x: &[f32],
    parts: &[Arc<QuantizedPanels>],
    bias: Option<&[f32]>,
) -> Result<Vec<f32>> {
    let in_features = parts[0].columns();
    let out_features: usize = parts.iter().map(|part| part.rows()).sum();
    let num_rows = x.len() / in_features;
    assert!(parts.iter().all(|part| part.columns() == in_features));
    assert_eq!(x.len(), num_rows * in_features);
    assert!(bias.is_none_or(|bias| bias.len() == out_features));

    // Sums of 16 or of 32 activations go with groups of that size.
    let of_groups = |group_len: usize| {
        let wanted = parts
            .iter()
            .any(|part| part.form().group_len() == group_len);
        wanted
            .then(|| QuantizedRows::new(tier, x, in_features, group_len))
            .transpose()
    };
    let (small, large) = (of_groups(16)?, of_groups(32)?);

    // Part, first panel and first output of each task.
    let mut tasks = Vec::new();
    let mut first_output = 0;
    for part in parts {
        let rows = if part.form().group_len() == 16 {
            &small
        } else {
            &large
        };
        let Some(rows) = rows else { continue };
        let num_panels = part.rows().div_ceil(PANEL);
        for panel in (0..num_panels).step_by(TASK_PANELS) {
            tasks.push((part, rows, panel, first_output + panel * PANEL));
        }
        first_output += part.rows();
    }
    let work = num_rows
        .saturating_mul(out_features)
        .saturating_mul(in_features);
    filled(num_rows * out_features, |y| {
        let y = Output(y);
        pool::for_each(tasks.len(), work, |task| {
            let (part, rows, first_panel, first_output) = tasks[task];
            let panels = first_panel..(first_panel + TASK_PANELS).min(part.rows().div_ceil(PANEL));
            for panel in panels {
                let output = first_output + (panel - first_panel) * PANEL;
                let product = Product {
                    rows,
                    first_row: 0,
                    num_rows,
                    panels: part,
                    panel,
                    outputs: (part.rows() - panel * PANEL).min(PANEL),
                    // SAFETY: `output` is an output of the first row.
                    y: unsafe { y.get().add(output) },
                    y_stride: out_features,
                };
                // SAFETY: the tier's instructions are there, and the outputs are this task's.
                unsafe { product.run(tier) };
                if let Some(bias) = bias {
                    // SAFETY: the outputs were just written.
                    unsafe { product.add_bias(&bias[output..]) };
                }
            }
        })
    })
}

impl Product<'_> {
    /// # Safety
    /// The processor has the tier's instructions, and `y` leads to the sums of all rows, which nobody
    /// else writes.
    unsafe fn run(self, tier: Tier) {
        // SAFETY: forwarded to the caller.
        unsafe {
            match tier {
                Tier::Plain => plain::run(self),
                #[cfg(target_arch = "x86_64")]
                Tier::Vnni => vnni::run(self),
                // Eight bits without a zero to take off do not fit a signed byte.
                #[cfg(target_arch = "x86_64")]
                Tier::Tiles if self.panels.form().fits_signed_bytes() => tiles::run(self),
                #[cfg(target_arch = "x86_64")]
                Tier::Tiles => vnni::run(self),
            }
        }
    }

    /// # Safety
    /// The sums are written.
    unsafe fn add_bias(self, bias: &[f32]) {
        for row in self.first_row..self.first_row + self.num_rows {
            // SAFETY: forwarded to the caller.
            let y = unsafe {
                std::slice::from_raw_parts_mut(self.y.add(row * self.y_stride), self.outputs)
            };
            y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
        }
    }
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

#[cfg(test)]
mod tests;
