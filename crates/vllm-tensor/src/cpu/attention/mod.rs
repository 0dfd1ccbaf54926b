//! Paged attention on the CPU.
//!
//! The keys of a sequence are cut into partitions at multiples of [`PARTITION_KEYS`] positions. Each
//! gives a query a softmax of its own and a weighted sum of values; those are merged in order (the
//! online softmax of Milakov and Gimelshein 2018, in the partitions of flash decoding). What is summed
//! in which order therefore depends on the query's own position and nothing else: not on what a step
//! computes beside it, on how a prompt was cut, or on the number of threads.
//!
//! A task takes some rows, pairs of a query and a head, that share a key head, over all their
//! partitions; where there are too few tasks for the threads, over some of them, and the results are
//! merged afterwards. Partitions that decoding sequences share, of a common beginning of their prompts, are
//! computed for all of them together.

#[cfg(target_arch = "x86_64")]
mod bf16;
mod engine;
mod plan;
mod product;
pub(super) mod softmax;
mod task;
mod widen;

use std::ops::Range;

use candle_core::Tensor;
use half::f16;

use self::engine::{PARTITION_KEYS, Vectors};
use self::plan::{Piece, Plan, Split, Tile};
use self::product::{Single, WidePairs};
use self::task::{Destination, State};
use super::isa::{Isa, Kernel};
use super::kv_store::{KvLayout, KvReader, KvStore};
use super::rows::{RowForm, RowTargets};
use super::simd::{MAX_LANES, Simd};
use super::storage::f32_slice;
use super::{pool, scratch};
use crate::{AttentionMetadata, AttentionOptions, KvCacheDType, LinearInput, Result};

/// Paged attention for contiguous float32 queries, `[tokens, num_heads, head_dim]`; gives rows
/// `[tokens, num_heads · head_dim]` in the form asked for. See [`crate::paged_attention`].
pub(crate) fn paged_attention(
    queries: &Tensor,
    store: &KvStore,
    metadata: &AttentionMetadata,
    options: &AttentionOptions,
    form: RowForm,
) -> Result<LinearInput> {
    paged_attention_with(Isa::current()?, queries, store, metadata, options, form)
}

/// The same with a given instruction set.
pub(crate) fn paged_attention_with(
    isa: Isa,
    queries: &Tensor,
    store: &KvStore,
    metadata: &AttentionMetadata,
    options: &AttentionOptions,
    form: RowForm,
) -> Result<LinearInput> {
    let (tokens, num_heads, head_dim) = queries.dims3()?;
    // Vectors of a head must not cross the runs of a rounded row.
    let form = match head_dim % MAX_LANES {
        0 => form,
        _ => RowForm::Wide,
    };
    let (query_storage, query_layout) = queries.storage_and_layout();
    let queries = f32_slice(&query_storage, query_layout)?;
    LinearInput::filled((tokens, num_heads * head_dim), form, |output| {
        attend_all(isa, (queries, num_heads), store, metadata, options, output)
    })
}

fn attend_all(
    isa: Isa,
    (queries, num_heads): (&[f32], usize),
    store: &KvStore,
    metadata: &AttentionMetadata,
    options: &AttentionOptions,
    output: RowTargets,
) -> Result<()> {
    let problem = Problem {
        queries,
        output,
        num_heads,
        group: num_heads / store.layout().num_kv_heads,
        store,
        reader: store.reader(),
        metadata,
        scale: options.scale * std::f32::consts::LOG2_E,
        soft_cap: options.soft_cap.map(|cap| cap * std::f32::consts::LOG2_E),
        window: options.sliding_window,
    };
    attend(isa, &problem)
}

/// What all tasks share.
struct Problem<'a> {
    /// `[tokens, num_heads, head_dim]`.
    queries: &'a [f32],
    /// `[tokens, num_heads · head_dim]`.
    output: RowTargets,
    num_heads: usize,
    /// Query heads of a key head.
    group: usize,
    store: &'a KvStore,
    reader: KvReader<'a>,
    metadata: &'a AttentionMetadata,
    /// Factor on queries, which makes scores in units of `ln 2`.
    scale: f32,
    /// In the same units.
    soft_cap: Option<f32>,
    window: Option<usize>,
}

impl Problem<'_> {
    #[inline(always)]
    fn layout(&self) -> &KvLayout {
        self.store.layout()
    }

    /// The token of the step and the head that a row of a tile is the query of.
    #[inline(always)]
    fn token_and_head(&self, tile: &Tile, row: usize) -> (usize, usize) {
        let (sequence, token, head) = tile.row(row, self.group);
        (
            sequence.query_start + token,
            tile.kv_head * self.group + head,
        )
    }

    /// The lanes that a row of a tile attends to.
    #[inline(always)]
    fn seen_by_row(&self, tile: &Tile, row: usize) -> Range<usize> {
        let (sequence, token, _) = tile.row(row, self.group);
        let position = sequence.context_len + token;
        let first = match self.window {
            Some(window) => (position + 1).saturating_sub(window.max(1)),
            None => 0,
        };
        self.layout().lane(first)..self.layout().lane(position) + 1
    }

    /// The lanes that any row of a tile attends to.
    #[inline(always)]
    fn seen_by_tile(&self, tile: &Tile) -> Range<usize> {
        let last = self.seen_by_row(tile, tile.rows.len() - 1);
        self.seen_by_row(tile, 0).start..last.end
    }

    /// The lanes of the sequence up to its last token.
    #[inline(always)]
    fn lanes_written(&self, tile: &Tile) -> usize {
        self.layout().lane(tile.sequence.total_len() - 1) + 1
    }

    /// The partitions that any row of a tile attends to.
    fn partitions(&self, tile: &Tile) -> Range<usize> {
        let seen = self.seen_by_tile(tile);
        seen.start / PARTITION_KEYS..seen.end.div_ceil(PARTITION_KEYS)
    }

    /// Keys and values of a tile's head in strip `strip` of the sequence.
    ///
    /// # Safety
    /// The sequence has this strip, and the metadata was checked against the store.
    #[inline(always)]
    unsafe fn strip(&self, tile: &Tile, strip: usize) -> (*const u8, *const u8) {
        let block_strips = self.layout().block_strips;
        let table = self.metadata.block_table(&tile.sequence);
        let block = table[strip / block_strips] as usize;
        // SAFETY: forwarded to the caller.
        unsafe { self.reader.strip(block, tile.kv_head, strip % block_strips) }
    }
}

