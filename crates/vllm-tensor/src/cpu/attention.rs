use candle_core::{Device, Tensor};

use super::dot::dot_tile;
use super::isa::{Isa, Kernel};
use super::pool;
use super::simd::{MAX_LANES, Simd, Stored};
use super::storage::{StoredSlice, f32_slice, stored_slice};
use crate::metadata::SequenceLayout;
use crate::{AttentionMetadata, AttentionOptions, Error, LayerKvCache, Result};

/// Query rows that one task computes.
const TASK_QUERIES: usize = 16;

/// Query rows, and keys, that the innermost loop of the scores works on together.
const TILE: usize = 4;

/// Paged attention for float32 queries; see [`crate::paged_attention`].
pub(crate) fn paged_attention(
    queries: &Tensor,
    layer: &LayerKvCache,
    metadata: &AttentionMetadata,
    options: &AttentionOptions,
) -> Result<Tensor> {
    let isa = Isa::current()?;
    let (query_storage, query_layout) = queries.storage_and_layout();
    let (key_storage, key_layout) = layer.keys.storage_and_layout();
    let (value_storage, value_layout) = layer.values.storage_and_layout();
    let keys = stored_slice(&key_storage, key_layout)?;
    let values = stored_slice(&value_storage, value_layout)?;
    let problem = Problem {
        queries: f32_slice(&query_storage, query_layout)?,
        num_heads: queries.dim(1)?,
        num_kv_heads: layer.keys.dim(2)?,
        head_dim: layer.keys.dim(3)?,
        metadata,
        options: *options,
    };
    let mut output = vec![0f32; queries.elem_count()];
    match (keys, values) {
        (StoredSlice::F32(keys), StoredSlice::F32(values)) => {
            attend(isa, &problem, keys, values, &mut output)?;
        }
        (StoredSlice::F16(keys), StoredSlice::F16(values)) => {
            attend(isa, &problem, keys, values, &mut output)?;
        }
        (StoredSlice::BF16(keys), StoredSlice::BF16(values)) => {
            attend(isa, &problem, keys, values, &mut output)?;
        }
        _ => {
            let dtype = layer.values.dtype();
            return Err(Error::UnsupportedDType {
                operation: "paged attention",
                dtype,
            });
        }
    }
    Ok(Tensor::from_vec(output, queries.shape(), &Device::Cpu)?)
}

/// What all tasks share.
struct Problem<'a> {
    queries: &'a [f32],
    num_heads: usize,
    num_kv_heads: usize,
    head_dim: usize,
    metadata: &'a AttentionMetadata,
    options: AttentionOptions,
}

fn attend<E: Stored>(
    isa: Isa,
    problem: &Problem<'_>,
    keys: &[E],
    values: &[E],
    output: &mut [f32],
) -> Result<()> {
    assert_eq!(keys.len(), values.len());
    assert_eq!(output.len(), problem.queries.len());
    let sequences = &problem.metadata.sequences;
    // One task for a few queries of one head of one sequence.
    let mut tasks = Vec::new();
    let mut work = 0usize;
    for sequence in sequences {
        work += sequence.query_len * sequence.total_len() * problem.num_heads * problem.head_dim;
        for first in (0..sequence.query_len).step_by(TASK_QUERIES) {
            tasks.extend((0..problem.num_heads).map(|head| (sequence, first, head)));
        }
    }
    let output = Output(output.as_mut_ptr());
    pool::for_each(tasks.len(), work, |task| {
        let (sequence, first, head) = tasks[task];
        let head_task = HeadTask {
            problem,
            keys,
            values,
            sequence,
            queries: first..(first + TASK_QUERIES).min(sequence.query_len),
            head,
            output: &output,
        };
        // SAFETY: the metadata was checked against this cache and these queries, and tasks write
        // different rows.
        unsafe { isa.run(head_task) }
    })
}

/// The result, written by all tasks at once.
struct Output(*mut f32);

// SAFETY: each task writes elements that no other one touches.
unsafe impl Sync for Output {}

/// Some query rows of one head of one sequence.
struct HeadTask<'a, E> {
    problem: &'a Problem<'a>,
    keys: &'a [E],
    values: &'a [E],
    sequence: &'a SequenceLayout,
    queries: std::ops::Range<usize>,
    head: usize,
    output: &'a Output,
}

impl<E: Stored> Kernel for HeadTask<'_, E> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let mut scores = Vec::new();
        let mut query = self.queries.start;
        // SAFETY: the queries are within the sequence.
        unsafe {
            while query + TILE <= self.queries.end {
                self.rows::<S, TILE>(query, &mut scores);
                query += TILE;
            }
            while query < self.queries.end {
                self.rows::<S, 1>(query, &mut scores);
                query += 1;
            }
        }
    }
}

