use candle_core::{D, DType, Tensor};

use crate::cpu::{self, RowForm};
use crate::{Error, Linear, LinearInput, Result, activation_dtype};

/// Layer normalization over the last dimension (Ba et al. 2016): `(x − mean) / √(var + eps) · w + b`.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Option<Tensor>,
    bias: Option<Tensor>,
    size: usize,
    eps: f64,
}

impl LayerNorm {
    /// A normalization of rows of `size` elements; `weight` and `bias` are `[size]`, and may be
    /// absent.
    ///
    /// # Errors
    /// A weight or bias of another shape.
    pub fn new(
        weight: Option<Tensor>,
        bias: Option<Tensor>,
        size: usize,
        eps: f64,
    ) -> Result<Self> {
        Ok(Self {
            weight: weight.map(|w| parameter(w, size)).transpose()?,
            bias: bias.map(|b| parameter(b, size)).transpose()?,
            size,
            eps,
        })
    }

    /// Normalizes each row of `x`, `[rows, size]`, with float32 inside; dtype and shape stay.
    ///
    /// # Errors
    /// Rows of another size.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_to(x, RowForm::Wide)?.to_tensor()
    }

    /// The same as input of the layer `next`.
    ///
    /// # Errors
    /// Rows of another size.
    pub fn forward_for(&self, x: &Tensor, next: &Linear) -> Result<LinearInput> {
        self.forward_to(x, next.row_form()?)
    }

    fn forward_to(&self, x: &Tensor, form: RowForm) -> Result<LinearInput> {
        check_rows(x, self.size)?;
        if cpu::takes(x) {
            let (weight, bias) = (self.weight.as_ref(), self.bias.as_ref());
            return cpu::layer_norm(&x.contiguous()?, weight, bias, self.eps as f32, form);
        }
        Ok(self.forward_plain(x)?.into())
    }

    fn forward_plain(&self, x: &Tensor) -> Result<Tensor> {
        let wide = x.to_dtype(DType::F32)?;
        let centered = wide.broadcast_sub(&wide.mean_keepdim(D::Minus1)?)?;
        let scale = (centered.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?
            .sqrt()?
            .recip()?;
        let mut y = centered.broadcast_mul(&scale)?;
        if let Some(weight) = &self.weight {
            y = y.broadcast_mul(&weight.to_dtype(DType::F32)?)?;
        }
        if let Some(bias) = &self.bias {
            y = y.broadcast_add(&bias.to_dtype(DType::F32)?)?;
        }
        Ok(y.to_dtype(x.dtype())?)
    }
}

/// Root-mean-square normalization over the last dimension (Zhang and Sennrich 2019):
/// `x / √(mean(x²) + eps) · w`.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    weight: Tensor,
    size: usize,
    eps: f64,
}

impl RmsNorm {
    /// A normalization with `weight`, `[size]`.
    ///
    /// # Errors
    /// `weight` is not a vector.
    pub fn new(weight: Tensor, eps: f64) -> Result<Self> {
        let size = weight.elem_count();
        Ok(Self {
            weight: parameter(weight, size)?,
            size,
            eps,
        })
    }

    /// Normalizes each row of `x`, `[rows, size]`: float32 inside, rounded to `x`'s dtype before the
    /// weight is applied, as the models were trained.
    ///
    /// # Errors
    /// Rows of another size.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_to(x, RowForm::Wide)?.to_tensor()
    }

    /// The same as input of the layer `next`.
    ///
    /// # Errors
    /// Rows of another size.
    pub fn forward_for(&self, x: &Tensor, next: &Linear) -> Result<LinearInput> {
        self.forward_to(x, next.row_form()?)
    }

    fn forward_to(&self, x: &Tensor, form: RowForm) -> Result<LinearInput> {
        check_rows(x, self.size)?;
        if cpu::takes(x) {
            return cpu::rms_norm(&x.contiguous()?, &self.weight, self.eps as f32, form);
        }
        Ok(self.forward_plain(x)?.into())
    }

    /// Elements of a row.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The weight, and what is added to the mean square.
    pub(crate) fn parameters(&self) -> (&Tensor, f32) {
        (&self.weight, self.eps as f32)
    }

    fn forward_plain(&self, x: &Tensor) -> Result<Tensor> {
        let wide = x.to_dtype(DType::F32)?;
        let scale = (wide.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?
            .sqrt()?
            .recip()?;
        let normal = wide.broadcast_mul(&scale)?.to_dtype(x.dtype())?;
        Ok(normal.broadcast_mul(&self.weight)?)
    }
}

/// A weight of `size` elements, in the activation dtype.
fn parameter(tensor: Tensor, size: usize) -> Result<Tensor> {
    if tensor.dims() != [size] {
        return Err(Error::Shape {
            operation: "normalization",
            expected: format!("a weight [{size}]"),
            actual: tensor.shape().clone(),
        });
    }
    let dtype = activation_dtype(tensor.device(), tensor.dtype());
    Ok(tensor.to_dtype(dtype)?.contiguous()?)
}

fn check_rows(x: &Tensor, size: usize) -> Result<()> {
    if x.rank() == 2 && x.dim(1)? == size {
        return Ok(());
    }
    Err(Error::Shape {
        operation: "normalization",
        expected: format!("an input [rows, {size}]"),
        actual: x.shape().clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{assert_close, random_tensor};

    #[test]
    fn the_fast_bodies_match_the_plain_ones() {
        for size in [1, 15, 16, 100] {
            let x = ((random_tensor(1, &[5, size]) * 3.0).unwrap() + 1.0).unwrap();
            let (weight, bias) = (random_tensor(2, &[size]), random_tensor(3, &[size]));
            for (weight, bias) in [(Some(weight.clone()), Some(bias)), (None, None)] {
                let norm = LayerNorm::new(weight, bias, size, 1e-5).unwrap();
                let (fast, plain) = (norm.forward(&x).unwrap(), norm.forward_plain(&x).unwrap());
                assert_close(&fast, &plain, 1e-4, "layer norm");
            }
            let norm = RmsNorm::new(weight, 1e-6).unwrap();
            let (fast, plain) = (norm.forward(&x).unwrap(), norm.forward_plain(&x).unwrap());
            assert_close(&fast, &plain, 1e-5, "rms norm");
        }
    }

    #[test]
    fn misshapen_operands_are_refused() {
        let vector = random_tensor(1, &[4]);
        assert!(LayerNorm::new(Some(vector.clone()), None, 5, 1e-5).is_err());
        let norm = RmsNorm::new(vector, 1e-5).unwrap();
        let message = norm
            .forward(&random_tensor(1, &[2, 5]))
            .unwrap_err()
            .to_string();
        assert!(message.contains("[rows, 4]"), "{message}");
    }
}
