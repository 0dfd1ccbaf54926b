use std::sync::{Mutex, PoisonError};

use crate::cpu::aligned::AlignedBytes;
use crate::cpu::narrow::fp8_to_bf16;
use crate::cpu::panels::PANEL;
use crate::cpu::pool;
use crate::{Error, Result};

/// What the codes of a [`ScaledMatrix`](crate::ScaledMatrix) stand for. A weight is that number times
/// the scale of its group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ScaledForm {
    /// Bytes of four exponent bits and three mantissa bits without infinities: `float8_e4m3fn`.
    Fp8,
    /// Codes from 0 to 15, each one of these numbers.
    Table([f32; 16]),
}

impl ScaledForm {
    /// The number of a code.
    pub(super) fn number(&self, code: u8) -> f32 {
        match self {
            Self::Fp8 => fp8_to_bf16(code).to_f32(),
            Self::Table(numbers) => numbers[usize::from(code & 15)],
        }
    }

    /// Bytes of two inputs of a panel.
    pub(super) fn pair_bytes(&self) -> usize {
        match self {
            Self::Fp8 => 2 * PANEL,
            Self::Table(_) => PANEL,
        }
    }
}

/// Inputs are filled up with zeros to as many as plain panels of bfloat16 have.
const PADDING: usize = 32;

/// A matrix `[rows, columns]` in panels of 16 rows.
///
/// A panel holds pairs of neighbouring columns, then the scales, float32 `[groups][16]`. A pair's codes are
/// 16 bytes for the one column and 16 for the other, or 16 bytes with the first column's codes in their
/// lower halves.
#[derive(Debug)]
pub(crate) struct ScaledPanels {
    bytes: AlignedBytes,
    sizes: Sizes,
    rows: usize,
    takes_bf16: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) form: ScaledForm,
    pub(super) columns: usize,
    /// Columns that share a scale: an even number, or all of them.
    pub(super) group_len: usize,
}

impl Sizes {
    pub(super) fn padded_columns(&self) -> usize {
        self.columns.next_multiple_of(PADDING)
    }

    fn groups(&self) -> usize {
        self.columns.div_ceil(self.group_len)
    }

    fn code_bytes(&self) -> usize {
        self.padded_columns() / 2 * self.form.pair_bytes()
    }

    /// Bytes from one panel to the next.
    fn panel_len(&self) -> usize {
        self.code_bytes() + self.groups() * PANEL * size_of::<f32>()
    }

    /// Writes a row into its panel.
    fn fill_row(&self, panel: &mut [u8], lane: usize, codes: &[u8], scales: &[f32]) {
        let (packed, kept_scales) = panel.split_at_mut(self.code_bytes());
        let kept_scales: &mut [f32] = bytemuck::cast_slice_mut(kept_scales);
        for (group, scale) in scales.iter().enumerate() {
            kept_scales[group * PANEL + lane] = *scale;
        }
        for (column, code) in codes.iter().enumerate() {
            let pair = column / 2 * self.form.pair_bytes();
            match self.form {
                ScaledForm::Fp8 => {
                    packed[pair + column % 2 * PANEL + lane] = *code;
                    // Widening does not look for the codes that are no number.
                    if code & 0x7f == 0x7f {
                        kept_scales[column / self.group_len * PANEL + lane] = f32::NAN;
                    }
                }
                ScaledForm::Table(_) => {
                    packed[pair + lane] |= (code & 15) << (column % 2 * 4);
                }
            }
        }
    }
}

impl ScaledPanels {
    /// A matrix of the codes and scales that `read` gives for each row. Rows are read from several
    /// threads. It is multiplied in bfloat16 if `takes_bf16` and the processor has instructions for that.
    ///
    /// # Errors
    /// Whatever `read` reports, a group of an odd number of columns, or no memory.
    pub(crate) fn from_rows<E: From<Error> + Send>(
        form: ScaledForm,
        (rows, columns): (usize, usize),
        group_len: usize,
        takes_bf16: bool,
        read: impl Fn(usize, &mut [u8], &mut [f32]) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        let group_len = group_len.min(columns);
        if rows == 0 || columns == 0 || !(group_len == columns || group_len.is_multiple_of(2)) {
            return Err(Error::Shape {
                operation: "scaled matrix",
                expected: "a positive size and groups of an even number of columns".to_owned(),
                actual: (rows, columns).into(),
            }
            .into());
        }
        let sizes = Sizes {
            form,
            columns,
            group_len,
        };
        let panel_len = sizes.panel_len();
        let num_panels = rows.div_ceil(PANEL);
        let len = panel_len * num_panels;
        let mut bytes = AlignedBytes::zeroed(len).map_err(|e| Error::Memory(len, e))?;
        let failure = Mutex::new(None);
        let all = Shared(bytes.as_mut_ptr());
        pool::for_each(num_panels, rows.saturating_mul(columns), |panel| {
            // SAFETY: the panel is there, and no other task writes to it.
            let bytes = unsafe {
                std::slice::from_raw_parts_mut(all.get().add(panel * panel_len), panel_len)
            };
            let mut codes = vec![0; columns];
            let mut scales = vec![0.0; sizes.groups()];
            for lane in 0..PANEL.min(rows - panel * PANEL) {
                match read(panel * PANEL + lane, &mut codes, &mut scales) {
                    Ok(()) => sizes.fill_row(bytes, lane, &codes, &scales),
                    Err(error) => {
                        *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                        return;
                    }
                }
            }
        })?;
        if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        Ok(Self {
            bytes,
            sizes,
            rows,
            takes_bf16,
        })
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn columns(&self) -> usize {
        self.sizes.columns
    }

    /// Whether bfloat16 is near enough to its numbers.
    pub(crate) fn takes_bf16(&self) -> bool {
        self.takes_bf16
    }

    /// Bytes in memory.
    pub(crate) fn num_bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Codes and scales of a panel.
    pub(super) fn panel(&self, panel: usize) -> (&[u8], &[f32]) {
        let len = self.sizes.panel_len();
        let start = panel * len;
        assert!(start + len <= self.bytes.len());
        // SAFETY: the panel lies within the bytes, which are initialized.
        let bytes = unsafe { std::slice::from_raw_parts(self.bytes.as_ptr().add(start), len) };
        let (codes, scales) = bytes.split_at(self.sizes.code_bytes());
        (codes, bytemuck::cast_slice(scales))
    }

    /// Writes the numbers of row `row`.
    pub(crate) fn copy_row(&self, row: usize, numbers: &mut [f32]) {
        let lane = row % PANEL;
        let (codes, scales) = self.panel(row / PANEL);
        let Sizes {
            form, group_len, ..
        } = self.sizes;
        for (column, number) in numbers.iter_mut().enumerate() {
            let pair = column / 2 * form.pair_bytes();
            let code = match form {
                ScaledForm::Fp8 => codes[pair + column % 2 * PANEL + lane],
                ScaledForm::Table(_) => codes[pair + lane] >> (column % 2 * 4),
            };
            *number = form.number(code) * scales[column / group_len * PANEL + lane];
        }
    }
}

struct Shared(*mut u8);

// SAFETY: each task writes to a panel of its own.
unsafe impl Sync for Shared {}

impl Shared {
    /// A function, so that closures take the whole and not the pointer inside.
    fn get(&self) -> *mut u8 {
        self.0
    }
}
