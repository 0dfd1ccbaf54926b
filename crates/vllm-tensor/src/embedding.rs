use candle_core::{DType, Tensor};

use crate::{Error, Result, activation_dtype};

/// A table of vectors looked up by id.
#[derive(Clone, Debug)]
pub struct Embedding {
    weight: Tensor,
    activation_dtype: DType,
}

impl Embedding {
    /// A table from `weight`, `[rows, width]`, kept in its own dtype.
    ///
    /// # Errors
    /// `weight` is not a matrix.
    pub fn new(weight: Tensor) -> Result<Self> {
        if weight.rank() != 2 {
            return Err(Error::Shape {
                operation: "embedding",
                expected: "a weight [rows, width]".to_owned(),
                actual: weight.shape().clone(),
            });
        }
        let activation_dtype = activation_dtype(weight.device(), weight.dtype());
        Ok(Self {
            weight: weight.contiguous()?,
            activation_dtype,
        })
    }

    /// The rows of `ids`, `[ids, width]`, in the activation dtype.
    ///
    /// `ids` is a u32 vector. Ids beyond the table are an error on the CPU; on a GPU they must not
    /// occur, so callers check them on the host.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let rows = self.weight.index_select(ids, 0)?;
        Ok(rows.to_dtype(self.activation_dtype)?)
    }

    /// The table itself, `[rows, width]`, for an output layer tied to it.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }
}
