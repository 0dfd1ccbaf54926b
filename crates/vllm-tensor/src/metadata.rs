use candle_core::{Device, Tensor};

use crate::{Error, KvCache, Result};

/// One sequence's share of a flat ragged batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchSequence<'a> {
    /// Index of its first token in the flat batch.
    pub query_start: usize,
    /// How many of its tokens run in this step, at least one.
    pub query_len: usize,
    /// Tokens before these that the KV cache already holds.
    pub context_len: usize,
    /// Its blocks in order, enough for `context_len + query_len` tokens.
    pub block_table: &'a [u32],
}

/// Where the tokens of a ragged batch lie in the KV cache: made once a step, used by every layer.
#[derive(Debug)]
pub struct AttentionMetadata {
    pub(crate) sequences: Vec<SequenceLayout>,
    pub(crate) block_tables: Vec<u32>,
    slot_mapping: Vec<u32>,
    /// Whether no two tokens share a slot.
    pub(crate) slots_are_distinct: bool,
    pub(crate) block_size: usize,
    max_block_id: u32,
    device: Device,
    on_device: Option<DeviceMetadata>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct SequenceLayout {
    pub(crate) query_start: usize,
    pub(crate) query_len: usize,
    pub(crate) context_len: usize,
    /// Its part of `block_tables`.
    pub(crate) first_block: usize,
    pub(crate) num_blocks: usize,
}

impl SequenceLayout {
    /// Tokens in the cache once this step's are written.
    pub(crate) fn total_len(&self) -> usize {
        self.context_len + self.query_len
    }
}

/// The same, uploaded for the plain bodies.
#[derive(Clone, Debug)]
pub(crate) struct DeviceMetadata {
    /// Slot of each token of the batch, u32 `[tokens]`.
    pub(crate) slots: Tensor,
    pub(crate) sequences: Vec<DeviceSequence>,
}

#[derive(Clone, Debug)]
pub(crate) struct DeviceSequence {
    /// Slot of each token from position 0, u32 `[total_len]`.
    pub(crate) key_slots: Tensor,
    /// Positions of the queries, f32 `[query_len, 1]`.
    pub(crate) query_positions: Tensor,
    /// Positions of the keys, f32 `[1, total_len]`.
    pub(crate) key_positions: Tensor,
}

impl AttentionMetadata {
    /// Checks the batch against `cache` and lays it out for `device`.
    ///
    /// # Errors
    /// Sequences that do not follow one another without gaps, an empty sequence, a block table too
    /// short or one that names a block the cache does not have.
    pub fn new(sequences: &[BatchSequence<'_>], cache: &KvCache, device: &Device) -> Result<Self> {
        let mut metadata = Self {
            sequences: Vec::with_capacity(sequences.len()),
            block_tables: Vec::new(),
            slot_mapping: Vec::new(),
            slots_are_distinct: true,
            block_size: cache.block_size(),
            max_block_id: 0,
            device: device.clone(),
            on_device: None,
        };
        for (index, sequence) in sequences.iter().enumerate() {
            metadata.push(index, sequence, cache.num_blocks())?;
        }
        let mut slots = metadata.slot_mapping.clone();
        slots.sort_unstable();
        metadata.slots_are_distinct = slots.is_sorted_by(|slot, next| slot < next);
        if !device.is_cpu() {
            metadata.on_device = Some(metadata.upload()?);
        }
        Ok(metadata)
    }

    /// Tokens in the batch.
    pub fn num_tokens(&self) -> usize {
        self.slot_mapping.len()
    }

    /// The cache slot of each token of the batch.
    pub fn slot_mapping(&self) -> &[u32] {
        &self.slot_mapping
    }

    /// The uploaded form: made beforehand on a GPU, on demand on the CPU, where only tests ask.
    pub(crate) fn on_device(&self) -> Result<DeviceMetadata> {
        match &self.on_device {
            Some(uploaded) => Ok(uploaded.clone()),
            None => self.upload(),
        }
    }

    /// Refuses a cache that this batch was not checked against.
    pub(crate) fn check_cache(&self, num_blocks: usize, block_size: usize) -> Result<()> {
        if block_size != self.block_size || self.max_block_id as usize >= num_blocks {
            return Err(Error::Batch(format!(
                "metadata for blocks of {} up to block {} used with a KV cache of {num_blocks} \
                 blocks of {block_size}",
                self.block_size, self.max_block_id,
            )));
        }
        Ok(())
    }

    pub(crate) fn block_table(&self, sequence: &SequenceLayout) -> &[u32] {
        &self.block_tables[sequence.first_block..sequence.first_block + sequence.num_blocks]
    }

    fn push(
        &mut self,
        index: usize,
        sequence: &BatchSequence<'_>,
        cache_blocks: usize,
    ) -> Result<()> {
        let &BatchSequence {
            query_start,
            query_len,
            context_len,
            block_table,
        } = sequence;
        if query_start != self.slot_mapping.len() || query_len == 0 {
            return Err(Error::Batch(format!(
                "sequence {index} has {query_len} tokens at {query_start}; expected at least one \
                 at {}",
                self.slot_mapping.len(),
            )));
        }
        let num_blocks = context_len
            .checked_add(query_len)
            .map(|total| total.div_ceil(self.block_size))
            .filter(|needed| *needed <= block_table.len())
            .ok_or_else(|| {
                Error::Batch(format!(
                    "sequence {index} has {context_len} + {query_len} tokens but only {} blocks \
                     of {}",
                    block_table.len(),
                    self.block_size,
                ))
            })?;
        let block_table = &block_table[..num_blocks];
        if let Some(block) = block_table
            .iter()
            .find(|block| **block as usize >= cache_blocks)
        {
            return Err(Error::Batch(format!(
                "sequence {index} uses block {block} of a KV cache of {cache_blocks} blocks",
            )));
        }
        let layout = SequenceLayout {
            query_start,
            query_len,
            context_len,
            first_block: self.block_tables.len(),
            num_blocks,
        };
        self.block_tables.extend_from_slice(block_table);
        self.max_block_id = block_table
            .iter()
            .copied()
            .fold(self.max_block_id, u32::max);
        let positions = context_len..layout.total_len();
        self.slot_mapping
            .extend(positions.map(|p| slot_of(block_table, self.block_size, p)));
        self.sequences.push(layout);
        Ok(())
    }

    fn upload(&self) -> Result<DeviceMetadata> {
        let sequences = self.sequences.iter().map(|sequence| {
            let (query_len, total_len) = (sequence.query_len, sequence.total_len());
            let table = self.block_table(sequence);
            let key_slots: Vec<u32> = (0..total_len)
                .map(|p| slot_of(table, self.block_size, p))
                .collect();
            let positions: Vec<f32> = (0..total_len).map(|p| p as f32).collect();
            let key_positions = Tensor::from_vec(positions, (1, total_len), &self.device)?;
            Ok(DeviceSequence {
                key_slots: Tensor::from_vec(key_slots, total_len, &self.device)?,
                query_positions: key_positions
                    .narrow(1, sequence.context_len, query_len)?
                    .reshape((query_len, 1))?,
                key_positions,
            })
        });
        Ok(DeviceMetadata {
            slots: Tensor::new(self.slot_mapping.as_slice(), &self.device)?,
            sequences: sequences.collect::<Result<_>>()?,
        })
    }
}

fn slot_of(block_table: &[u32], block_size: usize, position: usize) -> u32 {
    let block = block_table[position / block_size] as usize;
    // Fits: a cache has at most 2^32 slots.
    (block * block_size + position % block_size) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KvCacheDType, KvCacheSpec};

