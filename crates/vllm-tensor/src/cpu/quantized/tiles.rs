//! Intel's matrix tiles: rows of activations in bfloat16 times codes less their zero, which bfloat16
//! holds without rounding.
//!
//! A tile's sums are those of one group, so that the group's scale comes after them, in float32. One row
//! takes the same instructions as many do: what it gives does not depend on its batch.

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use super::panels::QuantizedPanels;
use super::unpack::{CHUNK_TILE, Unpack};
use super::vnni::load_halves;
use super::{CHUNK, Operands, TASK_PANELS};
use crate::Result;
use crate::cpu::amx::{TILE, TileConfig};
use crate::cpu::panels::PANEL;
use crate::cpu::{pool, scratch};

/// Rows that one task multiplies: in bfloat16 they fit the second-level cache, and unpacking the weights
/// for them costs little.
const TASK_ROWS: usize = 256;

/// Chunks whose sums are made before the scales are applied to them.
const RUN: usize = 2;

/// Products of tiles that are made together: of one block of rows with four panels, or two with two.
const PAIRS: usize = 4;

/// Numbers in a tile of sums.
const SUMS: usize = TILE * PANEL;

/// Rows rounded to bfloat16, in tiles.
struct Rows {
    /// `[rows / 16][chunks][16][32]`.
    tiles: *const u16,
    /// Sums of the rounded numbers, `[rows / 16][2 chunks][16]`, of 16 each.
    totals: *const f32,
    num_rows: usize,
    chunks: usize,
}

// SAFETY: they are only read.
unsafe impl Sync for Rows {}

/// Writes the products of all rows with the panels of all tasks.
///
/// # Safety
/// The processor has AMX, and there is room for all outputs.
pub(super) unsafe fn multiply(operands: &Operands<'_>) -> Result<()> {
    let (columns, tasks, num_rows) = (operands.columns, operands.tasks, operands.num_rows());
    let chunks = columns.div_ceil(CHUNK);
    let blocks = num_rows.div_ceil(TILE);
    let tile_bytes = blocks * chunks * TILE * CHUNK * size_of::<u16>();
    let total_bytes = blocks * chunks * 2 * TILE * size_of::<f32>();
    scratch::for_operation(tile_bytes + total_bytes, |memory| {
        // SAFETY: there are so many bytes.
        let totals: *mut f32 = unsafe { memory.add(tile_bytes) }.cast();
        let target = Target(memory.cast(), totals);
        pool::for_each(blocks, operands.x.len(), |block| {
            // SAFETY: the processor has AVX-512 with bfloat16; the block's tiles and totals are there.
            unsafe { round_block(operands.x, columns, block, &target) };
        })?;
        let rows = Rows {
            tiles: memory.cast(),
            totals,
            num_rows,
            chunks,
        };
        let row_tasks = num_rows.div_ceil(TASK_ROWS);
        pool::for_each(row_tasks * tasks.len(), operands.work(), |index| {
            let first_row = index / tasks.len() * TASK_ROWS;
            let of_rows = first_row..(first_row + TASK_ROWS).min(num_rows);
            let task = &tasks[index % tasks.len()];
            let product = TaskProduct {
                rows: &rows,
                blocks: of_rows.start / TILE..of_rows.end.div_ceil(TILE),
                panels: task.panels,
                first_panel: task.first_panel,
                outputs: task.outputs,
                y: operands.y.get().wrapping_add(task.first_output),
                y_stride: operands.y_stride,
            };
            // SAFETY: the task's outputs are its own; the rest is the caller's promise.
            unsafe {
                product.run();
                operands.add_bias(task, of_rows);
            }
        })
    })
}

/// Where all tasks write, each the tiles and totals of a block of its own.
struct Target(*mut u16, *mut f32);

// SAFETY: as said above.
unsafe impl Sync for Target {}

