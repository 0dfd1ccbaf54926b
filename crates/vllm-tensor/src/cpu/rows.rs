//! Rows of results on their way into a product: as they are, or in bfloat16 as the product reads them.
//!
//! Where a product rounds its rows anyhow, whatever makes them writes them so: the numbers are the same,
//! and a pass over memory and half of the traffic are saved.

use half::bf16;

use super::aligned::CacheLine;
use super::pool;
use super::simd::Simd;
use crate::Result;

/// Rows in a tile of AMX.
pub(super) const TILE: usize = 16;

/// Inputs of bfloat16 in a row of a tile; rows are filled up with zeros to whole runs of so many.
pub(super) const TILE_INPUTS: usize = 32;

/// Elements of bfloat16 in a tile.
pub(super) const TILE_ELEMENTS: usize = TILE * TILE_INPUTS;

/// How rows in bfloat16 are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowLayout {
    /// One row after the other.
    Rows,
    /// `[rows / 16][inputs / 32]` tiles of `[16, 32]`. The rows behind the last one hold anything.
    Tiles,
}

/// In which form a product takes its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowForm {
    /// A tensor.
    Wide,
    /// [`RoundedRows`].
    Rounded(RowLayout),
}

/// Rows in bfloat16 as products read them.
#[derive(Debug)]
pub(crate) struct RoundedRows {
    /// Empty, with room for the rows.
    memory: Vec<CacheLine>,
    rows: usize,
    columns: usize,
    layout: RowLayout,
}

impl RoundedRows {
    /// Rows of which `fill` writes every element.
    pub(crate) fn filled(
        (rows, columns): (usize, usize),
        layout: RowLayout,
        fill: impl FnOnce(RowTargets) -> Result<()>,
    ) -> Result<Self> {
        let padded = columns.next_multiple_of(TILE_INPUTS);
        let room = match layout {
            RowLayout::Rows => rows * padded,
            RowLayout::Tiles => rows.next_multiple_of(TILE) * padded,
        };
        let bytes = room * size_of::<bf16>();
        let mut memory = Vec::with_capacity(bytes.div_ceil(size_of::<CacheLine>()));
        let first: *mut CacheLine = memory.as_mut_ptr();
        fill(RowTargets::Rounded {
            first: first.cast(),
            padded,
            layout,
        })?;
        Ok(Self {
            memory,
            rows,
            columns,
            layout,
        })
    }

    /// Rounds `x`, rows of `columns`. The processor multiplies bfloat16.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn round(x: &[f32], columns: usize, layout: RowLayout) -> Result<Self> {
        const TASK_ROWS: usize = 16;
        let rows = x.len() / columns;
        Self::filled((rows, columns), layout, |targets| {
            pool::for_each(rows.div_ceil(TASK_ROWS), x.len() / 4, |task| {
                for row in task * TASK_ROWS..rows.min((task + 1) * TASK_ROWS) {
                    // SAFETY: callers checked for the instructions; each row is written once.
                    unsafe {
                        let RowTarget::Rounded { first, step } = targets.row(row) else {
                            return;
                        };
                        round_row(&x[row * columns..][..columns], first, step);
                    }
                }
            })
        })
    }

    /// The first element.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn as_ptr(&self) -> *const u16 {
        self.memory.as_ptr().cast()
    }

    /// How many rows there are.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Elements of a row.
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    #[cfg(target_arch = "x86_64")]
    pub(super) fn layout(&self) -> RowLayout {
        self.layout
    }

    /// The numbers, one row after the other.
    pub(crate) fn to_f32(&self) -> Vec<f32> {
        let padded = self.columns.next_multiple_of(TILE_INPUTS);
        let mut numbers = Vec::with_capacity(self.rows * self.columns);
        for row in 0..self.rows {
            let (start, step) = place(row, padded, self.layout);
            numbers.extend((0..self.columns).map(|column| {
                let index = start + column / TILE_INPUTS * step + column % TILE_INPUTS;
                // SAFETY: the element was written when the rows were made.
                unsafe { self.memory.as_ptr().cast::<bf16>().add(index).read() }.to_f32()
            }));
        }
        numbers
    }
}

/// Where a row begins, and how far apart its runs of 32 lie.
fn place(row: usize, padded: usize, layout: RowLayout) -> (usize, usize) {
    match layout {
        RowLayout::Rows => (row * padded, TILE_INPUTS),
        RowLayout::Tiles => (
            row / TILE * TILE * padded + row % TILE * TILE_INPUTS,
            TILE_ELEMENTS,
        ),
    }
}

/// The rows of a result, written by all tasks at once, each to elements of its own.
#[derive(Clone, Copy)]
pub(crate) enum RowTargets {
    /// In float32, one row of `columns` after the other.
    Wide { first: *mut f32, columns: usize },
    /// Of [`RoundedRows`].
    Rounded {
        first: *mut bf16,
        padded: usize,
        layout: RowLayout,
    },
}

