//! One task: the attention of some queries of a key head over some partitions of their sequence.

use std::ops::Range;

use super::engine::{self, Engine, PARTITION, PARTITION_KEYS, Part, RowOf, SCORE_BYTES};
use super::plan::Tile;
use super::product::{Product, Rows};
use super::softmax::{Softmax, exp2, soft_cap};
use super::widen::{self, Widened};
use super::{PieceKernel, Problem};
use crate::cpu::kv_store::{KvLayout, STRIP};
use crate::cpu::scratch::lines_of;
use crate::cpu::simd::Simd;

/// Rows of a task at the most.
pub(super) const MAX_ROWS: usize = 64;

/// What is known of rows after some partitions: a softmax of each, and sums of their values,
/// `[rows, value_width]`.
#[derive(Clone, Copy)]
pub(super) struct State {
    pub(super) softmax: *mut Softmax,
    pub(super) values: Rows<f32>,
}

impl State {
    /// Bytes of the state of `num_rows` rows.
    pub(super) fn bytes(layout: &KvLayout, num_rows: usize) -> usize {
        lines_of::<Softmax>(num_rows) + num_rows * layout.value_width * size_of::<f32>()
    }

    /// A state that lies at `memory`, [`State::bytes`] of it.
    ///
    /// # Safety
    /// There is so much memory.
    pub(super) unsafe fn at(memory: *mut u8, layout: &KvLayout, num_rows: usize) -> Self {
        Self {
            softmax: memory.cast(),
            values: Rows {
                // SAFETY: the caller's promise.
                first: unsafe { memory.add(lines_of::<Softmax>(num_rows)) }.cast(),
                stride: layout.value_width,
            },
        }
    }

    /// That of the rows from `row` on.
    ///
    /// # Safety
    /// The state has the row.
    pub(super) unsafe fn skip(self, row: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            Self {
                softmax: self.softmax.add(row),
                values: Rows {
                    first: self.values.row(row),
                    ..self.values
                },
            }
        }
    }

    /// That of no keys.
    ///
    /// # Safety
    /// The state is of so many rows, which nobody else uses.
    pub(super) unsafe fn clear(self, num_rows: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            for row in 0..num_rows {
                self.softmax.add(row).write(Softmax::EMPTY);
            }
            self.values
                .first
                .write_bytes(0, num_rows * self.values.stride);
        }
    }

    /// Becomes like another.
    ///
    /// # Safety
    /// Both are of so many rows, which nobody else writes.
    unsafe fn copy(self, other: Self, num_rows: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            self.softmax
                .copy_from_nonoverlapping(other.softmax, num_rows);
            let elements = num_rows * self.values.stride;
            self.values
                .first
                .copy_from_nonoverlapping(other.values.first, elements);
        }
    }

    /// Takes in what is known of the same rows from the keys that follow.
    ///
    /// # Safety
    /// Both are of so many rows, which nobody else writes; the processor has the instructions of
    /// `S`.
    #[inline(always)]
    pub(super) unsafe fn merge<S: Simd>(self, next: Self, num_rows: usize) {
        // SAFETY: the caller's promise; rows are whole vectors.
        unsafe {
            for row in 0..num_rows {
                let (own, others) = (*self.softmax.add(row)).merge::<S>(*next.softmax.add(row));
                let (own, others) = (S::splat(own), S::splat(others));
                let (to, from) = (self.values.row(row), next.values.row(row));
                for dim in (0..self.values.stride).step_by(S::LANES) {
                    let mine = S::mul(S::load_f32(to.add(dim)), own);
                    let sum = S::mul_add(S::load_f32(from.add(dim)), others, mine);
                    S::store(sum, to.add(dim));
                }
            }
        }
    }

    /// Writes the results of a tile.
    ///
    /// # Safety
    /// The state has the tile's rows, nobody else writes their part of the output, and the processor
    /// has the instructions of `S`.
    #[inline(always)]
    pub(super) unsafe fn finish_tile<S: Simd>(self, problem: &Problem<'_>, tile: &Tile) {
        let head_dim = problem.layout().head_dim;
        let whole = head_dim - head_dim % S::LANES;
        for row in 0..tile.rows.len() {
            let (token, head) = problem.token_and_head(tile, row);
            let (to, first) = (problem.output.row(token), head * head_dim);
            // SAFETY: the caller's promise; the elements are within the output's row.
            unsafe {
                let (values, sum) = (self.values.row(row), (*self.softmax.add(row)).sum);
                // Zeros are positive whatever they were summed from: hence the sums with zero.
                for dim in (0..whole).step_by(S::LANES) {
                    let value = S::div(S::load_f32(values.add(dim)), S::splat(sum));
                    to.store::<S>(S::add(value, S::zero()), first + dim);
                }
                for dim in whole..head_dim {
                    to.write(*values.add(dim) / sum + 0.0, first + dim);
                }
            }
        }
    }
}

