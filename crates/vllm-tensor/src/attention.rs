use candle_core::{DType, Tensor};

use crate::metadata::DeviceSequence;
use crate::{AttentionMetadata, Error, LayerKvCache, Result, cpu, softmax_last_dim};

/// How scores are made of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionOptions {
    /// Factor on the scores, usually `head_dim^-0.5`.
    pub scale: f32,
    /// A token attends to this many positions, itself included; `None` is all before it.
    pub sliding_window: Option<usize>,
    /// Scores become `cap · tanh(score / cap)`.
    pub soft_cap: Option<f32>,
}

impl AttentionOptions {
    /// Full causal attention with the usual scale for heads of width `head_dim`.
    pub fn causal(head_dim: usize) -> Self {
        let scale = (head_dim as f32).sqrt().recip();
        Self {
            scale,
            sliding_window: None,
            soft_cap: None,
        }
    }
}

/// Stores the batch's `keys` and `values`, each `[tokens, num_kv_heads, head_dim]`, in their slots.
///
/// # Errors
/// Shapes that do not fit the cache or the batch.
pub fn write_kv(
    layer: &mut LayerKvCache,
    keys: &Tensor,
    values: &Tensor,
    metadata: &AttentionMetadata,
) -> Result<()> {
    let (num_blocks, block_size, num_kv_heads, head_dim) = layer.keys.dims4()?;
    metadata.check_cache(num_blocks, block_size)?;
    for tensor in [keys, values] {
        if tensor.dims() != [metadata.num_tokens(), num_kv_heads, head_dim] {
            return Err(Error::Shape {
                operation: "KV cache write",
                expected: format!("[{}, {num_kv_heads}, {head_dim}]", metadata.num_tokens()),
                actual: tensor.shape().clone(),
            });
        }
    }
    for (store, new) in [(&layer.keys, keys), (&layer.values, values)] {
        if cpu::takes(new) {
            cpu::write_slots(store, &new.contiguous()?, metadata.slot_mapping())?;
        } else {
            write_slots_plain(store, new, metadata)?;
        }
    }
    Ok(())
}

/// Causal attention of the batch's `queries`, `[tokens, num_heads, head_dim]`, over the cached keys
/// and values of their own sequences, those of this step included ([`write_kv`] comes first).
///
/// Query head `h` reads key head `h / (num_heads / num_kv_heads)`. The softmax runs in float32. The
/// result has the shape and dtype of `queries`.
///
/// # Errors
/// Shapes that do not fit the cache or the batch.
pub fn paged_attention(
    queries: &Tensor,
    layer: &LayerKvCache,
    metadata: &AttentionMetadata,
    options: &AttentionOptions,
) -> Result<Tensor> {
    let (num_blocks, block_size, num_kv_heads, head_dim) = layer.keys.dims4()?;
    metadata.check_cache(num_blocks, block_size)?;
    match *queries.dims() {
        [tokens, num_heads, width]
            if tokens == metadata.num_tokens()
                && width == head_dim
                && num_heads > 0
                && num_heads % num_kv_heads == 0 => {}
        _ => {
            return Err(Error::Shape {
                operation: "paged attention",
                expected: format!(
                    "queries [{}, a multiple of {num_kv_heads}, {head_dim}]",
                    metadata.num_tokens()
                ),
                actual: queries.shape().clone(),
            });
        }
    }
    if cpu::takes(queries) {
        cpu::paged_attention(&queries.contiguous()?, layer, metadata, options)
    } else {
        paged_attention_plain(queries, layer, metadata, options)
    }
}

pub(crate) fn write_slots_plain(
    store: &Tensor,
    new: &Tensor,
    metadata: &AttentionMetadata,
) -> Result<()> {
    let (num_blocks, block_size, num_kv_heads, head_dim) = store.dims4()?;
    let (num_slots, width) = (num_blocks * block_size, num_kv_heads * head_dim);
    let num_tokens = metadata.num_tokens();
    // A reshaped contiguous tensor shares its storage, so this writes into the cache itself.
    let store = store.reshape((num_slots, width))?;
    let new = new
        .to_dtype(store.dtype())?
        .reshape((num_tokens, width))?
        .contiguous()?;
    let slots = metadata.on_device()?.slots.reshape((num_tokens, 1))?;
    let slots = slots.broadcast_as((num_tokens, width))?.contiguous()?;
    Ok(store.scatter_set(&slots, &new, 0)?)
}

