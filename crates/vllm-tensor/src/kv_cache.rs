use candle_core::{DType, Device, Tensor, WithDType};

use crate::{Error, Result};

/// What a model stores of every token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvCacheSpec {
    /// Layers with attention.
    pub num_layers: usize,
    /// Key and value heads of a layer.
    pub num_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// How keys and values are stored: float32, float16 or bfloat16.
    pub dtype: DType,
}

impl KvCacheSpec {
    /// Bytes that one block of `block_size` tokens takes over all layers, keys and values together.
    pub fn bytes_per_block(&self, block_size: usize) -> usize {
        let elements_per_token = 2 * self.num_layers * self.num_kv_heads * self.head_dim;
        block_size * elements_per_token * self.dtype.size_in_bytes()
    }
}

/// The paged store of keys and values: fixed blocks of token slots, for each layer.
///
/// Slot `block * block_size + offset` holds the token at `offset` within `block`.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<LayerKvCache>,
    spec: KvCacheSpec,
    num_blocks: usize,
    block_size: usize,
}

/// The keys and values of one layer, each `[num_blocks, block_size, num_kv_heads, head_dim]`.
#[derive(Debug)]
pub struct LayerKvCache {
    pub(crate) keys: Tensor,
    pub(crate) values: Tensor,
}

impl KvCache {
    /// A zeroed cache of `num_blocks` blocks.
    ///
    /// # Errors
    /// A count of zero, a dtype that cannot hold keys and values, or no memory on the device.
    pub fn new(
        spec: KvCacheSpec,
        num_blocks: usize,
        block_size: usize,
        device: &Device,
    ) -> Result<Self> {
        if !matches!(spec.dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Err(Error::UnsupportedDType {
                operation: "KV cache",
                dtype: spec.dtype,
            });
        }
        let shape = [num_blocks, block_size, spec.num_kv_heads, spec.head_dim];
        let num_slots = num_blocks
            .checked_mul(block_size)
            .and_then(|n| u32::try_from(n).ok());
        if shape.contains(&0) || num_slots.is_none() {
            return Err(Error::Shape {
                operation: "KV cache",
                expected: "positive sizes and at most 2^32 slots".to_owned(),
                actual: shape.to_vec().into(),
            });
        }
        let layers = (0..spec.num_layers)
            .map(|_| {
                Ok(LayerKvCache {
                    keys: zeros(shape, spec.dtype, device)?,
                    values: zeros(shape, spec.dtype, device)?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            layers,
            spec,
            num_blocks,
            block_size,
        })
    }

    /// The store of layer `index`, counted from 0.
    ///
    /// # Errors
    /// The model has more layers than the cache was made for.
    pub fn layer_mut(&mut self, index: usize) -> Result<&mut LayerKvCache> {
        let num_layers = self.layers.len();
        self.layers.get_mut(index).ok_or_else(|| {
            Error::Batch(format!(
                "layer {index} asked of a KV cache of {num_layers} layers"
            ))
        })
    }

    /// What the cache was made for.
    pub fn spec(&self) -> &KvCacheSpec {
        &self.spec
    }

    /// Number of blocks.
    pub fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// Tokens in a block.
    pub fn block_size(&self) -> usize {
        self.block_size
    }
}

impl LayerKvCache {
    /// The stored keys, `[num_blocks, block_size, num_kv_heads, head_dim]`.
    pub fn keys(&self) -> &Tensor {
        &self.keys
    }

    /// The stored values, `[num_blocks, block_size, num_kv_heads, head_dim]`.
    pub fn values(&self) -> &Tensor {
        &self.values
    }
}

/// A zeroed tensor. On the CPU half-precision zeros are pages that the system has not handed out
/// yet, so that a large cache takes memory and time only as it fills; candle would write them all.
fn zeros(shape: [usize; 4], dtype: DType, device: &Device) -> Result<Tensor> {
    fn untouched<T: bytemuck::Zeroable + WithDType>(shape: [usize; 4]) -> Result<Tensor> {
        let zeros = bytemuck::zeroed_vec::<T>(shape.iter().product());
        Ok(Tensor::from_vec(zeros, &shape, &Device::Cpu)?)
    }
    match (device, dtype) {
        (Device::Cpu, DType::F16) => untouched::<half::f16>(shape),
        (Device::Cpu, DType::BF16) => untouched::<half::bf16>(shape),
        _ => Ok(Tensor::zeros(&shape, dtype, device)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: KvCacheSpec = KvCacheSpec {
        num_layers: 2,
        num_kv_heads: 3,
        head_dim: 8,
        dtype: DType::BF16,
    };

    #[test]
    fn sizes() {
        assert_eq!(SPEC.bytes_per_block(16), 2 * 2 * 3 * 8 * 16 * 2);
        let mut cache = KvCache::new(SPEC, 5, 16, &Device::Cpu).unwrap();
        assert_eq!(cache.layer_mut(1).unwrap().keys().dims(), [5, 16, 3, 8]);
        assert!(cache.layer_mut(2).is_err());
    }

    #[test]
    fn impossible_caches_are_refused() {
        assert!(KvCache::new(SPEC, 0, 16, &Device::Cpu).is_err());
        assert!(KvCache::new(SPEC, usize::MAX, 16, &Device::Cpu).is_err());
        let integers = KvCacheSpec {
            dtype: DType::I64,
            ..SPEC
        };
        assert!(KvCache::new(integers, 1, 16, &Device::Cpu).is_err());
    }
}
