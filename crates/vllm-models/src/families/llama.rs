//! Llama 1 to 3.2 (Touvron et al. 2023 and after), and Mistral, which adds a sliding window.

use crate::loader::WeightLoader;
use crate::parts::{Attention, AttentionBias, UsualConfig, load_usual, usual_layer};
use crate::{Model, ModelConfig, Result};

pub(crate) fn build(config: &ModelConfig, weights: &WeightLoader) -> Result<Box<dyn Model>> {
    let llama: UsualConfig = config.family()?;
    let norm = llama.norm();
    let bias = AttentionBias {
        qkv: llama.attention_bias,
        output: llama.attention_bias,
    };
    let decoder = load_usual(config, norm, weights, |index| {
        let prefix = format!("model.layers.{index}.self_attn");
        let mut attention = Attention::load(&prefix, config, bias, weights)?;
        attention.options.sliding_window = config.layer_window(index, true)?;
        let mlp = llama.mlp(index, config, weights)?;
        usual_layer(index, config, norm, attention, mlp, weights)
    })?;
    Ok(Box::new(decoder))
}
