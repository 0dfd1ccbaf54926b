use candle_core::{CpuStorage, Layout, Storage};
use half::{bf16, f16};

use crate::{Error, Result};

/// The elements of a tensor of weights or cached keys and values.
#[derive(Clone, Copy)]
pub(super) enum StoredSlice<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    BF16(&'a [bf16]),
}

/// Runs generic code with the slice's element type.
macro_rules! with_stored {
    ($slice:expr, $elements:ident => $body:expr) => {
        match $slice {
            $crate::cpu::storage::StoredSlice::F32($elements) => $body,
            $crate::cpu::storage::StoredSlice::F16($elements) => $body,
            $crate::cpu::storage::StoredSlice::BF16($elements) => $body,
        }
    };
}
pub(super) use with_stored;

/// The elements of a contiguous float32 tensor on the CPU.
pub(super) fn f32_slice<'a>(storage: &'a Storage, layout: &Layout) -> Result<&'a [f32]> {
    match stored_slice(storage, layout)? {
        StoredSlice::F32(slice) => Ok(slice),
        _ => Err(unexpected(storage)),
    }
}

/// The elements of a contiguous tensor of any stored dtype on the CPU.
pub(super) fn stored_slice<'a>(storage: &'a Storage, layout: &Layout) -> Result<StoredSlice<'a>> {
    let range = layout.contiguous_offsets().map(|(start, end)| start..end);
    let (Storage::Cpu(cpu), Some(range)) = (storage, range) else {
        return Err(unexpected(storage));
    };
    Ok(match cpu {
        CpuStorage::F32(all) => StoredSlice::F32(&all[range]),
        CpuStorage::F16(all) => StoredSlice::F16(&all[range]),
        CpuStorage::BF16(all) => StoredSlice::BF16(&all[range]),
        _ => return Err(unexpected(storage)),
    })
}

/// Callers ask only for what they checked; this is the answer should they be wrong.
fn unexpected(storage: &Storage) -> Error {
    Error::UnsupportedDType {
        operation: "CPU kernel",
        dtype: storage.dtype(),
    }
}

/// `len` numbers of which `fill` writes every one.
pub(crate) fn filled(len: usize, fill: impl FnOnce(*mut f32) -> Result<()>) -> Result<Vec<f32>> {
    let mut all = Vec::<f32>::with_capacity(len);
    fill(all.as_mut_ptr())?;
    // SAFETY: the capacity is there, and callers write all of it.
    unsafe { all.set_len(len) };
    Ok(all)
}
