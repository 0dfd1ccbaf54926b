//! KV-cache blocks: allocation, reference counts, prefix lookup and LRU eviction.
//!
//! This room knows *which* block of the KV cache belongs to *which* tokens. A block is a fixed
//! number of consecutive token positions; a sequence owns a [`BlockTable`] that maps its positions
//! to blocks. Full blocks carry a [`BlockHash`] chained over everything before them, so a second
//! sequence with the same prefix finds and shares them.
//!
//! It must never know tensors, devices, text, requests' sampling, threads or HTTP. It stores no
//! keys and values: it hands out block numbers, and the tensor side keeps the bytes.
//!
//! | module | purpose |
//! |---|---|
//! | `manager` | [`KvCacheManager`]: block tables of sequences, admission test, prefix lookup |
//! | `block_pool` | [`BlockPool`]: reference counts, allocation, eviction, hash → block |
//! | `free_list` | the LRU order of free blocks |
//! | `ring` | doubly linked rings in one flat vector, what both of the above are built from |
//! | `hash` | [`hash_block`]: the stable, documented block hash |
//!
//! ```
//! use vllm_kv_cache::{BlockTable, ExtraKeys, KvCacheConfig, KvCacheManager};
//!
//! # fn main() -> vllm_kv_cache::Result<()> {
//! let config = KvCacheConfig { num_blocks: 9, block_size: 4, enable_prefix_caching: true };
//! let mut cache = KvCacheManager::new(config)?;
//! let prompt: Vec<u32> = (0..10).collect();
//!
//! // The first sequence computes all ten tokens.
//! let mut first = BlockTable::default();
//! cache.update_hashes(&mut first, &prompt, &ExtraKeys::default());
//! assert!(cache.allocate(&mut first, prompt.len()));
//! cache.register_full_blocks(&mut first, prompt.len());
//!
//! // The second finds the two full blocks of the same prompt.
//! let mut second = BlockTable::default();
//! cache.update_hashes(&mut second, &prompt, &ExtraKeys::default());
//! assert_eq!(cache.find_cached_prefix(&second, prompt.len()), 2);
//!
//! cache.free(&mut first);
//! assert_eq!(cache.num_free_blocks(), cache.num_usable_blocks());
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod block_pool;
mod error;
mod free_list;
mod hash;
mod manager;
mod ring;

pub use block_pool::BlockPool;
pub use error::{Error, Result};
pub use hash::{BlockHash, ExtraKeys, hash_block};
pub use manager::{Admission, BlockTable, KvCacheConfig, KvCacheManager};

/// Number of a block: its index in the KV cache tensors.
pub type BlockId = u32;

/// The block that is never handed out: padding entries of block tables point at it.
pub const NULL_BLOCK: BlockId = 0;
