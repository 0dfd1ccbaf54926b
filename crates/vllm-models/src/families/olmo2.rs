//! OLMo 2 (2024): norms after the blocks, and over all queries and all keys.

use crate::loader::WeightLoader;
use crate::parts::{Attention, AttentionBias, DecoderLayer, Residual, UsualConfig, load_usual};
use crate::{Model, ModelConfig, Result};

pub(crate) fn build(config: &ModelConfig, weights: &WeightLoader) -> Result<Box<dyn Model>> {
    let olmo: UsualConfig = config.family()?;
    let bias = AttentionBias {
        qkv: olmo.attention_bias,
        output: olmo.attention_bias,
    };
    let decoder = load_usual(config, olmo.norm(), weights, |index| {
        let name = |part: &str| format!("model.layers.{index}.{part}");
        let norm = |part: &str, size: usize| olmo.norm().load(&name(part), size, weights);
        let mut attention = Attention::load(&name("self_attn"), config, bias, weights)?;
        let (queries, keys) = (config.num_heads, config.num_kv_heads);
        attention.qk_norm = Some((
            norm("self_attn.q_norm", queries * config.head_dim)?,
            norm("self_attn.k_norm", keys * config.head_dim)?,
        ));
        Ok(DecoderLayer {
            attention: Residual {
                norm_before: None,
                block: attention,
                norm_after: Some(norm("post_attention_layernorm", config.hidden_size)?),
                scale: None,
            },
            feed_forward: Residual {
                norm_before: None,
                block: olmo.mlp(index, config, weights)?,
                norm_after: Some(norm("post_feedforward_layernorm", config.hidden_size)?),
                scale: None,
            },
            parallel: false,
        })
    })?;
    Ok(Box::new(decoder))
}
