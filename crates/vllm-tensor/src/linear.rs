use candle_core::{DType, Device, Tensor};

use crate::cpu::{PanelWeight, RowForm};
use crate::weight::{Weight, WeightRows};
use crate::{
    Activation, Embedding, Error, LinearInput, QuantizedMatrix, Result, ScaledMatrix, cpu,
};

/// `y = x · Wᵀ + b`, whatever form the weight is stored in.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
    in_features: usize,
    out_features: usize,
}

impl Linear {
    /// A layer from `weight`, `[out, in]` in float32, float16 or bfloat16, and `bias`, `[out]`.
    ///
    /// The weight stays in its dtype. On the CPU it is copied into the order in which the kernels
    /// read it. The bias is kept in the activation dtype.
    ///
    /// # Errors
    /// Shapes that do not fit, a dtype that is none of the three, or no memory.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        Self::from_weight(Weight::new(&weight, "linear")?, bias)
    }

    /// A layer from the rows of all `parts`, one below the other, each of `in_features` elements, and
    /// `bias`, `[out]`.
    ///
    /// The weight is kept in `dtype`, float32, float16 or bfloat16, on `device`. On the CPU the rows
    /// are read once and copied nowhere else.
    ///
    /// # Errors
    /// Rows of another length, a bias of another shape, or no memory.
    pub fn from_rows(
        parts: &[&dyn WeightRows],
        in_features: usize,
        dtype: DType,
        device: &Device,
        bias: Option<Tensor>,
    ) -> Result<Self> {
        let weight = Weight::from_rows(parts, in_features, dtype, device, "linear")?;
        Self::from_weight(weight, bias)
    }

    /// An output layer without a bias that shares the table of `embedding`, `[rows, width]`: it takes
    /// vectors of the width and gives a number for each row.
    ///
    /// # Errors
    /// None today.
    pub fn tied_to(embedding: &Embedding) -> Result<Self> {
        Self::from_weight(embedding.weight().clone(), None)
    }

    /// A layer on the CPU whose weight, `[out, in]`, stays quantized; `bias` is `[out]`.
    ///
    /// # Errors
    /// A bias of another size.
    pub fn quantized(weight: QuantizedMatrix, bias: Option<Tensor>) -> Result<Self> {
        Self::from_weight(Weight::Quantized(weight), bias)
    }

    /// A layer on the CPU whose weight, `[out, in]`, stays in narrow floating-point codes; `bias` is
    /// `[out]`.
    ///
    /// # Errors
    /// A bias of another size.
    pub fn scaled(weight: ScaledMatrix, bias: Option<Tensor>) -> Result<Self> {
        Self::from_weight(Weight::Scaled(weight), bias)
    }

    fn from_weight(weight: Weight, bias: Option<Tensor>) -> Result<Self> {
        let (out_features, in_features) = weight.dims();
        let activation_dtype = crate::activation_dtype(&weight.device(), weight.dtype());
        let bias = match bias {
            Some(bias) if bias.dims() == [out_features] => {
                Some(bias.to_dtype(activation_dtype)?.contiguous()?)
            }
            Some(bias) => return Err(shape_error(format!("a bias [{out_features}]"), &bias)),
            None => None,
        };
        Ok(Self {
            weight,
            bias,
            in_features,
            out_features,
        })
    }

    /// Applies the layer to `x`, `[rows, in]`; gives `[rows, out]` in `x`'s dtype.
    ///
    /// # Errors
    /// `x` has another shape.
    pub fn forward(&self, x: impl Into<LinearInput>) -> Result<Tensor> {
        self.forward_input(&x.into(), None)
    }

    /// The same, plus `residual`, `[rows, out]`, if there is one: without a pass of its own for the sum
    /// where that is possible.
    ///
    /// # Errors
    /// `x` has another shape, or `residual` another than the result.
    pub fn forward_input(&self, x: &LinearInput, residual: Option<&Tensor>) -> Result<Tensor> {
        let rows = x.check(self.in_features)?;
        if let Some(residual) = residual
            && residual.dims() != [rows, self.out_features]
        {
            let expected = format!("a residual [{rows}, {}]", self.out_features);
            return Err(shape_error(expected, residual));
        }
        let bias = self.bias.as_ref();
        let y = match &self.weight {
            Weight::Dense(weight) => linear_plain(&x.to_tensor()?, weight, bias)?,
            Weight::Quantized(matrix) => {
                let x = x.to_tensor()?;
                let y = matrix.multiply(&x.to_dtype(DType::F32)?.contiguous()?, bias)?;
                y.to_dtype(x.dtype())?
            }
            Weight::Panels(panels) => {
                return self.multiply_panels(PanelWeight::Plain(panels), x, residual);
            }
            Weight::Scaled(matrix) => {
                return self.multiply_panels(PanelWeight::Scaled(matrix.panels()), x, residual);
            }
        };
        Ok(match residual {
            Some(residual) => (residual + y)?,
            None => y,
        })
    }

    /// `activation.forward_gated(forward(x))` as input of the layer `next`, without a pass of its own
    /// where that is possible: the first half of the layer's outputs gates the second. Gives
    /// `[rows, out / 2]`.
    ///
    /// # Errors
    /// `x` has another shape, or the layer an odd number of outputs.
    pub fn forward_gated_for(
        &self,
        x: &LinearInput,
        activation: Activation,
        next: &Linear,
    ) -> Result<LinearInput> {
        self.gated_to(x, activation, next.row_form()?)
    }

    fn gated_to(
        &self,
        x: &LinearInput,
        activation: Activation,
        form: RowForm,
    ) -> Result<LinearInput> {
        x.check(self.in_features)?;
        if let (Some(weight), Some(gate)) = (self.weight.panels(), activation.gate())
            && x.is_for_cpu()
        {
            let bias = self.bias.as_ref();
            if let Some(gated) = cpu::linear_gated(x, weight, bias, gate, form)? {
                return Ok(gated);
            }
        }
        activation.forward_gated_to(&self.forward_input(x, None)?, form)
    }

    fn multiply_panels(
        &self,
        weight: PanelWeight<'_>,
        x: &LinearInput,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let wide = |tensor: &Tensor| tensor.to_dtype(DType::F32)?.contiguous();
        let residual = residual.map(wide).transpose()?;
        let y = cpu::linear(x, weight, self.bias.as_ref(), residual.as_ref())?;
        Ok(y.to_dtype(x.dtype())?)
    }

    /// The form in which the layer reads its input fastest.
    pub(crate) fn row_form(&self) -> Result<RowForm> {
        match self.weight.panels() {
            Some(weight) => cpu::row_form(weight),
            None => Ok(RowForm::Wide),
        }
    }

    /// Width of the input.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// Width of the output.
    pub fn out_features(&self) -> usize {
        self.out_features
    }
}

