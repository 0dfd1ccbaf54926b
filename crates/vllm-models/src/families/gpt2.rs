//! GPT-2 (Radford et al. 2019): learned positions, layer norms, weights stored as `[in, out]`.

use serde::Deserialize;

use crate::loader::WeightLoader;
use crate::parts::{
    Attention, Decoder, DecoderLayer, DecoderNames, FeedForward, Mlp, NormKind, Residual,
    activation,
};
use crate::{Model, ModelConfig, Result};

#[derive(Deserialize)]
struct Gpt2Config {
    n_positions: usize,
    n_inner: Option<usize>,
    #[serde(default = "gelu_new")]
    activation_function: String,
    #[serde(default = "layer_norm_epsilon")]
    layer_norm_epsilon: f64,
    #[serde(default = "yes")]
    scale_attn_weights: bool,
    #[serde(default)]
    scale_attn_by_inverse_layer_idx: bool,
}

fn gelu_new() -> String {
    "gelu_new".to_owned()
}

fn layer_norm_epsilon() -> f64 {
    1e-5
}

fn yes() -> bool {
    true
}

/// Checkpoints write names with and without `transformer.` in front.
pub(crate) fn canonical_name(name: &str) -> &str {
    name.strip_prefix("transformer.").unwrap_or(name)
}

const NAMES: DecoderNames = DecoderNames {
    embed_tokens: "wte.weight",
    norm: "ln_f",
};

pub(crate) fn build(config: &ModelConfig, weights: &WeightLoader) -> Result<Box<dyn Model>> {
    let gpt2: Gpt2Config = config.family()?;
    let norm = NormKind::Layer {
        eps: gpt2.layer_norm_epsilon,
    };
    let mut decoder = Decoder::load(config, weights, &NAMES, norm, Vec::new(), |index| {
        load_layer(index, config, &gpt2, norm, weights)
    })?;
    let positions = weights.embedding("wpe.weight", gpt2.n_positions, config.hidden_size)?;
    decoder.embed_positions = Some(positions);
    decoder.max_positions = gpt2.n_positions;
    Ok(Box::new(decoder))
}

fn load_layer(
    index: usize,
    config: &ModelConfig,
    gpt2: &Gpt2Config,
    norm: NormKind,
    weights: &WeightLoader,
) -> Result<DecoderLayer> {
    let name = |part: &str| format!("h.{index}.{part}");
    let hidden_size = config.hidden_size;
    let inner_size = gpt2.n_inner.unwrap_or(4 * hidden_size);
    let linear =
        |part: &str, from: usize, to: usize| weights.transposed_linear(&name(part), from, to, true);
    let qkv_proj = linear("attn.c_attn", hidden_size, 3 * hidden_size)?;
    let o_proj = linear("attn.c_proj", hidden_size, hidden_size)?;
    let mut attention = Attention::new(qkv_proj, o_proj, config);
    attention.rotary = None;
    if !gpt2.scale_attn_weights {
        attention.options.scale = 1.0;
    }
    if gpt2.scale_attn_by_inverse_layer_idx {
        attention.options.scale /= (index + 1) as f32;
    }
    let mlp = Mlp {
        up_proj: linear("mlp.c_fc", hidden_size, inner_size)?,
        activation: activation(&gpt2.activation_function)?,
        down_proj: linear("mlp.c_proj", inner_size, hidden_size)?,
    };
    let load_norm = |part: &str| norm.load(&name(part), hidden_size, weights);
    Ok(DecoderLayer {
        attention: Residual::pre_norm(load_norm("ln_1")?, attention),
        feed_forward: Residual::pre_norm(load_norm("ln_2")?, FeedForward::Plain(mlp)),
        parallel: false,
    })
}
