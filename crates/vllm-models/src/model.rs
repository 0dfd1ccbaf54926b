use vllm_tensor::{AttentionMetadata, BatchSequence, Device, KvCache, KvCacheSpec, Tensor};

use crate::{Error, Result};

/// A language model, ready to run.
pub trait Model: Send {
    /// Runs the batch, adding its tokens to `kv`, and returns logits for the rows asked for:
    /// float32, `[logit_rows, vocab_size]`, on the model's device.
    ///
    /// # Errors
    /// A batch that contradicts itself or the cache; tokens or positions beyond the model's.
    fn forward(&self, batch: &Batch<'_>, kv: &mut KvCache) -> Result<Tensor>;

    /// What the model stores of every token.
    fn kv_cache_spec(&self) -> KvCacheSpec;
}

/// One step's work: the new tokens of several sequences, one after the other, prefill and decode
/// alike.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The tokens, `[total_tokens]`.
    pub token_ids: &'a [u32],
    /// Position of each token within its sequence, from 0.
    pub positions: &'a [u32],
    /// Who the tokens belong to, in order and without gaps.
    pub sequences: &'a [BatchSequence<'a>],
    /// Indices into `token_ids` of the tokens whose logits are wanted.
    pub logit_rows: &'a [u32],
}

impl Batch<'_> {
    /// Checks the batch against the model's limits and lays it out over `kv`.
    pub(crate) fn prepare(
        &self,
        kv: &KvCache,
        vocab_size: usize,
        max_positions: usize,
        device: &Device,
    ) -> Result<AttentionMetadata> {
        let metadata = AttentionMetadata::new(self.sequences, kv, device)?;
        let num_tokens = self.token_ids.len();
        if num_tokens == 0
            || self.positions.len() != num_tokens
            || metadata.num_tokens() != num_tokens
        {
            return Err(Error::Batch(format!(
                "{num_tokens} tokens, {} positions and sequences of {} tokens in all",
                self.positions.len(),
                metadata.num_tokens(),
            )));
        }
        let check = |what, values: &[u32], limit: usize| match values
            .iter()
            .find(|value| **value as usize >= limit)
        {
            Some(value) => Err(Error::Batch(format!("{what} {value} is not below {limit}"))),
            None => Ok(()),
        };
        check("token id", self.token_ids, vocab_size)?;
        check("position", self.positions, max_positions)?;
        check("logit row", self.logit_rows, num_tokens)?;
        Ok(metadata)
    }

    /// The rows of `hidden`, `[total_tokens, ·]`, whose logits are wanted.
    pub(crate) fn select_logit_rows(&self, hidden: &Tensor) -> Result<Tensor> {
        if self.logit_rows.len() == self.token_ids.len()
            && self
                .logit_rows
                .iter()
                .enumerate()
                .all(|(i, row)| i == *row as usize)
        {
            return Ok(hidden.clone());
        }
        let rows = Tensor::new(self.logit_rows, hidden.device())?;
        Ok(hidden.index_select(&rows, 0)?)
    }
}
