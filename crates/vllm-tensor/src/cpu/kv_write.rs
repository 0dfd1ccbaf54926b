use candle_core::{CpuStorage, InplaceOp1, Layout, Tensor};

use super::simd::Stored;
use super::storage::f32_slice;
use crate::Result;

/// Copies the rows of `new`, float32 `[tokens, num_kv_heads, head_dim]`, into their slots of a cache
/// tensor, rounding to its dtype.
pub(crate) fn write_slots(store: &Tensor, new: &Tensor, slots: &[u32]) -> Result<()> {
    let width = store.dim(2)? * store.dim(3)?;
    let (storage, layout) = new.storage_and_layout();
    Ok(store.inplace_op1(&WriteSlots {
        rows: f32_slice(&storage, layout)?,
        slots,
        width,
    })?)
}

struct WriteSlots<'a> {
    rows: &'a [f32],
    slots: &'a [u32],
    width: usize,
}

impl InplaceOp1 for WriteSlots<'_> {
    fn name(&self) -> &'static str {
        "write-slots"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (start, end) = layout
            .contiguous_offsets()
            .ok_or_else(|| candle_core::Error::msg("a KV cache that is not contiguous").bt())?;
        match storage {
            CpuStorage::F32(all) => self.write(&mut all[start..end]),
            CpuStorage::F16(all) => self.write(&mut all[start..end]),
            CpuStorage::BF16(all) => self.write(&mut all[start..end]),
            _ => candle_core::bail!("a KV cache that is not float32, float16 or bfloat16"),
        }
        Ok(())
    }
}

impl WriteSlots<'_> {
    fn write<E: Stored>(&self, store: &mut [E]) {
        for (row, slot) in self.rows.chunks_exact(self.width).zip(self.slots) {
            let start = *slot as usize * self.width;
            for (to, from) in store[start..start + self.width].iter_mut().zip(row) {
                *to = E::from_f32(*from);
            }
        }
    }
}