// SAFETY: as said above.
unsafe impl Sync for RowTargets {}

impl RowTargets {
    /// Row `row`, one of those there are.
    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> RowTarget {
        match *self {
            Self::Wide { first, columns } => RowTarget::Wide(first.wrapping_add(row * columns)),
            Self::Rounded {
                first,
                padded,
                layout,
            } => {
                let (start, step) = place(row, padded, layout);
                RowTarget::Rounded {
                    first: first.wrapping_add(start),
                    step,
                }
            }
        }
    }
}

/// Where a row of a result goes.
#[derive(Clone, Copy)]
pub(super) enum RowTarget {
    /// As it is.
    Wide(*mut f32),
    /// Rounded, in runs of 32 that lie `step` apart.
    Rounded { first: *mut bf16, step: usize },
}

impl RowTarget {
    /// Writes a vector from `column` on, a multiple of its lanes.
    ///
    /// # Safety
    /// The processor has the instructions of `S`, and the row has these elements.
    #[inline(always)]
    pub(super) unsafe fn store<S: Simd>(self, vector: S::Vector, column: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Self::Wide(first) => S::store(vector, first.add(column)),
                Self::Rounded { first, step } => {
                    let run = first.add(column / TILE_INPUTS * step);
                    S::store_bf16(vector, run.add(column % TILE_INPUTS));
                }
            }
        }
    }

    /// Writes one number.
    ///
    /// # Safety
    /// The row has the element.
    #[inline(always)]
    pub(super) unsafe fn write(self, number: f32, column: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Self::Wide(first) => first.add(column).write(number),
                Self::Rounded { first, step } => first
                    .add(column / TILE_INPUTS * step + column % TILE_INPUTS)
                    .write(bf16::from_f32(number)),
            }
        }
    }
}

/// Rounds a row in runs of 32 that lie `step` apart, the last one filled up with zeros.
///
/// # Safety
/// The processor has AVX512_BF16, and `to` room for the runs.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn round_row(row: &[f32], mut to: *mut bf16, step: usize) {
    use std::arch::x86_64::*;

    let (runs, rest) = row.as_chunks::<TILE_INPUTS>();
    let mut padded = [0f32; TILE_INPUTS];
    padded[..rest.len()].copy_from_slice(rest);
    for run in runs.iter().chain((!rest.is_empty()).then_some(&padded)) {
        // SAFETY: the run has 32 elements, and so has the room at `to`.
        unsafe {
            let low = _mm512_loadu_ps(run.as_ptr());
            let high = _mm512_loadu_ps(run.as_ptr().add(16));
            let rounded = _mm512_cvtne2ps_pbh(high, low);
            _mm512_storeu_si512(to.cast(), std::mem::transmute::<__m512bh, __m512i>(rounded));
            to = to.add(step);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::cpu::isa::Kernel;
    use crate::test_support::random;

    /// Writes a row of whole vectors.
    struct Write<'a>(&'a [f32], RowTarget);

    impl Kernel for Write<'_> {
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            for column in (0..self.0.len()).step_by(S::LANES) {
                // SAFETY: the vector is within the row.
                unsafe {
                    let vector = S::load_f32(self.0.as_ptr().add(column));
                    self.1.store::<S>(vector, column);
                }
            }
        }
    }

    #[test]
    fn rows_are_found_again() {
        const COLUMNS: usize = 96;
        // Plain AVX-512 does not round.
        for isa in Isa::available().filter(|isa| *isa != Isa::Avx512) {
            for (rows, layout) in [
                (1, RowLayout::Tiles),
                (37, RowLayout::Tiles),
                (5, RowLayout::Rows),
            ] {
                let numbers = random(1, rows * COLUMNS);
                let rounded = RoundedRows::filled((rows, COLUMNS), layout, |targets| {
                    for (index, row) in numbers.chunks_exact(COLUMNS).enumerate() {
                        // SAFETY: the row has so many elements.
                        unsafe { isa.run(Write(row, targets.row(index))) };
                    }
                    Ok(())
                });
                let rounded = rounded.unwrap();
                let expected = numbers.iter().map(|x| bf16::from_f32(*x).to_f32());
                assert_eq!(
                    rounded.to_f32(),
                    expected.collect::<Vec<_>>(),
                    "{isa:?} {layout:?}"
                );
                #[cfg(target_arch = "x86_64")]
                if isa.multiplies_bf16() {
                    let at_once = RoundedRows::round(&numbers, COLUMNS, layout).unwrap();
                    assert_eq!(rounded.to_f32(), at_once.to_f32(), "{layout:?}");
                }
            }
        }
    }
}
