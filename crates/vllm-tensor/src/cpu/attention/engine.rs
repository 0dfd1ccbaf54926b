//! Scores and weighted values of a partition: what an instruction set may do in its own way.

use std::marker::PhantomData;
use std::ops::Range;

use super::product::{Product, Rows, accumulate};
use crate::cpu::kv_store::{KvLayout, STRIP};
use crate::cpu::scratch::lines_of;
use crate::cpu::simd::Simd;

/// Strips of a partition. Partitions begin at multiples of this, so that what is summed within one
/// does not depend on where a step begins.
pub(super) const PARTITION: usize = 16;

/// Keys of a partition.
pub(super) const PARTITION_KEYS: usize = PARTITION * STRIP;

/// Bytes from one row of scores to the next: a cache line more than the scores, since rows that are
/// a power of two apart share few lines of the cache.
pub(super) const SCORE_BYTES: usize = PARTITION_KEYS * 4 + 64;

/// Some rows, queries of a head, and a part of the keys of a partition.
pub(super) struct Part<'a, R> {
    pub(super) layout: &'a KvLayout,
    pub(super) num_rows: usize,
    /// Strips of the partition that any of the rows see.
    pub(super) strips: Range<usize>,
    /// Where the cache holds them.
    pub(super) keys: [*const u8; PARTITION],
    pub(super) values: [*const u8; PARTITION],
    /// Lanes of the last strip that hold tokens of the sequence; the others hold anything.
    pub(super) last_lanes: usize,
    /// Queries in units of the scores, with zeros up to a multiple of 32 elements.
    pub(super) queries: Rows<R>,
    /// Scores, and in their place later the weights of the keys.
    pub(super) scores: Rows<f32>,
    /// Weighted sums of values.
    pub(super) sums: Rows<f32>,
    /// Factors on the scores and on the weights of the partition's lanes, if there are any.
    pub(super) scales: Option<(*const f32, *const f32)>,
    /// [`extra_bytes`] for the engine's own use.
    pub(super) extra: *mut u8,
}

impl<R> Part<'_, R> {
    /// The lanes whose weights are read: those of the strips, in whole chunks of two.
    pub(super) fn weight_lanes(&self) -> Range<usize> {
        const CHUNK: usize = 2;
        let chunks = self.strips.start / CHUNK..self.strips.end.div_ceil(CHUNK);
        chunks.start * CHUNK * STRIP..chunks.end * CHUNK * STRIP
    }

    /// The weights that stand in place of the scores.
    pub(super) fn weights(&self) -> Rows<R> {
        Rows {
            first: self.scores.first.cast(),
            stride: SCORE_BYTES / size_of::<R>(),
        }
    }
}

/// Bytes that an engine may want for itself: the values of a partition in bfloat16, or those of a pair
/// of tokens.
pub(super) fn extra_bytes(layout: &KvLayout) -> usize {
    lines_of::<half::bf16>(PARTITION_KEYS * layout.value_width)
}

/// How an instruction set works on a [`Part`]. The result of a row does not depend on the others, and
/// weights of zero add nothing.
pub(super) trait Engine {
    type Lanes: Simd;
    type Product: Product<Self::Lanes>;

    /// Makes ready for the work of a task.
    ///
    /// # Safety
    /// The processor has the instructions, here and below.
    unsafe fn begin() {}

    /// Ends what [`Engine::begin`] began.
    ///
    /// # Safety
    /// As above.
    unsafe fn end() {}

