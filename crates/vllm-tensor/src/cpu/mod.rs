//! Fast bodies for the CPU: float32 activations over weights and caches of any stored width.
//!
//! Each output element is computed in an order that depends on nothing but its own row, so results
//! do not depend on what else is in the batch or on the number of threads. They may differ between
//! instruction sets.

mod affinity;
mod aligned;
#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
mod combine;
mod gated;
mod isa;
mod kv_store;
mod kv_write;
mod linear;
mod matmul;
#[cfg(target_arch = "x86_64")]
mod matmul_bf16;
mod narrow;
#[cfg(target_arch = "aarch64")]
mod neon;
mod norm;
mod panels;
mod pool;
mod quantized;
mod rotary;
mod rows;
mod scaled;
mod scratch;
mod simd;
mod storage;

use candle_core::{DType, Tensor};

pub use affinity::bind_this_thread;
pub(crate) use attention::paged_attention;
#[cfg(test)]
pub(crate) use attention::paged_attention_with;
pub(crate) use combine::combine;
pub(crate) use gated::{Gate, gated};
pub use isa::Isa;
pub(crate) use kv_store::KvStore;
pub(crate) use kv_write::{heads, rotate_and_write, write};
pub(crate) use linear::{PanelWeight, linear, linear_gated, row_form};
pub use narrow::fp8_from_f32;
pub(crate) use norm::{layer_norm, rms_norm};
pub(crate) use panels::Panels;
pub use pool::{num_threads, set_num_threads};
pub use quantized::{CodeForm, RowCodes};
pub(crate) use quantized::{QuantizedPanels, linear_quantized};
pub(crate) use rotary::rotate;
pub(crate) use rows::{RoundedRows, RowForm, RowTargets};
pub use scaled::ScaledForm;
pub(crate) use scaled::ScaledPanels;
pub(crate) use storage::filled;

/// Whether the bodies of this module take operations on `x`.
pub(crate) fn takes(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}
