//! Memory for weights and tiles.

use memmap2::MmapMut;

/// Zeroed bytes that begin on a cache line.
///
/// Large ones are asked for in huge pages: a pass over the weights would otherwise spend a good part
/// of its time on looking up where each 4 KiB page lies.
#[derive(Debug)]
pub(super) enum AlignedBytes {
    Small(Vec<CacheLine>),
    Large(MmapMut),
}

/// What memory for kernels is made of.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct CacheLine([u8; 64]);

impl CacheLine {
    pub(super) const ZERO: Self = Self([0; 64]);
}

/// From this size on huge pages are worth their granularity.
const LARGE: usize = 4 << 20;

impl AlignedBytes {
    /// `len` zeros, or the system's reason for refusing them.
    pub(super) fn zeroed(len: usize) -> std::io::Result<Self> {
        if len < LARGE {
            return Ok(Self::Small(vec![CacheLine::ZERO; len.div_ceil(64)]));
        }
        let map = MmapMut::map_anon(len)?;
        // Systems without huge pages refuse; all else works as before.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self::Large(map))
    }

    pub(super) fn as_ptr(&self) -> *const u8 {
        match self {
            Self::Small(lines) => lines.as_ptr().cast(),
            Self::Large(map) => map.as_ptr(),
        }
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        match self {
            Self::Small(lines) => lines.as_mut_ptr().cast(),
            Self::Large(map) => map.as_mut_ptr(),
        }
    }

    /// Bytes in all, at least as many as asked for.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Small(lines) => size_of_val(lines.as_slice()),
            Self::Large(map) => map.len(),
        }
    }
}