impl<E: Stored> HeadTask<'_, E> {
    /// Computes `R` rows that follow one another. They share the reading of keys and nothing else:
    /// the values of each are those it would have alone.
    ///
    /// # Safety
    /// As [`Kernel::run`], with `query + R` queries in the sequence.
    #[inline(always)]
    unsafe fn rows<S: Simd, const R: usize>(&self, query: usize, scores: &mut Vec<f32>) {
        let position = self.sequence.context_len + query;
        let first_key = self.first_key(position);
        let num_keys = position + R - first_key;
        scores.clear();
        scores.resize(R * num_keys, 0.0);
        // SAFETY: the keys are those up to the last row's own position.
        unsafe { self.scores::<S, R>(query, first_key, num_keys, scores) };
        for r in 0..R {
            let own_first_key = self.first_key(position + r);
            let own = own_first_key - first_key..position + r + 1 - first_key;
            let weights = &mut scores[r * num_keys..][own];
            let sum = exponentials(weights);
            // SAFETY: the weights belong to the keys from the row's first to its own position.
            unsafe { self.weighted_values::<S>(query + r, own_first_key, weights, sum.recip()) };
        }
    }

    /// The first position that a query at `position` attends to.
    #[inline(always)]
    fn first_key(&self, position: usize) -> usize {
        match self.problem.options.sliding_window {
            Some(window) => (position + 1).saturating_sub(window.max(1)),
            None => 0,
        }
    }

    /// Scaled and capped scores of `R` queries with `num_keys` keys from `first_key` on, by query.
    ///
    /// # Safety
    /// As [`Kernel::run`], with these queries and keys in the sequence.
    #[inline(always)]
    unsafe fn scores<S: Simd, const R: usize>(
        &self,
        query: usize,
        first_key: usize,
        num_keys: usize,
        scores: &mut [f32],
    ) {
        let head_dim = self.problem.head_dim;
        let mut queries = [self.problem.queries.as_ptr(); R];
        for (r, row) in queries.iter_mut().enumerate() {
            // SAFETY: the row is one of this sequence's queries.
            *row = unsafe { row.add(self.query_offset(query + r)) };
        }
        let mut done = 0;
        while done < num_keys {
            let (offset, run) = self.cached_run(first_key + done, num_keys - done);
            let stride = self.token_stride();
            let mut key = 0;
            // SAFETY: the run is of slots within one block of the cache.
            unsafe {
                let start = self.keys.as_ptr().add(offset);
                while key + TILE <= run {
                    let mut tile = [start; TILE];
                    for (o, row) in tile.iter_mut().enumerate() {
                        *row = row.add((key + o) * stride);
                    }
                    let dots = dot_tile::<S, E, R, TILE>(queries, tile, head_dim);
                    for (r, dots) in dots.iter().enumerate() {
                        scores[r * num_keys + done + key..][..TILE].copy_from_slice(dots);
                    }
                    key += TILE;
                }
                while key < run {
                    let row = start.add(key * stride);
                    let dots = dot_tile::<S, E, R, 1>(queries, [row], head_dim);
                    for (r, [dot]) in dots.iter().enumerate() {
                        scores[r * num_keys + done + key] = *dot;
                    }
                    key += 1;
                }
            }
            done += run;
        }
        let AttentionOptions {
            scale, soft_cap, ..
        } = self.problem.options;
        for score in scores.iter_mut() {
            *score *= scale;
        }
        if let Some(cap) = soft_cap {
            for score in scores.iter_mut() {
                *score = (*score / cap).tanh() * cap;
            }
        }
    }

    /// Writes the sum of the values from `first_key` on, each times its weight and `factor`.
    ///
    /// # Safety
    /// As [`Kernel::run`], with this query and these keys in the sequence.
    #[inline(always)]
    unsafe fn weighted_values<S: Simd>(
        &self,
        query: usize,
        first_key: usize,
        weights: &[f32],
        factor: f32,
    ) {
        let head_dim = self.problem.head_dim;
        let stride = self.token_stride();
        // SAFETY: this row of the output is this task's alone.
        let output = unsafe {
            let row = self.output.0.add(self.query_offset(query));
            std::slice::from_raw_parts_mut(row, head_dim)
        };
        let mut done = 0;
        while done < weights.len() {
            let (offset, run) = self.cached_run(first_key + done, weights.len() - done);
            let weights = &weights[done..done + run];
            let mut dim = 0;
            // SAFETY: the run is of slots within one block of the cache, `dim` within the head.
            unsafe {
                let values = self.values.as_ptr().add(offset);
                while dim + 4 * S::LANES <= head_dim {
                    accumulate::<S, E, 4>(&mut output[dim..], values.add(dim), stride, weights);
                    dim += 4 * S::LANES;
                }
                while dim + S::LANES <= head_dim {
                    accumulate::<S, E, 1>(&mut output[dim..], values.add(dim), stride, weights);
                    dim += S::LANES;
                }
                while dim < head_dim {
                    for (key, weight) in weights.iter().enumerate() {
                        output[dim] += weight * (*values.add(dim + key * stride)).to_f32();
                    }
                    dim += 1;
                }
            }
            done += run;
        }
        for element in output {
            *element *= factor;
        }
    }

    /// Where the cache holds this head's part of the token at `position`, and how many of the next
    /// `wanted` tokens follow in the same block.
    #[inline(always)]
    fn cached_run(&self, position: usize, wanted: usize) -> (usize, usize) {
        let Problem {
            metadata,
            num_heads,
            num_kv_heads,
            head_dim,
            ..
        } = self.problem;
        let block_size = metadata.block_size;
        let block = metadata.block_table(self.sequence)[position / block_size] as usize;
        let slot = block * block_size + position % block_size;
        let kv_head = self.head / (num_heads / num_kv_heads);
        let run = wanted.min(block_size - position % block_size);
        ((slot * num_kv_heads + kv_head) * head_dim, run)
    }

    /// Elements from one token to the next within a block.
    #[inline(always)]
    fn token_stride(&self) -> usize {
        self.problem.num_kv_heads * self.problem.head_dim
    }

    /// Where this head's row of the sequence's query `query` lies in queries and output.
    #[inline(always)]
    fn query_offset(&self, query: usize) -> usize {
        let token = self.sequence.query_start + query;
        (token * self.problem.num_heads + self.head) * self.problem.head_dim
    }
}

