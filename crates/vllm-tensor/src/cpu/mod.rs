//! Fast bodies for the CPU: float32 activations over weights of any stored width.

use candle_core::{DType, Tensor};

use crate::{AttentionMetadata, AttentionOptions, LayerKvCache, Result};

/// stub
pub enum Isa {}
/// stub
pub fn num_threads() -> usize {
    1
}
/// stub
pub fn set_num_threads(_n: usize) -> Result<()> {
    Ok(())
}

/// Whether the fast bodies take operations on `x`.
pub(crate) fn takes(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32 && false
}
pub(crate) fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    crate::linear::linear_plain(x, w, b)
}
pub(crate) fn layer_norm(
    _x: &Tensor,
    _w: Option<&Tensor>,
    _b: Option<&Tensor>,
    _e: f32,
) -> Result<Tensor> {
    todo!()
}
pub(crate) fn rms_norm(_x: &Tensor, _w: &Tensor, _e: f32) -> Result<Tensor> {
    todo!()
}
pub(crate) fn write_slots(_s: &Tensor, _n: &Tensor, _m: &[u32]) -> Result<()> {
    todo!()
}
pub(crate) fn paged_attention(
    q: &Tensor,
    l: &LayerKvCache,
    m: &AttentionMetadata,
    o: &AttentionOptions,
) -> Result<Tensor> {
    crate::attention::paged_attention_plain(q, l, m, o)
}
