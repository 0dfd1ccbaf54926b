//! Identifiers: as a rule a prefix and 16 lowercase hexadecimal digits.

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
    format!("{:016x}", random_bits())
}

fn random_bits() -> u64 {
    static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let mut hasher = SEED.build_hasher();
    hasher.write_u64(COUNTER.fetch_add(1, Ordering::Relaxed));
    hasher.finish()
}

/// So many random letters and digits.
pub(crate) fn alphanumeric_id(length: usize) -> String {
    const CHARACTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let digit = |bits: u64| char::from(CHARACTERS[(bits % 62) as usize]);
    (0..length).map(|_| digit(random_bits())).collect()
}

/// A fresh id for a tool call.
pub fn tool_call_id() -> String {
    format!("chatcmpl-tool-{}", random_id())
}
