use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::cpu::Panels;
use crate::{Error, Result};

/// A matrix `[rows, columns]` in one of the forms of storage, shared by whoever holds it. Models
/// never see which.
#[derive(Clone, Debug)]
pub(crate) enum Weight {
    /// As it is, in float32, float16 or bfloat16: on a GPU.
    Dense(Tensor),
    /// Laid out for the CPU's kernels.
    Panels(Arc<Panels>),
}

impl Weight {
    /// `weight`, `[rows, columns]`, in the form that its device multiplies fastest.
    pub(crate) fn new(weight: &Tensor, operation: &'static str) -> Result<Self> {
        let [rows, columns] = *weight.dims() else {
            return Err(shape_error(operation, "a weight [out, in]", weight));
        };
        if !matches!(weight.dtype(), DType::F32 | DType::F16 | DType::BF16) {
            return Err(Error::UnsupportedDType {
                operation,
                dtype: weight.dtype(),
            });
        }
        if rows == 0 || columns == 0 {
            return Err(shape_error(operation, "a weight of positive size", weight));
        }
        if !weight.device().is_cpu() {
            return Ok(Self::Dense(weight.contiguous()?));
        }
        let mut panels = Panels::zeroed(weight.dtype(), rows, columns)?;
        panels.fill_tensor(0, &weight.contiguous()?)?;
        Ok(Self::Panels(Arc::new(panels)))
    }

    /// Rows and columns.
    pub(crate) fn dims(&self) -> (usize, usize) {
        match self {
            Self::Dense(weight) => {
                let dims = weight.dims();
                (dims[0], dims[1])
            }
            Self::Panels(panels) => (panels.out_features(), panels.in_features()),
        }
    }

    pub(crate) fn dtype(&self) -> DType {
        match self {
            Self::Dense(weight) => weight.dtype(),
            Self::Panels(panels) => panels.dtype(),
        }
    }

    pub(crate) fn device(&self) -> Device {
        match self {
            Self::Dense(weight) => weight.device().clone(),
            Self::Panels(_) => Device::Cpu,
        }
    }
}

fn shape_error(operation: &'static str, expected: &str, actual: &Tensor) -> Error {
    Error::Shape {
        operation,
        expected: expected.to_owned(),
        actual: actual.shape().clone(),
    }
}
