use std::sync::{Mutex, PoisonError};

use candle_core::{Device, Tensor};

use super::pool;
use super::storage::f32_slice;
use crate::Result;

/// Outputs that one task computes.
const TASK_OUTPUTS: usize = 1024;

/// What an exponential costs, in multiplications.
const WORK_PER_OUTPUT: usize = 16;

/// `f(gate) · up` for a contiguous `gate_up`, `[rows, 2 · size]`, whose rows hold the gate first.
pub(crate) fn gated(gate_up: &Tensor, f: impl Fn(f32) -> f32 + Sync) -> Result<Tensor> {
    let (rows, width) = gate_up.dims2()?;
    let size = width / 2;
    let (storage, layout) = gate_up.storage_and_layout();
    let input = f32_slice(&storage, layout)?;
    let mut output = vec![0f32; rows * size];
    if size > 0 {
        let rows = input.chunks_exact(width).zip(output.chunks_exact_mut(size));
        // Each piece is locked once, by the only task that wants it.
        let pieces: Vec<_> = rows
            .flat_map(|(row, output)| {
                let (gates, ups) = row.split_at(size);
                let inputs = gates.chunks(TASK_OUTPUTS).zip(ups.chunks(TASK_OUTPUTS));
                inputs.zip(output.chunks_mut(TASK_OUTPUTS))
            })
            .map(Mutex::new)
            .collect();
        let work = input.len() / 2 * WORK_PER_OUTPUT;
        pool::for_each(pieces.len(), work, |task| {
            let mut piece = pieces[task].lock().unwrap_or_else(PoisonError::into_inner);
            let ((gates, ups), output) = &mut *piece;
            for ((output, gate), up) in output.iter_mut().zip(*gates).zip(*ups) {
                *output = f(*gate) * up;
            }
        })?;
    }
    Ok(Tensor::from_vec(output, (rows, size), &Device::Cpu)?)
}
