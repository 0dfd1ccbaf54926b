//! Weights in the narrow forms that a CPU keeps and multiplies.

use vllm_tensor::{DType, QuantizedMatrix, ScaledForm, ScaledMatrix};

use super::WeightFiles;
use crate::{Error, Result};

/// A weight that stays narrow in memory.
pub enum NarrowWeight<'a> {
    /// Whole-number codes.
    Codes(QuantizedMatrix),
    /// Floating-point codes, yet to be read.
    Scaled(ScaledRows<'a>),
}

/// The rows of a weight of floating-point codes with scales.
pub struct ScaledRows<'a> {
    pub(super) form: ScaledForm,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Columns that share a scale.
    pub(super) group_len: usize,
    pub(super) read: ReadRow<'a>,
}

/// Writes codes and scales of a row.
pub(super) type ReadRow<'a> = Box<dyn Fn(usize, &mut [u8], &mut [f32]) -> Result<()> + Sync + 'a>;

impl ScaledRows<'_> {
    /// The rows of all `parts`, one below the other, to be multiplied in `dtype`; `None` where they are of
    /// different forms.
    ///
    /// # Errors
    /// What cannot be read, or no memory.
    pub fn stack(parts: &[Self], dtype: DType) -> Result<Option<ScaledMatrix>> {
        let Some(first) = parts.first() else {
            return Ok(None);
        };
        let is_same = |part: &Self| {
            part.form == first.form
                && part.group_len == first.group_len
                && part.columns == first.columns
        };
        if !parts.iter().all(is_same) {
            return Ok(None);
        }
        let rows = parts.iter().map(|part| part.rows).sum();
        let read = |mut row: usize, codes: &mut [u8], scales: &mut [f32]| {
            for part in parts {
                if row < part.rows {
                    return (part.read)(row, codes, scales);
                }
                row -= part.rows;
            }
            Ok::<_, Error>(())
        };
        let size = (rows, first.columns);
        ScaledMatrix::from_rows(first.form, size, first.group_len, dtype, read).map(Some)
    }
}

/// What a weight is for, which decides whether it is quantized while it is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightRole {
    /// A linear layer within the model.
    Linear,
    /// The output layer.
    Head,
    /// The embeddings, which may be the output layer as well.
    Embedding,
}

impl WeightFiles {
    /// The weight `name`, `[rows, columns]`, in the narrow form that it is stored in or is to be quantized
    /// to; `None` where it is kept as plain numbers.
    ///
    /// # Errors
    /// Another shape; what is missing where codes are read.
    pub fn narrow(
        &self,
        name: &str,
        rows: usize,
        columns: usize,
        role: WeightRole,
    ) -> Result<Option<NarrowWeight<'_>>> {
        if let Some(packed) = self.packed.get(name) {
            self.check_shape(name, packed.file, &packed.shape, &[rows, columns])?;
            if let Some(matrix) = packed.quantized(&self.files)? {
                return Ok(Some(NarrowWeight::Codes(matrix)));
            }
            return Ok(packed.scaled(&self.files).map(NarrowWeight::Scaled));
        }
        let method = self.quantization.method(name, role);
        let (Some(method), Some(stored)) = (method, self.tensors.get(name)) else {
            return Ok(None);
        };
        self.check_shape(name, stored.file, &stored.info.shape, &[rows, columns])?;
        match stored.as_piece(name) {
            Some(piece) => method.apply(piece, &self.files),
            None => Ok(None),
        }
    }

    /// About how many bytes [`WeightFiles::narrow`] will keep of the weight `name`; `None` where it gives
    /// none.
    pub(crate) fn kept_bytes(&self, name: &str, role: WeightRole) -> Option<u64> {
        if let Some(packed) = self.packed.get(name) {
            return packed.kept_bytes();
        }
        let method = self.quantization.method(name, role)?;
        let shape = &self.tensors.get(name)?.info.shape;
        method.kept_bytes(shape)
    }
}
