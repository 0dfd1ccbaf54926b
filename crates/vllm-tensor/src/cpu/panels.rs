//! Weights laid out for the kernels: panels of 16 outputs that are read from front to back.
//!
//! A panel holds, for each group of inputs in order, the weights of its 16 outputs side by side:
//! `[outputs / 16][inputs / group][16][group]`. A group is one input in float32 and float16, and two
//! in bfloat16, as the instructions that multiply bfloat16 want them. The same layout serves one row
//! and many, and a row of the original is still found in it, so a table can be both an embedding and
//! an output layer.

use std::borrow::Cow;
use std::ops::Range;

use candle_core::{DType, Tensor};
use half::{bf16, f16};

use super::aligned::AlignedBytes;
use super::pool;
use super::simd::Stored;
use super::storage::{stored_slice, with_stored};
use crate::weight::WeightRows;
use crate::{Error, Result};

/// Outputs of a panel.
pub(super) const PANEL: usize = 16;

/// A matrix `[out, in]` in panels.
#[derive(Debug)]
pub(crate) struct Panels {
    bytes: AlignedBytes,
    dtype: DType,
    out_features: usize,
    in_features: usize,
}

/// An element that panels are made of.
pub(super) trait PanelElement: Stored + bytemuck::Pod {
    const DTYPE: DType;
    /// Inputs that lie side by side for each output.
    const GROUP: usize;
    /// Inputs are filled up with zeros to a multiple of this.
    const PADDING: usize;
}

impl PanelElement for f32 {
    const DTYPE: DType = DType::F32;
    const GROUP: usize = 1;
    const PADDING: usize = 1;
}

impl PanelElement for f16 {
    const DTYPE: DType = DType::F16;
    const GROUP: usize = 1;
    const PADDING: usize = 1;
}

impl PanelElement for bf16 {
    const DTYPE: DType = DType::BF16;
    const GROUP: usize = 2;
    /// Whole tiles.
    const PADDING: usize = 32;
}

