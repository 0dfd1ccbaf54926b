use candle_core::{Device, Tensor};

use super::kv_write::rotate_head;
use super::storage::f32_slice;
use crate::Result;

/// Rotates a contiguous `x`, `[tokens, heads, head_dim]`, by angles `[tokens, half]`.
pub(crate) fn rotate(x: &Tensor, cosines: &Tensor, sines: &Tensor) -> Result<Tensor> {
    let (_, num_heads, head_dim) = x.dims3()?;
    let half = cosines.dim(1)?;
    let mut output = {
        let (storage, layout) = x.storage_and_layout();
        f32_slice(&storage, layout)?.to_vec()
    };
    if half > 0 {
        let (cosine_storage, cosine_layout) = cosines.storage_and_layout();
        let (sine_storage, sine_layout) = sines.storage_and_layout();
        let cosines = f32_slice(&cosine_storage, cosine_layout)?.chunks_exact(half);
        let sines = f32_slice(&sine_storage, sine_layout)?.chunks_exact(half);
        let tokens = output.chunks_exact_mut((num_heads * head_dim).max(1));
        for ((token, cosines), sines) in tokens.zip(cosines).zip(sines) {
            for head in token.chunks_exact_mut(head_dim) {
                rotate_head(head, cosines, sines);
            }
        }
    }
    Ok(Tensor::from_vec(output, x.shape(), &Device::Cpu)?)
}
