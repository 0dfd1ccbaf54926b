use candle_core::{DType, Device, Tensor};

use crate::cpu::{RoundedRows, RowForm, RowTargets};
use crate::{Error, Result};

/// Rows of activations on their way into a [`Linear`](crate::Linear), `[rows, in]`.
///
/// Any tensor is one. What is made for a given layer comes in the form that the layer reads fastest: on a
/// CPU that multiplies bfloat16, rounded and laid out already.
#[derive(Debug)]
pub struct LinearInput(pub(crate) Input);

/// What a [`LinearInput`] holds.
#[derive(Debug)]
pub(crate) enum Input {
    Wide(Tensor),
    Rounded(RoundedRows),
}

impl From<Tensor> for LinearInput {
    fn from(rows: Tensor) -> Self {
        Self(Input::Wide(rows))
    }
}

impl From<&Tensor> for LinearInput {
    /// Shares the tensor's memory.
    fn from(rows: &Tensor) -> Self {
        rows.clone().into()
    }
}

impl LinearInput {
    /// Rows on the CPU, `[rows, columns]`, in the form asked for; `fill` writes every element.
    pub(crate) fn filled(
        (rows, columns): (usize, usize),
        form: RowForm,
        fill: impl FnOnce(RowTargets) -> Result<()>,
    ) -> Result<Self> {
        Ok(match form {
            RowForm::Rounded(layout) => Self(Input::Rounded(RoundedRows::filled(
                (rows, columns),
                layout,
                fill,
            )?)),
            RowForm::Wide => {
                let numbers = crate::cpu::filled(rows * columns, |first| {
                    fill(RowTargets::Wide { first, columns })
                })?;
                Tensor::from_vec(numbers, (rows, columns), &Device::Cpu)?.into()
            }
        })
    }

    /// The rows as a tensor; float32 if they are rounded.
    ///
    /// # Errors
    /// None today.
    pub fn to_tensor(&self) -> Result<Tensor> {
        Ok(match &self.0 {
            Input::Wide(rows) => rows.clone(),
            Input::Rounded(rows) => {
                let shape = (rows.rows(), rows.columns());
                Tensor::from_vec(rows.to_f32(), shape, &Device::Cpu)?
            }
        })
    }

    /// What the results of a layer are to be in.
    pub(crate) fn dtype(&self) -> DType {
        match &self.0 {
            Input::Wide(rows) => rows.dtype(),
            Input::Rounded(_) => DType::F32,
        }
    }

    /// Whether the CPU's kernels take it as it is.
    pub(crate) fn is_for_cpu(&self) -> bool {
        match &self.0 {
            Input::Wide(rows) => crate::cpu::takes(rows),
            Input::Rounded(_) => true,
        }
    }

    /// How many rows of `in_features` elements there are; refuses others.
    pub(crate) fn check(&self, in_features: usize) -> Result<usize> {
        let shape = match &self.0 {
            Input::Wide(rows) => rows.shape().clone(),
            Input::Rounded(rows) => (rows.rows(), rows.columns()).into(),
        };
        match *shape.dims() {
            [rows, columns] if columns == in_features => Ok(rows),
            _ => Err(Error::Shape {
                operation: "linear",
                expected: format!("an input [rows, {in_features}]"),
                actual: shape,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::random_tensor;
    use crate::{Activation, LayerNorm, Linear, RmsNorm};

    fn layer(seed: u64, outputs: usize, inputs: usize, dtype: DType) -> Linear {
        let weight = random_tensor(seed, &[outputs, inputs]).to_dtype(dtype);
        Linear::new(weight.unwrap(), None).unwrap()
    }

    #[test]
    fn what_is_made_for_a_layer_gives_the_same_bits() {
        let bits = |tensor: Result<Tensor>| tensor.unwrap().to_vec2::<f32>().unwrap();
        for dtype in [DType::BF16, DType::F32] {
            // Whole runs of 32 and not, in few rows and in many.
            for (rows, size) in [(1, 64), (300, 96), (21, 80)] {
                let x = random_tensor(1, &[rows, size]);
                let first = layer(2, 64, size, dtype);
                let rms = RmsNorm::new(random_tensor(3, &[size]), 1e-6).unwrap();
                let normed = rms.forward_for(&x, &first).unwrap();
                let plain = rms.forward(&x).unwrap();
                assert_eq!(
                    bits(first.forward_input(&normed, None)),
                    bits(first.forward(&plain))
                );
                let norm =
                    LayerNorm::new(Some(random_tensor(4, &[size])), None, size, 1e-5).unwrap();
                let normed = norm.forward_for(&x, &first).unwrap();
                let plain = norm.forward(&x).unwrap();
                assert_eq!(
                    bits(first.forward_input(&normed, None)),
                    bits(first.forward(&plain))
                );
                // A layer of another kind reads it as well, as far as it was rounded.
                let wide = layer(5, 7, size, DType::F32);
                let expected = bits(wide.forward(normed.to_tensor().unwrap()));
                assert_eq!(bits(wide.forward_input(&normed, None)), expected);

                let down = layer(6, 40, 32, dtype);
                for activation in [Activation::Silu, Activation::Relu] {
                    let gated = first.forward_gated_for(&normed, activation, &down).unwrap();
                    let plain = first.forward_input(&normed, None).unwrap();
                    let plain = activation.forward_gated(&plain).unwrap();
                    assert_eq!(
                        bits(down.forward_input(&gated, None)),
                        bits(down.forward(&plain))
                    );
                }
            }
        }
    }

    #[test]
    fn rows_of_another_size_are_refused() {
        let first = layer(1, 64, 64, DType::BF16);
        let rms = RmsNorm::new(random_tensor(2, &[64]), 1e-6).unwrap();
        let x = random_tensor(3, &[4, 64]);
        let normed = rms.forward_for(&x, &first).unwrap();
        let message = layer(4, 64, 32, DType::BF16)
            .forward_input(&normed, None)
            .unwrap_err()
            .to_string();
        assert!(message.contains("[rows, 32]"), "{message}");
    }
}
