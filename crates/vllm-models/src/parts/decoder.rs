use vllm_tensor::{
    AttentionMetadata, DType, Device, KvCache, KvCacheSpec, LayerKvCache, LinearInput, Rotary,
    RotaryAngles, Tensor,
};

use super::{Attention, FeedForward, Norm, NormKind};
use crate::loader::{Embedding, Linear, WeightLoader};
use crate::{Batch, Model, ModelConfig, Result};

/// A decoder-only language model: embedding, layers, norm, output layer.
///
/// Families change the fields that differ from [`Decoder::load`]'s.
pub(crate) struct Decoder {
    embed_tokens: Embedding,
    /// Learned positions, added to the embedding.
    pub(crate) embed_positions: Option<Embedding>,
    /// Factor on the embedding.
    pub(crate) embedding_scale: Option<f64>,
    rotaries: Vec<Rotary>,
    layers: Vec<DecoderLayer>,
    norm: Norm,
    lm_head: Linear,
    /// Logits become `cap · tanh(logit / cap)`.
    pub(crate) logits_soft_cap: Option<f64>,
    /// Factor on the logits, after the cap.
    pub(crate) logits_scale: Option<f64>,
    vocab_size: usize,
    /// Positions that the model has room for; rotations have no end.
    pub(crate) max_positions: usize,
    kv_cache_spec: KvCacheSpec,
    device: Device,
}

/// Where a checkpoint keeps what lies outside the layers.
pub(crate) struct DecoderNames {
    pub(crate) embed_tokens: &'static str,
    pub(crate) norm: &'static str,
}

impl DecoderNames {
    /// As most families name them.
    pub(crate) const USUAL: Self = Self {
        embed_tokens: "model.embed_tokens.weight",
        norm: "model.norm",
    };
}

/// What the layers of one step share.
pub(crate) struct Step {
    pub(crate) metadata: AttentionMetadata,
    /// One for each of the decoder's rotations.
    pub(crate) angles: Vec<RotaryAngles>,
}

impl Decoder {
    /// Reads everything; `layer` makes the layer of an index.
    pub(crate) fn load(
        config: &ModelConfig,
        weights: &WeightLoader,
        names: &DecoderNames,
        norm: NormKind,
        rotaries: Vec<Rotary>,
        layer: impl FnMut(usize) -> Result<DecoderLayer>,
    ) -> Result<Self> {
        let (vocab_size, hidden_size) = (config.vocab_size, config.hidden_size);
        let embed_tokens = weights.embedding(names.embed_tokens, vocab_size, hidden_size)?;
        let lm_head = weights.lm_head(
            &embed_tokens,
            names.embed_tokens,
            (vocab_size, hidden_size),
            config.tie_word_embeddings,
        )?;
        Ok(Self {
            embed_tokens,
            embed_positions: None,
            embedding_scale: None,
            rotaries,
            layers: (0..config.num_layers).map(layer).collect::<Result<_>>()?,
            norm: norm.load(names.norm, hidden_size, weights)?,
            lm_head,
            logits_soft_cap: None,
            logits_scale: None,
            vocab_size,
            max_positions: usize::MAX,
            kv_cache_spec: config.kv_cache_spec(weights.dtype()),
            device: weights.device().clone(),
        })
    }

    fn embed(&self, batch: &Batch<'_>) -> Result<Tensor> {
        let token_ids = Tensor::new(batch.token_ids, &self.device)?;
        let mut embedded = self.embed_tokens.forward(&token_ids)?;
        if let Some(scale) = self.embedding_scale {
            embedded = (embedded * scale)?;
        }
        if let Some(embed_positions) = &self.embed_positions {
            let positions = Tensor::new(batch.positions, &self.device)?;
            embedded = (embedded + embed_positions.forward(&positions)?)?;
        }
        Ok(embedded)
    }

