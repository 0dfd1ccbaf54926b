//! Products of bfloat16 by the instructions made for them.

use std::arch::asm;
use std::arch::x86_64::*;

use half::bf16;

use super::engine::{Engine, Part, SCORE_BYTES};
use super::product::Product;
use crate::cpu::amx::{TILE, TILE_INPUTS, TileConfig};
use crate::cpu::kv_store::{KvLayout, STRIP};
use crate::cpu::simd::Avx512;

/// Pairs of bfloat16, multiplied and added by VDPBF16PS.
pub(super) struct Pairs;

impl Product<Avx512> for Pairs {
    type Row = bf16;
    type Cached = bf16;
    const STEP: usize = 2;
    type Left = __m512bh;
    type Right = __m512bh;

    #[inline(always)]
    unsafe fn left(row: *const bf16) -> __m512bh {
        // SAFETY: the caller vouches for the instructions and the elements, here and below; any bits
        // are a pair.
        unsafe { std::mem::transmute(_mm512_set1_epi32(row.cast::<i32>().read_unaligned())) }
    }

    #[inline(always)]
    unsafe fn right(cached: *const bf16) -> __m512bh {
        // SAFETY: as above.
        unsafe { std::mem::transmute(_mm512_loadu_si512(cached.cast())) }
    }

    #[inline(always)]
    unsafe fn mul_add(left: __m512bh, right: __m512bh, sum: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_dpbf16_ps(sum, left, right) }
    }

    #[inline(always)]
    unsafe fn store(vector: __m512, row: *mut bf16) {
        // SAFETY: as above.
        unsafe {
            let narrow: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(vector));
            _mm256_storeu_si256(row.cast(), narrow);
        }
    }
}

/// AMX, for heads that are whole tiles: [`Tiles::fits`].
///
/// One row takes the same instructions as many, since they add in an order of their own.
pub(super) struct Tiles;

/// Strips of values that make the height of a tile.
const CHUNK: usize = TILE_INPUTS / STRIP;

const TILE_BYTES: usize = TILE * 64;

impl Tiles {
    pub(super) fn fits(layout: &KvLayout) -> bool {
        layout.head_dim.is_multiple_of(TILE_INPUTS)
    }
}

impl Engine for Tiles {
    type Lanes = Avx512;
    type Product = Pairs;

    unsafe fn begin() {
        let config = TileConfig::with_rows([TILE; 8]);
        // SAFETY: the caller vouches for AMX; the configuration is one.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) }
    }

    unsafe fn end() {
        // SAFETY: as above.
        unsafe { asm!("tilerelease", options(nostack, nomem)) }
    }

    #[inline(always)]
    unsafe fn scores(part: &Part<'_, bf16>) {
        let mut strip = part.strips.start;
        let few_rows = part.num_rows <= TILE;
        while strip < part.strips.end {
            let at_once = match part.strips.end - strip {
                4.. if few_rows => 4,
                2.. if !few_rows => 2,
                _ => 1,
            };
            let mut operands = Operands {
                rows: part.queries.first.cast(),
                row_bytes: part.queries.stride * size_of::<bf16>(),
                tiles: [std::ptr::null(); 4],
                depth: part.layout.key_width / TILE_INPUTS,
                sums: part.scores.first.wrapping_add(strip * STRIP).cast(),
                sum_bytes: SCORE_BYTES,
            };
            operands.tiles[..at_once].copy_from_slice(&part.keys[strip..strip + at_once]);
            if few_rows {
                fetch_ahead(part, strip + at_once..strip + 2 * at_once);
            }
            // SAFETY: rows, keys and scores are the part's.
            unsafe { operands.multiply(part.num_rows, at_once) };
            strip += at_once;
        }
    }

