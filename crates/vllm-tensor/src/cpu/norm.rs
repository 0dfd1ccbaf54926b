use candle_core::{Device, Tensor};

use super::storage::f32_slice;
use crate::Result;

/// Lanes of the sums over a row: a fixed order that compilers turn into vector instructions.
const LANES: usize = 16;

/// Layer norm of the rows of a float32 matrix.
pub(crate) fn layer_norm(
    x: &Tensor,
    weight: Option<&Tensor>,
    bias: Option<&Tensor>,
    eps: f32,
) -> Result<Tensor> {
    let size = x.dim(1)?;
    let weight = weight.map(|weight| weight.to_vec1::<f32>()).transpose()?;
    let bias = bias.map(|bias| bias.to_vec1::<f32>()).transpose()?;
    map_rows(x, |row, out| {
        let mean = lane_sum(row, |value| value) / size as f32;
        let variance = lane_sum(row, |value| (value - mean) * (value - mean)) / size as f32;
        let scale = (variance + eps).sqrt().recip();
        for (out, value) in out.iter_mut().zip(row) {
            *out = (value - mean) * scale;
        }
        if let Some(weight) = &weight {
            out.iter_mut()
                .zip(weight)
                .for_each(|(out, weight)| *out *= weight);
        }
        if let Some(bias) = &bias {
            out.iter_mut()
                .zip(bias)
                .for_each(|(out, bias)| *out += bias);
        }
    })
}

/// RMS norm of the rows of a float32 matrix.
pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let size = x.dim(1)?;
    let weight = weight.to_vec1::<f32>()?;
    map_rows(x, |row, out| {
        let mean_square = lane_sum(row, |value| value * value) / size as f32;
        let scale = (mean_square + eps).sqrt().recip();
        for ((out, value), weight) in out.iter_mut().zip(row).zip(&weight) {
            *out = value * scale * weight;
        }
    })
}

fn map_rows(x: &Tensor, map: impl Fn(&[f32], &mut [f32])) -> Result<Tensor> {
    let (rows, size) = x.dims2()?;
    let (storage, layout) = x.storage_and_layout();
    let input = f32_slice(&storage, layout)?;
    let mut output = vec![0f32; rows * size];
    for (row, out) in input
        .chunks_exact(size.max(1))
        .zip(output.chunks_exact_mut(size.max(1)))
    {
        map(row, out);
    }
    Ok(Tensor::from_vec(output, (rows, size), &Device::Cpu)?)
}

/// The sum of `f` over the row: by lane, then over the lanes in order.
#[inline(always)]
pub(super) fn lane_sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (whole, rest) = row.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += f(*value);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane += f(*value);
    }
    lanes.iter().sum()
}