/// Adds `weights.len()` rows of `N` vectors, `stride` elements apart, to `output`, one after the
/// other, each times its weight.
///
/// # Safety
/// The processor has the instructions of `S`; the rows are readable.
#[inline(always)]
unsafe fn accumulate<S: Simd, E: Stored, const N: usize>(
    output: &mut [f32],
    rows: *const E,
    stride: usize,
    weights: &[f32],
) {
    let output = &mut output[..N * S::LANES];
    // SAFETY: the output was just measured, the rows are the caller's promise.
    unsafe {
        let mut sums = [S::zero(); N];
        for (n, sum) in sums.iter_mut().enumerate() {
            *sum = S::load_f32(output.as_ptr().add(n * S::LANES));
        }
        for (key, weight) in weights.iter().enumerate() {
            let weight = S::splat(*weight);
            for (n, sum) in sums.iter_mut().enumerate() {
                let row = E::load::<S>(rows.add(key * stride + n * S::LANES));
                *sum = S::mul_add(weight, row, *sum);
            }
        }
        for (n, sum) in sums.iter().enumerate() {
            S::store(*sum, output.as_mut_ptr().add(n * S::LANES));
        }
    }
}

/// Replaces scores by `exp(score − max)` and returns their sum, taken by lane and then over the
/// lanes, so that it depends on nothing but the scores.
#[inline(always)]
fn exponentials(scores: &mut [f32]) -> f32 {
    let mut max = f32::NEG_INFINITY;
    for score in scores.iter() {
        max = max.max(*score);
    }
    let mut sums = [0f32; MAX_LANES];
    let (whole, rest) = scores.as_chunks_mut::<MAX_LANES>();
    for chunk in whole {
        for (sum, score) in sums.iter_mut().zip(chunk) {
            *score = exp(*score - max);
            *sum += *score;
        }
    }
    for (sum, score) in sums.iter_mut().zip(rest) {
        *score = exp(*score - max);
        *sum += *score;
    }
    let mut total = 0.0;
    for sum in sums {
        total += sum;
    }
    total
}

/// `e^x` for `x ≤ 0` to about one unit in the last place, without branches or calls so that loops
/// over it become vector instructions. Below the smallest normal number it stays there; NaN stays.
///
/// After range reduction to `|r| ≤ ln 2 / 2`, the Taylor polynomial of degree 7.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Adding this rounds to an integer, which then lies in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < -87.0 { -87.0 } else { x };
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut p = 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    let exponent = rounded
        .to_bits()
        .wrapping_sub(ROUND.to_bits())
        .wrapping_add(127);
    p * f32::from_bits(exponent << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close() {
        for step in 0..87_000 {
            let x = -(step as f32) / 1000.0;
            let (actual, expected) = (f64::from(exp(x)), f64::from(x).exp());
            let error = ((actual - expected) / expected).abs();
            assert!(error < 3e-7, "exp({x}) = {actual}, expected {expected}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
        assert!(exp(f32::NAN).is_nan());
    }
}
