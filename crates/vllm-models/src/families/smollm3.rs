//! SmolLM 3 (2025): Llama with some layers that know no positions.

use serde::Deserialize;

use crate::loader::WeightLoader;
use crate::parts::{Attention, AttentionBias, UsualConfig, load_usual, usual_layer};
use crate::{Model, ModelConfig, Result};

#[derive(Deserialize)]
struct SmolLm3Config {
    /// For each layer 1 if it rotates, in spite of the name.
    no_rope_layers: Option<Vec<u8>>,
    /// Without the list, every so many layers one does not rotate.
    #[serde(default = "four")]
    no_rope_layer_interval: usize,
    #[serde(default)]
    use_sliding_window: bool,
}

fn four() -> usize {
    4
}

impl SmolLm3Config {
    fn rotates(&self, index: usize) -> bool {
        match &self.no_rope_layers {
            Some(layers) => layers.get(index).is_none_or(|rotates| *rotates != 0),
            None => !(index + 1).is_multiple_of(self.no_rope_layer_interval),
        }
    }
}

pub(crate) fn build(config: &ModelConfig, weights: &WeightLoader) -> Result<Box<dyn Model>> {
    let usual: UsualConfig = config.family()?;
    let smollm: SmolLm3Config = config.family()?;
    let norm = usual.norm();
    let bias = AttentionBias {
        qkv: usual.attention_bias,
        output: usual.attention_bias,
    };
    let decoder = load_usual(config, norm, weights, |index| {
        let prefix = format!("model.layers.{index}.self_attn");
        let mut attention = Attention::load(&prefix, config, bias, weights)?;
        let rotates = smollm.rotates(index);
        attention.rotary = rotates.then_some(0);
        if smollm.use_sliding_window {
            attention.options.sliding_window = config.layer_window(index, !rotates)?;
        }
        let mlp = usual.mlp(index, config, weights)?;
        usual_layer(index, config, norm, attention, mlp, weights)
    })?;
    Ok(Box::new(decoder))
}
