//! The keys and values of one layer in the order in which attention reads them.
//!
//! Tokens come in strips of [`STRIP`]. A strip of keys is `[head_dim / pair][STRIP][pair]`, so that a
//! vector holds one element, or one pair of elements, of 16 tokens: scores come without adding up
//! lanes. A strip of values is `[STRIP / pair][head_dim][pair]`: a vector holds 16 elements of one
//! token, or of a pair of tokens. Pairs are of bfloat16 only, as the instructions that multiply
//! bfloat16 want them, and both are tiles of AMX as they are. The whole is
//! `[block][kv_head][strips of a block]{strip of keys, strip of values}`.
//!
//! Elements of one byte lie like bfloat16, to which they are widened before use. Where tokens have a
//! scale, those of a strip follow its keys, and those of its values these.
//!
//! A block whose size is no multiple of the strip ends in slots that stay zero and are never seen.

use half::{bf16, f16};

use super::aligned::AlignedBytes;
use super::narrow;
use crate::{Error, KvCacheDType, KvCacheSpec, Result};

/// Tokens of a strip.
pub(super) const STRIP: usize = 16;

/// An element of the cache.
pub(super) trait CacheElement: Copy {
    const ZERO: Self;
    /// Elements of a head, or tokens, that lie side by side.
    const PAIR: usize;
    /// Whether tokens have a scale, which brings their elements within ±127.
    const SCALED: bool = false;

    /// Without branches, so that loops over it become vector instructions.
    fn narrow(value: f32) -> Self;

    fn widen(self) -> f32;

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
    const ZERO: Self = 0.0;
    const PAIR: usize = 1;

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        value
    }

    fn widen(self) -> f32 {
        self
    }
}

impl CacheElement for f16 {
    const ZERO: Self = f16::ZERO;
    const PAIR: usize = 1;

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        f16::from_f32(value)
    }

    fn widen(self) -> f32 {
        self.to_f32()
    }
}

impl CacheElement for bf16 {
    const ZERO: Self = bf16::ZERO;
    const PAIR: usize = 2;

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        let bits = value.to_bits();
        // To the nearest, ties to even; not a number stays so.
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        let quiet = bits >> 16 | 0x40;
        Self::from_bits(if value.is_nan() { quiet } else { rounded } as u16)
    }

    fn widen(self) -> f32 {
        self.to_f32()
    }
}

/// Eight bits, four of them exponent.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Fp8(u8);

/// A whole number of eight bits, in units of its token's scale.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Int8(i8);

impl From<Fp8> for bf16 {
    #[inline(always)]
    fn from(element: Fp8) -> Self {
        narrow::fp8_to_bf16(element.0)
    }
}

impl From<Int8> for bf16 {
    #[inline(always)]
    fn from(element: Int8) -> Self {
        narrow::int8_to_bf16(element.0)
    }
}

impl CacheElement for Fp8 {
    const ZERO: Self = Self(0);
    const PAIR: usize = 2;

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        Self(narrow::fp8_from_f32(value))
    }

    fn widen(self) -> f32 {
        bf16::from(self).to_f32()
    }
}

impl CacheElement for Int8 {
    const ZERO: Self = Self(0);
    const PAIR: usize = 2;
    const SCALED: bool = true;

    #[inline(always)]
    fn narrow(value: f32) -> Self {
        Self(narrow::int8_from_f32(value))
    }

    fn widen(self) -> f32 {
        f32::from(self.0)
    }
}

