//! Checking a file's contents against what the hub says they are.

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

/// What a hub promises about a file's contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Digest {
    /// SHA-256 of the contents, in lower-case hexadecimal digits.
    Sha256(String),
    /// SHA-1 of the contents, either plain or as git hashes a blob (with its length in front).
    Sha1(String),
}

impl Digest {
    /// The digest that an entity tag is, by its length: git blobs and large files are tagged with
    /// theirs. Other tags promise nothing.
    pub(crate) fn from_entity_tag(tag: &str) -> Option<Self> {
        if !tag.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        match tag.len() {
            64 => Some(Self::Sha256(tag.to_ascii_lowercase())),
            40 => Some(Self::Sha1(tag.to_ascii_lowercase())),
            _ => None,
        }
    }
}

/// Hashes a file while it is written.
pub(crate) struct Checker {
    expected: Option<Digest>,
    contexts: Vec<Context>,
}

impl Checker {
    /// A checker for a file of `size` bytes.
    pub(crate) fn new(expected: Option<Digest>, size: Option<u64>) -> Self {
        let contexts = match &expected {
            None => Vec::new(),
            Some(Digest::Sha256(_)) => vec![Context::new(&SHA256)],
            Some(Digest::Sha1(_)) => {
                let mut as_blob = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
                as_blob.update(format!("blob {}\0", size.unwrap_or_default()).as_bytes());
                vec![as_blob, Context::new(&SHA1_FOR_LEGACY_USE_ONLY)]
            }
        };
        Self { expected, contexts }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        for context in &mut self.contexts {
            context.update(bytes);
        }
    }

    /// Whether the contents are what was promised; true when nothing was.
    pub(crate) fn matches(self) -> bool {
        let Some(Digest::Sha256(expected) | Digest::Sha1(expected)) = self.expected else {
            return true;
        };
        self.contexts
            .into_iter()
            .any(|context| hexadecimal(context.finish().as_ref()) == expected)
    }
}

/// SHA-256 of `bytes` in hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hexadecimal(ring::digest::digest(&SHA256, bytes).as_ref())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tag: &str, contents: &[u8], matches: bool) {
        let expected = Digest::from_entity_tag(tag);
        let mut checker = Checker::new(expected, Some(contents.len() as u64));
        for piece in contents.chunks(2) {
            checker.update(piece);
        }
        assert_eq!(checker.matches(), matches, "{tag}");
    }

    #[test]
    fn contents_are_checked_against_their_tags() {
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        check(sha256, b"abc", true);
        check(&sha256.to_uppercase(), b"abc", true);
        check(sha256, b"abd", false);
        check("a9993e364706816aba3e25717850c26c9cd0d89d", b"abc", true);
        check("f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f", b"abc", true);
        check("f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f", b"abd", false);
    }

    #[test]
    fn other_tags_promise_nothing() {
        check("900150983cd24fb0d6963f7d28e17f72", b"anything", true);
        check("not-a-digest", b"anything", true);
    }
}
