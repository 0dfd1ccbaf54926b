//! Gemma 2 (2024), whose layers take turns between a window and the whole context, and the text model
//! of Gemma 3 (2025), whose two kinds of layers rotate differently.

use serde::Deserialize;
use serde_json::json;

use super::qwen::load_head_norms;
use crate::loader::WeightLoader;
use crate::parts::{
    Attention, AttentionBias, Decoder, DecoderLayer, DecoderNames, FeedForward, GatedMlp, NormKind,
    Residual, activation, rope,
};
use crate::{Error, Model, ModelConfig, Result};

#[derive(Deserialize)]
struct GemmaConfig {
    intermediate_size: usize,
    #[serde(default = "gelu_tanh")]
    hidden_activation: String,
    rms_norm_eps: f64,
    #[serde(default)]
    attention_bias: bool,
    query_pre_attn_scalar: f64,
    attn_logit_softcapping: Option<f32>,
    final_logit_softcapping: Option<f64>,
    /// Gemma 3: every so many layers one without a window.
    #[serde(default = "six")]
    sliding_window_pattern: usize,
    rope_local_base_freq: Option<f64>,
    #[serde(default)]
    use_bidirectional_attention: Option<bool>,
}

fn gelu_tanh() -> String {
    "gelu_pytorch_tanh".to_owned()
}

fn six() -> usize {
    6
}

/// Indices of Gemma 3's rotations.
const GLOBAL: usize = 0;
const LOCAL: usize = 1;

pub(crate) fn build_gemma2(config: &ModelConfig, weights: &WeightLoader) -> Result<Box<dyn Model>> {
    let gemma: GemmaConfig = config.family()?;
    let rotaries = vec![rope::rotary(config)?];
    let decoder = Decoder::load(
        config,
        weights,
        &DecoderNames::USUAL,
        gemma.norm(),
        rotaries,
        |index| {
            let mut attention = gemma.load_attention(index, config, weights)?;
            attention.options.sliding_window =
                config.layer_window(index, index.is_multiple_of(2))?;
            attention.options.soft_cap = gemma.attn_logit_softcapping;
            gemma.load_layer(index, attention, config, weights)
        },
    )?;
    gemma.finish(decoder, config, weights)
}

pub(crate) fn build_gemma3(config: &ModelConfig, weights: &WeightLoader) -> Result<Box<dyn Model>> {
    let gemma: GemmaConfig = config.family()?;
    if gemma.use_bidirectional_attention == Some(true) {
        return Err(Error::Config(
            "use_bidirectional_attention is not supported: this is no generating model".to_owned(),
        ));
    }
    let global =
        rope::rotary_of_layer_type(config, "full_attention", || rope::parameters(&config.raw))?;
    let local = rope::rotary_of_layer_type(
        config,
        "sliding_attention",
        || json!({"rope_theta": gemma.rope_local_base_freq}),
    )?;
    let decoder = Decoder::load(
        config,
        weights,
        &DecoderNames::USUAL,
        gemma.norm(),
        vec![global, local],
        |index| {
            let mut attention = gemma.load_attention(index, config, weights)?;
            let pattern = gemma.sliding_window_pattern;
            let is_sliding = config.is_sliding(index, !(index + 1).is_multiple_of(pattern))?;
            attention.rotary = Some(if is_sliding { LOCAL } else { GLOBAL });
            attention.options.sliding_window = config.sliding_window.filter(|_| is_sliding);
            attention.options.soft_cap = gemma.attn_logit_softcapping;
            let prefix = format!("model.layers.{index}.self_attn");
            attention.qk_norm = Some(load_head_norms(&prefix, config, gemma.norm(), weights)?);
            gemma.load_layer(index, attention, config, weights)
        },
    )?;
    gemma.finish(decoder, config, weights)
}

impl GemmaConfig {
    fn norm(&self) -> NormKind {
        NormKind::RmsAboveOne {
            eps: self.rms_norm_eps,
        }
    }

    fn load_attention(
        &self,
        index: usize,
        config: &ModelConfig,
        weights: &WeightLoader,
    ) -> Result<Attention> {
        let prefix = format!("model.layers.{index}.self_attn");
        let bias = AttentionBias {
            qkv: self.attention_bias,
            output: self.attention_bias,
        };
        let mut attention = Attention::load(&prefix, config, bias, weights)?;
        attention.options.scale = self.query_pre_attn_scalar.sqrt().recip() as f32;
        Ok(attention)
    }

    /// Norms before and after both blocks.
    fn load_layer(
        &self,
        index: usize,
        attention: Attention,
        config: &ModelConfig,
        weights: &WeightLoader,
    ) -> Result<DecoderLayer> {
        let name = |part: &str| format!("model.layers.{index}.{part}");
        let norm = |part: &str| -> Result<_> {
            let norm = self.norm().load(&name(part), config.hidden_size, weights)?;
            Ok(Some(norm))
        };
        let mlp = GatedMlp::load(
            &name("mlp"),
            (config.hidden_size, self.intermediate_size),
            false,
            activation(&self.hidden_activation)?,
            weights,
        )?;
        Ok(DecoderLayer {
            attention: Residual {
                norm_before: norm("input_layernorm")?,
                block: attention,
                norm_after: norm("post_attention_layernorm")?,
                scale: None,
            },
            feed_forward: Residual {
                norm_before: norm("pre_feedforward_layernorm")?,
                block: FeedForward::Gated(mlp),
                norm_after: norm("post_feedforward_layernorm")?,
                scale: None,
            },
            parallel: false,
        })
    }

    fn finish(
        &self,
        mut decoder: Decoder,
        config: &ModelConfig,
        weights: &WeightLoader,
    ) -> Result<Box<dyn Model>> {
        // Trained with the factor rounded to the weights' dtype.
        let scale = weights.round((config.hidden_size as f64).sqrt())?;
        decoder.embedding_scale = Some(scale);
        decoder.logits_soft_cap = self.final_logit_softcapping;
        Ok(Box::new(decoder))
    }
}
