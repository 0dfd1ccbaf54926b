use candle_core::{CpuStorage, DType, Device, Layout, Storage, Tensor};

use super::isa::{Isa, Kernel};
use super::kv_store::{KvStore, KvWriter};
use super::norm::lane_sum;
use super::simd::Simd;
use super::storage::{f32_slice, filled};
use super::{pool, scratch};
use crate::{AttentionMetadata, Error, Result, RmsNorm};

/// Tokens that one task prepares.
const TASK_TOKENS: usize = 8;

/// `x`, `[tokens, heads, head_dim]`, as the functions below read it: in float32, heads without gaps.
pub(crate) fn heads(x: &Tensor) -> Result<Tensor> {
    let x = x.to_dtype(DType::F32)?;
    match x.stride() {
        [_, _, 1] => Ok(x),
        _ => Ok(x.contiguous()?),
    }
}

/// Writes `keys` and `values`, `[tokens, num_kv_heads, head_dim]`, to their slots.
pub(crate) fn write(
    store: &mut KvStore,
    keys: &Tensor,
    values: &Tensor,
    metadata: &AttentionMetadata,
) -> Result<()> {
    let views = [keys, values].map(Tensor::storage_and_layout);
    let preparation = Preparation {
        queries: None,
        keys: Heads::new(&views[0].0, views[0].1)?,
        values: Heads::new(&views[1].0, views[1].1)?,
        norms: None,
        angles: None,
        slots: metadata.slot_mapping(),
        writer: store.writer(),
    };
    prepare(
        preparation,
        metadata,
        keys.elem_count() + values.elem_count(),
    )
}

/// Normalizes and rotates queries and keys, writes keys and values to their slots, and returns the
/// queries, contiguous. All are float32 `[tokens, heads, head_dim]` and fit each other; angles are
/// cosines and sines, `[tokens, half]`.
pub(crate) fn rotate_and_write(
    store: &mut KvStore,
    [queries, keys, values]: [&Tensor; 3],
    norms: Option<(&RmsNorm, &RmsNorm)>,
    angles: Option<(&Tensor, &Tensor)>,
    metadata: &AttentionMetadata,
) -> Result<Tensor> {
    let views = [queries, keys, values].map(Tensor::storage_and_layout);
    let norms = norms.map(|(queries, keys)| [queries.parameters(), keys.parameters()]);
    let norm_views = norms.map(|norms| norms.map(|(weight, _)| weight.storage_and_layout()));
    let norms = match (&norms, &norm_views) {
        (Some([(_, query_eps), (_, key_eps)]), Some([query, key])) => Some([
            (f32_slice(&query.0, query.1)?, *query_eps),
            (f32_slice(&key.0, key.1)?, *key_eps),
        ]),
        _ => None,
    };
    let angle_views = angles.map(|(cosines, sines)| {
        let half = cosines.dims()[1];
        (
            cosines.storage_and_layout(),
            sines.storage_and_layout(),
            half,
        )
    });
    let angles = match &angle_views {
        Some((cosines, sines, half)) => Some(Angles {
            cosines: f32_slice(&cosines.0, cosines.1)?,
            sines: f32_slice(&sines.0, sines.1)?,
            half: *half,
        }),
        None => None,
    };
    let work = queries.elem_count() + keys.elem_count() + values.elem_count();
    let output = filled(queries.elem_count(), |output| {
        let preparation = Preparation {
            queries: Some((Heads::new(&views[0].0, views[0].1)?, Output(output))),
            keys: Heads::new(&views[1].0, views[1].1)?,
            values: Heads::new(&views[2].0, views[2].1)?,
            norms,
            angles,
            slots: metadata.slot_mapping(),
            writer: store.writer(),
        };
        prepare(preparation, metadata, work)
    })?;
    Ok(Tensor::from_vec(output, queries.shape(), &Device::Cpu)?)
}

/// Heads of tokens, each head without gaps.
struct Heads<'a> {
    elements: &'a [f32],
    num_heads: usize,
    head_dim: usize,
    token_stride: usize,
    head_stride: usize,
}

impl<'a> Heads<'a> {
    fn new(storage: &'a Storage, layout: &Layout) -> Result<Self> {
        let (&[_, num_heads, head_dim], &[token_stride, head_stride, 1]) =
            (layout.dims(), layout.stride())
        else {
            return Err(Error::Shape {
                operation: "KV cache write",
                expected: "[tokens, heads, head_dim] with heads without gaps".to_owned(),
                actual: layout.shape().clone(),
            });
        };
        let Storage::Cpu(CpuStorage::F32(all)) = storage else {
            return Err(Error::UnsupportedDType {
                operation: "KV cache write",
                dtype: storage.dtype(),
            });
        };
        Ok(Self {
            elements: &all[layout.start_offset()..],
            num_heads,
            head_dim,
            token_stride,
            head_stride,
        })
    }

