use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::cpu::{PanelWeight, Panels};
use crate::{Error, QuantizedMatrix, Result, ScaledMatrix};

/// Rows of a matrix as they lie in a file: little-endian elements, read where they are.
pub trait WeightRows: Sync {
    /// What the elements are: float32, float16, bfloat16 or float64.
    fn dtype(&self) -> DType;

    /// How many rows there are.
    fn num_rows(&self) -> usize;

    /// The bytes of row `index`, counted from 0.
    fn row(&self, index: usize) -> &[u8];
}

/// A matrix `[rows, columns]` in one of the forms of storage, shared by whoever holds it. Models
/// never see which.
#[derive(Clone, Debug)]
pub(crate) enum Weight {
    /// As it is, in float32, float16 or bfloat16: on a GPU.
    Dense(Tensor),
    /// Laid out for the CPU's kernels.
    Panels(Arc<Panels>),
    /// Codes and scales, for the CPU.
    Quantized(QuantizedMatrix),
    /// Narrow floating-point codes and scales, for the CPU.
    Scaled(ScaledMatrix),
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

    /// The rows of all `parts` one below the other, each of `columns` elements, kept in `dtype` on
    /// `device`.
    ///
    /// On the CPU every element is read once, from where it lies to where the kernels want it.
    pub(crate) fn from_rows(
        parts: &[&dyn WeightRows],
        columns: usize,
        dtype: DType,
        device: &Device,
        operation: &'static str,
    ) -> Result<Self> {
        let num_rows: usize = parts.iter().map(|part| part.num_rows()).sum();
        for part in parts {
            let row_len = columns * part.dtype().size_in_bytes();
            let misfit = (0..part.num_rows()).find(|index| part.row(*index).len() != row_len);
            if let Some(index) = misfit {
                return Err(Error::Shape {
                    operation,
                    expected: format!("rows of {row_len} bytes"),
                    actual: part.row(index).len().into(),
                });
            }
        }
        if num_rows == 0 || columns == 0 {
            return Err(Error::Shape {
                operation,
                expected: "a weight of positive size".to_owned(),
                actual: (num_rows, columns).into(),
            });
        }
        if !device.is_cpu() {
            let tensors = parts
                .iter()
                .map(|part| gather(*part, columns, dtype, device));
            let tensors = tensors.collect::<Result<Vec<_>>>()?;
            return Ok(Self::Dense(Tensor::cat(&tensors, 0)?));
        }
        let mut panels = Panels::zeroed(dtype, num_rows, columns)?;
        let mut first = 0;
        for part in parts {
            panels.fill_rows(first, *part)?;
            first += part.num_rows();
        }
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
            Self::Quantized(matrix) => matrix.dims(),
            Self::Scaled(matrix) => matrix.dims(),
        }
    }

    /// For the kernels that take panels.
    pub(crate) fn panels(&self) -> Option<PanelWeight<'_>> {
        match self {
            Self::Panels(panels) => Some(PanelWeight::Plain(panels)),
            Self::Scaled(matrix) => Some(PanelWeight::Scaled(matrix.panels())),
            Self::Dense(_) | Self::Quantized(_) => None,
        }
    }

    pub(crate) fn dtype(&self) -> DType {
        match self {
            Self::Dense(weight) => weight.dtype(),
            Self::Panels(panels) => panels.dtype(),
            // What activations have beside it.
            Self::Quantized(_) | Self::Scaled(_) => DType::F32,
        }
    }

    pub(crate) fn device(&self) -> Device {
        match self {
            Self::Dense(weight) => weight.device().clone(),
            Self::Panels(_) | Self::Quantized(_) | Self::Scaled(_) => Device::Cpu,
        }
    }
}

/// The rows as a tensor `[rows, columns]`.
fn gather(rows: &dyn WeightRows, columns: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    let num_rows = rows.num_rows();
    let mut bytes = Vec::with_capacity(num_rows * columns * rows.dtype().size_in_bytes());
    (0..num_rows).for_each(|index| bytes.extend_from_slice(rows.row(index)));
    let tensor = Tensor::from_raw_buffer(&bytes, rows.dtype(), &[num_rows, columns], &Device::Cpu)?;
    Ok(tensor.to_dtype(dtype)?.to_device(device)?)
}

fn shape_error(operation: &'static str, expected: &str, actual: &Tensor) -> Error {
    Error::Shape {
        operation,
        expected: expected.to_owned(),
        actual: actual.shape().clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::random_tensor;

    /// A matrix in any dtype, some bytes off the alignment of its elements.
    struct Rows {
        bytes: Vec<u8>,
        offset: usize,
        dtype: DType,
        num_rows: usize,
    }

    impl Rows {
        fn new(matrix: &Tensor, offset: usize) -> Self {
            let mut bytes = vec![0; offset];
            let elements = matrix.flatten_all().unwrap();
            match matrix.dtype() {
                DType::F32 => push(&mut bytes, &elements.to_vec1::<f32>().unwrap()),
                DType::F64 => push(&mut bytes, &elements.to_vec1::<f64>().unwrap()),
                DType::F16 => push(&mut bytes, &elements.to_vec1::<half::f16>().unwrap()),
                _ => push(&mut bytes, &elements.to_vec1::<half::bf16>().unwrap()),
            }
            Self {
                bytes,
                offset,
                dtype: matrix.dtype(),
                num_rows: matrix.dim(0).unwrap(),
            }
        }
    }

    fn push<T: bytemuck::NoUninit>(bytes: &mut Vec<u8>, elements: &[T]) {
        bytes.extend_from_slice(bytemuck::cast_slice(elements));
    }

    impl WeightRows for Rows {
        fn dtype(&self) -> DType {
            self.dtype
        }

        fn num_rows(&self) -> usize {
            self.num_rows
        }

        fn row(&self, index: usize) -> &[u8] {
            let all = &self.bytes[self.offset..];
            let len = all.len() / self.num_rows;
            &all[index * len..][..len]
        }
    }

    fn panels(weight: &Weight) -> Vec<f32> {
        let Weight::Panels(panels) = weight else {
            panic!("no panels on the CPU");
        };
        panels.rows(&(0..panels.out_features() as u32).collect::<Vec<_>>())
    }

    #[test]
    fn rows_of_a_file_become_what_tensors_become() {
        for stored in [DType::F32, DType::F16, DType::BF16, DType::F64] {
            for kept in [DType::F32, DType::F16, DType::BF16] {
                for offset in [0, 1] {
                    let matrix = random_tensor(1, &[37, 50]).to_dtype(stored).unwrap();
                    let parts = [(0, 20), (20, 17)].map(|(first, len)| {
                        Rows::new(&matrix.narrow(0, first, len).unwrap(), offset)
                    });
                    let parts = [&parts[0] as &dyn WeightRows, &parts[1]];
                    let weight = Weight::from_rows(&parts, 50, kept, &Device::Cpu, "test").unwrap();
                    let expected = Weight::new(&matrix.to_dtype(kept).unwrap(), "test").unwrap();
                    assert_eq!(panels(&weight), panels(&expected), "{stored:?} {kept:?}");
                }
            }
        }
    }

    #[test]
    fn rows_of_another_length_are_refused() {
        let rows = Rows::new(&random_tensor(1, &[3, 4]), 0);
        let refused = Weight::from_rows(&[&rows], 5, DType::F32, &Device::Cpu, "test");
        let message = refused.unwrap_err().to_string();
        assert!(message.contains("rows of 20 bytes"), "{message}");
        assert!(Weight::from_rows(&[], 5, DType::F32, &Device::Cpu, "test").is_err());
    }
}
