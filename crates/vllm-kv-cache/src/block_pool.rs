//! Who holds which block, which block is used next, and which block has which content.

use rustc_hash::FxHashMap;

use crate::free_list::FreeList;
use crate::ring::Rings;
use crate::{BlockHash, BlockId, Error, NULL_BLOCK, Result};

/// All blocks of one KV cache.
///
/// Every block but the null block is either referenced by at least one sequence or in the free
/// list. A free block keeps its content, and stays findable by its hash, until it is allocated
/// again: the free list is at the same time the eviction order.
///
/// Every operation is O(1) and none allocates memory once the hash table has reached its size.
/// Operations on a block number that the pool does not have panic.
#[derive(Debug)]
pub struct BlockPool {
    blocks: Vec<Block>,
    free: FreeList,
    /// One block per content; the other blocks of the same content are in its ring of `twins`.
    cached: FxHashMap<BlockHash, BlockId>,
    /// Rings of blocks with equal content, oldest first from the block in `cached`.
    twins: Rings,
}

#[derive(Debug, Clone, Default)]
struct Block {
    ref_count: u32,
    hash: Option<BlockHash>,
}

impl BlockPool {
    /// A pool of `num_blocks` blocks, of which block 0 is reserved as the null block.
    ///
    /// # Errors
    /// [`Error::NumBlocks`] unless a block remains beside the null block.
    pub fn new(num_blocks: usize) -> Result<Self> {
        let count = match u32::try_from(num_blocks) {
            Ok(count) if count >= 2 => count,
            _ => return Err(Error::NumBlocks(num_blocks)),
        };
        Ok(Self {
            blocks: vec![Block::default(); num_blocks],
            free: FreeList::new(count),
            cached: FxHashMap::default(),
            twins: Rings::new(count),
        })
    }

    /// Blocks that sequences can use: all but the null block.
    pub fn num_usable_blocks(&self) -> usize {
        self.blocks.len() - 1
    }

    /// Blocks that no sequence references, cached ones included.
    pub fn num_free_blocks(&self) -> usize {
        self.free.len()
    }

    /// Sequences that hold `block`.
    pub fn ref_count(&self, block: BlockId) -> u32 {
        self.blocks[block as usize].ref_count
    }

    /// Content by which `block` can be found, if it is registered.
    pub fn hash_of(&self, block: BlockId) -> Option<&BlockHash> {
        self.blocks[block as usize].hash.as_ref()
    }

    /// Takes the block at the head of the free list, with one reference. The content it was
    /// cached for is evicted. `None` when every block is referenced.
    pub fn allocate(&mut self) -> Option<BlockId> {
        let block = self.free.pop_front()?;
        self.drop_hash(block);
        self.blocks[block as usize].ref_count = 1;
        Some(block)
    }

    /// Adds a reference to a cached block; a free one leaves the free list.
    pub fn touch(&mut self, block: BlockId) {
        let ref_count = &mut self.blocks[block as usize].ref_count;
        if *ref_count == 0 {
            self.free.remove(block);
        }
        *ref_count += 1;
    }

    /// Gives one reference back. Without any left the block becomes free: at the tail if its
    /// content can be found again, at the head if not.
    pub fn release(&mut self, block: BlockId) {
        let entry = &mut self.blocks[block as usize];
        assert!(
            entry.ref_count > 0,
            "block {block} released more often than taken"
        );
        entry.ref_count -= 1;
        if entry.ref_count > 0 {
            return;
        }
        if entry.hash.is_some() {
            self.free.push_back(block);
        } else {
            self.free.push_front(block);
        }
    }

    /// The block that has held this content longest.
    pub fn find(&self, hash: &BlockHash) -> Option<BlockId> {
        self.cached.get(hash).copied()
    }

    /// Makes a referenced block findable by its content. Several blocks may hold the same; they
    /// are not merged.
    pub fn register(&mut self, block: BlockId, hash: BlockHash) {
        let entry = &mut self.blocks[block as usize];
        assert!(entry.ref_count > 0, "block {block} registered while free");
        assert!(entry.hash.is_none(), "block {block} registered twice");
        entry.hash = Some(hash);
        let oldest = *self.cached.entry(hash).or_insert(block);
        if oldest != block {
            self.twins.insert_before(oldest, block);
        }
    }

    /// Makes the block unfindable, because its content is not what its hash says. The sequences
    /// that hold it keep it.
    pub fn forget(&mut self, block: BlockId) {
        if self.drop_hash(block) && self.ref_count(block) == 0 {
            self.free.remove(block);
            self.free.push_front(block);
        }
    }