pub(crate) fn paged_attention_plain(
    queries: &Tensor,
    layer: &LayerKvCache,
    metadata: &AttentionMetadata,
    options: &AttentionOptions,
) -> Result<Tensor> {
    let uploaded = metadata.on_device()?;
    let outputs = metadata
        .sequences
        .iter()
        .zip(&uploaded.sequences)
        .map(|(layout, positions)| {
            let own_queries = queries.narrow(0, layout.query_start, layout.query_len)?;
            attend_sequence_plain(&own_queries, layer, positions, options)
        });
    Ok(Tensor::cat(&outputs.collect::<Result<Vec<_>>>()?, 0)?)
}

fn attend_sequence_plain(
    queries: &Tensor,
    layer: &LayerKvCache,
    sequence: &DeviceSequence,
    options: &AttentionOptions,
) -> Result<Tensor> {
    let (num_queries, num_heads, head_dim) = queries.dims3()?;
    let num_keys = sequence.key_slots.elem_count();
    let num_kv_heads = layer.keys.dim(2)?;
    let group = num_heads / num_kv_heads;
    // Query heads of one group become further rows of their key head: [kv_heads, group·queries, ·].
    let rows = queries.transpose(0, 1)?.contiguous()?.reshape((
        num_kv_heads,
        group * num_queries,
        head_dim,
    ))?;
    let gather = |store: &Tensor| -> Result<Tensor> {
        let by_slot = store.flatten_to(1)?;
        let own = by_slot.index_select(&sequence.key_slots, 0)?;
        Ok(own
            .transpose(0, 1)?
            .contiguous()?
            .to_dtype(queries.dtype())?)
    };
    let scores = rows.matmul(&gather(&layer.keys)?.transpose(1, 2)?)?;
    let mut scores = (scores.to_dtype(DType::F32)? * f64::from(options.scale))?;
    if let Some(cap) = options.soft_cap.map(f64::from) {
        scores = ((scores / cap)?.tanh()? * cap)?;
    }
    let distance = sequence
        .query_positions
        .broadcast_sub(&sequence.key_positions)?;
    let mut visible = distance.ge(0f32)?;
    if let Some(window) = options.sliding_window {
        visible = (visible * distance.lt(window as f32)?)?;
    }
    let scores = scores.reshape((num_heads, num_queries, num_keys))?;
    let visible = visible.broadcast_as(scores.shape())?.contiguous()?;
    let hidden = Tensor::full(f32::NEG_INFINITY, scores.shape(), scores.device())?;
    let scores = visible.where_cond(&scores, &hidden)?;
    let weights = softmax_last_dim(&scores)?
        .to_dtype(queries.dtype())?
        .reshape((num_kv_heads, group * num_queries, num_keys))?;
    let output = weights.matmul(&gather(&layer.values)?)?;
    Ok(output
        .reshape((num_heads, num_queries, head_dim))?
        .transpose(0, 1)?
        .contiguous()?)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;
    use crate::test_support::{assert_close, random_tensor};
    use crate::{BatchSequence, KvCache, KvCacheSpec};

    const NUM_BLOCKS: usize = 40;

    /// A cache whose first layer holds noise everywhere, and the batch laid out over it.
    fn noisy_cache(
        sequences: &[BatchSequence<'_>],
        block_size: usize,
        num_kv_heads: usize,
        head_dim: usize,
        dtype: DType,
    ) -> (KvCache, AttentionMetadata) {
        let spec = KvCacheSpec {
            num_layers: 1,
            num_kv_heads,
            head_dim,
            dtype,
        };
        let mut cache = KvCache::new(spec, NUM_BLOCKS, block_size, &Device::Cpu).unwrap();
        let shape = [NUM_BLOCKS, block_size, num_kv_heads, head_dim];
        let layer = cache.layer_mut(0).unwrap();
        layer.keys = (random_tensor(10, &shape) * 2.0)
            .unwrap()
            .to_dtype(dtype)
            .unwrap();
        layer.values = random_tensor(11, &shape).to_dtype(dtype).unwrap();
        let metadata = AttentionMetadata::new(sequences, &cache, &Device::Cpu).unwrap();
        (cache, metadata)
    }

    const MIXED_BATCH: [BatchSequence<'static>; 4] = [
        BatchSequence {
            query_start: 0,
            query_len: 1,
            context_len: 0,
            block_table: &[7],
        },
        BatchSequence {
            query_start: 1,
            query_len: 19,
            context_len: 0,
            block_table: &[3, 9, 1, 4, 12, 30, 31, 32],
        },
        BatchSequence {
            query_start: 20,
            query_len: 6,
            context_len: 13,
            block_table: &[2, 8, 0, 11, 13, 33, 34, 35],
        },
        BatchSequence {
            query_start: 26,
            query_len: 1,
            context_len: 27,
            block_table: &[39, 38, 37, 36, 20, 21, 22, 23, 24, 25],
        },
    ];

    #[test]
    fn the_fast_body_matches_the_plain_one() {
        for (block_size, num_heads, num_kv_heads, head_dim, dtype) in [
            (16, 4, 4, 8, DType::F32),
            (16, 6, 2, 64, DType::F32),
            (8, 4, 1, 80, DType::F16),
            (3, 2, 2, 20, DType::BF16),
        ] {
            let (mut cache, metadata) =
                noisy_cache(&MIXED_BATCH, block_size, num_kv_heads, head_dim, dtype);
            let layer = cache.layer_mut(0).unwrap();
            let queries = random_tensor(12, &[metadata.num_tokens(), num_heads, head_dim]);
            for (sliding_window, soft_cap) in [(None, None), (Some(5), None), (None, Some(2.0))] {
                let options = AttentionOptions {
                    sliding_window,
                    soft_cap,
                    ..AttentionOptions::causal(head_dim)
                };
                let plain = paged_attention_plain(&queries, layer, &metadata, &options).unwrap();
                let fast = paged_attention(&queries, layer, &metadata, &options).unwrap();
                assert_close(
                    &fast,
                    &plain,
                    1e-5,
                    &format!("{options:?} {dtype:?} {head_dim}"),
                );
            }
        }
    }

    #[test]
    fn a_window_of_one_sees_only_itself() {
        let (mut cache, metadata) = noisy_cache(&MIXED_BATCH, 16, 1, 4, DType::F32);
        let layer = cache.layer_mut(0).unwrap();
        let values = random_tensor(13, &[metadata.num_tokens(), 1, 4]);
        write_kv(layer, &random_tensor(14, &[27, 1, 4]), &values, &metadata).unwrap();
        let options = AttentionOptions {
            sliding_window: Some(1),
            ..AttentionOptions::causal(4)
        };
        let queries = random_tensor(15, &[27, 1, 4]);
        let output = paged_attention(&queries, layer, &metadata, &options).unwrap();
        assert_close(&output, &values, 1e-6, "own values");
    }

    #[test]
    fn rows_do_not_depend_on_chunks_or_on_the_batch() {
        let table: Vec<u32> = (5..15).collect();
        let whole = [BatchSequence {
            query_start: 0,
            query_len: 37,
            context_len: 0,
            block_table: &table,
        }];
        let (mut cache, metadata) = noisy_cache(&whole, 4, 2, 24, DType::F32);
        let layer_spec = *cache.spec();
        let queries = random_tensor(16, &[37, 4, 24]);
        let attend = |cache: &mut KvCache, queries: &Tensor, metadata: &AttentionMetadata| {
            let options = AttentionOptions {
                sliding_window: Some(20),
                ..AttentionOptions::causal(layer_spec.head_dim)
            };
            let layer = cache.layer_mut(0).unwrap();
            let output = paged_attention(queries, layer, metadata, &options).unwrap();
            output.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let together = attend(&mut cache, &queries, &metadata);
        for chunk in [1, 3, 4, 7, 36] {
            let mut pieces = Vec::new();
            for start in (0..37).step_by(chunk) {
                let query_len = chunk.min(37 - start);
                let own = [BatchSequence {
                    query_start: 0,
                    query_len,
                    context_len: start,
                    block_table: &table,
                }];
                let metadata = AttentionMetadata::new(&own, &cache, &Device::Cpu).unwrap();
                let own_queries = queries.narrow(0, start, query_len).unwrap();
                pieces.extend(attend(&mut cache, &own_queries, &metadata));
            }
            assert_eq!(pieces, together, "chunks of {chunk}");
        }
    }

    #[test]
    fn writes_land_in_their_slots_and_nowhere_else() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let (mut cache, metadata) = noisy_cache(&MIXED_BATCH, 16, 3, 8, dtype);
            let layer = cache.layer_mut(0).unwrap();
            let plain = layer.keys.copy().unwrap();
            let shape = [metadata.num_tokens(), 3, 8];
            let (keys, values) = (random_tensor(17, &shape), random_tensor(18, &shape));
            write_kv(layer, &keys, &values, &metadata).unwrap();
            write_slots_plain(&plain, &keys, &metadata).unwrap();
            let bytes = |tensor: &Tensor| -> Vec<f32> {
                let wide = tensor.to_dtype(DType::F32).unwrap();
                wide.flatten_all().unwrap().to_vec1().unwrap()
            };
            assert_eq!(bytes(&layer.keys), bytes(&plain), "{dtype:?}");
            let slots = Tensor::new(metadata.slot_mapping(), &Device::Cpu).unwrap();
            let read = layer
                .values
                .flatten_to(1)
                .unwrap()
                .index_select(&slots, 0)
                .unwrap();
            assert_eq!(
                bytes(&read),
                bytes(&values.to_dtype(dtype).unwrap()),
                "{dtype:?}"
            );
        }
    }

    #[test]
    fn misshapen_operands_are_refused() {
        let (mut cache, metadata) = noisy_cache(&MIXED_BATCH, 16, 2, 8, DType::F32);
        let options = AttentionOptions::causal(8);
        for shape in [[27, 3, 8], [26, 2, 8], [27, 2, 4]] {
            let layer = cache.layer_mut(0).unwrap();
            let tensor = random_tensor(19, &shape);
            assert!(
                paged_attention(&tensor, layer, &metadata, &options).is_err(),
                "{shape:?}"
            );
            assert!(
                write_kv(layer, &tensor, &tensor, &metadata).is_err(),
                "{shape:?}"
            );
        }
        let spec = *cache.spec();
        let mut smaller = KvCache::new(spec, 5, 16, &Device::Cpu).unwrap();
        let queries = random_tensor(20, &[27, 2, 8]);
        let layer = smaller.layer_mut(0).unwrap();
        let message = paged_attention(&queries, layer, &metadata, &options)
            .unwrap_err()
            .to_string();
        assert!(message.contains("KV cache of 5 blocks"), "{message}");
    }

    proptest! {
        #[test]
        fn any_ragged_batch_matches_the_plain_body(
            lengths in prop::collection::vec((1usize..12, 0usize..30), 1..5),
            block_size in 1usize..9,
            group in 1usize..4,
            num_kv_heads in 1usize..3,
            head_dim in 1usize..40,
            window in prop::option::of(1usize..20),
        ) {
            let tables: Vec<Vec<u32>> = lengths
                .iter()
                .map(|(query_len, context_len)| {
                    let needed = (query_len + context_len).div_ceil(block_size);
                    (0..needed).map(|block| ((block * 7 + 3) % NUM_BLOCKS) as u32).collect()
                })
                .collect();
            let mut query_start = 0;
            let mut sequences = Vec::new();
            for ((query_len, context_len), block_table) in lengths.iter().copied().zip(&tables) {
                sequences.push(BatchSequence { query_start, query_len, context_len, block_table });
                query_start += query_len;
            }
            let (mut cache, metadata) =
                noisy_cache(&sequences, block_size, num_kv_heads, head_dim, DType::F32);
            let layer = cache.layer_mut(0).unwrap();
            let queries = random_tensor(21, &[query_start, group * num_kv_heads, head_dim]);
            let options =
                AttentionOptions { sliding_window: window, ..AttentionOptions::causal(head_dim) };
            let plain = paged_attention_plain(&queries, layer, &metadata, &options).unwrap();
            let fast = paged_attention(&queries, layer, &metadata, &options).unwrap();
            assert_close(&fast, &plain, 1e-5, "attention");
        }
    }
}
