use std::sync::{Mutex, PoisonError};

use half::f16;

use super::CHUNK;
use crate::cpu::aligned::AlignedBytes;
use crate::cpu::panels::PANEL;
use crate::cpu::pool;
use crate::{Error, Result};

/// What the numbers of a quantized matrix are made of: `scale · (code − zero) − min`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeForm {
    bits: u32,
    group_len: usize,
    zero: u8,
    has_mins: bool,
}

impl CodeForm {
    /// The narrowest form with room for codes of `bits` bits, at most 8, and groups of `group_len`
    /// neighbours, a multiple of 16. `None` where there is no such form.
    pub fn new(bits: u32, group_len: usize, zero: u8, has_mins: bool) -> Option<Self> {
        let group_len = match group_len {
            0 => return None,
            len if len.is_multiple_of(32) => 32,
            len if len.is_multiple_of(16) => 16,
            _ => return None,
        };
        // The forms that kernels are written for.
        let bits = match (bits, group_len, has_mins) {
            (0, ..) | (9.., ..) => return None,
            (1..=2, 16, true) => 2,
            (1..=3, 16, false) => 3,
            (1..=4, 32, _) => 4,
            (5, 32, _) => 5,
            (1..=6, 16, false) => 6,
            _ => 8,
        };
        Some(Self {
            bits,
            group_len,
            zero,
            has_mins,
        })
    }

    /// Bits kept of each code.
    pub fn bits(self) -> u32 {
        self.bits
    }

    /// Inputs that share a scale: 16 or 32.
    pub fn group_len(self) -> usize {
        self.group_len
    }

    pub(super) fn zero(self) -> u8 {
        self.zero
    }

    pub(super) fn has_mins(self) -> bool {
        self.has_mins
    }

    fn groups_of_chunk(self) -> usize {
        CHUNK / self.group_len
    }

    /// Bytes of the codes of a chunk.
    pub(super) fn code_bytes(self) -> usize {
        CHUNK * PANEL * self.bits as usize / 8
    }
}

/// One row of a quantized matrix, to be filled in.
#[derive(Debug)]
pub struct RowCodes {
    /// A code for each input.
    pub codes: Vec<u8>,
    /// A factor for each group of the form's `group_len` inputs.
    pub scales: Vec<f32>,
    /// What is taken off each group; left alone by forms without minima.
    pub mins: Vec<f32>,
}

/// A quantized matrix `[rows, columns]` in panels of 16 rows.
///
/// A panel holds chunks of 32 columns, then the scales, then the minima. Within a chunk the codes lie in
/// planes of 4, 2 and 1 bits; a plane's bytes hold four neighbouring columns for each of the 16 rows, as
/// the instructions for byte products take them, and as many such runs as fit side by side in a byte.
/// Scales and minima are float16, `[groups][16]`, divided by a power of two that the panel keeps.
#[derive(Debug)]
pub(crate) struct QuantizedPanels {
    bytes: AlignedBytes,
    factors: Vec<f32>,
    form: CodeForm,
    rows: usize,
    columns: usize,
}

impl QuantizedPanels {
    /// A matrix of what `read` gives for each row. Rows are read from several threads.
    ///
    /// # Errors
    /// Whatever `read` reports, or no memory.
    pub(crate) fn from_rows<E: From<Error> + Send>(
        form: CodeForm,
        rows: usize,
        columns: usize,
        read: impl Fn(usize, &mut RowCodes) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        let mut panels = Self::zeroed(form, rows, columns)?;
        let num_panels = rows.div_ceil(PANEL);
        let mut factors = vec![1.0; num_panels];
        let failure = Mutex::new(None);
        let panel_len = panels.panel_len();
        let bytes = Shared(panels.bytes.as_mut_ptr(), factors.as_mut_ptr());
        let sizes = Sizes { form, columns };
        pool::for_each(num_panels, rows.saturating_mul(columns), |panel| {
            // SAFETY: the panel and its factor are there, and no other task writes to them.
            let (panel_bytes, factor) = unsafe {
                let (bytes, factors) = bytes.get();
                let start = bytes.add(panel * panel_len);
                (
                    std::slice::from_raw_parts_mut(start, panel_len),
                    &mut *factors.add(panel),
                )
            };
            let mut row_codes = (0..PANEL.min(rows - panel * PANEL)).map(|row| {
                let mut codes = sizes.row();
                read(panel * PANEL + row, &mut codes).map(|()| codes)
            });
            match row_codes.by_ref().collect::<Result<Vec<_>, E>>() {
                Ok(row_codes) => *factor = sizes.fill(panel_bytes, &row_codes),
                Err(error) => {
                    *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                }
            }
        })?;
        if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        panels.factors = factors;
        Ok(panels)
    }

