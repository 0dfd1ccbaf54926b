use candle_core::Tensor;

use super::isa::{Isa, Kernel};
use super::pool;
use super::rows::{RowForm, RowTarget};
use super::simd::Simd;
use super::storage::f32_slice;
use crate::{LinearInput, Result};

/// Lanes of the sums over a row: a fixed order that compilers turn into vector instructions.
const LANES: usize = 16;

/// Rows that one task computes.
const TASK_ROWS: usize = 8;

/// Layer norm of the rows of a contiguous float32 matrix, in the form asked for.
pub(crate) fn layer_norm(
    x: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f32,
    form: RowForm,
) -> Result<LinearInput> {
    let weight = weight.map(|weight| weight.to_vec1::<f32>()).transpose()?;
    let bias = bias.map(|bias| bias.to_vec1::<f32>()).transpose()?;
    let norm = Norm {
        centered: true,
        weight: weight.as_deref(),
        bias: bias.as_deref(),
        eps,
    };
    norm.of_rows(x, form)
}

/// RMS norm of the rows of a contiguous float32 matrix, in the form asked for.
pub(crate) fn rms_norm(
    x: &Tensor,
    weight: &Tensor,
    eps: f32,
    form: RowForm,
) -> Result<LinearInput> {
    let weight = weight.to_vec1::<f32>()?;
    let norm = Norm {
        centered: false,
        weight: Some(&weight),
        bias: None,
        eps,
    };
    norm.of_rows(x, form)
}

/// A norm over rows.
#[derive(Clone, Copy)]
struct Norm<'a> {
    /// Whether the mean is taken off first.
    centered: bool,
    weight: Option<&'a [f32]>,
    bias: Option<&'a [f32]>,
    eps: f32,
}

impl Norm<'_> {
    fn of_rows(self, x: &Tensor, form: RowForm) -> Result<LinearInput> {
        let (rows, size) = x.dims2()?;
        let (storage, layout) = x.storage_and_layout();
        let input = f32_slice(&storage, layout)?;
        for parameter in [self.weight, self.bias].into_iter().flatten() {
            assert_eq!(parameter.len(), size);
        }
        let isa = Isa::current()?;
        LinearInput::filled((rows, size), form, |output| {
            pool::for_each(rows.div_ceil(TASK_ROWS), 4 * rows * size, |task| {
                for row in task * TASK_ROWS..rows.min((task + 1) * TASK_ROWS) {
                    let norm_row = NormRow {
                        norm: self,
                        row: &input[row * size..][..size],
                        to: output.row(row),
                    };
                    // SAFETY: tasks write different rows, and the parameters have their size.
                    unsafe { isa.run(norm_row) }
                }
            })
        })
    }
}

struct NormRow<'a> {
    norm: Norm<'a>,
    row: &'a [f32],
    to: RowTarget,
}

impl Kernel for NormRow<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let size = self.row.len();
        let whole = size - size % S::LANES;
        let Norm {
            centered,
            weight,
            bias,
            eps,
        } = self.norm;
        // SAFETY: all accesses are within the row, its parameters and its result, of one size.
        unsafe {
            let mean = if centered {
                lane_sum(self.row, |x| x) / size as f32
            } else {
                0.0
            };
            let variance = lane_sum(self.row, |x| (x - mean) * (x - mean)) / size as f32;
            let scale = (variance + eps).sqrt().recip();
            for first in (0..whole).step_by(S::LANES) {
                let x = S::load_f32(self.row.as_ptr().add(first));
                let mut y = if centered {
                    S::mul(S::sub(x, S::splat(mean)), S::splat(scale))
                } else {
                    S::mul(x, S::splat(scale))
                };
                if let Some(weight) = weight {
                    y = S::mul(y, S::load_f32(weight.as_ptr().add(first)));
                }
                if let Some(bias) = bias {
                    y = S::add(y, S::load_f32(bias.as_ptr().add(first)));
                }
                self.to.store::<S>(y, first);
            }
            for index in whole..size {
                let mut y = (self.row[index] - mean) * scale;
                if let Some(weight) = weight {
                    y *= weight[index];
                }
                if let Some(bias) = bias {
                    y += bias[index];
                }
                self.to.write(y, index);
            }
        }
    }
}

/// The sum of `f` over the row: by lane, then over the lanes in order.
#[inline(always)]
pub(super) fn lane_sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += f(*value);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane += f(*value);
    }
    lanes.iter().sum()
}
