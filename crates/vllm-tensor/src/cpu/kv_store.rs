//! The keys and values of one layer in the order in which attention reads them.
//!
//! Tokens come in strips of [`STRIP`]. A strip of keys is `[head_dim / pair][STRIP][pair]`, so that a
//! vector holds one element, or one pair of elements, of 16 tokens: scores come without adding up
//! lanes. A strip of values is `[STRIP / pair][head_dim][pair]`: a vector holds 16 elements of one
//! token, or of a pair of tokens. Pairs are of bfloat16 only, as the instructions that multiply
//! bfloat16 want them, and both are tiles of AMX as they are. The whole is
//! `[block][kv_head][strips of a block]{strip of keys, strip of values}`.
//!
//! A block whose size is no multiple of the strip ends in slots that stay zero and are never seen.

use half::{bf16, f16};

use super::aligned::AlignedBytes;
use super::simd::Stored;
use crate::{Error, KvCacheDType, KvCacheSpec, Result};

/// Tokens of a strip.
pub(super) const STRIP: usize = 16;

/// An element of the cache.
pub(super) trait CacheElement: Stored {
    /// Elements of a head, or tokens, that lie side by side.
    const PAIR: usize;

    /// [`Stored::from_f32`] without branches, so that loops over it become vector instructions.
    fn narrow(value: f32) -> Self;

    /// Where a strip of keys holds element `dim` of the token in `lane`.
    #[inline(always)]
    fn key_index(lane: usize, dim: usize) -> usize {
        (dim / Self::PAIR * STRIP + lane) * Self::PAIR + dim % Self::PAIR
    }

    /// Where a strip of values, `width` elements a token, holds element `dim` of the token in `lane`.
    #[inline(always)]
    fn value_index(width: usize, lane: usize, dim: usize) -> usize {
        (lane / Self::PAIR * width + dim) * Self::PAIR + lane % Self::PAIR
    }
}

impl CacheElement for f32 {
    const PAIR: usize = 1;

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        value
    }
}

impl CacheElement for f16 {
    const PAIR: usize = 1;

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        f16::from_f32(value)
    }
}

impl CacheElement for bf16 {
    const PAIR: usize = 2;

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        let bits = value.to_bits();
        // To the nearest, ties to even; not a number stays so.
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        let quiet = bits >> 16 | 0x40;
        Self::from_bits(if value.is_nan() { quiet } else { rounded } as u16)
    }
}

/// Runs generic code with the element type of a cache.
macro_rules! with_element {
    ($dtype:expr, $element:ident => $body:expr) => {
        match $dtype {
            $crate::KvCacheDType::F32 => {
                type $element = f32;
                $body
            }
            $crate::KvCacheDType::F16 => {
                type $element = ::half::f16;
                $body
            }
            $crate::KvCacheDType::BF16 => {
                type $element = ::half::bf16;
                $body
            }
        }
    };
}

/// Sizes and distances.
#[derive(Clone, Copy, Debug)]
pub(super) struct KvLayout {
    pub(super) dtype: KvCacheDType,
    pub(super) block_size: usize,
    pub(super) num_kv_heads: usize,
    pub(super) head_dim: usize,
    /// Strips of a block.
    pub(super) block_strips: usize,
    /// Elements of a token in a strip of keys: `head_dim`, filled up to whole pairs.
    pub(super) key_width: usize,
    /// Elements of a token in a strip of values: `head_dim`, filled up to whole vectors.
    pub(super) value_width: usize,
    /// Bytes of a strip of keys, whole cache lines.
    key_bytes: usize,
    /// Bytes of a strip of keys and one of values.
    strip_bytes: usize,
}

impl KvLayout {
    /// `None` where a strip has more bytes than there are numbers for.
    fn new(spec: &KvCacheSpec, block_size: usize) -> Option<Self> {
        let pair = with_element!(spec.dtype, E => E::PAIR);
        let element_bytes = spec.dtype.size_in_bytes();
        let key_width = spec.head_dim.checked_next_multiple_of(pair)?;
        let value_width = spec.head_dim.checked_next_multiple_of(STRIP)?;
        let key_bytes = key_width.checked_mul(STRIP * element_bytes)?;
        let key_bytes = key_bytes.checked_next_multiple_of(64)?;
        let value_bytes = value_width.checked_mul(STRIP * element_bytes)?;
        Some(Self {
            dtype: spec.dtype,
            block_size,
            num_kv_heads: spec.num_kv_heads,
            head_dim: spec.head_dim,
            block_strips: block_size.div_ceil(STRIP),
            key_width,
            value_width,
            key_bytes,
            strip_bytes: key_bytes.checked_add(value_bytes)?,
        })
    }

