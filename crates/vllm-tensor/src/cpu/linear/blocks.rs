//! A product in blocks of rows and panels, and what becomes of each block while it is in the cache.

use std::ops::Range;

use super::PanelWeight;
use crate::Result;
use crate::cpu::gated::{Gate, GateRow};
use crate::cpu::isa::Isa;
use crate::cpu::panels::PANEL;
use crate::cpu::rows::RowTargets;
use crate::cpu::{pool, scratch};

/// Panels that one task computes: 64 outputs, whose weights fit the second-level cache.
const TASK_PANELS: usize = 4;

/// Rows that one task computes at the least, if there are so many.
pub(super) const TASK_ROWS: usize = 256;

/// What rows of a task take in bfloat16 at the most: they fit the second-level cache, too.
const TASK_ROW_BYTES: usize = 1 << 20;

/// Rows that one task computes. Each task reads its weights from memory, so it takes as many rows as
/// the cache holds, as long as all threads have enough to do.
fn task_rows(rows: usize, in_features: usize, panel_tasks: usize) -> Result<usize> {
    const TASKS_PER_THREAD: usize = 8;
    let mut task_rows = TASK_ROWS;
    while 2 * task_rows * in_features * size_of::<u16>() <= TASK_ROW_BYTES
        && rows.div_ceil(2 * task_rows) * panel_tasks >= TASKS_PER_THREAD * pool::num_threads()?
    {
        task_rows *= 2;
    }
    Ok(task_rows)
}

/// What becomes of the products while they are in the cache, and where it goes.
#[derive(Clone, Copy)]
pub(super) enum Finish<'a> {
    Sum {
        bias: Option<&'a [f32]>,
        residual: Option<&'a [f32]>,
        to: Output,
    },
    /// The first half of the outputs gates the second.
    Gated {
        bias: Option<&'a [f32]>,
        gate: Gate,
        to: RowTargets,
    },
}

/// A part of the products: of some rows with some panels.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) rows: Range<usize>,
    pub(super) first_panel: usize,
    /// Outputs that the panels really have.
    pub(super) outputs: usize,
}

impl Block {
    pub(super) fn panels(&self) -> Range<usize> {
        self.first_panel..self.first_panel + self.outputs.div_ceil(PANEL)
    }
}

/// Makes the result block by block. `product` gets a block, where to write its first row, and how far
/// it is to the next row.
pub(super) fn by_blocks(
    isa: Isa,
    rows: usize,
    weight: PanelWeight<'_>,
    finish: Finish<'_>,
    product: impl Fn(Block, *mut f32, usize) + Sync,
) -> Result<()> {
    let (in_features, out_features) = (weight.in_features(), weight.out_features());
    let width = match finish {
        Finish::Sum { .. } => out_features,
        Finish::Gated { .. } => out_features / 2,
    };
    let (Finish::Sum { bias, .. } | Finish::Gated { bias, .. }) = finish;
    assert!(bias.is_none_or(|bias| bias.len() == out_features));
    let work = rows
        .saturating_mul(out_features)
        .saturating_mul(in_features);
    let panel_tasks = width.div_ceil(TASK_PANELS * PANEL);
    let task_rows = task_rows(rows, in_features, panel_tasks)?;
    // Tasks with the same rows follow one another, so that the rows stay in the cache.
    pool::for_each(rows.div_ceil(task_rows) * panel_tasks, work, |task| {
        let first_row = task / panel_tasks * task_rows;
        let first_panel = task % panel_tasks * TASK_PANELS;
        let first = first_panel * PANEL;
        let block = Block {
            rows: first_row..(first_row + task_rows).min(rows),
            first_panel,
            outputs: (width - first).min(TASK_PANELS * PANEL),
        };
        // SAFETY: the block is a part of the result that no other task writes to.
        unsafe {
            match finish {
                Finish::Sum { bias, residual, to } => {
                    let y = to.0.add(first_row * width + first);
                    product(block.clone(), y, width);
                    let bias = bias.map(|bias| &bias[first..]);
                    let residual = residual.map(|r| &r[first_row * width + first..]);
                    add(&block, bias, residual, y, width);
                }
                Finish::Gated { bias, gate, to } => {
                    gate_block(isa, &block, bias, gate, &product, to, width);
                }
            }
        }
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

/// Computes a block of gates and the block of ups behind it, and writes what the gates let through.
///
/// # Safety
/// Rows of `to` have `size` elements, those of the block this task's alone.
unsafe fn gate_block(
    isa: Isa,
    block: &Block,
    bias: Option<&[f32]>,
    gate: Gate,
    product: &impl Fn(Block, *mut f32, usize),
    to: RowTargets,
    size: usize,
) {
    let outputs = block.outputs;
    let up_block = Block {
        first_panel: block.first_panel + size / PANEL,
        ..block.clone()
    };
    let len = block.rows.len() * outputs;
    scratch::for_task(2 * len * size_of::<f32>(), |scratch| {
        // SAFETY: the scratch has room for both blocks, one row after the other; the rest is the
        // caller's promise.
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
                    to: to.row(block.rows.start + row),
                    first: block.first_panel * PANEL,
                });
            }
        }
    });
}

/// The result, written by all tasks at once, each to a block of its own.
#[derive(Clone, Copy)]
pub(super) struct Output(pub(super) *mut f32);

// SAFETY: as said above.
unsafe impl Sync for Output {}
