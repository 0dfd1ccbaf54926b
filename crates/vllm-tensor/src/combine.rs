use candle_core::Tensor;

use crate::{Error, Result, cpu};

/// Weighted sums of rows: output `i` is the sum over `k < per_output` of
/// `weights[i · per_output + k] · rows[indices[i · per_output + k]]`.
///
/// `rows` is `[rows, width]`; the result is `[indices / per_output, width]` in its dtype. On the CPU
/// the terms are added in order, so an output depends on its own terms only.
///
/// # Errors
/// Indices beyond the rows, or lists of lengths that do not fit.
pub fn combine_rows(
    rows: &Tensor,
    indices: &[u32],
    weights: &[f32],
    per_output: usize,
) -> Result<Tensor> {
    let num_rows = rows.dims2()?.0;
    let is_known = |index: &u32| (*index as usize) < num_rows;
    if per_output == 0
        || !indices.len().is_multiple_of(per_output)
        || indices.len() != weights.len()
        || !indices.iter().all(is_known)
    {
        return Err(Error::Shape {
            operation: "weighted sum of rows",
            expected: format!(
                "{} indices of rows and as many weights, {per_output} for each output",
                indices.len()
            ),
            actual: rows.shape().clone(),
        });
    }
    if cpu::takes(rows) {
        return cpu::combine(&rows.contiguous()?, indices, weights, per_output);
    }
    combine_plain(rows, indices, weights, per_output)
}

fn combine_plain(
    rows: &Tensor,
    indices: &[u32],
    weights: &[f32],
    per_output: usize,
) -> Result<Tensor> {
    let num_outputs = indices.len() / per_output;
    let width = rows.dim(1)?;
    let indices = Tensor::new(indices, rows.device())?;
    let weights = Tensor::new(weights, rows.device())?.to_dtype(rows.dtype())?;
    let terms = rows
        .index_select(&indices, 0)?
        .broadcast_mul(&weights.unsqueeze(1)?)?;
    Ok(terms.reshape((num_outputs, per_output, width))?.sum(1)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{assert_close, random_tensor};

    #[test]
    fn the_fast_body_matches_the_plain_one() {
        let rows = random_tensor(1, &[7, 40]);
        let indices = [3, 6, 0, 0, 5, 1, 2, 2, 4];
        let weights: Vec<f32> = (1..=9).map(|number| 0.3 * number as f32 - 1.0).collect();
        for per_output in [1, 3, 9] {
            let fast = combine_rows(&rows, &indices, &weights, per_output).unwrap();
            let plain = combine_plain(&rows, &indices, &weights, per_output).unwrap();
            assert_close(&fast, &plain, 1e-5, "combine");
        }
    }

    #[test]
    fn lists_that_do_not_fit_are_refused() {
        let rows = random_tensor(1, &[2, 3]);
        let check = |indices: &[u32], weights: &[f32], per_output| {
            assert!(combine_rows(&rows, indices, weights, per_output).is_err());
        };
        check(&[0, 2], &[1.0, 1.0], 1);
        check(&[0, 1], &[1.0], 1);
        check(&[0, 1], &[1.0, 1.0], 0);
        check(&[0, 1, 1], &[1.0, 1.0, 1.0], 2);
    }
}