    fn block_bytes(&self) -> Option<usize> {
        self.strip_bytes
            .checked_mul(self.block_strips)?
            .checked_mul(self.num_kv_heads)
    }

    /// The lane of `position` among those of all strips of its sequence.
    pub(super) fn lane(&self, position: usize) -> usize {
        position / self.block_size * self.block_strips * STRIP + position % self.block_size
    }

    /// Where the store holds a head's part of the token in `slot`: the first byte of the strip, and
    /// the lane.
    #[inline(always)]
    fn strip_of_slot(&self, slot: usize, kv_head: usize) -> (usize, usize) {
        let (block, offset) = (slot / self.block_size, slot % self.block_size);
        let index = (block * self.num_kv_heads + kv_head) * self.block_strips + offset / STRIP;
        (index * self.strip_bytes, offset % STRIP)
    }

    /// How many lanes of the `strip`th of a sequence have tokens.
    pub(super) fn lanes_in_use(&self, strip: usize) -> usize {
        STRIP.min(self.block_size - strip % self.block_strips * STRIP)
    }
}

/// The cache of one layer.
#[derive(Debug)]
pub(crate) struct KvStore {
    bytes: AlignedBytes,
    layout: KvLayout,
    num_blocks: usize,
}

impl KvStore {
    /// A zeroed one.
    ///
    /// # Errors
    /// More bytes than the system has.
    pub(crate) fn new(spec: &KvCacheSpec, num_blocks: usize, block_size: usize) -> Result<Self> {
        let too_large = || Error::Shape {
            operation: "KV cache",
            expected: "a size that fits in memory".to_owned(),
            actual: vec![num_blocks, block_size, spec.num_kv_heads, spec.head_dim].into(),
        };
        let layout = KvLayout::new(spec, block_size).ok_or_else(too_large)?;
        let block_bytes = layout.block_bytes().ok_or_else(too_large)?;
        let bytes = block_bytes.checked_mul(num_blocks).ok_or_else(too_large)?;
        let bytes = isize::try_from(bytes)
            .map_err(|_| too_large())?
            .unsigned_abs();
        Ok(Self {
            bytes: AlignedBytes::zeroed(bytes).map_err(|error| Error::Memory(bytes, error))?,
            layout,
            num_blocks,
        })
    }

    /// Bytes of a block; the greatest number where there are more.
    pub(crate) fn bytes_per_block(spec: &KvCacheSpec, block_size: usize) -> usize {
        let layout = KvLayout::new(spec, block_size);
        layout
            .and_then(|layout| layout.block_bytes())
            .unwrap_or(usize::MAX)
    }

    pub(super) fn layout(&self) -> &KvLayout {
        &self.layout
    }

    pub(super) fn reader(&self) -> KvReader<'_> {
        KvReader {
            bytes: self.bytes.as_ptr(),
            layout: &self.layout,
        }
    }

    pub(super) fn writer(&mut self) -> KvWriter<'_> {
        KvWriter {
            bytes: self.bytes.as_mut_ptr(),
            layout: &self.layout,
            num_slots: self.num_blocks * self.layout.block_size,
        }
    }

    /// Sets all keys and values, `[num_blocks, block_size, num_kv_heads, head_dim]`.
    #[cfg(test)]
    pub(crate) fn fill(&mut self, keys: &[f32], values: &[f32]) {
        let KvLayout {
            num_kv_heads,
            head_dim,
            ..
        } = self.layout;
        let writer = self.writer();
        for (index, (key, value)) in keys
            .chunks(head_dim)
            .zip(values.chunks(head_dim))
            .enumerate()
        {
            let slot = (index / num_kv_heads) as u32;
            // SAFETY: nobody else uses the store.
            unsafe { writer.write(slot, index % num_kv_heads, key, value) };
        }
    }

    /// All keys as `[num_blocks, block_size, num_kv_heads, head_dim]`.
    pub(crate) fn all_keys(&self) -> Vec<f32> {
        with_element!(self.layout.dtype, E => self.all(0, E::key_index, E::to_f32))
    }

    /// All values, likewise.
    pub(crate) fn all_values(&self) -> Vec<f32> {
        let KvLayout {
            value_width,
            key_bytes,
            ..
        } = self.layout;
        with_element!(self.layout.dtype, E => self.all(key_bytes, |lane, dim| {
            E::value_index(value_width, lane, dim)
        }, E::to_f32))
    }

    /// The elements at `index(lane, dim)` of the part of each strip that begins at byte `offset`.
    fn all<E: CacheElement>(
        &self,
        offset: usize,
        index: impl Fn(usize, usize) -> usize,
        widen: impl Fn(E) -> f32,
    ) -> Vec<f32> {
        let layout = &self.layout;
        let mut elements = Vec::new();
        for slot in 0..self.num_blocks * layout.block_size {
            for kv_head in 0..layout.num_kv_heads {
                let (strip, lane) = layout.strip_of_slot(slot, kv_head);
                for dim in 0..layout.head_dim {
                    // SAFETY: slot, head and element are within the store, which is aligned.
                    elements.push(widen(unsafe {
                        let part = self.bytes.as_ptr().add(strip + offset);
                        part.cast::<E>().add(index(lane, dim)).read()
                    }));
                }
            }
        }
        elements
    }
}