/// Where a task's results go.
#[derive(Clone, Copy)]
pub(super) enum Destination {
    /// Into the output: the task has all partitions.
    Output,
    /// Into a state for each of its partitions, so many bytes apart.
    States { first: *mut u8, distance: usize },
}

/// Rows that there is room for where `num_rows` are wanted: tiles of AMX have 16.
pub(super) fn room(num_rows: usize) -> usize {
    num_rows.next_multiple_of(16)
}

/// Bytes of queries, of scores, of two states, for the engine, and of widened strips.
fn scratch_sizes(layout: &KvLayout, num_rows: usize) -> [usize; 5] {
    let room = room(num_rows);
    [
        room * query_width(layout) * size_of::<f32>(),
        room * SCORE_BYTES,
        2 * State::bytes(layout, room),
        engine::extra_bytes(layout),
        widen::bytes(layout),
    ]
}

/// Bytes of memory for [`run`].
pub(super) fn scratch_bytes(layout: &KvLayout, num_rows: usize) -> usize {
    scratch_sizes(layout, num_rows).iter().sum()
}

/// Elements from one row of queries to the next.
fn query_width(layout: &KvLayout) -> usize {
    layout.head_dim.next_multiple_of(32)
}

/// Does a piece's work.
///
/// # Safety
/// The processor has the instructions of `E`, whose elements are those of the store; the tile and its
/// partitions are the problem's; the memory has [`scratch_bytes`] on a cache line; nobody else writes
/// to the destination.
#[inline(always)]
pub(super) unsafe fn run<E: Engine>(piece: PieceKernel<'_>) {
    let layout = piece.problem.layout();
    let num_rows = piece.tile.rows.len();
    let sizes = scratch_sizes(layout, num_rows);
    // SAFETY: the sum of the sizes is there; the rest is the caller's promise.
    unsafe {
        let scores = piece.memory.add(sizes[0]);
        let states = scores.add(sizes[1]);
        let task = Task::<E> {
            problem: piece.problem,
            tile: piece.tile,
            queries: Rows {
                first: piece.memory.cast(),
                stride: query_width(layout),
            },
            scores: Rows {
                first: scores.cast(),
                stride: SCORE_BYTES / size_of::<f32>(),
            },
            total: State::at(states, layout, room(num_rows)),
            of_partition: State::at(states.add(sizes[2] / 2), layout, room(num_rows)),
            extra: states.add(sizes[2]),
            widened: Widened::at(states.add(sizes[2] + sizes[3]), layout),
        };
        task.load_queries();
        E::begin();
        task.attend(piece.partitions, piece.destination);
        E::end();
    }
}

struct Task<'a, E: Engine> {
    problem: &'a Problem<'a>,
    tile: &'a Tile,
    queries: Rows<RowOf<E>>,
    scores: Rows<f32>,
    total: State,
    of_partition: State,
    extra: *mut u8,
    widened: Widened,
}

