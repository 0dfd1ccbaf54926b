//! What can be wrong with a cache configuration.

/// A refused KV-cache configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The pool has no block left beside the null block, or more than a block number can name.
    #[error(
        "num_blocks ({0}) must be between 2 and 4294967295: block 0 is reserved, so at least one \
         more is needed. Give the KV cache more memory."
    )]
    NumBlocks(usize),
    /// A block must hold at least one token.
    #[error("block_size must be at least 1 token, got 0.")]
    BlockSize,
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