    #[inline(always)]
    unsafe fn values(part: &Part<'_, bf16>) {
        let chunks = part.strips.start / CHUNK..part.strips.end.div_ceil(CHUNK);
        let num_tiles = part.layout.value_width / TILE;
        let column_bytes = chunks.len() * TILE_BYTES;
        // SAFETY: rows, values and sums are the part's, and there is room for all tiles.
        unsafe {
            for chunk in chunks.clone() {
                let tiles = part.extra.add((chunk - chunks.start) * TILE_BYTES);
                copy_chunk(part, chunk, tiles, column_bytes);
            }
            let few_rows = part.num_rows <= TILE;
            let mut tile = 0;
            while tile < num_tiles {
                let at_once = match num_tiles - tile {
                    4.. if few_rows => 4,
                    2.. if !few_rows => 2,
                    _ => 1,
                };
                let mut operands = Operands {
                    rows: part.weights().first.add(chunks.start * TILE_INPUTS).cast(),
                    row_bytes: SCORE_BYTES,
                    tiles: [std::ptr::null(); 4],
                    depth: chunks.len(),
                    sums: part.sums.first.add(tile * TILE).cast(),
                    sum_bytes: part.sums.stride * size_of::<f32>(),
                };
                for (n, column) in operands.tiles[..at_once].iter_mut().enumerate() {
                    *column = part.extra.add((tile + n) * column_bytes);
                }
                operands.multiply(part.num_rows, at_once);
                tile += at_once;
            }
        }
    }
}

/// Fetches keys that are wanted soon: a few rows are done with theirs before the next have come.
#[inline(always)]
fn fetch_ahead(part: &Part<'_, bf16>, strips: std::ops::Range<usize>) {
    let strip_bytes = part.layout.key_width * STRIP * size_of::<bf16>();
    for strip in strips.start..strips.end.min(part.strips.end) {
        for line in (0..strip_bytes).step_by(64) {
            let line = part.keys[strip].wrapping_add(line);
            // SAFETY: fetching changes nothing, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
        }
    }
}

/// Copies the values of a chunk of strips, `[tokens / 2][width][2]`, to tiles of 32 tokens and 16
/// elements, `column_bytes` apart, with zeros for tokens that are not the part's.
///
/// # Safety
/// The part's values are readable, and the tiles have room.
#[inline(always)]
unsafe fn copy_chunk(part: &Part<'_, bf16>, chunk: usize, tiles: *mut u8, column_bytes: usize) {
    let num_tiles = part.layout.value_width / TILE;
    for strip in chunk * CHUNK..(chunk + 1) * CHUNK {
        let lanes = if !part.strips.contains(&strip) {
            0
        } else if strip + 1 == part.strips.end {
            part.last_lanes
        } else {
            STRIP
        };
        for pair in 0..STRIP / 2 {
            let row = strip % CHUNK * (STRIP / 2) + pair;
            // The first of each pair is the lower half.
            let mask = match lanes.saturating_sub(2 * pair) {
                0 => 0,
                1 => 0xffff,
                _ => -1,
            };
            // SAFETY: the caller's promise.
            unsafe {
                let mask = _mm512_set1_epi32(mask);
                for tile in 0..num_tiles {
                    let to = tiles.add(tile * column_bytes + row * 64);
                    let pairs = if lanes == 0 {
                        _mm512_setzero_si512()
                    } else {
                        let from = part.values[strip].add((pair * num_tiles + tile) * 64);
                        _mm512_and_si512(_mm512_loadu_si512(from.cast()), mask)
                    };
                    _mm512_storeu_si512(to.cast(), pairs);
                }
            }
        }
    }
}

/// Factors and sums: `depth` tiles of rows side by side, and in up to four columns as many tiles one
/// after the other.
struct Operands {
    rows: *const u8,
    row_bytes: usize,
    tiles: [*const u8; 4],
    depth: usize,
    sums: *mut u8,
    sum_bytes: usize,
}

impl Operands {
    /// Multiplies `num_rows` rows, in blocks of 16, by `columns` columns: 1, 4 for one block, or 2 for
    /// several.
    ///
    /// # Safety
    /// The tiles are configured; rows up to whole blocks and columns are readable, sums writable.
    #[inline(always)]
    unsafe fn multiply(mut self, num_rows: usize, columns: usize) {
        let mut blocks = num_rows.div_ceil(TILE);
        // SAFETY: the caller's promise.
        unsafe {
            while blocks > 0 {
                let done = match (blocks, columns) {
                    (2.., 2) => {
                        self.two_by_two();
                        2
                    }
                    (_, 4) => {
                        self.one_by_four();
                        1
                    }
                    (_, 2) => {
                        self.one_by_one(0);
                        self.one_by_one(1);
                        1
                    }
                    _ => {
                        self.one_by_one(0);
                        1
                    }
                };
                blocks -= done;
                self.rows = self.rows.wrapping_add(done * TILE * self.row_bytes);
                self.sums = self.sums.wrapping_add(done * TILE * self.sum_bytes);
            }
        }
    }