/// Shared access to a store.
#[derive(Clone, Copy)]
pub(super) struct KvReader<'a> {
    bytes: *const u8,
    layout: &'a KvLayout,
}

// SAFETY: it only reads what it borrows.
unsafe impl Sync for KvReader<'_> {}

impl KvReader<'_> {
    /// Where strip `strip` of block `block` holds the keys and the values of a head.
    ///
    /// # Safety
    /// The store has this block, this head and this strip.
    #[inline(always)]
    pub(super) unsafe fn strip(
        &self,
        block: usize,
        kv_head: usize,
        strip: usize,
    ) -> (*const u8, *const u8) {
        let layout = self.layout;
        let index = (block * layout.num_kv_heads + kv_head) * layout.block_strips + strip;
        // SAFETY: the caller's promise.
        unsafe {
            let keys = self.bytes.add(index * layout.strip_bytes);
            (keys, keys.add(layout.key_bytes))
        }
    }
}

/// Access to a store for tasks that write different slots.
#[derive(Clone, Copy)]
pub(super) struct KvWriter<'a> {
    bytes: *mut u8,
    layout: &'a KvLayout,
    num_slots: usize,
}

// SAFETY: tasks write different slots, as `KvWriter::write` demands.
unsafe impl Sync for KvWriter<'_> {}

impl KvWriter<'_> {
    /// Stores one head's key and value of the token in `slot`.
    ///
    /// # Panics
    /// There is no such slot or head, or a row is not `head_dim` wide.
    ///
    /// # Safety
    /// Nobody else reads or writes this slot meanwhile.
    #[inline(always)]
    pub(super) unsafe fn write(&self, slot: u32, kv_head: usize, key: &[f32], value: &[f32]) {
        let layout = self.layout;
        let slot = slot as usize;
        assert!(slot < self.num_slots && kv_head < layout.num_kv_heads);
        assert!(key.len() == layout.head_dim && value.len() == layout.head_dim);
        let (strip, lane) = layout.strip_of_slot(slot, kv_head);
        // SAFETY: slot and head were just checked; the caller promises that they are its own.
        unsafe {
            let keys = self.bytes.add(strip);
            let values = keys.add(layout.key_bytes);
            with_element!(layout.dtype, E => {
                write_key::<E>(keys.cast(), lane, key);
                write_value::<E>(values.cast(), layout.value_width, lane, value);
            });
        }
    }
}

/// Elements that are narrowed together.
const RUN: usize = 64;

/// # Safety
/// `keys` is a strip of keys of elements `E`, `key` as wide as its heads.
#[inline(always)]
unsafe fn write_key<E: CacheElement>(keys: *mut E, lane: usize, key: &[f32]) {
    let mut narrow = [E::ZERO; RUN];
    for (run, key) in key.chunks(RUN).enumerate() {
        for (to, from) in narrow.iter_mut().zip(key) {
            *to = E::narrow(*from);
        }
        for (dim, element) in narrow[..key.len()].iter().enumerate() {
            // SAFETY: within the strip.
            unsafe {
                keys.add(E::key_index(lane, run * RUN + dim))
                    .write(*element)
            };
        }
    }
}

/// # Safety
/// `values` is a strip of values of elements `E`, `value` as wide as its heads.
#[inline(always)]
unsafe fn write_value<E: CacheElement>(values: *mut E, width: usize, lane: usize, value: &[f32]) {
    for (dim, from) in value.iter().enumerate() {
        // SAFETY: within the strip.
        unsafe {
            values
                .add(E::value_index(width, lane, dim))
                .write(E::narrow(*from))
        };
    }
}
