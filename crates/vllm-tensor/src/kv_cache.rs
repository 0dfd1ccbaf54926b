use candle_core::{Device, Tensor};

use crate::cpu::KvStore;
use crate::{Error, KvCacheDType, Result};

/// What a model stores of every token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvCacheSpec {
    /// Layers with attention.
    pub num_layers: usize,
    /// Key and value heads of a layer.
    pub num_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// How keys and values are stored.
    pub dtype: KvCacheDType,
}

impl KvCacheSpec {
    /// Bytes that one block of `block_size` tokens takes on `device` over all layers, keys and values
    /// together, what fills up the layout included.
    pub fn bytes_per_block(&self, block_size: usize, device: &Device) -> usize {
        let of_one_layer = if device.is_cpu() {
            KvStore::bytes_per_block(self, block_size)
        } else {
            let elements_per_token = 2 * self.num_kv_heads * self.head_dim;
            block_size * elements_per_token * self.dtype.size_in_bytes()
        };
        self.num_layers * of_one_layer
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

/// The keys and values of one layer.
#[derive(Debug)]
pub struct LayerKvCache {
    pub(crate) store: Store,
    shape: [usize; 4],
}

#[derive(Debug)]
pub(crate) enum Store {
    /// In the layout that the CPU's kernels read.
    Cpu(KvStore),
    /// Tensors of `[num_blocks, block_size, num_kv_heads, head_dim]`.
    Device { keys: Tensor, values: Tensor },
}

impl KvCache {
    /// A zeroed cache of `num_blocks` blocks.
    ///
    /// # Errors
    /// A count of zero, a dtype that the device cannot use, or no memory on the device.
    pub fn new(
        spec: KvCacheSpec,
        num_blocks: usize,
        block_size: usize,
        device: &Device,
    ) -> Result<Self> {
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
        let layers = (0..spec.num_layers).map(|_| {
            let store = if device.is_cpu() {
                Store::Cpu(KvStore::new(&spec, num_blocks, block_size)?)
            } else {
                let dtype = spec.dtype.tensor_dtype()?;
                Store::Device {
                    keys: Tensor::zeros(&shape, dtype, device)?,
                    values: Tensor::zeros(&shape, dtype, device)?,
                }
            };
            Ok(LayerKvCache { store, shape })
        });
        Ok(Self {
            layers: layers.collect::<Result<_>>()?,
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
    /// `[num_blocks, block_size, num_kv_heads, head_dim]`.
    pub fn dims(&self) -> [usize; 4] {
        self.shape
    }

    /// The stored keys, `[num_blocks, block_size, num_kv_heads, head_dim]`: on a GPU the store
    /// itself, on the CPU a copy in float32, for inspection.
    ///
    /// # Errors
    /// The copy does not fit in memory.
    pub fn keys(&self) -> Result<Tensor> {
        match &self.store {
            Store::Cpu(store) => self.copied(store.all_keys()),
            Store::Device { keys, .. } => Ok(keys.clone()),
        }
    }

    /// The stored values, as [`LayerKvCache::keys`].
    ///
    /// # Errors
    /// The copy does not fit in memory.
    pub fn values(&self) -> Result<Tensor> {
        match &self.store {
            Store::Cpu(store) => self.copied(store.all_values()),
            Store::Device { values, .. } => Ok(values.clone()),
        }
    }

    /// Sets all keys and values, `[num_blocks, block_size, num_kv_heads, head_dim]`.
    #[cfg(test)]
    pub(crate) fn fill(&mut self, keys: &Tensor, values: &Tensor) {
        let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1().unwrap();
        match &mut self.store {
            Store::Cpu(store) => store.fill(&flat(keys), &flat(values)),
            Store::Device { .. } => unreachable!("tests run on the CPU"),
        }
    }

    fn copied(&self, elements: Vec<f32>) -> Result<Tensor> {
        Ok(Tensor::from_vec(elements, &self.shape, &Device::Cpu)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: KvCacheSpec = KvCacheSpec {
        num_layers: 2,
        num_kv_heads: 3,
        head_dim: 16,
        dtype: KvCacheDType::BF16,
    };

    #[test]
    fn sizes() {
        let bytes = 2 * 2 * 3 * 16 * 16 * 2;
        assert_eq!(SPEC.bytes_per_block(16, &Device::Cpu), bytes);
        // Blocks of the CPU come in groups of 16 slots.
        assert_eq!(SPEC.bytes_per_block(3, &Device::Cpu), bytes);
        let mut cache = KvCache::new(SPEC, 5, 16, &Device::Cpu).unwrap();
        let layer = cache.layer_mut(1).unwrap();
        assert_eq!(layer.keys().unwrap().dims(), [5, 16, 3, 16]);
        assert!(cache.layer_mut(2).is_err());
    }

    #[test]
    fn impossible_caches_are_refused() {
        assert!(KvCache::new(SPEC, 0, 16, &Device::Cpu).is_err());
        assert!(KvCache::new(SPEC, usize::MAX, 16, &Device::Cpu).is_err());
        let wide = KvCacheSpec {
            head_dim: usize::MAX / 8,
            ..SPEC
        };
        assert!(KvCache::new(wide, 1 << 20, 16, &Device::Cpu).is_err());
    }
}
