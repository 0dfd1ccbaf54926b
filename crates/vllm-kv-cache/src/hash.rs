//! The hash that names the content of a full block.

use std::fmt;

use sha2::{Digest, Sha256};

/// Stable name of a full block's content: its own tokens and everything before them.
///
/// A SHA-256 digest rather than a faster checksum: sequences of different users share blocks by
/// this name alone, so nobody may be able to construct two prompts with the same one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockHash(pub [u8; 32]);

/// What, beside the tokens, decides the keys and values of a sequence.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExtraKeys<'a> {
    /// Adapter in use: it changes the values of every block.
    pub lora: Option<&'a str>,
    /// Secret of a tenant. Hashed into the first block only: the chain carries it on.
    pub cache_salt: Option<&'a str>,
}

/// Stands for the parent of a first block, and versions the layout below.
const ROOT: &[u8; 32] = b"vllm KV-cache block hash, root 1";

const TAG_LORA: u8 = 1;
const TAG_CACHE_SALT: u8 = 2;

/// Hashes one full block after its parent (`None` for the first block of a sequence).
///
/// The same on every machine and in every run. It is the SHA-256 of these bytes, integers
/// little-endian:
///
/// | bytes | content |
/// |---|---|
/// | 32 | digest of the parent block, or the 32 ASCII bytes `vllm KV-cache block hash, root 1` |
/// | 4 | `n`, number of tokens in the block |
/// | 4 × n | token ids |
/// | per extra key | tag (1 byte: 1 LoRA, 2 cache salt), length in bytes (4), UTF-8 bytes |
///
/// Only the extra keys that are present are written, in the order of their tags; the cache salt
/// only into a first block. Chaining as vLLM's `hash_block_tokens` does.
pub fn hash_block(
    parent: Option<&BlockHash>,
    token_ids: &[u32],
    extra_keys: &ExtraKeys<'_>,
) -> BlockHash {
    let mut hasher = Sha256::new();
    hasher.update(parent.map_or(ROOT, |hash| &hash.0));
    hasher.update((token_ids.len() as u32).to_le_bytes());
    for chunk in token_ids.chunks(32) {
        // One update for many tokens: each has its price.
        let mut bytes = [0; 128];
        for (place, token_id) in bytes.chunks_exact_mut(4).zip(chunk) {
            place.copy_from_slice(&token_id.to_le_bytes());
        }
        hasher.update(&bytes[..chunk.len() * 4]);
    }
    let salt = if parent.is_none() {
        extra_keys.cache_salt
    } else {
        None
    };
    for (tag, value) in [(TAG_LORA, extra_keys.lora), (TAG_CACHE_SALT, salt)] {
        if let Some(value) = value {
            hasher.update([tag]);
            hasher.update((value.len() as u32).to_le_bytes());
            hasher.update(value.as_bytes());
        }
    }
    BlockHash(hasher.finalize().into())
}

impl std::hash::Hash for BlockHash {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        // A digest is uniform already: any eight bytes of it are as good as all.
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        state.write_u64(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    }
}

/// Lower-case hexadecimal, as `sha256sum` prints it.
impl fmt::Display for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockHash({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: ExtraKeys<'_> = ExtraKeys {
        lora: None,
        cache_salt: None,
    };

    #[track_caller]
    fn check(
        parent: Option<&BlockHash>,
        tokens: &[u32],
        extra_keys: ExtraKeys<'_>,
        expected: &str,
    ) {
        assert_eq!(
            hash_block(parent, tokens, &extra_keys).to_string(),
            expected
        );
    }

    // The expected digests were computed from the documented layout by another SHA-256.
    #[test]
    fn follows_the_documented_layout() {
        let first = hash_block(None, &[1, 2, 3, 4], &PLAIN);
        let both = ExtraKeys {
            lora: Some("sql"),
            cache_salt: Some("tenant-a"),
        };
        let many: Vec<u32> = (0..70).collect();
        check(
            None,
            &many,
            PLAIN,
            "6dfdec4b1edeb85b8cafa38e6b77bdfee322bf7eafa5905e37820ecd6cf40b7d",
        );
        check(
            None,
            &[1, 2, 3, 4],
            PLAIN,
            "de6b6beaa482313d33ec6c054fb8e9d8155ecb551ba9389b95ff5eceb64a21e4",
        );
        check(
            Some(&first),
            &[5, 6, 7, 0xFFFF_FFFF],
            PLAIN,
            "e20e17d51aaf27c3f80c3d68985c1b5905db5974b70e7e35e0d152bb70e3d3d9",
        );
        check(
            None,
            &[1, 2, 3, 4],
            both,
            "99e54d3a4185fd6aff22e39d23d82a120f413f3aa3f0d46d6f5f8e2663ffaf56",
        );
        check(
            Some(&first),
            &[5],
            both,
            "05743d66e1be68471afdb413586d479acb39efd899f7e6e4f0c468493828a327",
        );
    }

    #[test]
    fn everything_that_changes_the_values_changes_the_hash() {
        let first = hash_block(None, &[1, 2], &PLAIN);
        let other = hash_block(None, &[1, 3], &PLAIN);
        let lora = ExtraKeys {
            lora: Some("a"),
            ..PLAIN
        };
        let salt = ExtraKeys {
            cache_salt: Some("a"),
            ..PLAIN
        };
        let hashes = [
            first,
            other,
            hash_block(None, &[2, 1], &PLAIN),
            hash_block(None, &[1, 2, 0], &PLAIN),
            hash_block(Some(&first), &[1, 2], &PLAIN),
            hash_block(Some(&other), &[1, 2], &PLAIN),
            hash_block(None, &[1, 2], &lora),
            hash_block(None, &[1, 2], &salt),
            hash_block(Some(&first), &[1, 2], &lora),
        ];
        let distinct: std::collections::BTreeSet<_> = hashes.iter().collect();
        assert_eq!(distinct.len(), hashes.len());
    }

    #[test]
    fn the_salt_enters_the_first_block_only() {
        let parent = hash_block(None, &[1], &PLAIN);
        let salted = ExtraKeys {
            cache_salt: Some("s"),
            ..PLAIN
        };
        assert_eq!(
            hash_block(Some(&parent), &[2], &salted),
            hash_block(Some(&parent), &[2], &PLAIN)
        );
    }
}