fn attend(isa: Isa, problem: &Problem<'_>) -> Result<()> {
    let plan = Plan::new(problem)?;
    scratch::for_operation(plan.state_bytes, |states| {
        let states = States(states);
        pool::for_each(plan.pieces.len(), plan.work, |index| {
            run_piece(isa, problem, &plan, &plan.pieces[index], &states);
        })?;
        pool::for_each(plan.split.len(), plan.state_bytes, |index| {
            let split = &plan.split[index];
            // SAFETY: the pieces are done, and each tile is finished once.
            unsafe {
                isa.run(MergeKernel {
                    problem,
                    tile: &plan.tiles[split.tile],
                    split,
                    states: &states,
                });
            }
        })
    })
}

fn run_piece(isa: Isa, problem: &Problem<'_>, plan: &Plan, piece: &Piece, states: &States) {
    let layout = problem.layout();
    let tile = &plan.tiles[piece.tile];
    let destination = match piece.states {
        None => Destination::Output,
        Some(offset) => Destination::States {
            // SAFETY: the plan made room for the piece's states.
            first: unsafe { states.at(offset) },
            distance: tile.state_bytes(layout),
        },
    };
    scratch::for_task(task::scratch_bytes(layout, tile.rows.len()), |memory| {
        let kernel = PieceKernel {
            problem,
            tile,
            partitions: piece.partitions.clone(),
            destination,
            memory,
        };
        // SAFETY: the metadata was checked against the store and the queries, and pieces write to
        // places of their own.
        unsafe { kernel.run_on(isa) }
    });
}

/// The states of split tiles, written by all tasks at once.
struct States(*mut u8);

// SAFETY: each task touches its own.
unsafe impl Sync for States {}

impl States {
    /// # Safety
    /// The offset is within.
    unsafe fn at(&self, offset: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }
}

/// Work of one task.
struct PieceKernel<'a> {
    problem: &'a Problem<'a>,
    tile: &'a Tile,
    partitions: Range<usize>,
    destination: Destination,
    memory: *mut u8,
}

impl PieceKernel<'_> {
    /// # Safety
    /// As [`Kernel::run`], where the processor has `isa`.
    unsafe fn run_on(self, isa: Isa) {
        let layout = self.problem.layout();
        // SAFETY: forwarded to the caller.
        unsafe {
            match layout.dtype {
                #[cfg(target_arch = "x86_64")]
                KvCacheDType::BF16 | KvCacheDType::Fp8 | KvCacheDType::Int8
                    if isa.multiplies_bf16() =>
                {
                    if isa == Isa::Amx && bf16::Tiles::fits(layout) {
                        run_tiles(self);
                    } else {
                        run_pairs(self);
                    }
                }
                _ => isa.run(self),
            }
        }
    }
}

/// # Safety
/// As [`Kernel::run`], where the processor has AMX.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn run_tiles(kernel: PieceKernel<'_>) {
    // SAFETY: forwarded to the caller.
    unsafe { task::run::<bf16::Tiles>(kernel) }
}

/// # Safety
/// As [`Kernel::run`], where the processor has AVX-512-BF16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn run_pairs(kernel: PieceKernel<'_>) {
    // SAFETY: forwarded to the caller.
    unsafe { task::run::<Vectors<super::simd::Avx512, bf16::Pairs>>(kernel) }
}

impl Kernel for PieceKernel<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: the elements are those of the store; the rest is the caller's promise.
        unsafe {
            match self.problem.layout().dtype {
                KvCacheDType::F32 => task::run::<Vectors<S, Single<f32>>>(self),
                KvCacheDType::F16 => task::run::<Vectors<S, Single<f16>>>(self),
                KvCacheDType::BF16 | KvCacheDType::Fp8 | KvCacheDType::Int8 => {
                    task::run::<Vectors<S, WidePairs>>(self);
                }
            }
        }
    }
}

/// Merges the states of a tile's partitions and writes the results.
struct MergeKernel<'a> {
    problem: &'a Problem<'a>,
    tile: &'a Tile,
    split: &'a Split,
    states: &'a States,
}

impl Kernel for MergeKernel<'_> {
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let layout = self.problem.layout();
        let num_rows = self.tile.rows.len();
        // SAFETY: the plan made room for the states; those of the pieces are only read, and the sum is
        // this task's alone.
        unsafe {
            let total = State::at(self.states.at(self.split.total), layout, num_rows);
            total.clear(num_rows);
            for state in &self.split.states {
                let memory = self.states.at(state.offset);
                let rows = State::at(memory, layout, state.num_rows).skip(state.first_row);
                total.merge::<S>(rows, num_rows);
            }
            total.finish_tile::<S>(self.problem, self.tile);
        }
    }
}
