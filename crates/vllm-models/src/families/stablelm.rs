//! StableLM 2 (Bellagente et al. 2024): layer norms, rotation of a part of each head.

use serde::Deserialize;

use crate::loader::WeightLoader;
use crate::parts::{
    Attention, AttentionBias, DecoderLayer, Norm, NormKind, Residual, UsualConfig, load_usual,
};
use crate::{Model, ModelConfig, Result};

#[derive(Deserialize)]
struct StableLmConfig {
    #[serde(default = "layer_norm_eps")]
    layer_norm_eps: f64,
    #[serde(default)]
    use_qkv_bias: bool,
    /// Norms on queries and keys, with other weights for each head.
    #[serde(default)]
    qk_layernorm: bool,
    /// Attention and MLP side by side after one norm.
    #[serde(default)]
    use_parallel_residual: bool,
}

fn layer_norm_eps() -> f64 {
    1e-5
}

pub(crate) fn build(config: &ModelConfig, weights: &WeightLoader) -> Result<Box<dyn Model>> {
    let usual: UsualConfig = config.family()?;
    let stablelm: StableLmConfig = config.family()?;
    let eps = stablelm.layer_norm_eps;
    let norm = NormKind::Layer { eps };
    let bias = AttentionBias {
        qkv: stablelm.use_qkv_bias,
        output: false,
    };
    let decoder = load_usual(config, norm, weights, |index| {
        let name = |part: &str| format!("model.layers.{index}.{part}");
        let load_norm = |part: &str| norm.load(&name(part), config.hidden_size, weights);
        let mut attention = Attention::load(&name("self_attn"), config, bias, weights)?;
        if stablelm.qk_layernorm {
            let head_norm = |part: &str, heads: usize| {
                let prefix = name(&format!("self_attn.{part}.norms"));
                Norm::load_per_head(&prefix, heads, config.head_dim, eps, weights)
            };
            attention.qk_norm = Some((
                head_norm("q_layernorm", config.num_heads)?,
                head_norm("k_layernorm", config.num_kv_heads)?,
            ));
        }
        let mlp = usual.mlp(index, config, weights)?;
        let parallel = stablelm.use_parallel_residual;
        let mlp_norm = if parallel {
            load_norm("input_layernorm")?
        } else {
            load_norm("post_attention_layernorm")?
        };
        Ok(DecoderLayer {
            attention: Residual::pre_norm(load_norm("input_layernorm")?, attention),
            feed_forward: Residual::pre_norm(mlp_norm, mlp),
            parallel,
        })
    })?;
    Ok(Box::new(decoder))
}