    fn lay_out(sequences: &[BatchSequence<'_>]) -> Result<AttentionMetadata> {
        let spec = KvCacheSpec {
            num_layers: 1,
            num_kv_heads: 1,
            head_dim: 1,
            dtype: KvCacheDType::F32,
        };
        let cache = KvCache::new(spec, 10, 4, &Device::Cpu)?;
        AttentionMetadata::new(sequences, &cache, &Device::Cpu)
    }

    #[test]
    fn slots_follow_the_block_tables() {
        let metadata = lay_out(&[
            BatchSequence {
                query_start: 0,
                query_len: 3,
                context_len: 3,
                block_table: &[5, 2],
            },
            BatchSequence {
                query_start: 3,
                query_len: 1,
                context_len: 0,
                block_table: &[9, 1],
            },
        ]);
        assert_eq!(
            metadata.unwrap().slot_mapping(),
            [5 * 4 + 3, 2 * 4, 2 * 4 + 1, 9 * 4]
        );
    }

    #[test]
    fn contradictions_are_refused() {
        let check = |query_start, query_len, context_len, block_table: &[u32], expected: &str| {
            let sequence = BatchSequence {
                query_start,
                query_len,
                context_len,
                block_table,
            };
            let message = lay_out(&[sequence]).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        check(0, 0, 3, &[1], "expected at least one");
        check(2, 1, 0, &[1], "expected at least one at 0");
        check(0, 3, 2, &[1], "only 1 blocks of 4");
        check(0, 3, usize::MAX, &[1], "only 1 blocks of 4");
        check(0, 3, 0, &[10], "block 10 of a KV cache of 10 blocks");
    }
}