    /// Forgets all cached content. Refused (`false`) while any block is referenced.
    pub fn reset_prefix_cache(&mut self) -> bool {
        if self.num_free_blocks() != self.num_usable_blocks() {
            return false;
        }
        for block in NULL_BLOCK + 1..self.blocks.len() as BlockId {
            self.drop_hash(block);
        }
        true
    }

    /// Removes the block from the table of contents; whether it was there.
    fn drop_hash(&mut self, block: BlockId) -> bool {
        let Some(hash) = self.blocks[block as usize].hash.take() else {
            return false;
        };
        let younger = self.twins.next(block);
        if younger == block {
            self.cached.remove(&hash);
        } else if self.cached.get(&hash) == Some(&block) {
            self.cached.insert(hash, younger);
        }
        self.twins.unlink(block);
        true
    }

    #[cfg(test)]
    pub(crate) fn free_blocks(&self) -> Vec<BlockId> {
        self.free.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u8) -> BlockHash {
        BlockHash([n; 32])
    }

    fn pool(num_blocks: usize) -> BlockPool {
        BlockPool::new(num_blocks).expect("valid size")
    }

    #[test]
    fn refuses_a_pool_without_usable_blocks() {
        for num_blocks in [0, 1, 1 << 32] {
            assert_eq!(
                BlockPool::new(num_blocks).err(),
                Some(Error::NumBlocks(num_blocks))
            );
        }
    }

    #[test]
    fn never_hands_out_the_null_block() {
        let mut pool = pool(4);
        let taken: Vec<_> = std::iter::from_fn(|| pool.allocate()).collect();
        assert_eq!(taken, [1, 2, 3]);
        assert_eq!(pool.num_free_blocks(), 0);
    }

    #[test]
    fn frees_cached_blocks_to_the_tail_and_others_to_the_head() {
        let mut pool = pool(6);
        let taken: Vec<_> = (0..3).filter_map(|_| pool.allocate()).collect();
        pool.register(1, hash(1));
        pool.register(2, hash(2));
        for &block in taken.iter().rev() {
            pool.release(block);
        }
        assert_eq!(pool.free_blocks(), [3, 4, 5, 2, 1]);
    }

    #[test]
    fn a_free_cached_block_is_found_until_it_is_allocated_again() {
        let mut pool = pool(3);
        let block = pool.allocate().expect("free");
        pool.register(block, hash(7));
        pool.release(block);
        assert_eq!(pool.find(&hash(7)), Some(block));
        assert_eq!(pool.allocate(), Some(2));
        assert_eq!(pool.find(&hash(7)), Some(block));
        assert_eq!(pool.allocate(), Some(block));
        assert_eq!(pool.find(&hash(7)), None);
        assert_eq!(pool.hash_of(block), None);
    }

    #[test]
    fn a_touched_block_is_not_evicted() {
        let mut pool = pool(3);
        let block = pool.allocate().expect("free");
        pool.register(block, hash(7));
        pool.release(block);
        pool.touch(block);
        pool.touch(block);
        pool.release(block);
        assert_eq!(pool.ref_count(block), 1);
        assert_eq!((pool.allocate(), pool.allocate()), (Some(2), None));
    }

    #[test]
    fn of_equal_blocks_the_oldest_is_found_and_the_others_stand_in() {
        let mut pool = pool(5);
        for block in 1..=3 {
            assert_eq!(pool.allocate(), Some(block));
            pool.register(block, hash(1));
        }
        assert_eq!(pool.find(&hash(1)), Some(1));
        pool.forget(2);
        pool.forget(1);
        assert_eq!(pool.find(&hash(1)), Some(3));
        pool.forget(3);
        assert_eq!(pool.find(&hash(1)), None);
    }

    #[test]
    fn a_forgotten_free_block_is_used_next() {
        let mut pool = pool(4);
        let block = pool.allocate().expect("free");
        pool.register(block, hash(1));
        pool.release(block);
        assert_eq!(pool.free_blocks(), [2, 3, 1]);
        pool.forget(block);
        assert_eq!(pool.free_blocks(), [1, 2, 3]);
    }

    #[test]
    fn resets_only_when_nothing_is_referenced() {
        let mut pool = pool(3);
        let block = pool.allocate().expect("free");
        pool.register(block, hash(1));
        assert!(!pool.reset_prefix_cache());
        assert_eq!(pool.find(&hash(1)), Some(block));
        pool.release(block);
        assert!(pool.reset_prefix_cache());
        assert_eq!(pool.find(&hash(1)), None);
    }

    #[test]
    #[should_panic(expected = "released more often than taken")]
    fn a_double_release_is_caught() {
        pool(3).release(1);
    }
}

#[cfg(test)]
mod model;
