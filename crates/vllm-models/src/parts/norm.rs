use vllm_tensor::{LayerNorm, LinearInput, RmsNorm, Tensor};

use crate::Result;
use crate::loader::{Linear, WeightLoader};

/// How a family normalizes.
#[derive(Clone, Copy)]
pub(crate) enum NormKind {
    Rms {
        eps: f64,
    },
    /// Gemma's: the checkpoint holds what the weight is above one.
    RmsAboveOne {
        eps: f64,
    },
    Layer {
        eps: f64,
    },
}

impl NormKind {
    /// A norm over `size` elements from the tensors below `prefix`.
    pub(crate) fn load(self, prefix: &str, size: usize, weights: &WeightLoader) -> Result<Norm> {
        let body = match self {
            Self::Rms { eps } => Body::Rms(RmsNorm::new(weights.norm_weight(prefix, size)?, eps)?),
            Self::RmsAboveOne { eps } => {
                let weight = (weights.norm_weight(prefix, size)? + 1.0)?;
                Body::Rms(RmsNorm::new(weight, eps)?)
            }
            Self::Layer { eps } => Body::Layer(weights.layer_norm(prefix, size, eps, true)?),
        };
        Ok(Norm { body, size })
    }
}

/// A normalization of rows.
pub(crate) struct Norm {
    body: Body,
    size: usize,
}

enum Body {
    Rms(RmsNorm),
    Layer(LayerNorm),
    /// A layer norm and what to multiply with, `[heads, head_dim]`.
    PerHead(LayerNorm, Tensor),
}

impl Norm {
    /// A layer norm without a bias over each head of `[tokens, heads, head_dim]`, with a weight
    /// `{prefix}.{head}.weight` of its own.
    pub(crate) fn load_per_head(
        prefix: &str,
        num_heads: usize,
        head_dim: usize,
        eps: f64,
        weights: &WeightLoader,
    ) -> Result<Self> {
        let heads =
            (0..num_heads).map(|head| weights.norm_weight(&format!("{prefix}.{head}"), head_dim));
        let weight = Tensor::stack(&heads.collect::<Result<Vec<_>>>()?, 0)?;
        Ok(Self {
            body: Body::PerHead(LayerNorm::new(None, None, head_dim, eps)?, weight),
            size: head_dim,
        })
    }

    /// The norm itself, if it is a root-mean-square one of `size` elements.
    pub(crate) fn rms(&self, size: usize) -> Option<&RmsNorm> {
        match &self.body {
            Body::Rms(norm) if self.size == size => Some(norm),
            _ => None,
        }
    }

    /// Normalizes `x`, `[rows, size]`, as input of the layer `next` if there is one.
    pub(crate) fn forward_for(&self, x: &Tensor, next: Option<&Linear>) -> Result<LinearInput> {
        Ok(match (&self.body, next) {
            (Body::Rms(norm), Some(next)) => norm.forward_for(x, next)?,
            (Body::Layer(norm), Some(next)) => norm.forward_for(x, next)?,
            _ => self.forward(x)?.into(),
        })
    }

    /// Normalizes `x`, any shape whose rows are `size` elements or several times that: each such run
    /// by itself.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let rows = x.reshape(((), self.size))?;
        let normal = match &self.body {
            Body::Rms(norm) => norm.forward(&rows)?,
            Body::Layer(norm) => norm.forward(&rows)?,
            Body::PerHead(norm, weight) => {
                let normal = norm.forward(&rows)?.reshape(x.shape())?;
                return Ok(normal.broadcast_mul(weight)?);
            }
        };
        Ok(normal.reshape(x.shape())?)
    }
}
