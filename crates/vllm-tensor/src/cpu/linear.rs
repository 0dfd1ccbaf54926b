use candle_core::{Device, Tensor};

use super::dot::dot_tile;
use super::isa::{Isa, Kernel};
use super::pool;
use super::simd::{Simd, Stored};
use super::storage::{f32_slice, stored_slice, with_stored};
use crate::Result;

/// `x · Wᵀ + b` for a float32 `x`, `[rows, in]`, and a `weight`, `[out, in]`, of any stored dtype.
pub(crate) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (rows, in_features) = x.dims2()?;
    let out_features = weight.dim(0)?;
    let bias = bias.map(Tensor::storage_and_layout);
    let bias = bias
        .as_ref()
        .map(|(storage, layout)| f32_slice(storage, layout))
        .transpose()?;
    let (x_storage, x_layout) = x.storage_and_layout();
    let x = f32_slice(&x_storage, x_layout)?;
    let (weight_storage, weight_layout) = weight.storage_and_layout();
    let isa = Isa::current()?;
    let mut y = vec![0f32; rows * out_features];
    with_stored!(stored_slice(&weight_storage, weight_layout)?, weight => {
        multiply(isa, x, weight, bias, in_features, &mut y)?;
    });
    Ok(Tensor::from_vec(y, (rows, out_features), &Device::Cpu)?)
}

/// Outputs that one task computes: enough weights to be worth handing out, few enough to stay in the
/// second-level cache while all rows of `x` pass by.
const TASK_OUTPUTS: usize = 32;

/// Weight rows that the innermost loop works on together.
const TILE_COLUMNS: usize = 4;

fn multiply<E: Stored>(
    isa: Isa,
    x: &[f32],
    weight: &[E],
    bias: Option<&[f32]>,
    in_features: usize,
    y: &mut [f32],
) -> Result<()> {
    let (rows, out_features) = (x.len() / in_features, weight.len() / in_features);
    assert_eq!(y.len(), rows * out_features);
    assert!(bias.is_none_or(|bias| bias.len() == out_features));
    let output = Output(y.as_mut_ptr());
    let work = y.len().saturating_mul(in_features);
    pool::for_each(out_features.div_ceil(TASK_OUTPUTS), work, |task| {
        let first = task * TASK_OUTPUTS;
        let last = (first + TASK_OUTPUTS).min(out_features);
        let columns = Columns {
            x,
            weight,
            bias,
            in_features,
            out_features,
            first,
            last,
            output: &output,
        };
        // SAFETY: the slices have the lengths asserted above, and tasks write different columns.
        unsafe { isa.run(columns) }
    })
}

/// The result, written by all tasks at once.
struct Output(*mut f32);

// SAFETY: each task writes elements that no other one touches.
unsafe impl Sync for Output {}

/// Outputs `first..last` of every row.
struct Columns<'a, E> {
    x: &'a [f32],
    weight: &'a [E],
    bias: Option<&'a [f32]>,
    in_features: usize,
    out_features: usize,
    first: usize,
    last: usize,
    output: &'a Output,
}

impl<E: Stored> Kernel for Columns<'_, E> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // As many rows of `x` as leave the sums in registers: there are 32 of 16 lanes, 16 of 8.
        // SAFETY: forwarded to the caller.
        unsafe {
            if S::LANES == 16 {
                self.all_rows::<S, 4>();
            } else {
                self.all_rows::<S, 2>();
            }
        }
    }
}

impl<E: Stored> Columns<'_, E> {
    /// # Safety
    /// As [`Kernel::run`].
    #[inline(always)]
    unsafe fn all_rows<S: Simd, const R: usize>(&self) {
        let rows = self.x.len() / self.in_features;
        let mut row = 0;
        // SAFETY: the rows are within `x`.
        unsafe {
            while row + R <= rows {
                self.rows::<S, R>(row);
                row += R;
            }
            while row < rows {
                self.rows::<S, 1>(row);
                row += 1;
            }
        }
    }

    /// # Safety
    /// As [`Kernel::run`], with `row + R` rows in `x`.
    #[inline(always)]
    unsafe fn rows<S: Simd, const R: usize>(&self, row: usize) {
        let mut column = self.first;
        // SAFETY: the columns are within `first..last`.
        unsafe {
            while column + TILE_COLUMNS <= self.last {
                self.tile::<S, R, TILE_COLUMNS>(row, column);
                column += TILE_COLUMNS;
            }
            while column < self.last {
                self.tile::<S, R, 1>(row, column);
                column += 1;
            }
        }
    }

    /// # Safety
    /// As [`Kernel::run`], with `row + R` rows in `x` and `column + O` rows in the weight.
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const O: usize>(&self, row: usize, column: usize) {
        // SAFETY: all pointers stay within `x`, the weight and the output by the caller's promise.
        unsafe {
            let mut x = [self.x.as_ptr(); R];
            for (r, x) in x.iter_mut().enumerate() {
                *x = x.add((row + r) * self.in_features);
            }
            let mut w = [self.weight.as_ptr(); O];
            for (o, w) in w.iter_mut().enumerate() {
                *w = w.add((column + o) * self.in_features);
            }
            let dots = dot_tile::<S, E, R, O>(x, w, self.in_features);
            for (r, dots) in dots.iter().enumerate() {
                let output = self.output.0.add((row + r) * self.out_features + column);
                for (o, dot) in dots.iter().enumerate() {
                    let bias = match self.bias {
                        Some(bias) => bias[column + o],
                        None => 0.0,
                    };
                    output.add(o).write(dot + bias);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;
    use crate::test_support::random;

    /// Every instruction set against float64, at sizes around the tiles and lanes.
    fn check<E: Stored>(rows: usize, in_features: usize, out_features: usize) {
        let x = random(1, rows * in_features);
        let weight: Vec<E> = random(2, out_features * in_features)
            .into_iter()
            .map(E::from_f32)
            .collect();
        let bias = random(3, out_features);
        for isa in Isa::available() {
            let mut y = vec![0f32; rows * out_features];
            multiply(isa, &x, &weight, Some(&bias), in_features, &mut y).unwrap();
            for (index, actual) in y.iter().enumerate() {
                let (row, column) = (index / out_features, index % out_features);
                let products = (0..in_features).map(|k| {
                    let w = weight[column * in_features + k].to_f32();
                    f64::from(x[row * in_features + k]) * f64::from(w)
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

    #[test]
    fn products_are_right_at_odd_sizes() {
        for (rows, in_features, out_features) in [
            (1, 1, 1),
            (1, 16, 4),
            (3, 7, 5),
            (4, 17, 33),
            (5, 64, 31),
            (9, 100, 70),
            (2, 33, 129),
        ] {
            check::<f32>(rows, in_features, out_features);
            check::<f16>(rows, in_features, out_features);
            check::<bf16>(rows, in_features, out_features);
        }
    }

    #[test]
    fn rows_do_not_depend_on_the_batch() {
        let (rows, in_features, out_features) = (11, 75, 67);
        let x = random(4, rows * in_features);
        let weight = random(5, out_features * in_features);
        for isa in Isa::available() {
            let mut together = vec![0f32; rows * out_features];
            multiply(isa, &x, &weight, None, in_features, &mut together).unwrap();
            for row in 0..rows {
                let mut alone = vec![0f32; out_features];
                let own = &x[row * in_features..][..in_features];
                multiply(isa, own, &weight, None, in_features, &mut alone).unwrap();
                assert_eq!(
                    alone,
                    together[row * out_features..][..out_features],
                    "{isa:?} {row}"
                );
            }
        }
    }
}
