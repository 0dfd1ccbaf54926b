use crate::{Error, Result};

/// Reads little-endian values off a byte slice; every length is checked against what is left.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    pub(crate) fn position(&self) -> usize {
        self.position
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// The next `length` bytes.
    pub(crate) fn take(&mut self, length: usize, what: &str) -> Result<&'a [u8]> {
        let end = self.position.checked_add(length);
        let taken = end.and_then(|end| self.bytes.get(self.position..end));
        let taken = taken.ok_or_else(|| {
            Error::Damaged(format!(
                "{what} at byte {} would take {length} bytes of {}",
                self.position,
                self.remaining()
            ))
        })?;
        self.position += length;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    pub(crate) fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// How many things follow, each of at least `smallest` bytes.
    pub(crate) fn count(&mut self, smallest: usize, what: &str) -> Result<usize> {
        let count = self.u64(what)?;
        let fitting = self.remaining() / smallest;
        usize::try_from(count)
            .ok()
            .filter(|count| *count <= fitting)
            .ok_or_else(|| {
                Error::Damaged(format!(
                    "{what} is {count}, but the file has room for {fitting} at most"
                ))
            })
    }

    /// Length and bytes of a string.
    pub(crate) fn string_bytes(&mut self, what: &str) -> Result<&'a [u8]> {
        let length = self.count(1, what)?;
        self.take(length, what)
    }

    pub(crate) fn string(&mut self, what: &str) -> Result<&'a str> {
        let bytes = self.string_bytes(what)?;
        std::str::from_utf8(bytes).map_err(|_| {
            Error::Damaged(format!("{what} before byte {} is not UTF-8", self.position))
        })
    }
}