    /// The residual stream behind the last layer, `[tokens, hidden_size]`.
    fn run_layers(&self, batch: &Batch<'_>, kv: &mut KvCache) -> Result<Tensor> {
        let metadata = batch.prepare(kv, self.vocab_size, self.max_positions, &self.device)?;
        let angles = self
            .rotaries
            .iter()
            .map(|rotary| rotary.angles(batch.positions, &self.device));
        let step = Step {
            metadata,
            angles: angles.collect::<Result<_, _>>()?,
        };
        let mut hidden = self.embed(batch)?;
        for (index, layer) in self.layers.iter().enumerate() {
            hidden = layer.forward(hidden, kv.layer_mut(index)?, &step)?;
        }
        Ok(hidden)
    }
}

impl Model for Decoder {
    fn forward(&self, batch: &Batch<'_>, kv: &mut KvCache) -> Result<Tensor> {
        // Behind the layers only the rows whose logits are wanted.
        let hidden = batch.run(&self.device, |part| self.run_layers(part, kv))?;
        let hidden = self.norm.forward_for(&hidden, Some(&self.lm_head))?;
        let mut logits = self.lm_head.forward_input(&hidden, None)?;
        logits = logits.to_dtype(DType::F32)?;
        if let Some(cap) = self.logits_soft_cap {
            logits = ((logits / cap)?.tanh()? * cap)?;
        }
        if let Some(scale) = self.logits_scale {
            logits = (logits * scale)?;
        }
        Ok(logits)
    }

    fn kv_cache_spec(&self) -> KvCacheSpec {
        self.kv_cache_spec
    }
}

/// Attention, then an MLP, each with norms where the family has them.
pub(crate) struct DecoderLayer {
    pub(crate) attention: Residual<Attention>,
    pub(crate) feed_forward: Residual<FeedForward>,
    /// Whether the MLP sees the layer's input instead of the attention's result.
    pub(crate) parallel: bool,
}

/// `x + scale · norm_after(block(norm_before(x)))`.
pub(crate) struct Residual<B> {
    pub(crate) norm_before: Option<Norm>,
    pub(crate) block: B,
    pub(crate) norm_after: Option<Norm>,
    pub(crate) scale: Option<f64>,
}

/// A part of a layer.
pub(crate) trait Block {
    /// The layer that alone reads the block's input, if there is one.
    fn input_layer(&self) -> Option<&Linear>;
}

impl<B: Block> Residual<B> {
    /// The usual kind, normed before.
    pub(crate) fn pre_norm(norm: Norm, block: B) -> Self {
        Self {
            norm_before: Some(norm),
            block,
            norm_after: None,
            scale: None,
        }
    }

    /// Adds what `run` makes of `x` with the block to `residual`. `run` does so itself if it is given
    /// the residual, which it is unless something comes between.
    fn add_to(
        &self,
        residual: &Tensor,
        x: &Tensor,
        run: impl FnOnce(&B, LinearInput, Option<&Tensor>) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let input = match &self.norm_before {
            Some(norm) => norm.forward_for(x, self.block.input_layer())?,
            None => x.into(),
        };
        if self.norm_after.is_none() && self.scale.is_none() {
            return run(&self.block, input, Some(residual));
        }
        let mut y = run(&self.block, input, None)?;
        if let Some(norm) = &self.norm_after {
            y = norm.forward(&y)?;
        }
        if let Some(scale) = self.scale {
            y = (y * scale)?;
        }
        Ok((residual + y)?)
    }
}

impl DecoderLayer {
    fn forward(&self, x: Tensor, kv: &mut LayerKvCache, step: &Step) -> Result<Tensor> {
        let attended = self.attention.add_to(&x, &x, |attention, x, residual| {
            attention.forward(x, residual, kv, step)
        })?;
        let mlp_input = match self.parallel {
            true => x,
            false => {
                drop(x);
                attended.clone()
            }
        };
        self.feed_forward
            .add_to(&attended, &mlp_input, FeedForward::forward)
    }
}
