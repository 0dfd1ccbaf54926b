//! Codes of a panel as bytes, and as tiles of bfloat16.

use std::arch::x86_64::*;
use std::ops::Range;

use super::CHUNK;
use super::panels::{CodeForm, QuantizedPanels};
use crate::cpu::panels::PANEL;

/// Vectors of codes in a chunk: each has four columns for 16 rows.
pub(super) const VECTORS: usize = CHUNK / 4;

/// Elements of the tile that a chunk makes: `[16 pairs of inputs][16 outputs][2]`.
pub(super) const CHUNK_TILE: usize = CHUNK * PANEL;

/// The codes of a chunk, one in a byte.
///
/// # Safety
/// The chunk's bytes can be read there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
pub(super) unsafe fn bytes<const BITS: u32>(packed: *const u8) -> [__m512i; VECTORS] {
    // SAFETY: forwarded to the caller.
    let load = |vector: usize| unsafe { _mm512_loadu_si512(packed.add(64 * vector).cast()) };
    // All but the wanted bits of each byte are masked off, so that shifts may run across bytes.
    let pairs = |at: usize, slot: usize, bit: u32| {
        let shifted = match (slot as u32 * 2) as i32 - bit as i32 {
            -4 => _mm512_slli_epi16::<4>(load(at)),
            -2 => _mm512_slli_epi16::<2>(load(at)),
            0 => load(at),
            2 => _mm512_srli_epi16::<2>(load(at)),
            4 => _mm512_srli_epi16::<4>(load(at)),
            _ => _mm512_srli_epi16::<6>(load(at)),
        };
        _mm512_and_si512(shifted, _mm512_set1_epi8(3 << bit))
    };
    let bits = |at: usize, slot: usize, bit: u32| {
        let shifted = match slot as i32 - bit as i32 {
            -4 => _mm512_slli_epi16::<4>(load(at)),
            -3 => _mm512_slli_epi16::<3>(load(at)),
            -2 => _mm512_slli_epi16::<2>(load(at)),
            -1 => _mm512_slli_epi16::<1>(load(at)),
            0 => load(at),
            1 => _mm512_srli_epi16::<1>(load(at)),
            2 => _mm512_srli_epi16::<2>(load(at)),
            3 => _mm512_srli_epi16::<3>(load(at)),
            4 => _mm512_srli_epi16::<4>(load(at)),
            _ => _mm512_srli_epi16::<5>(load(at)),
        };
        _mm512_and_si512(shifted, _mm512_set1_epi8(1 << bit))
    };
    let nibbles = |vector: usize| {
        let mask = _mm512_set1_epi8(15);
        if vector < 4 {
            _mm512_and_si512(load(vector), mask)
        } else {
            _mm512_and_si512(_mm512_srli_epi16::<4>(load(vector - 4)), mask)
        }
    };
    let code = |vector: usize| match BITS {
        2 => pairs(vector % 2, vector / 2, 0),
        3 => _mm512_or_si512(pairs(vector % 2, vector / 2, 0), bits(2, vector, 2)),
        4 => nibbles(vector),
        5 => _mm512_or_si512(nibbles(vector), bits(4, vector, 4)),
        6 => _mm512_or_si512(nibbles(vector), pairs(4 + vector % 2, vector / 2, 4)),
        _ => load(vector),
    };
    std::array::from_fn(code)
}

/// Makes tiles of bfloat16 from codes of one form.
pub(super) struct Unpack {
    form: CodeForm,
    /// What the codes up to 63 are less the zero.
    table: [u16; 64],
}

impl Unpack {
    pub(super) fn new(form: CodeForm) -> Self {
        let codes = 1 << form.bits().min(6);
        let number = |code: usize| (code % codes) as f32 - f32::from(form.zero());
        Self {
            form,
            table: std::array::from_fn(|code| half::bf16::from_f32(number(code)).to_bits()),
        }
    }

    /// Writes the tiles of some chunks of a panel to `to`, one after the other. Among four neighbouring
    /// inputs the second and the third change places.
    ///
    /// # Safety
    /// The processor has AVX-512 with the BW group; the panel is of the form and has the chunks; there is
    /// room.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2")]
    pub(super) unsafe fn chunks(
        &self,
        panels: &QuantizedPanels,
        panel: usize,
        chunks: Range<usize>,
        to: *mut u16,
    ) {
        let packed = panels.codes(panel)[chunks.start * self.form.code_bytes()..].as_ptr();
        // SAFETY: forwarded to the caller.
        unsafe {
            match self.form.bits() {
                2 => self.tiles::<2>(packed, chunks.len(), to),
                3 => self.tiles::<3>(packed, chunks.len(), to),
                4 => self.tiles::<4>(packed, chunks.len(), to),
                5 => self.tiles::<5>(packed, chunks.len(), to),
                6 => self.tiles::<6>(packed, chunks.len(), to),
                _ if self.form.zero() == 128 => self.signed_tiles(packed, chunks.len(), to),
                _ => self.unsigned_tiles(packed, chunks.len(), to),
            }
        }
    }

