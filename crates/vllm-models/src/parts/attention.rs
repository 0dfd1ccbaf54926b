use vllm_tensor::{
    AttentionOptions, LayerKvCache, LinearInput, QueryKeyValue, Tensor, paged_attention_for,
    rotate_and_write_kv,
};

use super::Norm;
use super::decoder::{Block, Step};
use crate::loader::{Linear, WeightLoader};
use crate::{ModelConfig, Result};

/// Causal attention with grouped heads over the paged cache.
///
/// Families change the fields that differ from [`Attention::new`]'s.
pub(crate) struct Attention {
    /// Queries, keys and values side by side.
    qkv_proj: Linear,
    o_proj: Linear,
    num_heads: usize,
    num_kv_heads: usize,
    head_dim: usize,
    /// Of queries and of keys before they are rotated: over a head or over all heads together, by
    /// the size of the norm.
    pub(crate) qk_norm: Option<(Norm, Norm)>,
    /// Which of the decoder's rotations applies; none for layers that know no positions.
    pub(crate) rotary: Option<usize>,
    pub(crate) options: AttentionOptions,
}

/// Which projections have a bias.
#[derive(Clone, Copy)]
pub(crate) struct AttentionBias {
    pub(crate) qkv: bool,
    pub(crate) output: bool,
}

impl Attention {
    /// Plain causal attention with the decoder's first rotation.
    pub(crate) fn new(qkv_proj: Linear, o_proj: Linear, config: &ModelConfig) -> Self {
        Self {
            qkv_proj,
            o_proj,
            num_heads: config.num_heads,
            num_kv_heads: config.num_kv_heads,
            head_dim: config.head_dim,
            qk_norm: None,
            rotary: Some(0),
            options: AttentionOptions::causal(config.head_dim),
        }
    }

    /// The same from `q_proj`, `k_proj`, `v_proj` and `o_proj` below `prefix`.
    pub(crate) fn load(
        prefix: &str,
        config: &ModelConfig,
        bias: AttentionBias,
        weights: &WeightLoader,
    ) -> Result<Self> {
        let qkv = [
            ("q_proj", config.num_heads),
            ("k_proj", config.num_kv_heads),
            ("v_proj", config.num_kv_heads),
        ];
        let qkv = qkv.map(|(part, heads)| (format!("{prefix}.{part}"), heads * config.head_dim));
        let qkv_proj = weights.stacked_linear(&qkv, config.hidden_size, bias.qkv)?;
        let o_proj = weights.linear(
            &format!("{prefix}.o_proj"),
            config.num_heads * config.head_dim,
            config.hidden_size,
            bias.output,
        )?;
        Ok(Self::new(qkv_proj, o_proj, config))
    }

    /// What it makes of `x`, added to the `residual` if there is one.
    pub(crate) fn forward(
        &self,
        x: LinearInput,
        residual: Option<&Tensor>,
        kv: &mut LayerKvCache,
        step: &Step,
    ) -> Result<Tensor> {
        let queries = self.write_kv(x, kv, step)?;
        let attended =
            paged_attention_for(&queries, kv, &step.metadata, &self.options, &self.o_proj)?;
        drop(queries);
        Ok(self.o_proj.forward_input(&attended, residual)?)
    }

    /// Projects `x`, stores keys and values, and returns the queries, `[tokens, heads, head_dim]`.
    ///
    /// What a long prompt makes here is the largest of all results of a step, so it is gone before the
    /// next begin.
    fn write_kv(&self, x: LinearInput, kv: &mut LayerKvCache, step: &Step) -> Result<Tensor> {
        let qkv = self.qkv_proj.forward_input(&x, None)?;
        drop(x);
        let num_tokens = qkv.dim(0)?;
        let num_heads = self.num_heads + 2 * self.num_kv_heads;
        let qkv = qkv.reshape((num_tokens, num_heads, self.head_dim))?;
        // Views: what follows reads them where they are.
        let mut queries = qkv.narrow(1, 0, self.num_heads)?;
        let mut keys = qkv.narrow(1, self.num_heads, self.num_kv_heads)?;
        let values = qkv.narrow(1, self.num_heads + self.num_kv_heads, self.num_kv_heads)?;
        let mut head_norms = None;
        if let Some((q_norm, k_norm)) = &self.qk_norm {
            head_norms = q_norm.rms(self.head_dim).zip(k_norm.rms(self.head_dim));
            if head_norms.is_none() {
                (queries, keys) = (q_norm.forward(&queries)?, k_norm.forward(&keys)?);
            }
        }
        let new = QueryKeyValue {
            queries: &queries,
            keys: &keys,
            values: &values,
        };
        let angles = self.rotary.and_then(|index| step.angles.get(index));
        Ok(rotate_and_write_kv(
            kv,
            new,
            head_norms,
            angles,
            &step.metadata,
        )?)
    }
}

impl Block for Attention {
    fn input_layer(&self) -> Option<&Linear> {
        Some(&self.qkv_proj)
    }
}
