//! Lines of a journal, each with its own checksum.

use std::fmt;
use std::io::BufRead;

use crate::result::Tokens;

/// What an entry says about its row before the row's line of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryHead {
    pub(crate) index: u64,
    pub(crate) checksum: u32,
    pub(crate) failed: bool,
    pub(crate) tokens: Tokens,
}

impl fmt::Display for EntryHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tokens {
            prompt,
            cached,
            output,
        } = self.tokens;
        let outcome = if self.failed { "failed" } else { "ok" };
        let (index, checksum) = (self.index, self.checksum);
        write!(
            f,
            "{index} {checksum:08x} {outcome} {prompt} {cached} {output}"
        )
    }
}

impl EntryHead {
    /// Reads the head of an entry, and gives what follows it.
    fn parse(text: &str) -> Option<(Self, &str)> {
        let mut words = text.splitn(7, ' ');
        let index = words.next()?.parse().ok()?;
        let checksum = u32::from_str_radix(words.next()?, 16).ok()?;
        let failed = match words.next()? {
            "ok" => false,
            "failed" => true,
            _ => return None,
        };
        let mut count = || words.next()?.parse().ok();
        let tokens = Tokens {
            prompt: count()?,
            cached: count()?,
            output: count()?,
        };
        let head = Self {
            index,
            checksum,
            failed,
            tokens,
        };
        Some((head, words.next()?))
    }
}

/// A line with its checksum before it and its line break behind it.
pub(crate) fn seal(text: &str) -> String {
    format!("{:08x} {text}\n", crc32fast::hash(text.as_bytes()))
}

/// What was sealed, if it is whole.
pub(crate) fn open(line: &[u8]) -> Option<&str> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let (checksum, text) = line.split_once(' ')?;
    let whole = checksum == format!("{:08x}", crc32fast::hash(text.as_bytes()));
    whole.then_some(text)
}

/// The next entry and its line of output; nothing at the end and at a damaged line. `line` holds
/// the whole line.
pub(crate) fn read_entry<'a>(
    reader: &mut impl BufRead,
    line: &'a mut Vec<u8>,
) -> std::io::Result<Option<(EntryHead, &'a str)>> {
    line.clear();
    reader.read_until(b'\n', line)?;
    Ok(open(line).and_then(EntryHead::parse))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: EntryHead = EntryHead {
        index: 12,
        checksum: 0xab,
        failed: true,
        tokens: Tokens {
            prompt: 5,
            cached: 4,
            output: 3,
        },
    };

    #[test]
    fn an_entry_comes_back_as_it_was() {
        let line = seal(&format!("{HEAD} {{\"text\": \"é \"}}"));
        let mut buffer = Vec::new();
        let entry = read_entry(&mut line.as_bytes(), &mut buffer).unwrap();
        assert_eq!(entry, Some((HEAD, "{\"text\": \"é \"}")));
    }

    #[test]
    fn a_line_that_is_not_whole_is_none() {
        let line = seal(&format!("{HEAD} {{}}"));
        let none = |bytes: &[u8]| {
            let mut buffer = Vec::new();
            let mut reader = bytes;
            assert_eq!(read_entry(&mut reader, &mut buffer).unwrap(), None);
        };
        for end in 0..line.len() {
            none(&line.as_bytes()[..end]);
        }
        for damaged in 0..line.len() {
            let mut bytes = line.clone().into_bytes();
            bytes[damaged] ^= 1;
            none(&bytes);
        }
        none(seal("12 ab maybe 1 2 3 {}").as_bytes());
    }
}
