use candle_core::{DType, Device, Tensor};

use crate::weight::{Weight, WeightRows};
use crate::{Error, QuantizedMatrix, Result, ScaledMatrix, activation_dtype};

/// A table of vectors looked up by id.
#[derive(Clone, Debug)]
pub struct Embedding {
    weight: Weight,
    activation_dtype: DType,
}

impl Embedding {
    /// A table from `weight`, `[rows, width]`, kept in its own dtype: float32, float16 or bfloat16.
    ///
    /// # Errors
    /// `weight` is not such a matrix, or there is no memory.
    pub fn new(weight: Tensor) -> Result<Self> {
        let activation_dtype = activation_dtype(weight.device(), weight.dtype());
        Ok(Self {
            weight: Weight::new(&weight, "embedding")?,
            activation_dtype,
        })
    }

    /// A table from `rows`, each of `width` elements, kept in `dtype` on `device`.
    ///
    /// # Errors
    /// Rows of another length, or no memory.
    pub fn from_rows(
        rows: &dyn WeightRows,
        width: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        Ok(Self {
            weight: Weight::from_rows(&[rows], width, dtype, device, "embedding")?,
            activation_dtype: activation_dtype(device, dtype),
        })
    }

    /// A table on the CPU that stays quantized.
    pub fn quantized(weight: QuantizedMatrix) -> Self {
        Self {
            weight: Weight::Quantized(weight),
            activation_dtype: DType::F32,
        }
    }

    /// A table on the CPU of narrow floating-point codes.
    pub fn scaled(weight: ScaledMatrix) -> Self {
        Self {
            weight: Weight::Scaled(weight),
            activation_dtype: DType::F32,
        }
    }

    /// The rows of `ids`, `[ids, width]`, in the activation dtype.
    ///
    /// `ids` is a u32 vector. Ids beyond the table are an error on the CPU; on a GPU they must not
    /// occur, so callers check them on the host.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        if let Weight::Dense(weight) = &self.weight {
            let rows = weight.index_select(ids, 0)?;
            return Ok(rows.to_dtype(self.activation_dtype)?);
        }
        let (num_rows, width) = self.weight.dims();
        let ids = ids.to_vec1::<u32>()?;
        if let Some(id) = ids.iter().find(|id| **id as usize >= num_rows) {
            return Err(Error::Batch(format!(
                "row {id} asked of a table of {num_rows} rows"
            )));
        }
        let rows = match &self.weight {
            Weight::Dense(_) => Vec::new(),
            Weight::Panels(panels) => panels.rows(&ids),
            Weight::Quantized(matrix) => matrix.rows(&ids),
            Weight::Scaled(matrix) => matrix.rows(&ids),
        };
        let rows = Tensor::from_vec(rows, (ids.len(), width), &Device::Cpu)?;
        Ok(rows.to_dtype(self.activation_dtype)?)
    }

    /// Rows and width of the table.
    pub fn dims(&self) -> (usize, usize) {
        self.weight.dims()
    }

    pub(crate) fn weight(&self) -> &Weight {
        &self.weight
    }
}
