//! Identifiers: a prefix and 16 lowercase hexadecimal digits.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// 16 random lowercase hexadecimal digits. They are unguessable in the way a hash table's seed is:
/// good for telling requests apart, not for secrets.
///
/// ```
/// let id = vllm_openai::random_id();
/// assert_eq!(id.len(), 16);
/// assert_ne!(id, vllm_openai::random_id());
/// ```
pub fn random_id() -> String {
    static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let mut hasher = SEED.build_hasher();
    hasher.write_u64(COUNTER.fetch_add(1, Ordering::Relaxed));
    format!("{:016x}", hasher.finish())
}

/// A fresh id for a tool call.
pub fn tool_call_id() -> String {
    format!("chatcmpl-tool-{}", random_id())
}