    #[inline(always)]
    fn row(&self, token: usize, head: usize) -> &'a [f32] {
        let start = token * self.token_stride + head * self.head_stride;
        &self.elements[start..start + self.head_dim]
    }
}

struct Angles<'a> {
    cosines: &'a [f32],
    sines: &'a [f32],
    half: usize,
}

/// The queries, written by all tasks at once.
struct Output(*mut f32);

// SAFETY: each task writes the tokens of its own.
unsafe impl Sync for Output {}

struct Preparation<'a> {
    queries: Option<(Heads<'a>, Output)>,
    keys: Heads<'a>,
    values: Heads<'a>,
    /// Weight and epsilon, for queries and keys.
    norms: Option<[(&'a [f32], f32); 2]>,
    angles: Option<Angles<'a>>,
    slots: &'a [u32],
    writer: KvWriter<'a>,
}

fn prepare(preparation: Preparation<'_>, metadata: &AttentionMetadata, work: usize) -> Result<()> {
    let isa = Isa::current()?;
    let num_tokens = preparation.slots.len();
    // Tokens that share a slot must be written in order.
    let task_tokens = if metadata.slots_are_distinct {
        TASK_TOKENS
    } else {
        num_tokens.max(1)
    };
    let row_bytes = preparation.keys.head_dim * size_of::<f32>();
    pool::for_each(num_tokens.div_ceil(task_tokens), work, |task| {
        let first = task * task_tokens;
        scratch::for_task(row_bytes, |memory| {
            let kernel = PrepareKernel {
                preparation: &preparation,
                tokens: first..(first + task_tokens).min(num_tokens),
                row: memory.cast(),
            };
            // SAFETY: tasks have slots of their own, and so do their queries.
            unsafe { isa.run(kernel) }
        });
    })
}

/// Some tokens.
struct PrepareKernel<'a> {
    preparation: &'a Preparation<'a>,
    tokens: std::ops::Range<usize>,
    /// Room for a head.
    row: *mut f32,
}

impl Kernel for PrepareKernel<'_> {
    /// # Safety
    /// Nobody else writes to the slots or queries of the tokens.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Preparation {
            queries,
            keys,
            values,
            norms,
            slots,
            writer,
            ..
        } = self.preparation;
        let head_dim = keys.head_dim;
        // SAFETY: the row has room for a head; queries and slots are the caller's promise.
        unsafe {
            for token in self.tokens.clone() {
                if let Some((queries, output)) = queries {
                    for head in 0..queries.num_heads {
                        let to = output.0.add((token * queries.num_heads + head) * head_dim);
                        let to = std::slice::from_raw_parts_mut(to, head_dim);
                        self.turn(
                            queries.row(token, head),
                            norms.map(|norms| norms[0]),
                            token,
                            to,
                        );
                    }
                }
                let row = std::slice::from_raw_parts_mut(self.row, head_dim);
                for head in 0..keys.num_heads {
                    self.turn(
                        keys.row(token, head),
                        norms.map(|norms| norms[1]),
                        token,
                        row,
                    );
                    writer.write(slots[token], head, row, values.row(token, head));
                }
            }
        }
    }
}

impl PrepareKernel<'_> {
    /// Writes a head, normalized and rotated.
    #[inline(always)]
    fn turn(&self, from: &[f32], norm: Option<(&[f32], f32)>, token: usize, to: &mut [f32]) {
        match norm {
            None => to.copy_from_slice(from),
            Some((weight, eps)) => {
                let mean_square = lane_sum(from, |value| value * value) / from.len() as f32;
                let scale = (mean_square + eps).sqrt().recip();
                for ((to, from), weight) in to.iter_mut().zip(from).zip(weight) {
                    *to = from * scale * weight;
                }
            }
        }
        if let Some(Angles {
            cosines,
            sines,
            half,
        }) = self.preparation.angles
        {
            let angles = token * half..(token + 1) * half;
            rotate_head(to, &cosines[angles.clone()], &sines[angles]);
        }
    }
}

/// Rotates the first elements of a head, two for each angle.
#[inline(always)]
pub(super) fn rotate_head(head: &mut [f32], cosines: &[f32], sines: &[f32]) {
    let (first, rest) = head.split_at_mut(cosines.len());
    let pairs = first.iter_mut().zip(rest).zip(cosines.iter().zip(sines));
    for ((first, second), (cosine, sine)) in pairs {
        (*first, *second) = (
            *first * cosine - *second * sine,
            *second * cosine + *first * sine,
        );
    }
}