/// Rounds the rows of a block. Among four neighbours the second and the third change places, as in
/// [`Unpack::chunks`].
///
/// # Safety
/// The processor has these instructions, and there is room for the block.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn round_block(x: &[f32], columns: usize, block: usize, target: &Target) {
    let chunks = columns.div_ceil(CHUNK);
    let order: [u16; CHUNK] = std::array::from_fn(|n| (n / 4 * 4 + [0, 2, 1, 3][n % 4]) as u16);
    let rows = x.chunks_exact(columns).skip(block * TILE).take(TILE);
    for (row, numbers) in rows.enumerate() {
        for (chunk, numbers) in numbers.chunks(CHUNK).enumerate() {
            let mut padded = [0f32; CHUNK];
            let from = if numbers.len() == CHUNK {
                numbers.as_ptr()
            } else {
                padded[..numbers.len()].copy_from_slice(numbers);
                padded.as_ptr()
            };
            // SAFETY: 32 numbers are there, and there is room by the caller's promise.
            unsafe {
                let (low, high) = (_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16)));
                let rounded: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
                let order = _mm512_loadu_si512(order.as_ptr().cast());
                let tile = (block * chunks + chunk) * TILE * CHUNK;
                let to = target.0.add(tile + row * CHUNK);
                _mm512_storeu_si512(to.cast(), _mm512_permutexvar_epi16(order, rounded));
                let halves = [
                    _mm512_castsi512_si256(rounded),
                    _mm512_extracti64x4_epi64::<1>(rounded),
                ];
                for (half, numbers) in halves.into_iter().enumerate() {
                    let numbers = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(numbers));
                    let total = _mm512_reduce_add_ps(_mm512_castsi512_ps(numbers));
                    let group = (block * chunks + chunk) * 2 + half;
                    *target.1.add(group * TILE + row) = total;
                }
            }
        }
    }
}

/// Some rows times at most four panels.
struct TaskProduct<'a> {
    rows: &'a Rows,
    /// Blocks of 16 rows.
    blocks: Range<usize>,
    panels: &'a QuantizedPanels,
    first_panel: usize,
    /// Outputs that the panels really have.
    outputs: usize,
    /// The first panel's first output of row 0.
    y: *mut f32,
    y_stride: usize,
}

/// Where the tiles of a panel's codes lie.
type Codes = [*const u16; TASK_PANELS];

impl TaskProduct<'_> {
    /// # Safety
    /// The processor has AMX; rows and panels have as many chunks, and `y` room for the outputs.
    unsafe fn run(&self) {
        let form = self.panels.form();
        // SAFETY: forwarded to the caller.
        unsafe {
            match (form.group_len(), form.has_mins()) {
                (16, false) => self.all_rows::<2, false>(),
                (16, true) => self.all_rows::<2, true>(),
                (_, false) => self.all_rows::<1, false>(),
                (_, true) => self.all_rows::<1, true>(),
            }
        }
    }

    /// # Safety
    /// As [`Self::run`], with `GROUPS` groups in a chunk.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn all_rows<const GROUPS: usize, const MINS: bool>(&self) {
        let chunks = self.rows.chunks;
        let one_block = self.blocks.len() == 1;
        let unpacked_chunks = if one_block { RUN } else { chunks };
        let code_bytes = TASK_PANELS * unpacked_chunks * CHUNK_TILE * size_of::<u16>();
        let dot_bytes = RUN * GROUPS * PAIRS * SUMS * size_of::<f32>();
        let sum_bytes = PAIRS * SUMS * size_of::<f32>();
        scratch::for_task(code_bytes + dot_bytes + sum_bytes, |memory| {
            // SAFETY: the memory has room for the codes, the dots and the sums, one behind the other;
            // the rest is the caller's promise.
            unsafe {
                let codes = memory.cast::<u16>();
                let codes: [_; TASK_PANELS] =
                    std::array::from_fn(|n| codes.add(n * unpacked_chunks * CHUNK_TILE));
                let work = Work::<GROUPS, MINS> {
                    task: self,
                    dots: memory.add(code_bytes).cast(),
                    sums: memory.add(code_bytes + dot_bytes).cast(),
                };
                let unpack = Unpack::new(self.panels.form());
                let unpack = |chunks: Range<usize>| {
                    for (panel, codes) in (self.first_panel..).zip(codes).take(self.num_panels()) {
                        unpack.chunks(self.panels, panel, chunks.clone(), codes);
                    }
                };
                let codes = codes.map(<*mut u16>::cast_const);
                if one_block {
                    return work.one_block(self.blocks.start, codes, 0, unpack);
                }
                unpack(0..chunks);
                let mut block = self.blocks.start;
                while block + 1 < self.blocks.end {
                    for first in (0..self.num_panels()).step_by(2) {
                        work.two_blocks(block, first, codes);
                    }
                    block += 2;
                }
                if block < self.blocks.end {
                    work.one_block(block, codes, RUN * CHUNK_TILE, |_| {});
                }
            }
        });
    }

    fn num_panels(&self) -> usize {
        self.outputs.div_ceil(PANEL)
    }

    /// Rows in a block.
    fn rows_of(&self, block: usize) -> usize {
        (self.rows.num_rows - block * TILE).min(TILE)
    }
}

