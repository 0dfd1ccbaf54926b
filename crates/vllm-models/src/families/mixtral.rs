//! Mixtral (Jiang et al. 2024): Mistral with a mixture of experts in every layer.

use serde::Deserialize;

use crate::loader::WeightLoader;
use crate::parts::{
    Attention, AttentionBias, FeedForward, GatedMlp, MoeBlock, UsualConfig, load_usual, usual_layer,
};
use crate::{Model, ModelConfig, Result};

#[derive(Deserialize)]
struct MixtralConfig {
    num_local_experts: usize,
    num_experts_per_tok: usize,
}

pub(crate) fn build(config: &ModelConfig, weights: &WeightLoader) -> Result<Box<dyn Model>> {
    let usual: UsualConfig = config.family()?;
    let mixtral: MixtralConfig = config.family()?;
    let norm = usual.norm();
    let bias = AttentionBias {
        qkv: false,
        output: false,
    };
    let decoder = load_usual(config, norm, weights, |index| {
        let name = |part: &str| format!("model.layers.{index}.{part}");
        let mut attention = Attention::load(&name("self_attn"), config, bias, weights)?;
        attention.options.sliding_window = config.layer_window(index, true)?;

        let experts = (0..mixtral.num_local_experts).map(|expert| {
            GatedMlp::load_named(
                &name(&format!("block_sparse_moe.experts.{expert}")),
                ["w1", "w3", "w2"],
                (config.hidden_size, usual.intermediate_size),
                false,
                usual.activation()?,
                weights,
            )
        });
        let moe = MoeBlock::load(
            &name("block_sparse_moe.gate"),
            experts.collect::<Result<_>>()?,
            mixtral.num_experts_per_tok,
            config.hidden_size,
            weights,
        )?;
        let moe = FeedForward::Moe(moe);
        usual_layer(index, config, norm, attention, moe, weights)
    })?;
    Ok(Box::new(decoder))
}