    fn zeroed(form: CodeForm, rows: usize, columns: usize) -> Result<Self> {
        let mut panels = Self {
            bytes: AlignedBytes::zeroed(0).map_err(|e| Error::Memory(0, e))?,
            factors: Vec::new(),
            form,
            rows,
            columns,
        };
        let len = panels.panel_len() * rows.div_ceil(PANEL);
        panels.bytes = AlignedBytes::zeroed(len).map_err(|e| Error::Memory(len, e))?;
        Ok(panels)
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    pub(crate) fn form(&self) -> CodeForm {
        self.form
    }

    /// Bytes in memory.
    pub(crate) fn num_bytes(&self) -> usize {
        self.bytes.len() + size_of_val(&self.factors[..])
    }

    pub(super) fn chunks(&self) -> usize {
        self.columns.div_ceil(CHUNK)
    }

    /// Codes of a panel.
    pub(super) fn codes(&self, panel: usize) -> &[u8] {
        &self.panel(panel)[..self.chunks() * self.form.code_bytes()]
    }

    /// Scales of a panel, `[groups][16]`.
    pub(super) fn scales(&self, panel: usize) -> &[f16] {
        let start = self.chunks() * self.form.code_bytes();
        as_halves(&self.panel(panel)[start..start + self.group_bytes()])
    }

    /// Minima of a panel, likewise; empty for forms without.
    pub(super) fn mins(&self, panel: usize) -> &[f16] {
        let start = self.chunks() * self.form.code_bytes() + self.group_bytes();
        let len = if self.form.has_mins {
            self.group_bytes()
        } else {
            0
        };
        as_halves(&self.panel(panel)[start..start + len])
    }

    /// What the panel's scales and minima are multiplied by: a power of two.
    pub(super) fn factor(&self, panel: usize) -> f32 {
        self.factors[panel]
    }

    /// Writes the numbers of row `row`.
    pub(crate) fn copy_row(&self, row: usize, numbers: &mut [f32]) {
        let (panel, lane) = (row / PANEL, row % PANEL);
        let (scales, mins) = (self.scales(panel), self.mins(panel));
        let mut codes = [0; CHUNK * PANEL];
        let chunks = self.codes(panel).chunks_exact(self.form.code_bytes());
        for ((chunk, packed), numbers) in chunks.enumerate().zip(numbers.chunks_mut(CHUNK)) {
            unpack_chunk(self.form.bits, packed, &mut codes);
            for (column, number) in numbers.iter_mut().enumerate() {
                let group = (chunk * CHUNK + column) / self.form.group_len;
                let code = codes[code_place(column, lane)];
                let scale = scales[group * PANEL + lane].to_f32();
                let min = mins
                    .get(group * PANEL + lane)
                    .map_or(0.0, |min| min.to_f32());
                let centred = i32::from(code) - i32::from(self.form.zero);
                *number = (scale * centred as f32 - min) * self.factors[panel];
            }
        }
    }

    fn panel(&self, panel: usize) -> &[u8] {
        let len = self.panel_len();
        let start = panel * len;
        assert!(start + len <= self.bytes.len());
        // SAFETY: the panel lies within the bytes, which are initialized.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr().add(start), len) }
    }

    /// Bytes of a panel's scales, or of its minima.
    fn group_bytes(&self) -> usize {
        self.chunks() * self.form.groups_of_chunk() * PANEL * size_of::<f16>()
    }

    /// Bytes from one panel to the next.
    fn panel_len(&self) -> usize {
        let kinds = 1 + usize::from(self.form.has_mins);
        let len = self.chunks() * self.form.code_bytes() + kinds * self.group_bytes();
        len.next_multiple_of(64)
    }
}

fn as_halves(bytes: &[u8]) -> &[f16] {
    bytemuck::cast_slice(bytes)
}

struct Shared(*mut u8, *mut f32);

// SAFETY: each task writes to a panel of its own.
unsafe impl Sync for Shared {}

impl Shared {
    /// A function, so that closures take the whole and not the pointers inside.
    fn get(&self) -> (*mut u8, *mut f32) {
        (self.0, self.1)
    }
}

/// Where the code of a column of the chunk and a row of the panel lies among those of the chunk.
pub(super) fn code_place(column: usize, lane: usize) -> usize {
    column / 4 * 64 + lane * 4 + column % 4
}

/// Planes of codes of so many bits: bits of a plane, and the bit of the code that it begins with.
fn planes(bits: u32) -> &'static [(u32, u32)] {
    match bits {
        2 => &[(2, 0)],
        3 => &[(2, 0), (1, 2)],
        4 => &[(4, 0)],
        5 => &[(4, 0), (1, 4)],
        6 => &[(4, 0), (2, 4)],
        _ => &[(8, 0)],
    }
}

