//! The pool against a model that is too naive to be wrong.

use proptest::prelude::*;

use super::BlockPool;
use crate::{BlockHash, BlockId};

/// Plain lists searched from end to end.
struct NaivePool {
    /// Next to be used first.
    free: Vec<BlockId>,
    ref_counts: Vec<u32>,
    /// Content and block, oldest first.
    cached: Vec<(BlockHash, BlockId)>,
}

impl NaivePool {
    fn new(num_blocks: usize) -> Self {
        Self {
            free: (1..num_blocks as BlockId).collect(),
            ref_counts: vec![0; num_blocks],
            cached: Vec::new(),
        }
    }

    fn find(&self, hash: BlockHash) -> Option<BlockId> {
        self.cached
            .iter()
            .find(|entry| entry.0 == hash)
            .map(|entry| entry.1)
    }

    fn is_cached(&self, block: BlockId) -> bool {
        self.cached.iter().any(|entry| entry.1 == block)
    }

    fn allocate(&mut self) -> Option<BlockId> {
        if self.free.is_empty() {
            return None;
        }
        let block = self.free.remove(0);
        self.cached.retain(|entry| entry.1 != block);
        self.ref_counts[block as usize] = 1;
        Some(block)
    }

    fn touch(&mut self, block: BlockId) {
        self.free.retain(|&free| free != block);
        self.ref_counts[block as usize] += 1;
    }

    fn release(&mut self, block: BlockId) {
        self.ref_counts[block as usize] -= 1;
        if self.ref_counts[block as usize] == 0 {
            let place = if self.is_cached(block) {
                self.free.len()
            } else {
                0
            };
            self.free.insert(place, block);
        }
    }

    fn forget(&mut self, block: BlockId) {
        if self.is_cached(block) && self.ref_counts[block as usize] == 0 {
            self.free.retain(|&free| free != block);
            self.free.insert(0, block);
        }
        self.cached.retain(|entry| entry.1 != block);
    }

    fn reset_prefix_cache(&mut self) -> bool {
        let idle = self.ref_counts.iter().all(|&count| count == 0);
        if idle {
            self.cached.clear();
        }
        idle
    }
}

#[derive(Debug, Clone)]
enum Operation {
    Allocate,
    Touch(BlockHash),
    Release(BlockId),
    Register(BlockId, BlockHash),
    Forget(BlockId),
    Reset,
}

const NUM_BLOCKS: usize = 8;

fn operation() -> impl Strategy<Value = Operation> {
    let block = || 1..NUM_BLOCKS as BlockId;
    let hash = || (0..5_u8).prop_map(|n| BlockHash([n; 32]));
    prop_oneof![
        6 => Just(Operation::Allocate),
        4 => hash().prop_map(Operation::Touch),
        8 => block().prop_map(Operation::Release),
        6 => (block(), hash()).prop_map(|(block, hash)| Operation::Register(block, hash)),
        1 => block().prop_map(Operation::Forget),
        1 => Just(Operation::Reset),
    ]
}

proptest! {
    #[test]
    fn behaves_as_the_naive_pool(operations in prop::collection::vec(operation(), 0..200)) {
        let mut pool = BlockPool::new(NUM_BLOCKS).expect("valid size");
        let mut model = NaivePool::new(NUM_BLOCKS);
        for operation in operations {
            match operation {
                Operation::Allocate => prop_assert_eq!(pool.allocate(), model.allocate()),
                Operation::Touch(hash) => {
                    prop_assert_eq!(pool.find(&hash), model.find(hash));
                    if let Some(block) = model.find(hash) {
                        pool.touch(block);
                        model.touch(block);
                    }
                }
                Operation::Release(block) if model.ref_counts[block as usize] > 0 => {
                    pool.release(block);
                    model.release(block);
                }
                Operation::Register(block, hash)
                    if model.ref_counts[block as usize] > 0 && !model.is_cached(block) =>
                {
                    pool.register(block, hash);
                    model.cached.push((hash, block));
                }
                Operation::Release(_) | Operation::Register(..) => {}
                Operation::Forget(block) => {
                    pool.forget(block);
                    model.forget(block);
                }
                Operation::Reset => {
                    prop_assert_eq!(pool.reset_prefix_cache(), model.reset_prefix_cache());
                }
            }
            prop_assert_eq!(pool.free_blocks(), model.free.clone());
            prop_assert_eq!(pool.num_free_blocks(), model.free.len());
            for block in 1..NUM_BLOCKS as BlockId {
                prop_assert_eq!(pool.ref_count(block), model.ref_counts[block as usize]);
                let hash = model.cached.iter().find(|entry| entry.1 == block).map(|entry| entry.0);
                prop_assert_eq!(pool.hash_of(block).copied(), hash);
            }
            for n in 0..5 {
                let hash = BlockHash([n; 32]);
                prop_assert_eq!(pool.find(&hash), model.find(hash));
            }
        }
    }
}