struct Work<'a, const GROUPS: usize, const MINS: bool> {
    task: &'a TaskProduct<'a>,
    /// Sums of the groups of a run, `[groups][pairs][16][16]`.
    dots: *mut f32,
    /// Sums of all groups so far, `[pairs][16][16]`.
    sums: *mut f32,
}

impl<const GROUPS: usize, const MINS: bool> Work<'_, GROUPS, MINS> {
    /// Inputs of a group.
    const GROUP: usize = CHUNK / GROUPS;

    /// Rows and bytes of a row of a tile of codes.
    const CODES: (usize, usize) = (Self::GROUP / 2, 64);

    /// One block times the task's panels. Before each run `unpack` is called with its chunks, whose
    /// codes then lie at `codes`, moved on by `distance` after each run.
    ///
    /// # Safety
    /// As [`TaskProduct::run`], and the codes are there.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn one_block(
        &self,
        block: usize,
        codes: Codes,
        distance: usize,
        unpack: impl Fn(Range<usize>),
    ) {
        let num_panels = self.task.num_panels();
        let rows = self.task.rows_of(block);
        let config = Self::config([rows; 4], rows, Self::CODES);
        // SAFETY: the caller's promise; nothing else uses tiles meanwhile.
        unsafe {
            self.sums.write_bytes(0, PAIRS * SUMS);
            configure(&config);
            for (run, first) in (0..self.task.rows.chunks).step_by(RUN).enumerate() {
                let chunks = first..(first + RUN).min(self.task.rows.chunks);
                unpack(chunks.clone());
                let x = self.rows(block, chunks.start);
                // Panels that are not there are multiplied as the first, and not looked at.
                let codes = std::array::from_fn::<_, TASK_PANELS, _>(|panel| {
                    codes[if panel < num_panels { panel } else { 0 }].add(run * distance)
                });
                for group in 0..chunks.len() * GROUPS {
                    let (chunk, part) = (group / GROUPS, group % GROUPS);
                    let at = chunk * CHUNK_TILE + part * CHUNK_TILE / GROUPS;
                    one_by_four(
                        x.add(chunk * TILE * CHUNK + part * Self::GROUP),
                        codes.map(|codes| codes.add(at)),
                        self.dots.add(group * PAIRS * SUMS),
                    );
                }
                for panel in 0..num_panels {
                    self.scale(panel, block, panel, chunks.clone());
                }
            }
            release();
            for panel in 0..num_panels {
                self.finish(panel, block, panel);
            }
        }
    }

    /// Two blocks times two panels, the second of which may not be there.
    ///
    /// # Safety
    /// As [`TaskProduct::run`], and the codes of all chunks are there.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn two_blocks(&self, block: usize, first_panel: usize, codes: Codes) {
        let panels = 2.min(self.task.num_panels() - first_panel);
        let codes = [codes[first_panel], codes[first_panel + panels - 1]];
        let rows = self.task.rows_of(block + 1);
        let config = Self::config([TILE, TILE, rows, rows], TILE, (rows, 2 * Self::GROUP));
        // SAFETY: the caller's promise; nothing else uses tiles meanwhile.
        unsafe {
            self.sums.write_bytes(0, PAIRS * SUMS);
            configure(&config);
            for first in (0..self.task.rows.chunks).step_by(RUN) {
                let chunks = first..(first + RUN).min(self.task.rows.chunks);
                let x = [self.rows(block, first), self.rows(block + 1, first)];
                for group in 0..chunks.len() * GROUPS {
                    let (chunk, part) = (group / GROUPS, group % GROUPS);
                    let at = (first + chunk) * CHUNK_TILE + part * CHUNK_TILE / GROUPS;
                    let x_at = chunk * TILE * CHUNK + part * Self::GROUP;
                    two_by_two(
                        x.map(|x| x.add(x_at)),
                        codes.map(|codes| codes.add(at)),
                        self.dots.add(group * PAIRS * SUMS),
                    );
                }
                for pair in 0..PAIRS {
                    if pair % 2 < panels {
                        self.scale(
                            pair,
                            block + pair / 2,
                            first_panel + pair % 2,
                            chunks.clone(),
                        );
                    }
                }
            }
            release();
            for pair in 0..PAIRS {
                if pair % 2 < panels {
                    self.finish(pair, block + pair / 2, first_panel + pair % 2);
                }
            }
        }
    }

    /// Shapes of the tiles: four of sums with so many rows, one of activations with `x` rows, one of the
    /// shape `second`, two of codes.
    fn config(sums: [usize; 4], x: usize, second: (usize, usize)) -> TileConfig {
        let [first, sums @ ..] = sums.map(|rows| (rows, 64));
        TileConfig::with_shapes([
            first,
            sums[0],
            sums[1],
            sums[2],
            (x, 2 * Self::GROUP),
            second,
            Self::CODES,
            Self::CODES,
        ])
    }

    /// The tile of a block of rows and a chunk.
    unsafe fn rows(&self, block: usize, chunk: usize) -> *const u16 {
        let tile = block * self.task.rows.chunks + chunk;
        // SAFETY: callers name blocks and chunks that are there.
        unsafe { self.task.rows.tiles.add(tile * TILE * CHUNK) }
    }

    /// Adds the dots of a run to the sums of a pair, each times its scale.
    ///
    /// # Safety
    /// As [`TaskProduct::run`], and the dots are there.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn scale(&self, pair: usize, block: usize, panel: usize, chunks: Range<usize>) {
        let groups = chunks.start * GROUPS..chunks.end * GROUPS;
        // SAFETY: forwarded to the caller.
        unsafe {
            if chunks.len() == RUN && GROUPS == 1 {
                self.scale_groups::<RUN>(pair, block, panel, groups.start, 0);
            } else if chunks.len() == RUN {
                self.scale_groups::<{ 2 * RUN }>(pair, block, panel, groups.start, 0);
            } else {
                for group in groups.clone() {
                    self.scale_groups::<1>(pair, block, panel, group, group - groups.start);
                }
            }
        }
    }

    /// The same for the `N` groups from `first` on, whose dots are those from `first_dots` on.
    ///
    /// # Safety
    /// As [`Self::scale`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn scale_groups<const N: usize>(
        &self,
        pair: usize,
        block: usize,
        panel: usize,
        first: usize,
        first_dots: usize,
    ) {
        let panels = self.task.panels;
        let panel = self.task.first_panel + panel;
        let (scales, mins) = (panels.scales(panel).as_ptr(), panels.mins(panel).as_ptr());
        // SAFETY: scales and minima are there for all groups, totals and dots for all rows.
        unsafe {
            let scales: [_; N] =
                std::array::from_fn(|n| load_halves(scales.add((first + n) * PANEL).cast()));
            let mins: [_; N] = std::array::from_fn(|n| {
                if MINS {
                    load_halves(mins.add((first + n) * PANEL).cast())
                } else {
                    _mm512_setzero_ps()
                }
            });
            let parts = 2 / GROUPS;
            let totals = self.task.rows.totals;
            let totals = totals.add((block * self.task.rows.chunks * 2 + first * parts) * TILE);
            let dots = self.dots.add((first_dots * PAIRS + pair) * SUMS);
            let sums = self.sums.add(pair * SUMS);
            for row in 0..self.task.rows_of(block) {
                let mut sum = _mm512_load_ps(sums.add(row * PANEL));
                for n in 0..N {
                    let dots = _mm512_load_ps(dots.add(n * PAIRS * SUMS + row * PANEL));
                    sum = _mm512_fmadd_ps(scales[n], dots, sum);
                    if MINS {
                        let total = totals.add(n * parts * TILE + row);
                        let total = match GROUPS {
                            1 => *total + *total.add(TILE),
                            _ => *total,
                        };
                        sum = _mm512_fnmadd_ps(mins[n], _mm512_set1_ps(total), sum);
                    }
                }
                _mm512_store_ps(sums.add(row * PANEL), sum);
            }
        }
    }

    /// Writes the sums of a pair to the result.
    ///
    /// # Safety
    /// As [`TaskProduct::run`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn finish(&self, pair: usize, block: usize, panel: usize) {
        let task = self.task;
        let factor = _mm512_set1_ps(task.panels.factor(task.first_panel + panel));
        let outputs = (task.outputs - panel * PANEL).min(PANEL);
        let mask = (0xffffu32 >> (PANEL - outputs)) as __mmask16;
        for row in 0..task.rows_of(block) {
            // SAFETY: the caller's promise.
            unsafe {
                let sum = _mm512_load_ps(self.sums.add(pair * SUMS + row * PANEL));
                let y = task
                    .y
                    .add((block * TILE + row) * task.y_stride + panel * PANEL);
                _mm512_mask_storeu_ps(y, mask, _mm512_mul_ps(sum, factor));
            }
        }
    }
}