/// Codes of a chunk into planes. The runs of 64 codes that share a plane's bytes are as far apart as
/// they can be.
fn pack_chunk(bits: u32, codes: &[u8; CHUNK * PANEL], packed: &mut [u8]) {
    let mut rest = packed;
    for (plane_bits, first_bit) in planes(bits) {
        let (plane, behind) = rest.split_at_mut(CHUNK * PANEL * *plane_bits as usize / 8);
        rest = behind;
        let mask = (1u16 << plane_bits) - 1;
        for (index, code) in codes.iter().enumerate() {
            let (byte, slot) = (index % plane.len(), index / plane.len());
            let part = (u16::from(*code) >> first_bit) & mask;
            plane[byte] |= (part << (slot as u32 * plane_bits)) as u8;
        }
    }
}

/// The reverse.
pub(super) fn unpack_chunk(bits: u32, packed: &[u8], codes: &mut [u8; CHUNK * PANEL]) {
    codes.fill(0);
    let mut rest = packed;
    for (plane_bits, first_bit) in planes(bits) {
        let (plane, behind) = rest.split_at(CHUNK * PANEL * *plane_bits as usize / 8);
        rest = behind;
        let mask = ((1u16 << plane_bits) - 1) as u8;
        for (slot, run) in codes.chunks_exact_mut(plane.len()).enumerate() {
            for (code, byte) in run.iter_mut().zip(plane) {
                *code |= ((byte >> (slot as u32 * plane_bits)) & mask) << first_bit;
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Sizes {
    form: CodeForm,
    columns: usize,
}

impl Sizes {
    fn row(self) -> RowCodes {
        let groups = self.columns.div_ceil(self.form.group_len);
        RowCodes {
            codes: vec![0; self.columns],
            scales: vec![0.0; groups],
            mins: vec![0.0; groups],
        }
    }

    /// Writes the panel of these rows; gives its factor.
    fn fill(self, panel: &mut [u8], rows: &[RowCodes]) -> f32 {
        let form = self.form;
        let chunks = self.columns.div_ceil(CHUNK);
        let (codes, groups) = panel.split_at_mut(chunks * form.code_bytes());
        let mut chunk_codes = [0; CHUNK * PANEL];
        for (chunk, packed) in codes.chunks_exact_mut(form.code_bytes()).enumerate() {
            chunk_codes.fill(0);
            for (lane, row) in rows.iter().enumerate() {
                let columns = row.codes[chunk * CHUNK..].iter().take(CHUNK);
                for (column, code) in columns.enumerate() {
                    chunk_codes[code_place(column, lane)] = *code;
                }
            }
            pack_chunk(form.bits, &chunk_codes, packed);
        }
        let numbers = rows
            .iter()
            .flat_map(|row| row.scales.iter().chain(&row.mins));
        let largest = numbers.fold(0f32, |largest, number| largest.max(number.abs()));
        let factor = power_of_two_for(largest);
        let halves: &mut [f16] = bytemuck::cast_slice_mut(groups);
        let (scales, mins) = halves.split_at_mut(chunks * form.groups_of_chunk() * PANEL);
        for (lane, row) in rows.iter().enumerate() {
            for (group, scale) in row.scales.iter().enumerate() {
                scales[group * PANEL + lane] = f16::from_f32(scale / factor);
            }
            for (group, min) in row.mins.iter().enumerate().filter(|_| form.has_mins) {
                mins[group * PANEL + lane] = f16::from_f32(min / factor);
            }
        }
        factor
    }
}

/// A power of two by which `largest` comes to lie in the upper part of float16's range, so that small
/// numbers beside it keep their digits.
fn power_of_two_for(largest: f32) -> f32 {
    const TARGET: i32 = 14;
    if largest == 0.0 || !largest.is_finite() {
        return 1.0;
    }
    let exponent = largest.log2().floor() as i32 - TARGET;
    2f32.powi(exponent.clamp(-100, 100))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_every_width_are_found_again() {
        for bits in [2, 3, 4, 5, 6, 8] {
            let mut codes = [0u8; CHUNK * PANEL];
            for (index, code) in codes.iter_mut().enumerate() {
                *code = (index * 37 % (1 << bits)) as u8;
            }
            let mut packed = vec![0; CHUNK * PANEL * bits as usize / 8];
            pack_chunk(bits, &codes, &mut packed);
            let mut unpacked = [0; CHUNK * PANEL];
            unpack_chunk(bits, &packed, &mut unpacked);
            assert_eq!(unpacked, codes, "{bits} bits");
        }
    }

    #[test]
    fn forms_have_room_for_what_they_are_asked() {
        let form = |bits, group_len, has_mins| {
            CodeForm::new(bits, group_len, 0, has_mins).map(|form| (form.bits, form.group_len))
        };
        assert_eq!(form(4, 128, true), Some((4, 32)));
        assert_eq!(form(6, 16, false), Some((6, 16)));
        assert_eq!(form(6, 32, false), Some((8, 32)));
        assert_eq!(form(2, 32, true), Some((4, 32)));
        assert_eq!(form(3, 16, true), Some((8, 16)));
        assert_eq!(form(4, 24, true), None);
        assert_eq!(form(9, 32, true), None);
    }
}
