use candle_core::{Device, Tensor};

use super::pool;
use super::storage::{f32_slice, filled};
use crate::Result;

/// For each output row, the sum of `per_output` weighted rows of a contiguous `rows`,
/// `[rows, width]`, in the order in which they are listed.
pub(crate) fn combine(
    rows: &Tensor,
    indices: &[u32],
    weights: &[f32],
    per_output: usize,
) -> Result<Tensor> {
    let (num_rows, width) = rows.dims2()?;
    let num_outputs = indices.len() / per_output;
    assert_eq!(indices.len(), weights.len());
    assert!(indices.iter().all(|index| (*index as usize) < num_rows));
    let (storage, layout) = rows.storage_and_layout();
    let rows = f32_slice(&storage, layout)?;
    let output = filled(num_outputs * width, |start| {
        let all = Output(start);
        pool::for_each(num_outputs, indices.len() * width, |task| {
            // SAFETY: each task writes a row of its own, and all of it.
            let output = unsafe {
                let start = all.get().add(task * width);
                start.write_bytes(0, width);
                std::slice::from_raw_parts_mut(start, width)
            };
            let own = task * per_output..(task + 1) * per_output;
            for (index, weight) in indices[own.clone()].iter().zip(&weights[own]) {
                let row = &rows[*index as usize * width..][..width];
                for (output, element) in output.iter_mut().zip(row) {
                    *output += weight * element;
                }
            }
        })
    })?;
    Ok(Tensor::from_vec(
        output,
        (num_outputs, width),
        &Device::Cpu,
    )?)
}

/// The result, written by all tasks at once.
struct Output(*mut f32);

// SAFETY: each task writes elements that no other one touches.
unsafe impl Sync for Output {}

impl Output {
    /// A function, so that closures take the whole and not the pointer inside.
    fn get(&self) -> *mut f32 {
        self.0
    }
}