    #[inline(always)]
    unsafe fn two_by_two(&self) {
        // SAFETY: the caller's promise; nothing else uses the tiles meanwhile.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{r0}+{row}*1]",
                "tileloadd tmm6, [{t0}+{line}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{t1}+{line}*1]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{r1}+{row}*1]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {r0}, 64",
                "add {r1}, 64",
                "add {t0}, 1024",
                "add {t1}, 1024",
                "dec {depth}",
                "jnz 2b",
                "tilestored [{s0}+{sum}*1], tmm0",
                "tilestored [{s0}+{sum}*1+64], tmm1",
                "tilestored [{s1}+{sum}*1], tmm2",
                "tilestored [{s1}+{sum}*1+64], tmm3",
                r0 = inout(reg) self.rows => _,
                r1 = inout(reg) self.rows.add(TILE * self.row_bytes) => _,
                row = in(reg) self.row_bytes,
                t0 = inout(reg) self.tiles[0] => _,
                t1 = inout(reg) self.tiles[1] => _,
                line = in(reg) 64usize,
                depth = inout(reg) self.depth => _,
                s0 = in(reg) self.sums,
                s1 = in(reg) self.sums.add(TILE * self.sum_bytes),
                sum = in(reg) self.sum_bytes,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }

    #[inline(always)]
    unsafe fn one_by_four(&self) {
        // SAFETY: as above.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{rows}+{row}*1]",
                "tileloadd tmm5, [{t0}+{line}*1]",
                "tdpbf16ps tmm0, tmm4, tmm5",
                "tileloadd tmm6, [{t1}+{line}*1]",
                "tdpbf16ps tmm1, tmm4, tmm6",
                "tileloadd tmm7, [{t2}+{line}*1]",
                "tdpbf16ps tmm2, tmm4, tmm7",
                "tileloadd tmm5, [{t3}+{line}*1]",
                "tdpbf16ps tmm3, tmm4, tmm5",
                "add {rows}, 64",
                "add {t0}, 1024",
                "add {t1}, 1024",
                "add {t2}, 1024",
                "add {t3}, 1024",
                "dec {depth}",
                "jnz 2b",
                "tilestored [{sums}+{sum}*1], tmm0",
                "tilestored [{sums}+{sum}*1+64], tmm1",
                "tilestored [{sums}+{sum}*1+128], tmm2",
                "tilestored [{sums}+{sum}*1+192], tmm3",
                rows = inout(reg) self.rows => _,
                row = in(reg) self.row_bytes,
                t0 = inout(reg) self.tiles[0] => _,
                t1 = inout(reg) self.tiles[1] => _,
                t2 = inout(reg) self.tiles[2] => _,
                t3 = inout(reg) self.tiles[3] => _,
                line = in(reg) 64usize,
                depth = inout(reg) self.depth => _,
                sums = in(reg) self.sums,
                sum = in(reg) self.sum_bytes,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }

    #[inline(always)]
    unsafe fn one_by_one(&self, column: usize) {
        // SAFETY: as above.
        unsafe {
            asm!(
                "tilezero tmm0",
                "2:",
                "tileloadd tmm4, [{rows}+{row}*1]",
                "tileloadd tmm5, [{tiles}+{line}*1]",
                "tdpbf16ps tmm0, tmm4, tmm5",
                "add {rows}, 64",
                "add {tiles}, 1024",
                "dec {depth}",
                "jnz 2b",
                "tilestored [{sums}+{sum}*1], tmm0",
                rows = inout(reg) self.rows => _,
                row = in(reg) self.row_bytes,
                tiles = inout(reg) self.tiles[column] => _,
                line = in(reg) 64usize,
                depth = inout(reg) self.depth => _,
                sums = in(reg) self.sums.add(column * 64),
                sum = in(reg) self.sum_bytes,
                out("tmm0") _, out("tmm4") _, out("tmm5") _,
                options(nostack),
            );
        }
    }
}
