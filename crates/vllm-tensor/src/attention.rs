use candle_core::{DType, Tensor};

use crate::cpu::RowForm;
use crate::kv_cache::Store;
use crate::metadata::DeviceSequence;
use crate::{
    AttentionMetadata, Error, LayerKvCache, Linear, LinearInput, Result, RmsNorm, RotaryAngles,
    cpu, softmax_last_dim,
};

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

/// What a projection makes of the tokens of a batch, each `[tokens, heads, head_dim]`; views with
/// gaps between tokens and heads are read as they are.
#[derive(Clone, Copy, Debug)]
pub struct QueryKeyValue<'a> {
    /// Queries.
    pub queries: &'a Tensor,
    /// Keys.
    pub keys: &'a Tensor,
    /// Values.
    pub values: &'a Tensor,
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
    check_kv(layer, keys, values, metadata)?;
    match &mut layer.store {
        Store::Cpu(store) => {
            let (keys, values) = (cpu::heads(keys)?, cpu::heads(values)?);
            cpu::write(store, &keys, &values, metadata)
        }
        Store::Device {
            keys: key_store,
            values: value_store,
        } => {
            write_slots_plain(key_store, keys, metadata)?;
            write_slots_plain(value_store, values, metadata)
        }
    }
}

/// Normalizes each head of queries and of keys by `norms`, rotates them by `angles`, stores keys and
/// values in their slots, and returns the queries, `[tokens, num_heads, head_dim]`: one pass over what
/// a projection made, where models would otherwise make several copies.
///
/// # Errors
/// Shapes that do not fit the cache, the batch, the norms or the angles.
pub fn rotate_and_write_kv(
    layer: &mut LayerKvCache,
    new: QueryKeyValue<'_>,
    norms: Option<(&RmsNorm, &RmsNorm)>,
    angles: Option<&RotaryAngles>,
    metadata: &AttentionMetadata,
) -> Result<Tensor> {
    check_kv(layer, new.keys, new.values, metadata)?;
    check_queries(layer, new.queries, metadata)?;
    if let Some(angles) = angles {
        angles.check(new.queries)?;
    }
    let head_dim = layer.dims()[3];
    let norm_sizes = norms.map(|(queries, keys)| [queries.size(), keys.size()]);
    if let Some(size) = norm_sizes
        .into_iter()
        .flatten()
        .find(|size| *size != head_dim)
    {
        return Err(Error::Shape {
            operation: "norm of queries and keys",
            expected: format!("weights [{head_dim}]"),
            actual: size.into(),
        });
    }
    let tensors = [new.queries, new.keys, new.values];
    if let (Store::Cpu(store), true) = (&mut layer.store, tensors.into_iter().all(cpu::takes)) {
        let [queries, keys, values] = tensors.map(cpu::heads);
        let tensors = [&queries?, &keys?, &values?];
        let angles = angles.map(RotaryAngles::cosines_and_sines);
        return cpu::rotate_and_write(store, tensors, norms, angles, metadata);
    }
    rotate_and_write_plain(layer, new, norms, angles, metadata)
}

fn rotate_and_write_plain(
    layer: &mut LayerKvCache,
    new: QueryKeyValue<'_>,
    norms: Option<(&RmsNorm, &RmsNorm)>,
    angles: Option<&RotaryAngles>,
    metadata: &AttentionMetadata,
) -> Result<Tensor> {
    let (mut queries, mut keys) = (new.queries.contiguous()?, new.keys.contiguous()?);
    if let Some((query_norm, key_norm)) = norms {
        let head_dim = keys.dim(2)?;
        let normal = |norm: &RmsNorm, x: &Tensor| -> Result<Tensor> {
            Ok(norm
                .forward(&x.reshape(((), head_dim))?)?
                .reshape(x.shape())?)
        };
        (queries, keys) = (normal(query_norm, &queries)?, normal(key_norm, &keys)?);
    }
    if let Some(angles) = angles {
        (queries, keys) = (angles.rotate(&queries)?, angles.rotate(&keys)?);
    }
    write_kv(layer, &keys, new.values, metadata)?;
    Ok(queries)
}

fn check_kv(
    layer: &LayerKvCache,
    keys: &Tensor,
    values: &Tensor,
    metadata: &AttentionMetadata,
) -> Result<()> {
    let [num_blocks, block_size, num_kv_heads, head_dim] = layer.dims();
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
    Ok(())
}

fn check_queries(
    layer: &LayerKvCache,
    queries: &Tensor,
    metadata: &AttentionMetadata,
) -> Result<()> {
    let [num_blocks, block_size, num_kv_heads, head_dim] = layer.dims();
    metadata.check_cache(num_blocks, block_size)?;
    match *queries.dims() {
        [tokens, num_heads, width]
            if tokens == metadata.num_tokens()
                && width == head_dim
                && num_heads > 0
                && num_heads % num_kv_heads == 0 =>
        {
            Ok(())
        }
        _ => Err(Error::Shape {
            operation: "paged attention",
            expected: format!(
                "queries [{}, a multiple of {num_kv_heads}, {head_dim}]",
                metadata.num_tokens()
            ),
            actual: queries.shape().clone(),
        }),
    }
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
    let rows = attention_to(queries, layer, metadata, options, RowForm::Wide)?;
    Ok(rows.to_tensor()?.reshape(queries.shape())?)
}

/// [`paged_attention`] as input of the layer `next`: the heads of a token side by side,
/// `[tokens, num_heads · head_dim]`.
///
/// # Errors
/// Shapes that do not fit the cache or the batch.
pub fn paged_attention_for(
    queries: &Tensor,
    layer: &LayerKvCache,
    metadata: &AttentionMetadata,
    options: &AttentionOptions,
    next: &Linear,
) -> Result<LinearInput> {
    attention_to(queries, layer, metadata, options, next.row_form()?)
}

fn attention_to(
    queries: &Tensor,
    layer: &LayerKvCache,
    metadata: &AttentionMetadata,
    options: &AttentionOptions,
    form: RowForm,
) -> Result<LinearInput> {
    check_queries(layer, queries, metadata)?;
    match &layer.store {
        Store::Cpu(store) if cpu::takes(queries) => {
            cpu::paged_attention(&queries.contiguous()?, store, metadata, options, form)
        }
        _ => {
            let attended = paged_attention_plain(queries, layer, metadata, options)?;
            Ok(attended.flatten_from(1)?.into())
        }
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
    let (keys, values) = (layer.keys()?, layer.values()?);
    let outputs = metadata
        .sequences
        .iter()
        .zip(&uploaded.sequences)
        .map(|(layout, positions)| {
            let own_queries = queries.narrow(0, layout.query_start, layout.query_len)?;
            attend_sequence_plain(&own_queries, (&keys, &values), positions, options)
        });
    Ok(Tensor::cat(&outputs.collect::<Result<Vec<_>>>()?, 0)?)
}

fn attend_sequence_plain(
    queries: &Tensor,
    (keys, values): (&Tensor, &Tensor),
    sequence: &DeviceSequence,
    options: &AttentionOptions,
) -> Result<Tensor> {
    let (num_queries, num_heads, head_dim) = queries.dims3()?;
    let num_keys = sequence.key_slots.elem_count();
    let num_kv_heads = keys.dim(2)?;
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
    let scores = rows.matmul(&gather(keys)?.transpose(1, 2)?)?;
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
    let output = weights.matmul(&gather(values)?)?;
    Ok(output
        .reshape((num_heads, num_queries, head_dim))?
        .transpose(0, 1)?
        .contiguous()?)
}

#[cfg(test)]
mod tests;
