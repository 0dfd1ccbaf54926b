//! Phi-3, 3.5 and 4 (Abdin et al. 2024): fused projections, LongRoPE.

use crate::loader::WeightLoader;
use crate::parts::{Attention, FeedForward, GatedMlp, UsualConfig, load_usual, usual_layer};
use crate::{Model, ModelConfig, Result};

pub(crate) fn build(config: &ModelConfig, weights: &WeightLoader) -> Result<Box<dyn Model>> {
    let phi: UsualConfig = config.family()?;
    let norm = phi.norm();
    let hidden_size = config.hidden_size;
    let decoder = load_usual(config, norm, weights, |index| {
        let linear = |part: &str, from: usize, to: usize| {
            weights.linear(&format!("model.layers.{index}.{part}"), from, to, false)
        };
        let query_width = config.num_heads * config.head_dim;
        let qkv_width = query_width + 2 * config.num_kv_heads * config.head_dim;
        let qkv_proj = linear("self_attn.qkv_proj", hidden_size, qkv_width)?;
        let o_proj = linear("self_attn.o_proj", query_width, hidden_size)?;
        let mut attention = Attention::new(qkv_proj, o_proj, config);
        attention.options.sliding_window = config.layer_window(index, true)?;

        let inner_size = phi.intermediate_size;
        let gate_up_proj = linear(
            "mlp.gate_up_proj",
            hidden_size,
            inner_size.saturating_mul(2),
        )?;
        let down_proj = linear("mlp.down_proj", inner_size, hidden_size)?;
        let mlp = GatedMlp::new(gate_up_proj, phi.activation()?, down_proj);
        let mlp = FeedForward::Gated(mlp);
        usual_layer(index, config, norm, attention, mlp, weights)
    })?;
    Ok(Box::new(decoder))
}
