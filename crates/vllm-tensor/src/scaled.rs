use std::sync::Arc;

use crate::cpu::ScaledPanels;
use crate::{DType, Error, Result, ScaledForm};

/// A matrix `[rows, columns]` that the CPU keeps as floating-point codes of 8 or 4 bits with scales.
///
/// ```
/// use vllm_tensor::{DType, Device, Linear, ScaledForm, ScaledMatrix, Tensor};
///
/// # fn main() -> vllm_tensor::Result<()> {
/// // The byte of 1, times 0.5 in one row and 2 in the other.
/// let read = |row: usize, codes: &mut [u8], scales: &mut [f32]| {
///     codes.fill(0x38);
///     scales.fill(if row == 0 { 0.5 } else { 2.0 });
///     Ok::<_, vllm_tensor::Error>(())
/// };
/// let weight = ScaledMatrix::from_rows(ScaledForm::Fp8, (2, 32), 32, DType::BF16, read)?;
/// let linear = Linear::scaled(weight, None)?;
/// let x = Tensor::ones((1, 32), DType::F32, &Device::Cpu)?;
/// assert_eq!(linear.forward(&x)?.to_vec2::<f32>()?, [[16.0, 64.0]]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ScaledMatrix(Arc<ScaledPanels>);

impl ScaledMatrix {
    /// A matrix `[rows, columns]` of the codes and scales that `read` gives for each row: a code for each
    /// column, and a scale for each `group_len` of them, which is even or reaches to the end of the row.
    /// Rows are read from several threads, in any order.
    ///
    /// It is multiplied in bfloat16 where the processor has instructions for that, but in float32 if
    /// `dtype` is float32.
    ///
    /// # Errors
    /// Whatever `read` reports; a matrix without elements, a group of an odd number of columns, or no
    /// memory.
    pub fn from_rows<E: From<Error> + Send>(
        form: ScaledForm,
        (rows, columns): (usize, usize),
        group_len: usize,
        dtype: DType,
        read: impl Fn(usize, &mut [u8], &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        let takes_bf16 = dtype != DType::F32;
        ScaledPanels::from_rows(form, (rows, columns), group_len, takes_bf16, read)
            .map(|panels| Self(Arc::new(panels)))
    }

    /// Rows and columns.
    pub fn dims(&self) -> (usize, usize) {
        (self.0.rows(), self.0.columns())
    }

    /// Bytes in memory.
    pub fn num_bytes(&self) -> usize {
        self.0.num_bytes()
    }

    pub(crate) fn panels(&self) -> &ScaledPanels {
        &self.0
    }

    /// The numbers of rows `indices`, one after the other; zeros for rows that are not there.
    pub fn rows(&self, indices: &[u32]) -> Vec<f32> {
        let (num_rows, columns) = self.dims();
        let mut rows = vec![0f32; indices.len() * columns];
        for (index, row) in indices.iter().zip(rows.chunks_exact_mut(columns)) {
            if (*index as usize) < num_rows {
                self.0.copy_row(*index as usize, row);
            }
        }
        rows
    }
}
