//! The bytes of one file, wherever they live.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

use crate::{Error, Result};

/// The contents of one model file: a memory map, bytes compiled into the program, or owned bytes.
#[derive(Debug)]
pub enum FileBytes {
    /// A read-only memory map of a file on disk; pages are loaded as they are touched.
    Mapped(Mmap),
    /// Bytes that are part of the running program.
    Static(&'static [u8]),
    /// Bytes read into memory.
    Owned(Vec<u8>),
}

impl FileBytes {
    /// Maps the file at `path`. An empty file, which cannot be mapped, gives empty owned bytes.
    pub(crate) fn map(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|source| Error::io("open", path, source))?;
        let length = file
            .metadata()
            .map_err(|source| Error::io("examine", path, source))?
            .len();
        if length == 0 {
            return Ok(Self::Owned(Vec::new()));
        }
        map_file(&file)
            .map(Self::Mapped)
            .map_err(|source| Error::io("map", path, source))
    }
}

impl FileBytes {
    /// Lets the system take back the memory behind `part`, a slice of these bytes, because nobody
    /// will read it soon. The bytes stay what they are: a map fetches them again from the file.
    ///
    /// Does nothing for bytes that are not mapped, and for slices of anything else.
    pub fn release(&self, part: &[u8]) {
        if let Self::Mapped(map) = self
            && let Some(start) = part.as_ptr().addr().checked_sub(map.as_ptr().addr())
            && start + part.len() <= map.len()
        {
            release_pages(map, start, part.len());
        }
    }
}

#[cfg(unix)]
#[allow(unsafe_code)]
fn release_pages(map: &Mmap, start: usize, len: usize) {
    // SAFETY: the map is of a file and read-only, so that no page of it is lost: pages that are
    // touched again are read from the file again.
    // A system that refuses keeps the pages, which is as good.
    let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, len) };
}

#[cfg(not(unix))]
fn release_pages(_map: &Mmap, _start: usize, _len: usize) {}

#[allow(unsafe_code)]
fn map_file(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the map is read-only and private to this process. Model files are not rewritten in
    // place by the hubs' tools (they rename finished files), which every reader of mapped weights
    // relies on.
    unsafe { Mmap::map(file) }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for FileBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}
