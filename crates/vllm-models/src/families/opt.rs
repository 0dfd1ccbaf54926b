//! OPT (Zhang et al. 2022): learned positions, layer norm before or after each block.

use serde::Deserialize;
use vllm_tensor::{
    Activation, AttentionMetadata, AttentionOptions, DType, Device, KvCache, KvCacheSpec,
    LayerKvCache, LayerNorm, Tensor, paged_attention, write_kv,
};

use crate::loader::{Embedding, Linear, WeightLoader};
use crate::parts::activation;
use crate::{Batch, Model, ModelConfig, Result};

/// The position table begins with two rows that no token uses.
const POSITION_OFFSET: usize = 2;

const EMBED_TOKENS: &str = "decoder.embed_tokens.weight";

const LAYER_NORM_EPS: f64 = 1e-5;

/// What only OPT's config knows, with transformers' defaults.
#[derive(Deserialize)]
struct OptConfig {
    ffn_dim: usize,
    max_position_embeddings: usize,
    word_embed_proj_dim: Option<usize>,
    #[serde(default = "relu")]
    activation_function: String,
    #[serde(default = "yes")]
    do_layer_norm_before: bool,
    #[serde(default = "yes")]
    enable_bias: bool,
    #[serde(default = "yes")]
    layer_norm_elementwise_affine: bool,
    #[serde(default, rename = "_remove_final_layer_norm")]
    remove_final_layer_norm: bool,
}

fn yes() -> bool {
    true
}

fn relu() -> String {
    "relu".to_owned()
}

/// Checkpoints write names with and without `model.` in front.
pub(crate) fn canonical_name(name: &str) -> &str {
    name.strip_prefix("model.").unwrap_or(name)
}

pub(crate) fn build(config: &ModelConfig, weights: &WeightLoader) -> Result<Box<dyn Model>> {
    Ok(Box::new(Opt::load(config, weights)?))
}

struct Opt {
    embed_tokens: Embedding,
    embed_positions: Embedding,
    project_in: Option<Linear>,
    layers: Vec<DecoderLayer>,
    final_layer_norm: Option<LayerNorm>,
    project_out: Option<Linear>,
    lm_head: Linear,
    vocab_size: usize,
    max_positions: usize,
    kv_cache_spec: KvCacheSpec,
    device: Device,
}

impl Opt {
    fn load(config: &ModelConfig, weights: &WeightLoader) -> Result<Self> {
        let opt: OptConfig = config.family()?;
        let (vocab_size, hidden_size) = (config.vocab_size, config.hidden_size);
        let embed_dim = opt.word_embed_proj_dim.unwrap_or(hidden_size);
        let max_positions = opt.max_position_embeddings;

        let embed_tokens = weights.embedding(EMBED_TOKENS, vocab_size, embed_dim)?;
        let embed_positions = weights.embedding(
            "decoder.embed_positions.weight",
            max_positions.saturating_add(POSITION_OFFSET),
            hidden_size,
        )?;
        let project = |name: &str, from: usize, to: usize| {
            let needed = embed_dim != hidden_size;
            needed
                .then(|| weights.linear(name, from, to, false))
                .transpose()
        };
        let project_in = project("decoder.project_in", embed_dim, hidden_size)?;
        let project_out = project("decoder.project_out", hidden_size, embed_dim)?;
        let layers = (0..config.num_layers)
            .map(|index| DecoderLayer::load(index, config, &opt, weights))
            .collect::<Result<_>>()?;
        let final_layer_norm = (opt.do_layer_norm_before && !opt.remove_final_layer_norm)
            .then(|| layer_norm("decoder.final_layer_norm", hidden_size, &opt, weights))
            .transpose()?;
        let lm_head = weights.lm_head(
            &embed_tokens,
            EMBED_TOKENS,
            (vocab_size, embed_dim),
            config.tie_word_embeddings,
        )?;
        Ok(Self {
            embed_tokens,
            embed_positions,
            project_in,
            layers,
            final_layer_norm,
            project_out,
            lm_head,
            vocab_size,
            max_positions,
            kv_cache_spec: config.kv_cache_spec(weights.dtype()),
            device: weights.device().clone(),
        })
    }

    /// The residual stream behind the last layer, `[tokens, hidden_size]`.
    fn run_layers(&self, batch: &Batch<'_>, kv: &mut KvCache) -> Result<Tensor> {
        let metadata = batch.prepare(kv, self.vocab_size, self.max_positions, &self.device)?;
        let token_ids = Tensor::new(batch.token_ids, &self.device)?;
        let position_rows: Vec<u32> = batch
            .positions
            .iter()
            .map(|position| position + POSITION_OFFSET as u32)
            .collect();
        let position_rows = Tensor::new(position_rows, &self.device)?;

        let embedded = self.embed_tokens.forward(&token_ids)?;
        let embedded = apply(&self.project_in, embedded)?;
        let mut hidden = (embedded + self.embed_positions.forward(&position_rows)?)?;
        for (index, layer) in self.layers.iter().enumerate() {
            hidden = layer.forward(&hidden, kv.layer_mut(index)?, &metadata)?;
        }
        Ok(hidden)
    }
}