/// # Safety
/// The processor has AMX.
unsafe fn configure(config: &TileConfig) {
    // SAFETY: the caller's promise; the configuration is one.
    unsafe { asm!("ldtilecfg [{}]", in(reg) config, options(nostack, readonly)) }
}

/// # Safety
/// The processor has AMX.
unsafe fn release() {
    // SAFETY: the caller's promise.
    unsafe { asm!("tilerelease", options(nostack, nomem)) }
}

/// The sums of a block of rows and a group of four panels, a tile each.
///
/// # Safety
/// The tiles are configured; activations, codes and dots are there.
#[inline(always)]
unsafe fn one_by_four(x: *const u16, codes: Codes, dots: *mut f32) {
    // SAFETY: the caller's promise; nothing else uses tiles meanwhile.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "tileloadd tmm4, [{x}+{row}*1]",
            "tileloadd tmm5, [{c0}+{row}*1]",
            "tdpbf16ps tmm0, tmm4, tmm5",
            "tileloadd tmm6, [{c1}+{row}*1]",
            "tdpbf16ps tmm1, tmm4, tmm6",
            "tileloadd tmm7, [{c2}+{row}*1]",
            "tdpbf16ps tmm2, tmm4, tmm7",
            "tileloadd tmm5, [{c3}+{row}*1]",
            "tdpbf16ps tmm3, tmm4, tmm5",
            "tilestored [{dots}+{row}*1], tmm0",
            "tilestored [{dots}+{row}*1+1024], tmm1",
            "tilestored [{dots}+{row}*1+2048], tmm2",
            "tilestored [{dots}+{row}*1+3072], tmm3",
            x = in(reg) x,
            c0 = in(reg) codes[0],
            c1 = in(reg) codes[1],
            c2 = in(reg) codes[2],
            c3 = in(reg) codes[3],
            dots = in(reg) dots,
            row = in(reg) 64usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// The sums of two blocks of rows and a group of two panels, a tile each: both panels of the first block,
/// then of the second.
///
/// # Safety
/// As [`one_by_four`].
#[inline(always)]
unsafe fn two_by_two(x: [*const u16; 2], codes: [*const u16; 2], dots: *mut f32) {
    // SAFETY: the caller's promise; nothing else uses tiles meanwhile.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "tileloadd tmm4, [{x0}+{row}*1]",
            "tileloadd tmm6, [{c0}+{row}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{c1}+{row}*1]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{x1}+{row}*1]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "tilestored [{dots}+{row}*1], tmm0",
            "tilestored [{dots}+{row}*1+1024], tmm1",
            "tilestored [{dots}+{row}*1+2048], tmm2",
            "tilestored [{dots}+{row}*1+3072], tmm3",
            x0 = in(reg) x[0],
            x1 = in(reg) x[1],
            c0 = in(reg) codes[0],
            c1 = in(reg) codes[1],
            dots = in(reg) dots,
            row = in(reg) 64usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
