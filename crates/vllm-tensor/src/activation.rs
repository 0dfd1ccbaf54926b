use candle_core::{D, DType, Tensor};

use crate::cpu::{self, Gate, RowForm};
use crate::{Error, LinearInput, Result};

/// The element-wise functions between the layers of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `x · Φ(x)`, with the error function.
    Gelu,
    /// GELU in its tanh approximation.
    GeluTanh,
    /// `x · σ(1.702 x)`.
    QuickGelu,
    /// `x · σ(x)`, also called swish.
    Silu,
}

impl Activation {
    /// The function that a `hidden_act` or `activation_function` of a config.json names.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "relu" => Self::Relu,
            "gelu" | "gelu_python" => Self::Gelu,
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_accurate" => Self::GeluTanh,
            "quick_gelu" => Self::QuickGelu,
            "silu" | "swish" => Self::Silu,
            _ => return None,
        })
    }

    /// Applies the function to each element; shape and dtype stay.
    pub fn forward(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Relu => x.relu()?,
            Self::Gelu => x.gelu_erf()?,
            Self::GeluTanh => x.gelu()?,
            Self::QuickGelu => {
                let sigmoid = ((x * -1.702)?.exp()? + 1.0)?.recip()?;
                (x * sigmoid)?
            }
            Self::Silu => x.silu()?,
        })
    }

    /// `f(gate) · up` of rows that hold a gate and, behind it, what it lets through: `[rows, 2 · size]`
    /// gives `[rows, size]`.
    ///
    /// # Errors
    /// `gate_up` is no matrix of an even width.
    pub fn forward_gated(self, gate_up: &Tensor) -> Result<Tensor> {
        self.forward_gated_to(gate_up, RowForm::Wide)?.to_tensor()
    }

    /// The same in the form asked for.
    pub(crate) fn forward_gated_to(self, gate_up: &Tensor, form: RowForm) -> Result<LinearInput> {
        let size = match *gate_up.dims() {
            [_, width] if width % 2 == 0 => width / 2,
            _ => {
                return Err(Error::Shape {
                    operation: "gated activation",
                    expected: "[rows, 2 · size]".to_owned(),
                    actual: gate_up.shape().clone(),
                });
            }
        };
        if let (true, Some(gate)) = (cpu::takes(gate_up), self.gate()) {
            return cpu::gated(&gate_up.contiguous()?, gate, form);
        }
        Ok(self.forward_gated_plain(gate_up, size)?.into())
    }

    /// The vector body for it, where there is one. No model of today gates with the others.
    pub(crate) fn gate(self) -> Option<Gate> {
        match self {
            Self::Silu => Some(Gate::Silu),
            Self::GeluTanh => Some(Gate::GeluTanh),
            Self::Relu | Self::Gelu | Self::QuickGelu => None,
        }
    }

    fn forward_gated_plain(self, gate_up: &Tensor, size: usize) -> Result<Tensor> {
        let gate = self.forward(&gate_up.narrow(1, 0, size)?)?;
        Ok((gate * gate_up.narrow(1, size, size)?)?)
    }
}

/// Softmax over the last dimension, computed in float32 and returned in `x`'s dtype.
pub fn softmax_last_dim(x: &Tensor) -> Result<Tensor> {
    let wide = x.to_dtype(DType::F32)?;
    let exponentials = wide.broadcast_sub(&wide.max_keepdim(D::Minus1)?)?.exp()?;
    let sums = exponentials.sum_keepdim(D::Minus1)?;
    Ok(exponentials.broadcast_div(&sums)?.to_dtype(x.dtype())?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::test_support::{assert_close, random_tensor};

    #[test]
    fn activations_match_known_values() {
        // Values of torch.nn.functional at -1.5, 0 and 2.
        let check = |name: &str, expected: [f32; 3]| {
            let x = Tensor::new(&[-1.5f32, 0.0, 2.0], &Device::Cpu).unwrap();
            let activation = Activation::from_name(name).unwrap();
            let actual = activation.forward(&x).unwrap().to_vec1::<f32>().unwrap();
            for (a, e) in actual.iter().zip(expected) {
                assert!(
                    (a - e).abs() < 1e-5,
                    "{name}: {actual:?}, expected {expected:?}"
                );
            }
        };
        check("relu", [0.0, 0.0, 2.0]);
        check("gelu", [-0.100_211, 0.0, 1.954_5]);
        check("gelu_new", [-0.100_428, 0.0, 1.954_597_7]);
        check("quick_gelu", [-0.108_337_8, 0.0, 1.935_658_7]);
        check("silu", [-0.273_638, 0.0, 1.761_594_2]);
        assert_eq!(Activation::from_name("sparkle"), None);
    }

    #[test]
    fn a_gate_comes_before_what_it_lets_through() {
        let x = Tensor::new(&[[-1f32, 2.0, 3.0, 5.0]], &Device::Cpu).unwrap();
        let y = Activation::Relu.forward_gated(&x).unwrap();
        assert_eq!(y.to_vec2::<f32>().unwrap(), [[0.0, 10.0]]);
        let odd = x.narrow(1, 0, 3).unwrap();
        assert!(Activation::Relu.forward_gated(&odd).is_err());
    }

    #[test]
    fn the_fast_gated_bodies_match_the_plain_one() {
        for (rows, size) in [(1, 1), (3, 5), (2, 1024), (5, 3000)] {
            let x = (random_tensor(1, &[rows, 2 * size]) * 20.0).unwrap();
            for activation in [Activation::Silu, Activation::GeluTanh, Activation::Gelu] {
                let fast = activation.forward_gated(&x).unwrap();
                let plain = activation.forward_gated_plain(&x, size).unwrap();
                // Products reach 400.
                assert_close(&fast, &plain, 1e-4, "gated activation");
            }
        }
        let empty = Tensor::zeros((3, 0), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(
            Activation::Silu.forward_gated(&empty).unwrap().dims(),
            [3, 0]
        );
    }

    #[test]
    fn softmax_rows_sum_to_one() {
        let x = Tensor::new(&[[1000f32, 1000.0], [0.0, f32::NEG_INFINITY]], &Device::Cpu).unwrap();
        let y = softmax_last_dim(&x).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(y, [[0.5, 0.5], [1.0, 0.0]]);
    }
}
