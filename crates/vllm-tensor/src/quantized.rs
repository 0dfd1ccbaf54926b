use std::sync::Arc;

use crate::cpu::{CodeForm, QuantizedPanels, RowCodes};
use crate::{Error, Result};

/// A matrix `[rows, columns]` that the CPU keeps and multiplies as whole-number codes with scales.
///
/// ```
/// use vllm_tensor::{CodeForm, Device, Linear, QuantizedMatrix, Tensor};
///
/// # fn main() -> vllm_tensor::Result<()> {
/// // Numbers `scale · (code − 8)`, a scale for each 32 inputs.
/// let form = CodeForm::new(4, 32, 8, false).expect("a form that kernels know");
/// let weight = QuantizedMatrix::from_rows::<vllm_tensor::Error>(form, 2, 32, |row, codes| {
///     codes.codes.fill(if row == 0 { 9 } else { 7 });
///     codes.scales.fill(0.5);
///     Ok(())
/// })?;
/// let linear = Linear::quantized(weight, None)?;
/// let x = Tensor::ones((1, 32), vllm_tensor::DType::F32, &Device::Cpu)?;
/// assert_eq!(linear.forward(&x)?.to_vec2::<f32>()?, [[16.0, -16.0]]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct QuantizedMatrix {
    /// Matrices of the same width, one below the other.
    parts: Vec<Arc<QuantizedPanels>>,
}

impl QuantizedMatrix {
    /// A matrix of what `read` gives for each row. Rows are read from several threads, in any order.
    ///
    /// # Errors
    /// Whatever `read` reports; a matrix without elements; no memory.
    pub fn from_rows<E: From<Error> + Send>(
        form: CodeForm,
        rows: usize,
        columns: usize,
        read: impl Fn(usize, &mut RowCodes) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        if rows == 0 || columns == 0 {
            return Err(Error::Shape {
                operation: "quantized matrix",
                expected: "a positive size".to_owned(),
                actual: (rows, columns).into(),
            }
            .into());
        }
        let panels = QuantizedPanels::from_rows(form, rows, columns, read)?;
        Ok(Self {
            parts: vec![Arc::new(panels)],
        })
    }

    /// Matrices of the same width, one below the other. Their forms may differ.
    ///
    /// # Errors
    /// No matrix, or different widths.
    pub fn stack(matrices: Vec<Self>) -> Result<Self> {
        let parts: Vec<_> = matrices
            .into_iter()
            .flat_map(|matrix| matrix.parts)
            .collect();
        let columns = parts.first().map_or(0, |part| part.columns());
        match parts.iter().find(|part| part.columns() != columns) {
            None if columns > 0 => Ok(Self { parts }),
            odd => Err(Error::Shape {
                operation: "quantized matrix",
                expected: format!("matrices of {columns} columns"),
                actual: odd
                    .map_or((0, 0), |part| (part.rows(), part.columns()))
                    .into(),
            }),
        }
    }

    /// Rows and columns.
    pub fn dims(&self) -> (usize, usize) {
        let rows = self.parts.iter().map(|part| part.rows()).sum();
        (rows, self.parts.first().map_or(0, |part| part.columns()))
    }

    /// Bytes in memory.
    pub fn num_bytes(&self) -> usize {
        self.parts.iter().map(|part| part.num_bytes()).sum()
    }

    pub(crate) fn parts(&self) -> &[Arc<QuantizedPanels>] {
        &self.parts
    }

    /// The numbers of rows `indices`, one after the other; zeros for rows that are not there.
    pub fn rows(&self, indices: &[u32]) -> Vec<f32> {
        let (_, columns) = self.dims();
        let mut rows = vec![0f32; indices.len() * columns];
        for (index, row) in indices.iter().zip(rows.chunks_exact_mut(columns)) {
            let mut index = *index as usize;
            for part in &self.parts {
                if index < part.rows() {
                    part.copy_row(index, row);
                    break;
                }
                index -= part.rows();
            }
        }
        rows
    }
}