impl Panels {
    /// A matrix of zeros in float32, float16 or bfloat16, to be filled by [`Panels::fill_tensor`].
    ///
    /// # Errors
    /// Another dtype, or no memory.
    pub(crate) fn zeroed(dtype: DType, out_features: usize, in_features: usize) -> Result<Self> {
        if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Err(Error::UnsupportedDType {
                operation: "linear",
                dtype,
            });
        }
        let panels = out_features.div_ceil(PANEL);
        let bytes = padded_inputs(dtype, in_features)
            .checked_mul(PANEL * dtype.size_in_bytes())
            .and_then(|panel| panel.checked_mul(panels))
            .ok_or_else(|| Error::Shape {
                operation: "linear",
                expected: "a weight that fits in memory".to_owned(),
                actual: (out_features, in_features).into(),
            })?;
        Ok(Self {
            bytes: AlignedBytes::zeroed(bytes).map_err(|e| Error::Memory(bytes, e))?,
            dtype,
            out_features,
            in_features,
        })
    }

    /// Copies the rows of a contiguous `rows`, `[rows, in]` in this matrix' dtype, to the outputs from
    /// `first` on.
    pub(crate) fn fill_tensor(&mut self, first: usize, rows: &Tensor) -> Result<()> {
        let (storage, layout) = rows.storage_and_layout();
        with_stored!(stored_slice(&storage, layout)?, rows => self.fill(first, rows))
    }

    /// Copies `rows`, each `in_features` long and of this matrix' dtype, to the outputs from `first`
    /// on.
    pub(super) fn fill<E: PanelElement>(&mut self, first: usize, rows: &[E]) -> Result<()> {
        let in_features = self.in_features;
        self.fill_panels::<E>(first, rows.len() / in_features, |panel, output, own| {
            let rows = &rows[own.start * in_features..own.end * in_features];
            fill_panel(panel, output, rows.chunks_exact(in_features));
        })
    }

    /// Copies `rows`, each of `in_features` elements of any dtype, to the outputs from `first` on.
    pub(crate) fn fill_rows(&mut self, first: usize, rows: &dyn WeightRows) -> Result<()> {
        match self.dtype {
            DType::F16 => self.fill_stored_rows::<f16>(first, rows),
            DType::BF16 => self.fill_stored_rows::<bf16>(first, rows),
            _ => self.fill_stored_rows::<f32>(first, rows),
        }
    }

    fn fill_stored_rows<E: PanelElement>(
        &mut self,
        first: usize,
        rows: &dyn WeightRows,
    ) -> Result<()> {
        self.fill_panels::<E>(first, rows.num_rows(), |panel, output, own| {
            let own = own.map(|index| elements::<E>(rows.row(index), rows.dtype()));
            let own: Vec<Cow<'_, [E]>> = own.collect();
            fill_panel(panel, output, own.iter().map(|row| &**row));
        })
    }

    /// Has `write` fill each panel that outputs `first` to `first + num_rows` are in: it is given the
    /// panel, the first output within it, and the range of rows that belong there.
    fn fill_panels<E: PanelElement>(
        &mut self,
        first: usize,
        num_rows: usize,
        write: impl Fn(&mut [E], usize, Range<usize>) + Sync,
    ) -> Result<()> {
        assert_eq!(E::DTYPE, self.dtype);
        let end = first + num_rows;
        assert!(end <= self.out_features);
        let panel_len = self.panel_len();
        let panels = first / PANEL..end.div_ceil(PANEL);
        let all = Elements(self.bytes.as_mut_ptr().cast::<E>());
        let work = num_rows * self.in_features;
        pool::for_each(panels.len(), work, |task| {
            let panel = panels.start + task;
            // SAFETY: the panel lies within the bytes, and no other task writes to it.
            let panel_elements = unsafe {
                let start = all.get().add(panel * panel_len);
                std::slice::from_raw_parts_mut(start, panel_len)
            };
            let outputs = first.max(panel * PANEL)..end.min((panel + 1) * PANEL);
            let rows = outputs.start - first..outputs.end - first;
            write(panel_elements, outputs.start % PANEL, rows);
        })
    }

    /// Rows `indices` of the original matrix, one after the other.
    pub(crate) fn rows(&self, indices: &[u32]) -> Vec<f32> {
        let mut rows = vec![0f32; indices.len() * self.in_features];
        for (index, row) in indices.iter().zip(rows.chunks_exact_mut(self.in_features)) {
            self.copy_row(*index as usize, row);
        }
        rows
    }

    /// Writes row `index` of the original matrix.
    fn copy_row(&self, index: usize, to: &mut [f32]) {
        match self.dtype {
            DType::F16 => self.copy_row_elements::<f16>(index, to),
            DType::BF16 => self.copy_row_elements::<bf16>(index, to),
            _ => self.copy_row_elements::<f32>(index, to),
        }
    }

    fn copy_row_elements<E: PanelElement>(&self, index: usize, to: &mut [f32]) {
        let start = index / PANEL * self.panel_len() + index % PANEL * E::GROUP;
        let row = self.elements::<E>()[start..].chunks(PANEL * E::GROUP);
        for (to, group) in to.chunks_mut(E::GROUP).zip(row) {
            for (to, element) in to.iter_mut().zip(group) {
                *to = element.to_f32();
            }
        }
    }

    /// All panels, one after the other.
    pub(super) fn elements<E: PanelElement>(&self) -> &[E] {
        assert_eq!(E::DTYPE, self.dtype);
        let len = self.bytes.len() / size_of::<E>();
        // SAFETY: the bytes are aligned to cache lines, initialized, and any bits are an element.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr().cast(), len) }
    }

    /// Elements from one panel to the next.
    pub(super) fn panel_len(&self) -> usize {
        self.padded_inputs() * PANEL
    }

    /// Inputs with the zeros behind them.
    pub(super) fn padded_inputs(&self) -> usize {
        padded_inputs(self.dtype, self.in_features)
    }

    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    pub(crate) fn out_features(&self) -> usize {
        self.out_features
    }

    pub(crate) fn in_features(&self) -> usize {
        self.in_features
    }
}

