use candle_core::{DType, Tensor};

use crate::{Error, Result, cpu};

/// `y = x · Wᵀ + b`, whatever form the weight is stored in.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
    in_features: usize,
    out_features: usize,
}

/// The forms of storage. Models never see them.
#[derive(Clone, Debug)]
enum Weight {
    /// `[out, in]` in float32, float16 or bfloat16.
    Dense(Tensor),
}

impl Linear {
    /// A layer from `weight`, `[out, in]` in float32, float16 or bfloat16, and `bias`, `[out]`.
    ///
    /// The weight is kept as it is and shared, not copied: an output layer tied to an embedding
    /// costs nothing. The bias is kept in the activation dtype.
    ///
    /// # Errors
    /// Shapes that do not fit, or a dtype that is none of the three.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        let [out_features, in_features] = *weight.dims() else {
            return Err(shape_error("a weight [out, in]".to_owned(), &weight));
        };
        if !matches!(weight.dtype(), DType::F32 | DType::F16 | DType::BF16) {
            return Err(Error::UnsupportedDType {
                operation: "linear",
                dtype: weight.dtype(),
            });
        }
        if in_features == 0 || out_features == 0 {
            return Err(shape_error("a weight of positive size".to_owned(), &weight));
        }
        let activation_dtype = crate::activation_dtype(weight.device(), weight.dtype());
        let bias = match bias {
            Some(bias) if bias.dims() == [out_features] => {
                Some(bias.to_dtype(activation_dtype)?.contiguous()?)
            }
            Some(bias) => return Err(shape_error(format!("a bias [{out_features}]"), &bias)),
            None => None,
        };
        let weight = Weight::Dense(weight.contiguous()?);
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
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if x.rank() != 2 || x.dim(1)? != self.in_features {
            return Err(shape_error(
                format!("an input [rows, {}]", self.in_features),
                x,
            ));
        }
        let Weight::Dense(weight) = &self.weight;
        if cpu::takes(x) {
            cpu::linear(&x.contiguous()?, weight, self.bias.as_ref())
        } else {
            linear_plain(x, weight, self.bias.as_ref())
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
            let x = random_tensor(3, &[6, 50]);
            let plain = linear_plain(&x, &weight, linear.bias.as_ref()).unwrap();
            assert_close(&linear.forward(&x).unwrap(), &plain, 1e-5, "linear");
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
            .forward(&random_tensor(1, &[2, 3]))
            .unwrap_err()
            .to_string();
        assert!(message.contains("[rows, 4]"), "{message}");
    }
}
