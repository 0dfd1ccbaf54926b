//! Packed weights as the codes that the CPU keeps and multiplies, where they are of that kind.

use vllm_tensor::{CodeForm, QuantizedMatrix, RowCodes, ScaledForm};

use super::super::narrow::{ReadRow, ScaledRows};
use super::super::quantize::unpack_row;
use super::gguf::Blocks;
use super::grouped::{ColumnOrder, Grouped};
use super::scaled::Scaled;
use super::{NamedFile, PackedTensor, Recipe};
use crate::Result;

impl PackedTensor {
    /// About how many bytes the codes and scales take; `None` where the weight is no such.
    pub(in super::super) fn kept_bytes(&self) -> Option<u64> {
        // With a scale, and perhaps a minimum, of 16 bits for each 32 weights.
        let bits = match &self.recipe {
            Recipe::Gguf(blocks) if blocks.block_type().is_quantized() => {
                let kind = blocks.block_type();
                return Some(kind.byte_len(self.shape.iter().product()) as u64);
            }
            Recipe::Grouped(grouped) if grouped.column_order().is_some() => grouped.bits + 1,
            Recipe::Scaled(scaled) if scaled.is_int8() => 9,
            // Scales are few.
            Recipe::Scaled(scaled) if scaled.group_len().is_some() => 8,
            Recipe::FourBit(weight) if weight.group_len().is_some() => 5,
            _ => return None,
        };
        Some(self.shape.iter().product::<usize>() as u64 * u64::from(bits) / 8)
    }

    /// The weight as codes; `None` where its numbers are not made of whole-number codes in groups.
    pub(in super::super) fn quantized(
        &self,
        files: &[NamedFile],
    ) -> Result<Option<QuantizedMatrix>> {
        let [rows, columns] = self.shape[..] else {
            return Ok(None);
        };
        match &self.recipe {
            Recipe::Gguf(blocks) => blocks.quantized(rows, columns, files),
            Recipe::Grouped(grouped) => grouped.quantized(rows, columns, files),
            Recipe::Scaled(scaled) => scaled.quantized(rows, columns, files),
            Recipe::FourBit(_) => Ok(None),
        }
    }

    /// The weight as floating-point codes; `None` where it is not made of such.
    pub(in super::super) fn scaled<'a>(&'a self, files: &'a [NamedFile]) -> Option<ScaledRows<'a>> {
        let [rows, columns] = self.shape[..] else {
            return None;
        };
        let (form, group_len, read): (_, _, ReadRow<'a>) = match &self.recipe {
            Recipe::Scaled(scaled) if !scaled.is_int8() => {
                let read = move |row: usize, codes: &mut [u8], scales: &mut [f32]| {
                    scaled.read_bytes(row, files, codes)?;
                    scaled.read_scales(row, files, scales)
                };
                (ScaledForm::Fp8, scaled.group_len()?, Box::new(read))
            }
            Recipe::FourBit(weight) => {
                let read = move |row: usize, codes: &mut [u8], scales: &mut [f32]| {
                    weight.read_codes(row, files, codes)?;
                    weight.read_scales(row, files, scales)
                };
                let form = ScaledForm::Table(weight.table());
                (form, weight.group_len()?, Box::new(read))
            }
            _ => return None,
        };
        Some(ScaledRows {
            form,
            rows,
            columns,
            group_len,
            read,
        })
    }
}

impl Blocks {
    fn quantized(
        &self,
        rows: usize,
        columns: usize,
        files: &[NamedFile],
    ) -> Result<Option<QuantizedMatrix>> {
        let kind = self.block_type();
        if !kind.is_quantized() || self.offset() != 0.0 {
            return Ok(None);
        }
        let form = CodeForm::new(kind.bits(), kind.group_len(), kind.zero(), kind.has_mins());
        let Some(form) = form else {
            return Ok(None);
        };
        let read = |row: usize, codes: &mut RowCodes| {
            let source = self.row_order().source_row(row, rows);
            unpack_row(kind, self.row_bytes(source, columns, files)?, codes);
            Ok::<_, crate::Error>(())
        };
        QuantizedMatrix::from_rows(form, rows, columns, read).map(Some)
    }
}

impl Grouped {
    fn quantized(
        &self,
        rows: usize,
        columns: usize,
        files: &[NamedFile],
    ) -> Result<Option<QuantizedMatrix>> {
        // Groups have to be of whole groups of ours.
        if !(self.group_len.is_multiple_of(32) || self.group_len >= columns) {
            return Ok(None);
        }
        let Some(order) = self.column_order() else {
            return Ok(None);
        };
        let middle = 1 << (self.bits - 1);
        let is_symmetric = match &self.zeros {
            None => true,
            Some(_) => self.zeros_are_all(middle, files)?,
        };
        let zero = if is_symmetric { middle as u8 } else { 0 };
        let Some(form) = CodeForm::new(self.bits, 32, zero, !is_symmetric) else {
            return Ok(None);
        };
        let read = |row: usize, codes: &mut RowCodes| {
            let (scales, zeros) = self.scales_and_zeros(row, files)?;
            self.read_codes(row, files, &mut codes.codes)?;
            if let ColumnOrder::Sorted(order) = order {
                let stored = codes.codes.clone();
                for (code, input) in codes.codes.iter_mut().zip(order) {
                    *code = stored[*input as usize];
                }
            }
            let groups = codes.scales.iter_mut().zip(&mut codes.mins);
            for (index, (scale, min)) in groups.enumerate() {
                let group = index * 32 / self.group_len;
                *scale = scales[group];
                *min = if is_symmetric {
                    0.0
                } else {
                    scales[group] * zeros[group] as f32
                };
            }
            Ok::<_, crate::Error>(())
        };
        let matrix = QuantizedMatrix::from_rows(form, rows, columns, read)?;
        Ok(Some(match order {
            ColumnOrder::Stored => matrix,
            ColumnOrder::Sorted(order) => matrix.with_input_order(order.to_vec())?,
        }))
    }

    fn zeros_are_all(&self, zero: i32, files: &[NamedFile]) -> Result<bool> {
        for output in 0..self.out_features {
            let (_, zeros) = self.scales_and_zeros(output, files)?;
            if zeros.iter().any(|stored| *stored != zero) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Scaled {
    /// int8 with scales that hold for whole rows or for groups of neighbours.
    fn quantized(
        &self,
        rows: usize,
        columns: usize,
        files: &[NamedFile],
    ) -> Result<Option<QuantizedMatrix>> {
        let (_, tile_columns) = self.tile();
        if !self.is_int8() || !(tile_columns.is_multiple_of(32) || tile_columns >= columns) {
            return Ok(None);
        }
        let Some(form) = CodeForm::new(8, 32, 128, false) else {
            return Ok(None);
        };
        let read = |row: usize, codes: &mut RowCodes| {
            self.read_codes(row, files, &mut codes.codes)?;
            for (index, scale) in codes.scales.iter_mut().enumerate() {
                *scale = self.scale(row, index * 32, files)?;
            }
            Ok::<_, crate::Error>(())
        };
        QuantizedMatrix::from_rows(form, rows, columns, read).map(Some)
    }
}