pub(crate) fn linear_plain(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let product = x.matmul(&weight.to_dtype(x.dtype())?.t()?)?;
    Ok(match bias {
        Some(bias) => product.broadcast_add(bias)?,
        None => product,
    })
}

fn shape_error(expected: String, actual: &Tensor) -> Error {
    Error::Shape {
        operation: "linear",
        expected,
        actual: actual.shape().clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{assert_close, random_tensor};

    #[test]
    fn the_fast_body_matches_the_plain_one() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let weight = random_tensor(1, &[37, 50]).to_dtype(dtype).unwrap();
            let linear = Linear::new(weight.clone(), Some(random_tensor(2, &[37]))).unwrap();
            // Some processors round the rows to the weight's dtype; these stay as they are.
            let x = random_tensor(3, &[6, 50]).to_dtype(DType::BF16).unwrap();
            let x = x.to_dtype(DType::F32).unwrap();
            let plain = linear_plain(&x, &weight, linear.bias.as_ref()).unwrap();
            assert_close(&linear.forward(&x).unwrap(), &plain, 1e-5, "linear");
        }
    }

    #[test]
    fn fused_steps_give_the_same_bits() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for inner in [32, 20] {
                let weight = random_tensor(1, &[2 * inner, 50]).to_dtype(dtype).unwrap();
                let linear = Linear::new(weight, Some(random_tensor(2, &[2 * inner]))).unwrap();
                let x = random_tensor(3, &[300, 50]);
                let y = linear.forward(&x).unwrap();
                let input = LinearInput::from(&x);
                let bits = |tensor: Tensor| tensor.to_vec2::<f32>().unwrap();
                for activation in [Activation::Silu, Activation::GeluTanh, Activation::Gelu] {
                    let fused = linear.gated_to(&input, activation, RowForm::Wide).unwrap();
                    let plain = activation.forward_gated(&y).unwrap();
                    assert_eq!(bits(fused.to_tensor().unwrap()), bits(plain));
                }
                let residual = random_tensor(4, &[300, 2 * inner]);
                let fused = linear.forward_input(&input, Some(&residual)).unwrap();
                assert_eq!(bits(fused), bits((y + residual).unwrap()));
            }
        }
    }

    #[test]
    fn views_of_larger_tensors_are_read_in_place() {
        let all = random_tensor(1, &[8, 5]);
        let linear = Linear::new(all.narrow(0, 2, 3).unwrap(), None).unwrap();
        let x = random_tensor(2, &[4, 9]).narrow(1, 2, 5).unwrap();
        let plain = linear_plain(&x, &all.narrow(0, 2, 3).unwrap(), None).unwrap();
        assert_close(
            &linear.forward(&x).unwrap(),
            &plain,
            1e-5,
            "linear of views",
        );
    }

    #[test]
    fn misshapen_operands_are_refused() {
        let weight = random_tensor(1, &[3, 4]);
        let check = |result: Result<Linear>, expected: &str| {
            let message = result.unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        check(
            Linear::new(weight.flatten_all().unwrap(), None),
            "[out, in]",
        );
        check(
            Linear::new(weight.clone(), Some(random_tensor(1, &[4]))),
            "a bias [3]",
        );
        check(Linear::new(weight.to_dtype(DType::U8).unwrap(), None), "U8");
        let linear = Linear::new(weight, None).unwrap();
        let message = linear
            .forward(random_tensor(1, &[2, 3]))
            .unwrap_err()
            .to_string();
        assert!(message.contains("[rows, 4]"), "{message}");
    }
}