impl Model for Opt {
    fn forward(&self, batch: &Batch<'_>, kv: &mut KvCache) -> Result<Tensor> {
        // Behind the layers only the rows whose logits are wanted.
        let mut hidden = batch.run(&self.device, |part| self.run_layers(part, kv))?;
        if let Some(norm) = &self.final_layer_norm {
            hidden = norm.forward(&hidden)?;
        }
        let hidden = apply(&self.project_out, hidden)?;
        Ok(self.lm_head.forward(&hidden)?.to_dtype(DType::F32)?)
    }

    fn kv_cache_spec(&self) -> KvCacheSpec {
        self.kv_cache_spec
    }
}

struct DecoderLayer {
    self_attn_layer_norm: LayerNorm,
    qkv_proj: Linear,
    out_proj: Linear,
    final_layer_norm: LayerNorm,
    fc1: Linear,
    activation: Activation,
    fc2: Linear,
    norm_before: bool,
    num_heads: usize,
    head_dim: usize,
}

impl DecoderLayer {
    fn load(
        index: usize,
        config: &ModelConfig,
        opt: &OptConfig,
        weights: &WeightLoader,
    ) -> Result<Self> {
        let (hidden_size, bias) = (config.hidden_size, opt.enable_bias);
        let name = |part: &str| format!("decoder.layers.{index}.{part}");
        let qkv = ["q_proj", "k_proj", "v_proj"]
            .map(|part| (name(&format!("self_attn.{part}")), hidden_size));
        Ok(Self {
            self_attn_layer_norm: layer_norm(
                &name("self_attn_layer_norm"),
                hidden_size,
                opt,
                weights,
            )?,
            qkv_proj: weights.stacked_linear(&qkv, hidden_size, bias)?,
            out_proj: weights.linear(
                &name("self_attn.out_proj"),
                hidden_size,
                hidden_size,
                bias,
            )?,
            final_layer_norm: layer_norm(&name("final_layer_norm"), hidden_size, opt, weights)?,
            fc1: weights.linear(&name("fc1"), hidden_size, opt.ffn_dim, bias)?,
            activation: activation(&opt.activation_function)?,
            fc2: weights.linear(&name("fc2"), opt.ffn_dim, hidden_size, bias)?,
            norm_before: opt.do_layer_norm_before,
            num_heads: config.num_heads,
            head_dim: config.head_dim,
        })
    }

    fn forward(
        &self,
        hidden: &Tensor,
        kv: &mut LayerKvCache,
        metadata: &AttentionMetadata,
    ) -> Result<Tensor> {
        let attended = self.residual(hidden, &self.self_attn_layer_norm, |x| {
            self.attention(x, kv, metadata)
        })?;
        self.residual(&attended, &self.final_layer_norm, |x| {
            let inner = self.activation.forward(&self.fc1.forward(x)?)?;
            Ok(self.fc2.forward(&inner)?)
        })
    }

    /// `x + block(norm(x))`, or `norm(x + block(x))` where the norm comes after.
    fn residual(
        &self,
        x: &Tensor,
        norm: &LayerNorm,
        block: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        if self.norm_before {
            Ok((x + block(&norm.forward(x)?)?)?)
        } else {
            Ok(norm.forward(&(x + block(x)?)?)?)
        }
    }

    fn attention(
        &self,
        x: &Tensor,
        kv: &mut LayerKvCache,
        metadata: &AttentionMetadata,
    ) -> Result<Tensor> {
        let (num_tokens, hidden_size) = x.dims2()?;
        let qkv = self.qkv_proj.forward(x)?;
        let qkv = qkv.reshape((num_tokens, 3 * self.num_heads, self.head_dim))?;
        let heads = |part: usize| qkv.narrow(1, part * self.num_heads, self.num_heads);
        write_kv(kv, &heads(1)?, &heads(2)?, metadata)?;
        let options = AttentionOptions::causal(self.head_dim);
        let attended = paged_attention(&heads(0)?, kv, metadata, &options)?;
        Ok(self
            .out_proj
            .forward(&attended.reshape((num_tokens, hidden_size))?)?)
    }
}

fn layer_norm(
    prefix: &str,
    size: usize,
    opt: &OptConfig,
    weights: &WeightLoader,
) -> Result<LayerNorm> {
    weights.layer_norm(
        prefix,
        size,
        LAYER_NORM_EPS,
        opt.layer_norm_elementwise_affine,
    )
}

fn apply(projection: &Option<Linear>, x: Tensor) -> Result<Tensor> {
    match projection {
        Some(projection) => Ok(projection.forward(&x)?),
        None => Ok(x),
    }
}
