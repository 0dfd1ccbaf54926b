//! Qwen 2 and 1.5 MoE, with an expert that sees every token, and Qwen 3 MoE.

use serde::Deserialize;

use super::qwen::load_qwen3_attention;
use crate::loader::WeightLoader;
use crate::parts::{
    Attention, AttentionBias, FeedForward, GatedMlp, MoeBlock, SharedExpert, UsualConfig,
    load_usual, usual_layer,
};
use crate::{Model, ModelConfig, Result};

#[derive(Deserialize)]
struct QwenMoeConfig {
    num_experts: Option<usize>,
    /// The same, as transformers 5 writes it for Qwen 3.
    num_local_experts: Option<usize>,
    num_experts_per_tok: usize,
    moe_intermediate_size: usize,
    /// Qwen 2 only.
    shared_expert_intermediate_size: Option<usize>,
    #[serde(default)]
    norm_topk_prob: bool,
    #[serde(default = "one")]
    decoder_sparse_step: usize,
    #[serde(default)]
    mlp_only_layers: Option<Vec<usize>>,
    #[serde(default)]
    use_sliding_window: bool,
    #[serde(default)]
    max_window_layers: usize,
}

fn one() -> usize {
    1
}

pub(crate) fn build_qwen2(config: &ModelConfig, weights: &WeightLoader) -> Result<Box<dyn Model>> {
    let moe: QwenMoeConfig = config.family()?;
    let bias = AttentionBias {
        qkv: true,
        output: false,
    };
    build(config, weights, |index, prefix, _| {
        let mut attention = Attention::load(prefix, config, bias, weights)?;
        if moe.use_sliding_window {
            let is_sliding = index.is_multiple_of(2) && index < moe.max_window_layers;
            attention.options.sliding_window = config.layer_window(index, is_sliding)?;
        }
        Ok(attention)
    })
}

pub(crate) fn build_qwen3(config: &ModelConfig, weights: &WeightLoader) -> Result<Box<dyn Model>> {
    let moe: QwenMoeConfig = config.family()?;
    build(config, weights, |index, prefix, qwen| {
        let mut attention = load_qwen3_attention(prefix, config, qwen, weights)?;
        if moe.use_sliding_window {
            attention.options.sliding_window = config.layer_window(index, true)?;
        }
        Ok(attention)
    })
}

fn build(
    config: &ModelConfig,
    weights: &WeightLoader,
    load_attention: impl Fn(usize, &str, &UsualConfig) -> Result<Attention>,
) -> Result<Box<dyn Model>> {
    let qwen: UsualConfig = config.family()?;
    let moe: QwenMoeConfig = config.family()?;
    let norm = qwen.norm();
    let decoder = load_usual(config, norm, weights, |index| {
        let prefix = format!("model.layers.{index}.self_attn");
        let attention = load_attention(index, &prefix, &qwen)?;
        let feed_forward = if moe.is_sparse(index) {
            FeedForward::Moe(moe.load_block(index, config, &qwen, weights)?)
        } else {
            qwen.mlp(index, config, weights)?
        };
        usual_layer(index, config, norm, attention, feed_forward, weights)
    })?;
    Ok(Box::new(decoder))
}

impl QwenMoeConfig {
    fn num_experts(&self) -> usize {
        self.num_experts.or(self.num_local_experts).unwrap_or(0)
    }

    fn is_sparse(&self, index: usize) -> bool {
        let mlp_only = self.mlp_only_layers.as_deref().unwrap_or_default();
        self.num_experts() > 0
            && !mlp_only.contains(&index)
            && (index + 1).is_multiple_of(self.decoder_sparse_step)
    }

    fn load_block(
        &self,
        index: usize,
        config: &ModelConfig,
        qwen: &UsualConfig,
        weights: &WeightLoader,
    ) -> Result<MoeBlock> {
        let name = |part: &str| format!("model.layers.{index}.mlp.{part}");
        let hidden_size = config.hidden_size;
        let activation = qwen.activation()?;
        let mlp = |part: &str, inner_size: usize| {
            let sizes = (hidden_size, inner_size);
            GatedMlp::load(&name(part), sizes, false, activation, weights)
        };
        let experts = (0..self.num_experts())
            .map(|expert| mlp(&format!("experts.{expert}"), self.moe_intermediate_size));
        let mut block = MoeBlock::load(
            &name("gate"),
            experts.collect::<Result<_>>()?,
            self.num_experts_per_tok,
            hidden_size,
            weights,
        )?;
        block.renormalize = self.norm_topk_prob;
        if let Some(inner_size) = self.shared_expert_intermediate_size {
            block.shared = Some(SharedExpert {
                mlp: mlp("shared_expert", inner_size)?,
                gate: weights.linear(&name("shared_expert_gate"), hidden_size, 1, false)?,
            });
        }
        Ok(block)
    }
}
