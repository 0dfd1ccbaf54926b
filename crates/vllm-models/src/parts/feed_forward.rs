use vllm_tensor::{Activation, LinearInput, Tensor};

use super::decoder::Block;
use super::moe::MoeBlock;
use crate::loader::{Linear, WeightLoader};
use crate::{Error, Result};

/// The half of a layer that looks at each token by itself.
pub(crate) enum FeedForward {
    Gated(GatedMlp),
    Plain(Mlp),
    Moe(MoeBlock),
}

impl FeedForward {
    /// What it makes of `x`, added to the `residual` if there is one.
    pub(crate) fn forward(&self, x: LinearInput, residual: Option<&Tensor>) -> Result<Tensor> {
        match self {
            Self::Gated(mlp) => mlp.forward(x, residual),
            Self::Plain(mlp) => {
                let inner = mlp.up_proj.forward_input(&x, None)?;
                drop(x);
                let inner = mlp.activation.forward(&inner)?;
                Ok(mlp.down_proj.forward_input(&inner.into(), residual)?)
            }
            Self::Moe(block) => {
                let y = block.forward(&x.to_tensor()?)?;
                Ok(match residual {
                    Some(residual) => (residual + y)?,
                    None => y,
                })
            }
        }
    }
}

impl Block for FeedForward {
    fn input_layer(&self) -> Option<&Linear> {
        match self {
            Self::Gated(mlp) => Some(&mlp.gate_up_proj),
            Self::Plain(mlp) => Some(&mlp.up_proj),
            // A router and many experts.
            Self::Moe(_) => None,
        }
    }
}

/// `down(f(gate(x)) · up(x))`.
pub(crate) struct GatedMlp {
    /// The gate's outputs, then the up projection's.
    gate_up_proj: Linear,
    activation: Activation,
    down_proj: Linear,
}

impl GatedMlp {
    pub(crate) fn new(gate_up_proj: Linear, activation: Activation, down_proj: Linear) -> Self {
        Self {
            gate_up_proj,
            activation,
            down_proj,
        }
    }

    /// From three projections below `prefix`, named as gate, up and down.
    pub(crate) fn load_named(
        prefix: &str,
        [gate, up, down]: [&str; 3],
        (hidden_size, inner_size): (usize, usize),
        bias: bool,
        activation: Activation,
        weights: &WeightLoader,
    ) -> Result<Self> {
        let gate_up = [gate, up].map(|part| (format!("{prefix}.{part}"), inner_size));
        Ok(Self {
            gate_up_proj: weights.stacked_linear(&gate_up, hidden_size, bias)?,
            activation,
            down_proj: weights.linear(
                &format!("{prefix}.{down}"),
                inner_size,
                hidden_size,
                bias,
            )?,
        })
    }

    /// From `gate_proj`, `up_proj` and `down_proj` below `prefix`.
    pub(crate) fn load(
        prefix: &str,
        sizes: (usize, usize),
        bias: bool,
        activation: Activation,
        weights: &WeightLoader,
    ) -> Result<Self> {
        let names = ["gate_proj", "up_proj", "down_proj"];
        Self::load_named(prefix, names, sizes, bias, activation, weights)
    }

    /// What it makes of `x`, added to the `residual` if there is one.
    pub(crate) fn forward(&self, x: LinearInput, residual: Option<&Tensor>) -> Result<Tensor> {
        let inner = self
            .gate_up_proj
            .forward_gated_for(&x, self.activation, &self.down_proj)?;
        drop(x);
        Ok(self.down_proj.forward_input(&inner, residual)?)
    }
}

/// `down(f(up(x)))`.
pub(crate) struct Mlp {
    pub(crate) up_proj: Linear,
    pub(crate) activation: Activation,
    pub(crate) down_proj: Linear,
}

/// The activation that a config names.
pub(crate) fn activation(name: &str) -> Result<Activation> {
    Activation::from_name(name)
        .ok_or_else(|| Error::Config(format!("unknown activation function '{name}'")))
}
