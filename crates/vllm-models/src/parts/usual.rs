use serde::Deserialize;
use vllm_tensor::Activation;

use super::{
    Attention, Decoder, DecoderLayer, DecoderNames, FeedForward, GatedMlp, NormKind, Residual,
    activation, rope,
};
use crate::loader::WeightLoader;
use crate::{ModelConfig, Result};

/// What the configs of most families say beyond [`ModelConfig`].
#[derive(Deserialize)]
pub(crate) struct UsualConfig {
    pub(crate) intermediate_size: usize,
    #[serde(default = "silu")]
    hidden_act: String,
    #[serde(default = "rms_norm_eps")]
    rms_norm_eps: f64,
    #[serde(default)]
    pub(crate) attention_bias: bool,
    #[serde(default)]
    pub(crate) mlp_bias: bool,
}

fn silu() -> String {
    "silu".to_owned()
}

fn rms_norm_eps() -> f64 {
    1e-6
}

impl UsualConfig {
    pub(crate) fn activation(&self) -> Result<Activation> {
        activation(&self.hidden_act)
    }

    pub(crate) fn norm(&self) -> NormKind {
        NormKind::Rms {
            eps: self.rms_norm_eps,
        }
    }

    /// The MLP of layer `index`.
    pub(crate) fn mlp(
        &self,
        index: usize,
        config: &ModelConfig,
        weights: &WeightLoader,
    ) -> Result<FeedForward> {
        Ok(FeedForward::Gated(GatedMlp::load(
            &format!("model.layers.{index}.mlp"),
            (config.hidden_size, self.intermediate_size),
            self.mlp_bias,
            self.activation()?,
            weights,
        )?))
    }
}

/// A decoder with the usual names and one rotation for all layers.
pub(crate) fn load_usual(
    config: &ModelConfig,
    norm: NormKind,
    weights: &WeightLoader,
    layer: impl FnMut(usize) -> Result<DecoderLayer>,
) -> Result<Decoder> {
    let rotaries = vec![rope::rotary(config)?];
    Decoder::load(config, weights, &DecoderNames::USUAL, norm, rotaries, layer)
}

/// Layer `index` with a norm before each block, under the usual names.
pub(crate) fn usual_layer(
    index: usize,
    config: &ModelConfig,
    norm: NormKind,
    attention: Attention,
    feed_forward: FeedForward,
    weights: &WeightLoader,
) -> Result<DecoderLayer> {
    let load_norm = |name: &str| {
        let prefix = format!("model.layers.{index}.{name}");
        norm.load(&prefix, config.hidden_size, weights)
    };
    Ok(DecoderLayer {
        attention: Residual::pre_norm(load_norm("input_layernorm")?, attention),
        feed_forward: Residual::pre_norm(load_norm("post_attention_layernorm")?, feed_forward),
        parallel: false,
    })
}
