//! Products with weights kept as whole-number codes of 2 to 8 bits.
//!
//! A weight is `scale · (code − zero) − min`, with a scale and perhaps a minimum for each group of 16 or
//! 32 inputs of an output. Where the processor has tiles of bfloat16, rows of activations are rounded to
//! that and multiplied by the bare codes. Elsewhere they are rounded to int8, 32 at a time, each with a
//! scale of its own, so that the sums within a group are sums of whole numbers. Either way the groups are
//! added in float32 in the order of the inputs, and a row's result depends on nothing but the row.

#[cfg(target_arch = "x86_64")]
mod few_rows;
mod panels;
mod plain;
mod rows;
#[cfg(target_arch = "x86_64")]
mod tiles;
#[cfg(target_arch = "x86_64")]
mod unpack;
#[cfg(target_arch = "x86_64")]
mod vnni;

use std::ops::Range;
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
    /// Tiles of bfloat16.
    #[cfg(target_arch = "x86_64")]
    Tiles,
}

impl Tier {
    fn of(isa: Isa) -> Self {
        #[cfg(target_arch = "x86_64")]
        match isa {
            Isa::Amx => return Self::Tiles,
            Isa::Avx512 | Isa::Avx512Bf16 if is_x86_feature_detected!("avx512vnni") => {
                return Self::Vnni;
            }
            _ => {}
        }
        let _ = isa;
        Self::Plain
    }
}

/// Sums of all rows with one panel.
#[derive(Clone, Copy)]
struct Product<'a> {
    rows: &'a QuantizedRows,
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

    let mut tasks = Vec::new();
    let mut first_output = 0;
    for part in parts {
        for first_panel in (0..part.rows().div_ceil(PANEL)).step_by(TASK_PANELS) {
            let first = first_panel * PANEL;
            tasks.push(PanelTask {
                panels: part,
                first_panel,
                outputs: (part.rows() - first).min(TASK_PANELS * PANEL),
                first_output: first_output + first,
            });
        }
        first_output += part.rows();
    }
    filled(num_rows * out_features, |y| {
        let operands = Operands {
            x,
            columns: in_features,
            tasks: &tasks,
            bias,
            y: Output(y),
            y_stride: out_features,
        };
        match tier {
            // SAFETY: the tier is only chosen where AMX is; there is room for all outputs.
            #[cfg(target_arch = "x86_64")]
            Tier::Tiles => unsafe {
                if num_rows <= few_rows::MAX_ROWS {
                    few_rows::multiply(&operands)
                } else {
                    tiles::multiply(&operands)
                }
            },
            _ => multiply_bytes(tier, &operands),
        }
    })
}

/// Panels of a matrix that one task multiplies.
struct PanelTask<'a> {
    panels: &'a QuantizedPanels,
    first_panel: usize,
    /// Outputs that the panels really have.
    outputs: usize,
    /// Where the first of them stands among the outputs of all parts.
    first_output: usize,
}

/// Rows that are multiplied by the panels of all tasks, and where the results go.
struct Operands<'a> {
    /// Rows of `columns`, as many as the tasks' panels have.
    x: &'a [f32],
    columns: usize,
    tasks: &'a [PanelTask<'a>],
    bias: Option<&'a [f32]>,
    /// Room for the outputs of all rows.
    y: Output,
    /// Outputs of a row.
    y_stride: usize,
}

impl Operands<'_> {
    fn num_rows(&self) -> usize {
        self.x.len() / self.columns
    }

    /// Multiplications in all.
    fn work(&self) -> usize {
        self.x.len().saturating_mul(self.y_stride)
    }

    /// Adds the bias to what a task has written for some rows, which is in the cache still.
    ///
    /// # Safety
    /// It is written, and nobody else uses it.
    unsafe fn add_bias(&self, task: &PanelTask<'_>, rows: Range<usize>) {
        let Some(bias) = self.bias else { return };
        let bias = &bias[task.first_output..][..task.outputs];
        for row in rows {
            // SAFETY: the outputs of the row are within the room, and the task's alone.
            let y = unsafe {
                let first = self.y.get().add(row * self.y_stride + task.first_output);
                std::slice::from_raw_parts_mut(first, task.outputs)
            };
            y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
        }
    }
}

/// With activations rounded to int8.
fn multiply_bytes(tier: Tier, operands: &Operands<'_>) -> Result<()> {
    let (tasks, num_rows) = (operands.tasks, operands.num_rows());
    // Sums of 16 or of 32 activations go with groups of that size.
    let of_groups = |group_len: usize| {
        let wanted = tasks
            .iter()
            .any(|task| task.panels.form().group_len() == group_len);
        wanted
            .then(|| QuantizedRows::new(tier, operands.x, operands.columns, group_len))
            .transpose()
    };
    let (small, large) = (of_groups(16)?, of_groups(32)?);
    pool::for_each(tasks.len(), operands.work(), |index| {
        let task = &tasks[index];
        let rows = match task.panels.form().group_len() {
            16 => &small,
            _ => &large,
        };
        let Some(rows) = rows else { return };
        for (n, first) in (0..task.outputs).step_by(PANEL).enumerate() {
            let product = Product {
                rows,
                num_rows,
                panels: task.panels,
                panel: task.first_panel + n,
                outputs: (task.outputs - first).min(PANEL),
                y: operands.y.get().wrapping_add(task.first_output + first),
                y_stride: operands.y_stride,
            };
            // SAFETY: the tier's instructions are there, and the outputs are this task's.
            unsafe { product.run(tier) };
        }
        // SAFETY: all rows of the task were just written.
        unsafe { operands.add_bias(task, 0..num_rows) };
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
                #[cfg(target_arch = "x86_64")]
                Tier::Vnni => vnni::run(self),
                _ => plain::run(self),
            }
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