    /// Codes of up to 6 bits, looked up.
    ///
    /// # Safety
    /// As [`Self::chunks`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2")]
    unsafe fn tiles<const BITS: u32>(&self, packed: *const u8, chunks: usize, to: *mut u16) {
        // SAFETY: forwarded to the caller; the table has 64 entries.
        unsafe {
            let low = _mm512_loadu_si512(self.table.as_ptr().cast());
            let high = _mm512_loadu_si512(self.table.as_ptr().add(32).cast());
            // Only the lowest 5 or 6 bits of each index count. Codes of 4 bits are found twice.
            let look_up = |codes| match BITS {
                6 => _mm512_permutex2var_epi16(low, codes, high),
                _ => _mm512_permutexvar_epi16(codes, low),
            };
            for chunk in 0..chunks {
                let packed = packed.add(chunk * CHUNK_TILE * BITS as usize / 8);
                fetch_ahead::<BITS>(packed);
                let to = to.add(chunk * CHUNK_TILE);
                let store = |row: usize, codes: __m512i| {
                    _mm512_store_si512(to.add(row * 2 * PANEL).cast(), look_up(codes));
                };
                if BITS == 4 {
                    for vector in 0..VECTORS / 2 {
                        let codes = _mm512_loadu_si512(packed.add(64 * vector).cast());
                        let upper = vector + VECTORS / 2;
                        store(2 * vector, codes);
                        store(2 * vector + 1, _mm512_srli_epi16::<8>(codes));
                        store(2 * upper, _mm512_srli_epi16::<4>(codes));
                        store(2 * upper + 1, _mm512_srli_epi16::<12>(codes));
                    }
                } else {
                    for (vector, codes) in bytes::<BITS>(packed).into_iter().enumerate() {
                        store(2 * vector, codes);
                        store(2 * vector + 1, _mm512_srli_epi16::<8>(codes));
                    }
                }
            }
        }
    }

    /// Codes of 8 bits around 128.
    ///
    /// # Safety
    /// As [`Self::chunks`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2")]
    unsafe fn signed_tiles(&self, packed: *const u8, chunks: usize, to: *mut u16) {
        // SAFETY: forwarded to the caller.
        unsafe {
            let sign = _mm512_set1_epi8(-128);
            for vector in 0..chunks * VECTORS {
                let packed = packed.add(64 * vector);
                _mm_prefetch::<_MM_HINT_T1>(packed.wrapping_add(AHEAD).cast());
                let codes = _mm512_xor_si512(_mm512_loadu_si512(packed.cast()), sign);
                let columns = [
                    _mm512_srai_epi32::<24>(_mm512_slli_epi32::<24>(codes)),
                    _mm512_srai_epi32::<24>(_mm512_slli_epi32::<16>(codes)),
                    _mm512_srai_epi32::<24>(_mm512_slli_epi32::<8>(codes)),
                    _mm512_srai_epi32::<24>(codes),
                ];
                store_pairs(columns, to.add(vector * 4 * PANEL));
            }
        }
    }

    /// Codes of 8 bits around any other zero.
    ///
    /// # Safety
    /// As [`Self::chunks`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2")]
    unsafe fn unsigned_tiles(&self, packed: *const u8, chunks: usize, to: *mut u16) {
        // SAFETY: forwarded to the caller.
        unsafe {
            let byte = _mm512_set1_epi32(255);
            let zero = _mm512_set1_epi32(i32::from(self.form.zero()));
            for vector in 0..chunks * VECTORS {
                let packed = packed.add(64 * vector);
                _mm_prefetch::<_MM_HINT_T1>(packed.wrapping_add(AHEAD).cast());
                let codes = _mm512_loadu_si512(packed.cast());
                let columns = [
                    _mm512_and_si512(codes, byte),
                    _mm512_and_si512(_mm512_srli_epi32::<8>(codes), byte),
                    _mm512_and_si512(_mm512_srli_epi32::<16>(codes), byte),
                    _mm512_srli_epi32::<24>(codes),
                ];
                let columns = columns.map(|codes| _mm512_sub_epi32(codes, zero));
                store_pairs(columns, to.add(vector * 4 * PANEL));
            }
        }
    }
}

/// How far ahead packed codes are fetched, in bytes: what memory delivers while it answers.
const AHEAD: usize = 4096;

/// Fetches as much as a chunk of codes takes.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn fetch_ahead<const BITS: u32>(packed: *const u8) {
    for line in 0..BITS as usize {
        _mm_prefetch::<_MM_HINT_T1>(packed.wrapping_add(AHEAD + 64 * line).cast());
    }
}

/// Writes whole numbers below 257 of four columns in two rows of a tile: the first with the third, and the
/// second with the fourth.
///
/// # Safety
/// There is room for both rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn store_pairs(columns: [__m512i; 4], to: *mut u16) {
    let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    let [first, second, third, fourth] =
        columns.map(|column| _mm512_castps_si512(_mm512_cvtepi32_ps(column)));
    let pairs = |low, high| {
        let low = _mm512_srli_epi32::<16>(low);
        // Where `upper` is set the bits of `high`, elsewhere those of `low`.
        _mm512_ternarylogic_epi32::<0xca>(upper, high, low)
    };
    // SAFETY: forwarded to the caller.
    unsafe {
        _mm512_store_si512(to.cast(), pairs(first, third));
        _mm512_store_si512(to.add(2 * PANEL).cast(), pairs(second, fourth));
    }
}