/// Runs generic code with the element type of a cache.
macro_rules! with_element {
    ($dtype:expr, $element:ident => $body:expr) => {
        match $dtype {
            KvCacheDType::F32 => {
                type $element = f32;
                $body
            }
            KvCacheDType::F16 => {
                type $element = f16;
                $body
            }
            KvCacheDType::BF16 => {
                type $element = bf16;
                $body
            }
            KvCacheDType::Fp8 => {
                type $element = Fp8;
                $body
            }
            KvCacheDType::Int8 => {
                type $element = Int8;
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
    /// Bytes of a strip of keys, with their scales; whole cache lines.
    key_bytes: usize,
    /// Bytes of a strip of keys and one of values.
    strip_bytes: usize,
}

impl KvLayout {
    /// `None` where a strip has more bytes than there are numbers for.
    fn new(spec: &KvCacheSpec, block_size: usize) -> Option<Self> {
        let (pair, scaled) = with_element!(spec.dtype, E => (E::PAIR, E::SCALED));
        let scale_bytes = if scaled { STRIP * size_of::<f32>() } else { 0 };
        let element_bytes = spec.dtype.size_in_bytes();
        let key_width = spec.head_dim.checked_next_multiple_of(pair)?;
        let value_width = spec.head_dim.checked_next_multiple_of(STRIP)?;
        let key_bytes = key_width.checked_mul(STRIP * element_bytes)?;
        let key_bytes = key_bytes.checked_add(scale_bytes)?;
        let key_bytes = key_bytes.checked_next_multiple_of(64)?;
        let value_bytes = value_width.checked_mul(STRIP * element_bytes)?;
        let value_bytes = value_bytes.checked_add(scale_bytes)?;
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

    /// Whether tokens have scales, 16 in float32 after the elements of a strip.
    pub(super) fn is_scaled(&self) -> bool {
        with_element!(self.dtype, E => E::SCALED)
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
        let width = self.layout.key_width;
        with_element!(self.layout.dtype, E => self.all::<E>(0, width, E::key_index))
    }

    /// All values, likewise.
    pub(crate) fn all_values(&self) -> Vec<f32> {
        let KvLayout {
            value_width: width,
            key_bytes,
            ..
        } = self.layout;
        with_element!(self.layout.dtype, E => {
            self.all::<E>(key_bytes, width, |lane, dim| E::value_index(width, lane, dim))
        })
    }

    /// The elements at `index(lane, dim)` of the part of each strip that begins at byte `offset` and
    /// has `width` elements a token.
    fn all<E: CacheElement>(
        &self,
        offset: usize,
        width: usize,
        index: impl Fn(usize, usize) -> usize,
    ) -> Vec<f32> {
        let layout = &self.layout;
        let mut elements = Vec::new();
        for slot in 0..self.num_blocks * layout.block_size {
            for kv_head in 0..layout.num_kv_heads {
                let (strip, lane) = layout.strip_of_slot(slot, kv_head);
                // SAFETY: slot, head and elements are within the store, which is aligned.
                unsafe {
                    let part = self.bytes.as_ptr().add(strip + offset).cast::<E>();
                    let scale = if E::SCALED {
                        part.add(STRIP * width).cast::<f32>().add(lane).read()
                    } else {
                        1.0
                    };
                    for dim in 0..layout.head_dim {
                        elements.push(part.add(index(lane, dim)).read().widen() * scale);
                    }
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
                let width = layout.key_width;
                write_part::<E>(keys.cast(), width, lane, key, E::key_index);
                let width = layout.value_width;
                let index = |lane, dim| E::value_index(width, lane, dim);
                write_part::<E>(values.cast(), width, lane, value, index);
            });
        }
    }
}

/// Elements that are narrowed together.
const RUN: usize = 64;

/// # Safety
/// `part` is a strip of keys or of values of `width` elements `E` a token, which holds those of `row`
/// at `index(lane, dim)`.
#[inline(always)]
unsafe fn write_part<E: CacheElement>(
    part: *mut E,
    width: usize,
    lane: usize,
    row: &[f32],
    index: impl Fn(usize, usize) -> usize,
) {
    let mut factor = 1.0;
    if E::SCALED {
        let scale = scale(row);
        factor = if scale > 0.0 { scale.recip() } else { 0.0 };
        // SAFETY: the scales follow the elements.
        unsafe { part.add(STRIP * width).cast::<f32>().add(lane).write(scale) };
    }
    let mut narrow = [E::ZERO; RUN];
    for (run, row) in row.chunks(RUN).enumerate() {
        for (to, from) in narrow.iter_mut().zip(row) {
            *to = E::narrow(if E::SCALED { from * factor } else { *from });
        }
        for (dim, element) in narrow[..row.len()].iter().enumerate() {
            // SAFETY: within the strip.
            unsafe { part.add(index(lane, run * RUN + dim)).write(*element) };
        }
    }
}

/// What the elements of a row are to be divided by to lie within ±127. Not a number where one of them
/// is not finite, so that it shows.
#[inline(always)]
fn scale(row: &[f32]) -> f32 {
    let largest = row
        .iter()
        .fold(0f32, |largest, value| largest.max(value.abs()));
    let zero = row.iter().fold(0f32, |sum, value| sum + value * 0.0);
    largest / 127.0 + zero
}