fn padded_inputs(dtype: DType, in_features: usize) -> usize {
    match dtype {
        DType::BF16 => in_features.next_multiple_of(bf16::PADDING),
        _ => in_features,
    }
}

/// Little-endian elements of `dtype` as `E`: the bytes themselves where they are that already.
fn elements<E: PanelElement>(bytes: &[u8], dtype: DType) -> Cow<'_, [E]> {
    if dtype == E::DTYPE
        && cfg!(target_endian = "little")
        && let Ok(elements) = bytemuck::try_cast_slice(bytes)
    {
        return Cow::Borrowed(elements);
    }
    Cow::Owned(match dtype {
        DType::F16 => convert(bytes, |element| f16::from_le_bytes(element).to_f32()),
        DType::BF16 => convert(bytes, |element| bf16::from_le_bytes(element).to_f32()),
        DType::F64 => convert(bytes, |element| f64::from_le_bytes(element) as f32),
        _ => convert(bytes, f32::from_le_bytes),
    })
}

fn convert<E: PanelElement, const SIZE: usize>(
    bytes: &[u8],
    read: impl Fn([u8; SIZE]) -> f32,
) -> Vec<E> {
    let (elements, _) = bytes.as_chunks::<SIZE>();
    elements
        .iter()
        .map(|element| E::from_f32(read(*element)))
        .collect()
}

/// Where all tasks write, each to a panel of its own.
struct Elements<E>(*mut E);

// SAFETY: as said above.
unsafe impl<E: Send> Sync for Elements<E> {}

impl<E> Elements<E> {
    /// A function, so that closures take the whole and not the pointer inside.
    fn get(&self) -> *mut E {
        self.0
    }
}

/// Spreads rows over the panel's outputs from `first` on.
fn fill_panel<'a, E: PanelElement + 'a>(
    panel: &mut [E],
    first: usize,
    rows: impl Iterator<Item = &'a [E]> + Clone,
) {
    /// Groups that are written while their lines are in the first-level cache.
    const STRIP: usize = 128;
    let width = PANEL * E::GROUP;
    for (strip, to) in panel.chunks_mut(STRIP * width).enumerate() {
        for (output, row) in (first..).zip(rows.clone()) {
            let row = row.get(strip * STRIP * E::GROUP..).unwrap_or_default();
            let (groups, rest) = row.split_at(row.len() / E::GROUP * E::GROUP);
            let mut slots = to.chunks_exact_mut(width);
            for (group, slot) in groups.chunks_exact(E::GROUP).zip(&mut slots) {
                slot[output * E::GROUP..][..E::GROUP].copy_from_slice(group);
            }
            if let Some(slot) = slots.next() {
                slot[output * E::GROUP..][..rest.len()].copy_from_slice(rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::random;

    fn check<E: PanelElement>(rows: usize, columns: usize) {
        let weight: Vec<E> = random(1, rows * columns)
            .into_iter()
            .map(E::from_f32)
            .collect();
        let mut panels = Panels::zeroed(E::DTYPE, rows, columns).unwrap();
        // In two parts that meet within a panel.
        let (first, second) = weight.split_at(rows / 2 * columns);
        panels.fill(0, first).unwrap();
        panels.fill(rows / 2, second).unwrap();
        for (index, row) in weight.chunks_exact(columns).enumerate() {
            let mut copy = vec![0.0; columns];
            panels.copy_row(index, &mut copy);
            let row: Vec<f32> = row.iter().map(|element| element.to_f32()).collect();
            assert_eq!(
                copy,
                row,
                "row {index} of {rows} x {columns} {:?}",
                E::DTYPE
            );
        }
    }

    #[test]
    fn rows_are_found_again() {
        for (rows, columns) in [(1, 1), (16, 32), (17, 33), (40, 300), (5, 2)] {
            check::<f32>(rows, columns);
            check::<f16>(rows, columns);
            check::<bf16>(rows, columns);
        }
    }
}