    /// Writes the scores of all rows with the keys of all strips.
    ///
    /// # Safety
    /// As above; the part's pointers are good.
    unsafe fn scores(part: &Part<'_, RowOf<Self>>);

    /// Writes the sums of values, each times its weight.
    ///
    /// # Safety
    /// As above; the weights are written.
    unsafe fn values(part: &Part<'_, RowOf<Self>>);
}

/// The elements of an engine's rows.
pub(super) type RowOf<E> = <<E as Engine>::Product as Product<<E as Engine>::Lanes>>::Row;

/// Vectors of keys and values times single elements of rows.
pub(super) struct Vectors<S, P>(PhantomData<(S, P)>);

impl<S: Simd, P: Product<S>> Engine for Vectors<S, P> {
    type Lanes = S;
    type Product = P;

    #[inline(always)]
    unsafe fn scores(part: &Part<'_, P::Row>) {
        let mut strip = part.strips.start;
        // SAFETY: forwarded to the caller.
        unsafe {
            // Few rows: more keys at once, to have enough independent sums.
            let wide = if part.num_rows < 8 { 4 } else { 2 };
            if S::LANES == STRIP {
                while strip + wide <= part.strips.end {
                    if wide == 4 {
                        scores_of_rows::<S, P, 4>(part, strip);
                    } else {
                        scores_of_rows::<S, P, 2>(part, strip);
                    }
                    strip += wide;
                }
            }
            while strip < part.strips.end {
                match S::LANES {
                    16 => scores_of_rows::<S, P, 1>(part, strip),
                    8 => scores_of_rows::<S, P, 2>(part, strip),
                    _ => scores_of_rows::<S, P, 4>(part, strip),
                }
                strip += 1;
            }
        }
    }

    #[inline(always)]
    unsafe fn values(part: &Part<'_, P::Row>) {
        let width = part.layout.value_width;
        let mut dim = 0;
        // SAFETY: forwarded to the caller.
        unsafe {
            let rest = copy_odd_token::<S, P>(part);
            if S::LANES == STRIP {
                let wide = if part.num_rows < 8 { 4 } else { 2 };
                while dim + wide * STRIP <= width {
                    if wide == 4 {
                        values_of_rows::<S, P, 4>(part, dim, rest);
                    } else {
                        values_of_rows::<S, P, 2>(part, dim, rest);
                    }
                    dim += wide * STRIP;
                }
            }
            while dim < width {
                match S::LANES {
                    16 => values_of_rows::<S, P, 1>(part, dim, rest),
                    8 => values_of_rows::<S, P, 2>(part, dim, rest),
                    _ => values_of_rows::<S, P, 4>(part, dim, rest),
                }
                dim += STRIP;
            }
        }
    }
}

/// Calls a function for all rows in turn, as many at a time as the registers have room for beside
/// `$n` vectors, or one by one. Each number of rows is compiled for each instruction set and element,
/// so there are few.
macro_rules! for_rows {
    ($num_rows:expr, $function:ident::<$s:ident, $p:ident, _, $n:ident>($($argument:expr),*)) => {
        let mut row = 0;
        if $s::LANES == STRIP && $n == 2 {
            while row + 8 <= $num_rows {
                $function::<$s, $p, 8, $n>(row, $($argument),*);
                row += 8;
            }
        } else if $s::VECTORS {
            while row + 4 <= $num_rows {
                $function::<$s, $p, 4, $n>(row, $($argument),*);
                row += 4;
            }
        }
        while row < $num_rows {
            $function::<$s, $p, 1, $n>(row, $($argument),*);
            row += 1;
        }
    };
}

/// The scores with `N` vectors of keys from a strip on.
///
/// # Safety
/// As [`Engine::scores`]; the part has the strips.
#[inline(always)]
unsafe fn scores_of_rows<S: Simd, P: Product<S>, const N: usize>(
    part: &Part<'_, P::Row>,
    strip: usize,
) {
    let keys: [*const P::Cached; N] = std::array::from_fn(|n| {
        let lane = n * S::LANES;
        let keys = part.keys[strip + lane / STRIP].cast::<P::Cached>();
        // SAFETY: a vector within the strip.
        unsafe { keys.add(lane % STRIP * P::STEP) }
    });
    // SAFETY: forwarded to the caller.
    unsafe {
        for_rows!(part.num_rows, score_tile::<S, P, _, N>(part, strip, keys));
    }
}

/// # Safety
/// As [`scores_of_rows`], for `R` rows from `row` on.
#[inline(always)]
unsafe fn score_tile<S: Simd, P: Product<S>, const R: usize, const N: usize>(
    row: usize,
    part: &Part<'_, P::Row>,
    strip: usize,
    keys: [*const P::Cached; N],
) {
    let steps = part.layout.key_width / P::STEP;
    // SAFETY: the rows and strips are the part's.
    unsafe {
        let mut sums = [[S::zero(); N]; R];
        let rows = std::array::from_fn(|r| part.queries.row(row + r).cast_const());
        accumulate::<S, P, R, N>(&mut sums, rows, keys, STRIP * P::STEP, steps);
        for (r, sums) in sums.iter().enumerate() {
            let scores = part.scores.row(row + r).add(strip * STRIP);
            for (n, sum) in sums.iter().enumerate() {
                S::store(*sum, scores.add(n * S::LANES));
            }
        }
    }
}

/// Where tokens are read in steps of two and the last one has no second, a copy of its step with
/// zeros for the second: what lies there may be anything.
///
/// # Safety
/// As [`Engine::values`].
#[inline(always)]
unsafe fn copy_odd_token<S: Simd, P: Product<S>>(part: &Part<'_, P::Row>) -> *const P::Cached {
    let copy = part.extra.cast::<P::Cached>();
    let odd = part.last_lanes % P::STEP;
    if odd != 0 {
        let width = part.layout.value_width * P::STEP;
        let step = part.last_lanes / P::STEP;
        // SAFETY: the strip has this step, and the copy has its size.
        unsafe {
            let last = part.values[part.strips.end - 1].cast::<P::Cached>();
            copy.copy_from_nonoverlapping(last.add(step * width), width);
            for element in (0..width).skip(1).step_by(P::STEP) {
                copy.add(element).write_bytes(0, 1);
            }
        }
    }
    copy
}

/// The weighted sums of `N` vectors of values from element `dim` on. `rest` is the last token's step
/// where that is not whole.
///
/// # Safety
/// As [`Engine::values`]; values are wide enough.
#[inline(always)]
unsafe fn values_of_rows<S: Simd, P: Product<S>, const N: usize>(
    part: &Part<'_, P::Row>,
    dim: usize,
    rest: *const P::Cached,
) {
    // SAFETY: forwarded to the caller.
    unsafe {
        for_rows!(part.num_rows, value_tile::<S, P, _, N>(part, dim, rest));
    }
}

/// # Safety
/// As [`values_of_rows`], for `R` rows from `row` on.
#[inline(always)]
unsafe fn value_tile<S: Simd, P: Product<S>, const R: usize, const N: usize>(
    row: usize,
    part: &Part<'_, P::Row>,
    dim: usize,
    rest: *const P::Cached,
) {
    let stride = part.layout.value_width * P::STEP;
    let last = part.strips.end - 1;
    let weights = part.weights();
    // SAFETY: the rows, strips and elements are the part's; steps beyond the last token are left out.
    unsafe {
        let mut sums = [[S::zero(); N]; R];
        let vectors = |values: *const P::Cached| -> [*const P::Cached; N] {
            std::array::from_fn(|n| values.wrapping_add((dim + n * S::LANES) * P::STEP))
        };
        for strip in part.strips.clone() {
            let lanes = if strip == last {
                part.last_lanes
            } else {
                STRIP
            };
            let rows =
                std::array::from_fn(|r| weights.row(row + r).cast_const().add(strip * STRIP));
            let values = vectors(part.values[strip].cast());
            accumulate::<S, P, R, N>(&mut sums, rows, values, stride, lanes / P::STEP);
            if lanes % P::STEP != 0 {
                let rows = rows.map(|row| row.add(lanes / P::STEP * P::STEP));
                accumulate::<S, P, R, N>(&mut sums, rows, vectors(rest), stride, 1);
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (n, sum) in sums.iter().enumerate() {
                S::store(*sum, part.sums.row(row + r).add(dim + n * S::LANES));
            }
        }
    }
}
