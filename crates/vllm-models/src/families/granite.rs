//! Granite (2024): Llama with factors on the embedding, the scores, what blocks add and the logits.

use serde::Deserialize;

use crate::loader::WeightLoader;
use crate::parts::{Attention, AttentionBias, UsualConfig, load_usual, usual_layer};
use crate::{Model, ModelConfig, Result};

#[derive(Deserialize)]
struct GraniteConfig {
    #[serde(default = "one")]
    embedding_multiplier: f64,
    #[serde(default = "one")]
    attention_multiplier: f64,
    #[serde(default = "one")]
    residual_multiplier: f64,
    #[serde(default = "one")]
    logits_scaling: f64,
}

fn one() -> f64 {
    1.0
}

pub(crate) fn build(config: &ModelConfig, weights: &WeightLoader) -> Result<Box<dyn Model>> {
    let usual: UsualConfig = config.family()?;
    let granite: GraniteConfig = config.family()?;
    let norm = usual.norm();
    let bias = AttentionBias {
        qkv: usual.attention_bias,
        output: usual.attention_bias,
    };
    let mut decoder = load_usual(config, norm, weights, |index| {
        let prefix = format!("model.layers.{index}.self_attn");
        let mut attention = Attention::load(&prefix, config, bias, weights)?;
        attention.options.scale = granite.attention_multiplier as f32;
        let mlp = usual.mlp(index, config, weights)?;
        let mut layer = usual_layer(index, config, norm, attention, mlp, weights)?;
        layer.attention.scale = Some(granite.residual_multiplier);
        layer.feed_forward.scale = Some(granite.residual_multiplier);
        Ok(layer)
    })?;
    decoder.embedding_scale = Some(granite.embedding_multiplier);
    decoder.logits_scale = Some(granite.logits_scaling.recip());
    Ok(Box::new(decoder))
}
