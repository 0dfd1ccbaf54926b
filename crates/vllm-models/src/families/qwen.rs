//! Qwen 2 and 2.5, with biases on queries, keys and values, and Qwen 3, with norms on queries and keys.

use serde::Deserialize;

use crate::loader::WeightLoader;
use crate::parts::{Attention, AttentionBias, NormKind, UsualConfig, load_usual, usual_layer};
use crate::{Model, ModelConfig, Result};

#[derive(Deserialize)]
struct WindowConfig {
    #[serde(default)]
    use_sliding_window: bool,
    /// The first layer with a window.
    #[serde(default)]
    max_window_layers: usize,
}

pub(crate) fn build_qwen2(config: &ModelConfig, weights: &WeightLoader) -> Result<Box<dyn Model>> {
    let bias = AttentionBias {
        qkv: true,
        output: false,
    };
    build(config, weights, |prefix, _| {
        Attention::load(prefix, config, bias, weights)
    })
}

pub(crate) fn build_qwen3(config: &ModelConfig, weights: &WeightLoader) -> Result<Box<dyn Model>> {
    build(config, weights, |prefix, qwen| {
        load_qwen3_attention(prefix, config, qwen, weights)
    })
}

fn build(
    config: &ModelConfig,
    weights: &WeightLoader,
    load_attention: impl Fn(&str, &UsualConfig) -> Result<Attention>,
) -> Result<Box<dyn Model>> {
    let qwen: UsualConfig = config.family()?;
    let windows: WindowConfig = config.family()?;
    let norm = qwen.norm();
    let decoder = load_usual(config, norm, weights, |index| {
        let prefix = format!("model.layers.{index}.self_attn");
        let mut attention = load_attention(&prefix, &qwen)?;
        if windows.use_sliding_window {
            let is_sliding = index >= windows.max_window_layers;
            attention.options.sliding_window = config.layer_window(index, is_sliding)?;
        }
        let mlp = qwen.mlp(index, config, weights)?;
        usual_layer(index, config, norm, attention, mlp, weights)
    })?;
    Ok(Box::new(decoder))
}

/// Attention whose queries and keys are normed head by head.
pub(super) fn load_qwen3_attention(
    prefix: &str,
    config: &ModelConfig,
    qwen: &UsualConfig,
    weights: &WeightLoader,
) -> Result<Attention> {
    let bias = AttentionBias {
        qkv: qwen.attention_bias,
        output: qwen.attention_bias,
    };
    let mut attention = Attention::load(prefix, config, bias, weights)?;
    attention.qk_norm = Some(load_head_norms(prefix, config, qwen.norm(), weights)?);
    Ok(attention)
}

/// `q_norm` and `k_norm`, each over one head.
pub(super) fn load_head_norms(
    prefix: &str,
    config: &ModelConfig,
    norm: NormKind,
    weights: &WeightLoader,
) -> Result<(crate::parts::Norm, crate::parts::Norm)> {
    let load = |part: &str| norm.load(&format!("{prefix}.{part}"), config.head_dim, weights);
    Ok((load("q_norm")?, load("k_norm")?))
}
