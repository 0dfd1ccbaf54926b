use std::ops::Range;

use vllm_tensor::{
    AttentionMetadata, BatchSequence, Device, KvCache, KvCacheSpec, Tensor, num_threads,
};

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

/// Tokens that the kernels of a CPU take at a time: parts of a multiple of it read the weights as often
/// as the whole.
const PART_STEP: usize = 256;

/// The most tokens of a step that run through the layers together: enough to keep all threads busy.
///
/// What the layers make of a long prompt would take a good part of a gigabyte otherwise. A GPU takes
/// everything at once.
fn max_part(device: &Device) -> Result<usize> {
    Ok(match device.is_cpu() {
        true => (num_threads()? * 128).max(2 * PART_STEP),
        false => usize::MAX,
    })
}

impl Batch<'_> {
    /// The rows of what `hidden` makes of the batch, `[total_tokens, ·]`, whose logits are wanted.
    ///
    /// `hidden` gets the batch in parts where it is long, one after the other: to each sequence all
    /// before is in the cache, as it is when a prompt runs in chunks.
    pub(crate) fn run(
        &self,
        device: &Device,
        mut hidden: impl FnMut(&Batch<'_>) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let max_tokens = max_part(device)?;
        if self.token_ids.len() <= max_tokens || !self.is_sound() {
            return self.select_logit_rows(&hidden(self)?);
        }
        let mut rows = Vec::new();
        for part in self.parts(max_tokens) {
            let batch = part.batch(self);
            let hidden = hidden(&batch)?;
            rows.push(batch.select_logit_rows(&hidden)?);
        }
        Ok(Tensor::cat(&rows, 0)?)
    }

    /// Whether it can be cut into parts. What contradicts itself stays whole, to be refused as it is.
    fn is_sound(&self) -> bool {
        let num_tokens = self.token_ids.len();
        let in_sequences: usize = self.sequences.iter().map(|s| s.query_len).sum();
        self.positions.len() == num_tokens
            && in_sequences == num_tokens
            && self.logit_rows.is_sorted()
            && self
                .logit_rows
                .last()
                .is_none_or(|row| (*row as usize) < num_tokens)
    }

    /// A sound batch in parts of about `max_tokens`, as equal as whole steps of the kernels allow.
    fn parts(&self, max_tokens: usize) -> impl Iterator<Item = Part<'_>> {
        let num_tokens = self.token_ids.len();
        let len = num_tokens.div_ceil(num_tokens.div_ceil(max_tokens).max(1));
        let len = len.next_multiple_of(PART_STEP);
        let parts = (0..num_tokens).step_by(len);
        parts.map(move |start| self.part(start..(start + len).min(num_tokens)))
    }

    fn part(&self, tokens: Range<usize>) -> Part<'_> {
        let of_part = self.sequences.iter().filter_map(|sequence| {
            let end = sequence.query_start + sequence.query_len;
            let (first, end) = (sequence.query_start.max(tokens.start), end.min(tokens.end));
            (first < end).then(|| BatchSequence {
                query_start: first - tokens.start,
                query_len: end - first,
                context_len: sequence.context_len + (first - sequence.query_start),
                block_table: sequence.block_table,
            })
        });
        let wanted = self.logit_rows.iter().map(|row| *row as usize);
        let wanted = wanted.filter(|row| tokens.contains(row));
        Part {
            sequences: of_part.collect(),
            logit_rows: wanted.map(|row| (row - tokens.start) as u32).collect(),
            tokens,
        }
    }

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

/// Some tokens of a batch.
struct Part<'a> {
    tokens: Range<usize>,
    sequences: Vec<BatchSequence<'a>>,
    logit_rows: Vec<u32>,
}

impl Part<'_> {
    fn batch<'a>(&'a self, whole: &Batch<'a>) -> Batch<'a> {
        Batch {
            token_ids: &whole.token_ids[self.tokens.clone()],
            positions: &whole.positions[self.tokens.clone()],
            sequences: &self.sequences,
            logit_rows: &self.logit_rows,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_make_up_the_whole(
            lengths in prop::collection::vec((1usize..700, 0usize..50), 1..8),
            max_tokens in 256usize..1200,
            every in 1usize..400,
        ) {
            let mut sequences = Vec::new();
            let mut num_tokens = 0;
            for (query_len, context_len) in lengths {
                sequences.push(BatchSequence {
                    query_start: num_tokens,
                    query_len,
                    context_len,
                    block_table: &[],
                });
                num_tokens += query_len;
            }
            // Each token is its number, and its position that in its sequence.
            let token_ids: Vec<u32> = (0..num_tokens as u32).collect();
            let positions = sequences.iter().flat_map(|s| s.context_len..s.context_len + s.query_len);
            let positions: Vec<u32> = positions.map(|position| position as u32).collect();
            let logit_rows: Vec<u32> = (0..num_tokens as u32).step_by(every).collect();
            let whole = Batch {
                token_ids: &token_ids,
                positions: &positions,
                sequences: &sequences,
                logit_rows: &logit_rows,
            };
            let (mut seen, mut rows) = (Vec::new(), Vec::new());
            for part in whole.parts(max_tokens) {
                let batch = part.batch(&whole);
                prop_assert!(batch.token_ids.len() < max_tokens + PART_STEP);
                rows.extend(batch.logit_rows.iter().map(|row| batch.token_ids[*row as usize]));
                let mut start = 0;
                for sequence in batch.sequences {
                    prop_assert_eq!(sequence.query_start, start);
                    for index in 0..sequence.query_len {
                        let position = sequence.context_len + index;
                        prop_assert_eq!(batch.positions[start + index] as usize, position);
                    }
                    start += sequence.query_len;
                }
                prop_assert_eq!(start, batch.token_ids.len());
                seen.extend_from_slice(batch.token_ids);
            }
            prop_assert_eq!(seen, token_ids);
            prop_assert_eq!(rows, logit_rows);
        }
    }
}
