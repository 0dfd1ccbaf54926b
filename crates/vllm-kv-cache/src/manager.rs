//! Block tables of sequences over one pool.

use crate::{BlockHash, BlockId, BlockPool, Error, ExtraKeys, Result, hash_block};

/// Size and behaviour of a KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvCacheConfig {
    /// Blocks of the cache tensors, the reserved null block included.
    pub num_blocks: usize,
    /// Tokens per block.
    pub block_size: usize,
    /// Whether sequences find and share blocks of equal prefixes.
    pub enable_prefix_caching: bool,
}

/// Gives blocks to sequences and takes them back.
///
/// A sequence is represented by its [`BlockTable`], which the caller keeps beside the sequence's
/// tokens. A table belongs to the manager that filled it and must be given back with
/// [`free`](Self::free) before it is dropped.
#[derive(Debug)]
pub struct KvCacheManager {
    pool: BlockPool,
    block_size: usize,
    enable_prefix_caching: bool,
}

/// The blocks of one sequence, in the order of its tokens, and the hashes of its full blocks.
#[derive(Debug, Default)]
pub struct BlockTable {
    blocks: Vec<BlockId>,
    /// Kept over [`KvCacheManager::free`]: the tokens of a preempted sequence stay.
    hashes: Vec<BlockHash>,
    /// Leading blocks that were found in the prefix cache.
    num_found: usize,
    /// Leading blocks that can be found in the prefix cache, the found ones included.
    num_registered: usize,
}

impl BlockTable {
    /// Block numbers, first tokens first.
    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// Hashes of the full blocks hashed so far, first tokens first.
    pub fn hashes(&self) -> &[BlockHash] {
        &self.hashes
    }
}

/// What a waiting sequence needs in order to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// Leading blocks to share, as [`KvCacheManager::find_cached_prefix`] told.
    pub num_cached_blocks: usize,
    /// Tokens whose keys and values must have a place after this step, the shared ones included.
    pub num_tokens: usize,
    /// Tokens of the whole sequence. All of them must fit although only `num_tokens` get blocks.
    pub num_sequence_tokens: usize,
    /// Blocks that must stay free beside the whole sequence.
    pub num_reserved_blocks: usize,
}

impl KvCacheManager {
    /// A manager of an empty cache.
    ///
    /// # Errors
    /// When the cache would have no usable block or its blocks no token.
    pub fn new(config: KvCacheConfig) -> Result<Self> {
        if config.block_size == 0 {
            return Err(Error::BlockSize);
        }
        Ok(Self {
            pool: BlockPool::new(config.num_blocks)?,
            block_size: config.block_size,
            enable_prefix_caching: config.enable_prefix_caching,
        })
    }

    /// Blocks that sequences can use.
    pub fn num_usable_blocks(&self) -> usize {
        self.pool.num_usable_blocks()
    }

    /// Blocks that no sequence holds, cached ones included.
    pub fn num_free_blocks(&self) -> usize {
        self.pool.num_free_blocks()
    }

    /// Share of the usable blocks that sequences hold, 0 to 1.
    pub fn usage(&self) -> f64 {
        1.0 - self.num_free_blocks() as f64 / self.num_usable_blocks() as f64
    }

    /// Blocks that `num_tokens` tokens occupy.
    pub fn blocks_for(&self, num_tokens: usize) -> usize {
        num_tokens.div_ceil(self.block_size)
    }

    /// Hashes the blocks that `token_ids`, all tokens of the sequence, have filled since the last
    /// call. Does nothing when prefix caching is off.
    pub fn update_hashes(
        &self,
        table: &mut BlockTable,
        token_ids: &[u32],
        extra_keys: &ExtraKeys<'_>,
    ) {
        if !self.enable_prefix_caching {
            return;
        }
        let num_hashed_tokens = table.hashes.len() * self.block_size;
        let new_token_ids = token_ids.get(num_hashed_tokens..).unwrap_or_default();
        for block in new_token_ids.chunks_exact(self.block_size) {
            let hash = hash_block(table.hashes.last(), block, extra_keys);
            table.hashes.push(hash);
        }
    }