impl<E: Engine> Task<'_, E> {
    /// Copies the queries, scaled, with zeros up to the width of a row and in rows not wanted.
    #[inline(always)]
    unsafe fn load_queries(&self) {
        let head_dim = self.problem.layout().head_dim;
        let mut padded = [0f32; 32];
        // SAFETY: rows of the problem and of the scratch memory.
        unsafe {
            let num_rows = self.tile.rows.len();
            let not_wanted = (room(num_rows) - num_rows) * self.queries.stride;
            self.queries.row(num_rows).write_bytes(0, not_wanted);
            for row in 0..num_rows {
                let (token, head) = self.problem.token_and_head(self.tile, row);
                let from = (token * self.problem.num_heads + head) * head_dim;
                let from = &self.problem.queries[from..from + head_dim];
                let to = self.queries.row(row);
                for (run, from) in from.chunks(32).enumerate() {
                    for (to, from) in padded.iter_mut().zip(from) {
                        *to = from * self.problem.scale;
                    }
                    padded[from.len()..].fill(0.0);
                    for lane in (0..32).step_by(<E::Lanes as Simd>::LANES) {
                        let vector = <E::Lanes as Simd>::load_f32(padded.as_ptr().add(lane));
                        E::Product::store(vector, to.add(run * 32 + lane));
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn attend(&self, partitions: Range<usize>, destination: Destination) {
        let num_rows = self.tile.rows.len();
        // SAFETY: forwarded to the caller.
        unsafe {
            match destination {
                Destination::Output => {
                    self.total.clear(num_rows);
                    for partition in partitions {
                        self.partition(partition);
                        self.total.merge::<E::Lanes>(self.of_partition, num_rows);
                    }
                    self.total.finish_tile::<E::Lanes>(self.problem, self.tile);
                }
                Destination::States { first, distance } => {
                    let layout = self.problem.layout();
                    for (index, partition) in partitions.enumerate() {
                        self.partition(partition);
                        let state = State::at(first.add(index * distance), layout, num_rows);
                        state.copy(self.of_partition, num_rows);
                    }
                }
            }
        }
    }

    /// Scores, softmax and weighted values of one partition.
    #[inline(always)]
    unsafe fn partition(&self, partition: usize) {
        let layout = self.problem.layout();
        let first_lane = partition * PARTITION_KEYS;
        let seen = self.problem.seen_by_tile(self.tile);
        let strips = within(&seen, first_lane, PARTITION_KEYS);
        let strips = strips.start / STRIP..strips.end.div_ceil(STRIP);
        let mut part = Part {
            layout,
            num_rows: self.tile.rows.len(),
            last_lanes: STRIP,
            keys: [std::ptr::null(); PARTITION],
            values: [std::ptr::null(); PARTITION],
            queries: self.queries,
            scores: self.scores,
            sums: self.of_partition.values,
            extra: self.extra,
            scales: layout.is_scaled().then(|| self.widened.scales()),
            strips,
        };
        // SAFETY: the strips are those of the sequence; the rest is the caller's promise.
        unsafe {
            let end_of_last = first_lane + part.strips.end * STRIP;
            let written = self.problem.lanes_written(self.tile);
            part.last_lanes = STRIP - end_of_last.saturating_sub(written);
            for strip in part.strips.clone() {
                let mut place = self.problem.strip(self.tile, partition * PARTITION + strip);
                if layout.dtype.size_in_bytes() == 1 {
                    let is_last = strip + 1 == part.strips.end;
                    let lanes = if is_last { part.last_lanes } else { STRIP };
                    place = self.widened.strip(layout, strip, place, lanes);
                }
                (part.keys[strip], part.values[strip]) = place;
            }
            E::scores(&part);
            for row in 0..part.num_rows {
                let seen = self.problem.seen_by_row(self.tile, row);
                let seen = within(&seen, first_lane, PARTITION_KEYS);
                let softmax = self.weigh(&part, row, partition, seen);
                self.of_partition.softmax.add(row).write(softmax);
            }
            E::values(&part);
        }
    }

    /// Replaces the scores of a row by the weights of the keys in the lanes `seen`, and by zeros
    /// elsewhere.
    #[inline(always)]
    unsafe fn weigh(
        &self,
        part: &Part<'_, RowOf<E>>,
        row: usize,
        partition: usize,
        seen: Range<usize>,
    ) -> Softmax {
        // SAFETY: the row is the part's; elements are within it.
        unsafe {
            let weights = part.weights().row(row);
            let all = part.weight_lanes();
            if seen.is_empty() {
                weights.add(all.start).write_bytes(0, all.len());
                return Softmax::EMPTY;
            }
            let scores = part.scores.row(row);
            let strips = seen.start / STRIP..seen.end.div_ceil(STRIP);
            let lanes = strips.start * STRIP..strips.end * STRIP;
            if let Some((key_scales, _)) = part.scales {
                for lane in lanes.clone() {
                    *scores.add(lane) *= *key_scales.add(lane);
                }
            }
            if let Some(cap) = self.problem.soft_cap {
                for lane in lanes.clone().step_by(<E::Lanes as Simd>::LANES) {
                    let score = <E::Lanes as Simd>::load_f32(scores.add(lane));
                    <E::Lanes as Simd>::store(soft_cap::<E::Lanes>(score, cap), scores.add(lane));
                }
            }
            for lane in (lanes.start..seen.start).chain(seen.end..lanes.end) {
                *scores.add(lane) = f32::NEG_INFINITY;
            }
            if !part.layout.block_size.is_multiple_of(STRIP) {
                for strip in strips.clone() {
                    let in_use = part.layout.lanes_in_use(partition * PARTITION + strip);
                    for lane in in_use..STRIP {
                        *scores.add(strip * STRIP + lane) = f32::NEG_INFINITY;
                    }
                }
            }
            let value_scales = part.scales.map(|(_, value_scales)| value_scales);
            let softmax =
                exponentials::<E::Lanes, E::Product>(scores, weights, lanes.clone(), value_scales);
            // After the scores are read, for weights lie in their place.
            weights
                .add(all.start)
                .write_bytes(0, lanes.start - all.start);
            weights.add(lanes.end).write_bytes(0, all.end - lanes.end);
            softmax
        }
    }
}

/// Writes `2^(score − max)`, times the lane's factor, for the scores in `lanes`, a vector's multiple, as
/// weights. These may lie in place of the scores. Sums, without the factors, are taken by lane and then
/// over the lanes.
///
/// # Safety
/// The processor has the instructions of `S`, and the rows have these lanes.
#[inline(always)]
unsafe fn exponentials<S: Simd, P: Product<S>>(
    scores: *const f32,
    weights: *mut P::Row,
    lanes: Range<usize>,
    factors: Option<*const f32>,
) -> Softmax {
    // SAFETY: the caller's promise.
    unsafe {
        let mut maxima = S::splat(f32::NEG_INFINITY);
        for lane in lanes.clone().step_by(S::LANES) {
            maxima = S::max(maxima, S::load_f32(scores.add(lane)));
        }
        let max = S::max_lane(maxima);
        let subtrahend = S::splat(max);
        let mut sums = S::zero();
        for lane in lanes.step_by(S::LANES) {
            let weight = exp2::<S>(S::sub(S::load_f32(scores.add(lane)), subtrahend));
            sums = S::add(sums, weight);
            let weight = match factors {
                Some(factors) => S::mul(weight, S::load_f32(factors.add(lane))),
                None => weight,
            };
            P::store(weight, weights.add(lane));
        }
        Softmax {
            max,
            sum: S::sum(sums),
        }
    }
}

/// The part of `range` within `len` numbers from `first` on, counted from there.
fn within(range: &Range<usize>, first: usize, len: usize) -> Range<usize> {
    let cut = |bound: usize| bound.saturating_sub(first).min(len);
    cut(range.start)..cut(range.end)
}
