//! Narrow elements of the cache on their way to the engines, which take bfloat16.

use half::bf16;

use super::engine::{PARTITION, PARTITION_KEYS};
use crate::cpu::kv_store::{CacheElement, Fp8, Int8, KvLayout, STRIP};
use crate::cpu::scratch::lines_of;

/// Bytes of memory for [`Widened`] where elements are of one byte.
pub(super) fn bytes(layout: &KvLayout) -> usize {
    if layout.dtype.size_in_bytes() > 1 {
        return 0;
    }
    lines_of::<bf16>(PARTITION_KEYS * (layout.key_width + layout.value_width))
        + 2 * lines_of::<f32>(PARTITION_KEYS)
}

/// Strips of a partition in bfloat16, and factors on them for each lane of the partition.
#[derive(Clone, Copy)]
pub(super) struct Widened {
    keys: *mut bf16,
    values: *mut bf16,
    key_scales: *mut f32,
    value_scales: *mut f32,
}

impl Widened {
    /// What lies at `memory`, [`bytes`] of it on a cache line.
    pub(super) fn at(memory: *mut u8, layout: &KvLayout) -> Self {
        let key_scales = memory.cast::<f32>();
        let value_scales = key_scales.wrapping_add(PARTITION_KEYS);
        let keys = value_scales.wrapping_add(PARTITION_KEYS).cast::<bf16>();
        Self {
            keys,
            values: keys.wrapping_add(PARTITION_KEYS * layout.key_width),
            key_scales,
            value_scales,
        }
    }

    /// Factors on the scores and on the weights of the lanes of the partition.
    pub(super) fn scales(&self) -> (*const f32, *const f32) {
        (self.key_scales, self.value_scales)
    }

    /// Widens strip `strip` of the partition, of which `lanes` lanes are written, and returns where
    /// it now is.
    ///
    /// # Safety
    /// The strip is one of a cache in this layout, of elements of one byte; [`bytes`] are there.
    #[inline(always)]
    pub(super) unsafe fn strip(
        &self,
        layout: &KvLayout,
        strip: usize,
        (keys, values): (*const u8, *const u8),
        lanes: usize,
    ) -> (*const u8, *const u8) {
        debug_assert!(strip < PARTITION);
        let (key_len, value_len) = (STRIP * layout.key_width, STRIP * layout.value_width);
        // SAFETY: the caller's promise; there is room for all strips of a partition.
        unsafe {
            let wide_keys = self.keys.add(strip * key_len);
            let wide_values = self.values.add(strip * value_len);
            if layout.is_scaled() {
                widen(keys.cast::<Int8>(), wide_keys, key_len);
                widen(values.cast::<Int8>(), wide_values, value_len);
                let first = strip * STRIP;
                let scales = keys.add(key_len).cast::<f32>();
                self.key_scales.add(first).copy_from(scales, STRIP);
                let scales = values.add(value_len).cast::<f32>();
                self.value_scales.add(first).copy_from(scales, lanes);
                // What is not written may be anything, and its weights of zero must stay that.
                self.value_scales
                    .add(first + lanes)
                    .write_bytes(0, STRIP - lanes);
            } else {
                widen(keys.cast::<Fp8>(), wide_keys, key_len);
                widen(values.cast::<Fp8>(), wide_values, value_len);
            }
            (
                wide_keys.cast_const().cast(),
                wide_values.cast_const().cast(),
            )
        }
    }
}

/// # Safety
/// Both have `len` elements, and nobody else uses `to`.
#[inline(always)]
unsafe fn widen<E: CacheElement + Into<bf16>>(from: *const E, to: *mut bf16, len: usize) {
    // SAFETY: the caller's promise.
    let (from, to) = unsafe {
        (
            std::slice::from_raw_parts(from, len),
            std::slice::from_raw_parts_mut(to, len),
        )
    };
    for (to, from) in to.iter_mut().zip(from) {
        *to = (*from).into();
    }
}