    /// Number of leading blocks of the sequence that are in the cache.
    ///
    /// At most the blocks before its last token: that one must be computed to have its logits.
    pub fn find_cached_prefix(&self, table: &BlockTable, num_tokens: usize) -> usize {
        let limit = num_tokens.saturating_sub(1) / self.block_size;
        let candidates = table.hashes.iter().take(limit);
        candidates
            .take_while(|hash| self.pool.find(hash).is_some())
            .count()
    }

    /// Gives a sequence without blocks its cached prefix and the blocks of its first tokens, or
    /// nothing (`false`) if the whole sequence would not fit.
    pub fn admit(&mut self, table: &mut BlockTable, admission: &Admission) -> bool {
        debug_assert!(table.blocks.is_empty(), "admitted twice");
        let Some(prefix) = table.hashes.get(..admission.num_cached_blocks) else {
            return false;
        };
        let mut num_idle = 0;
        for hash in prefix {
            match self.pool.find(hash) {
                Some(block) => num_idle += usize::from(self.pool.ref_count(block) == 0),
                None => return false,
            }
        }
        // A shared block that nobody holds now is counted as free, yet sharing it takes it.
        let num_new = self
            .blocks_for(admission.num_sequence_tokens)
            .saturating_sub(prefix.len());
        if num_new + num_idle + admission.num_reserved_blocks > self.num_free_blocks() {
            return false;
        }
        for hash in prefix {
            if let Some(block) = self.pool.find(hash) {
                self.pool.touch(block);
                table.blocks.push(block);
            }
        }
        table.num_found = table.blocks.len();
        table.num_registered = table.blocks.len();
        self.allocate(table, admission.num_tokens)
    }

    /// Extends the table to hold `num_tokens` tokens, or leaves it (`false`) if there are too few
    /// free blocks.
    pub fn allocate(&mut self, table: &mut BlockTable, num_tokens: usize) -> bool {
        let num_new = self
            .blocks_for(num_tokens)
            .saturating_sub(table.blocks.len());
        if num_new > self.num_free_blocks() {
            return false;
        }
        table
            .blocks
            .extend((0..num_new).map_while(|_| self.pool.allocate()));
        true
    }

    /// Makes the full blocks among the first `num_tokens` tokens findable. Their hashes must be
    /// up to date, and their keys and values must be written before anybody reads them: at the
    /// latest in the step that shares them.
    pub fn register_full_blocks(&mut self, table: &mut BlockTable, num_tokens: usize) {
        let num_hashed = table.hashes.len().min(table.blocks.len());
        let num_full = (num_tokens / self.block_size).min(num_hashed);
        for index in table.num_registered..num_full {
            self.pool.register(table.blocks[index], table.hashes[index]);
        }
        table.num_registered = table.num_registered.max(num_full);
    }

    /// Gives the blocks of the sequence back, last block first, so that the end of a sequence is
    /// evicted before its beginning. What was registered stays findable.
    pub fn free(&mut self, table: &mut BlockTable) {
        for block in table.blocks.drain(..).rev() {
            self.pool.release(block);
        }
        table.num_found = 0;
        table.num_registered = 0;
    }

    /// As [`free`](Self::free), but what the sequence itself computed cannot be found any more:
    /// for a sequence whose computation failed.
    pub fn free_and_forget(&mut self, table: &mut BlockTable) {
        for &block in &table.blocks[table.num_found..table.num_registered] {
            self.pool.forget(block);
        }
        self.free(table);
    }

    /// Forgets all cached content. Refused (`false`) while any sequence holds a block.
    pub fn reset_prefix_cache(&mut self) -> bool {
        self.pool.reset_prefix_cache()
    }
}

#[cfg(test)]
mod tests;
