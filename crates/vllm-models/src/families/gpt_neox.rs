//! GPT-NeoX (Black et al. 2022) and Pythia: rotation of a part of each head, attention and MLP side by
//! side.

use serde::Deserialize;
use vllm_tensor::{DType, WeightRows};

use crate::loader::{Linear, WeightLoader};
use crate::parts::{
    Attention, Decoder, DecoderLayer, DecoderNames, FeedForward, Mlp, NormKind, Residual,
    activation, rope,
};
use crate::{Model, ModelConfig, Result};

#[derive(Deserialize)]
struct GptNeoxConfig {
    intermediate_size: usize,
    #[serde(default = "gelu")]
    hidden_act: String,
    #[serde(default = "layer_norm_eps")]
    layer_norm_eps: f64,
    #[serde(default = "yes")]
    use_parallel_residual: bool,
    #[serde(default = "yes")]
    attention_bias: bool,
}

fn gelu() -> String {
    "gelu".to_owned()
}

fn layer_norm_eps() -> f64 {
    1e-5
}

fn yes() -> bool {
    true
}

/// The output layer has a name of its own here.
pub(crate) fn canonical_name(name: &str) -> &str {
    match name {
        "embed_out.weight" => "lm_head.weight",
        other => other,
    }
}

const NAMES: DecoderNames = DecoderNames {
    embed_tokens: "gpt_neox.embed_in.weight",
    norm: "gpt_neox.final_layer_norm",
};

pub(crate) fn build(config: &ModelConfig, weights: &WeightLoader) -> Result<Box<dyn Model>> {
    let neox: GptNeoxConfig = config.family()?;
    let norm = NormKind::Layer {
        eps: neox.layer_norm_eps,
    };
    let rotaries = vec![rope::rotary(config)?];
    let decoder = Decoder::load(config, weights, &NAMES, norm, rotaries, |index| {
        load_layer(index, config, &neox, norm, weights)
    })?;
    Ok(Box::new(decoder))
}

fn load_layer(
    index: usize,
    config: &ModelConfig,
    neox: &GptNeoxConfig,
    norm: NormKind,
    weights: &WeightLoader,
) -> Result<DecoderLayer> {
    let name = |part: &str| format!("gpt_neox.layers.{index}.{part}");
    let hidden_size = config.hidden_size;
    let linear = |part: &str, from: usize, to: usize, bias: bool| {
        weights.linear(&name(part), from, to, bias)
    };
    let qkv_proj = load_qkv(&name("attention.query_key_value"), config, neox, weights)?;
    let o_proj = linear(
        "attention.dense",
        hidden_size,
        hidden_size,
        neox.attention_bias,
    )?;
    let mlp = Mlp {
        up_proj: linear(
            "mlp.dense_h_to_4h",
            hidden_size,
            neox.intermediate_size,
            true,
        )?,
        activation: activation(&neox.hidden_act)?,
        down_proj: linear(
            "mlp.dense_4h_to_h",
            neox.intermediate_size,
            hidden_size,
            true,
        )?,
    };
    let load_norm = |part: &str| norm.load(&name(part), hidden_size, weights);
    Ok(DecoderLayer {
        attention: Residual::pre_norm(
            load_norm("input_layernorm")?,
            Attention::new(qkv_proj, o_proj, config),
        ),
        feed_forward: Residual::pre_norm(
            load_norm("post_attention_layernorm")?,
            FeedForward::Plain(mlp),
        ),
        parallel: neox.use_parallel_residual,
    })
}

/// Stored head by head, each with its query, key and value; wanted as all queries, keys and values.
fn load_qkv(
    prefix: &str,
    config: &ModelConfig,
    neox: &GptNeoxConfig,
    weights: &WeightLoader,
) -> Result<Linear> {
    let hidden_size = config.hidden_size;
    let (num_heads, head_dim) = (config.num_heads, config.head_dim);
    let weight = weights.matrix(&format!("{prefix}.weight"), 3 * hidden_size, hidden_size)?;
    let bias = neox
        .attention_bias
        .then(|| weights.vector(&format!("{prefix}.bias"), 3 * hidden_size))
        .transpose()?;
    let (dtype, device) = (weights.dtype(), weights.device().clone());
    Ok(weights.defer(weight.num_bytes(), move || {
        let bias = match bias {
            Some(bias) => {
                let bias = bias.read()?.reshape((num_heads, 3, head_dim))?;
                Some(bias.transpose(0, 1)?.flatten_all()?)
            }
            None => None,
        };
        let by_head = weight.rows()?;
        let rows = ByKind {
            by_head: &*by_head,
            num_heads,
            head_dim,
        };
        let linear = vllm_tensor::Linear::from_rows(&[&rows], hidden_size, dtype, &device, bias)?;
        Ok(linear)
    }))
}

/// Rows of `[heads, 3, head_dim]` in the order `[3, heads, head_dim]`.
struct ByKind<'a> {
    by_head: &'a dyn WeightRows,
    num_heads: usize,
    head_dim: usize,
}

impl WeightRows for ByKind<'_> {
    fn dtype(&self) -> DType {
        self.by_head.dtype()
    }

    fn num_rows(&self) -> usize {
        self.by_head.num_rows()
    }

    fn row(&self, index: usize) -> &[u8] {
        let (head, offset) = (index / self.head_dim, index % self.head_dim);
        let (kind, head) = (head / self.num_heads, head % self.num_heads);
        self.by_head.row((head * 3 + kind) * self.head_dim + offset)
    }
}
