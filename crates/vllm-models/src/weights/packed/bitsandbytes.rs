use serde::Deserialize;

use super::piece::{Kind, Piece};
use super::{NamedFile, PackedTensor, Recipe};
use crate::Result;

/// bitsandbytes' 4-bit weights: indices into a table of 16 numbers, two in a byte, a scale for each run
/// of weights; the scales may be indices into a table themselves.
#[derive(Debug)]
pub(super) struct FourBit {
    codes: Piece,
    scales: Piece,
    nested: Option<Nested>,
    table: [f32; 16],
    columns: usize,
    run: usize,
}

/// Scales of scales.
#[derive(Debug)]
struct Nested {
    scales: Piece,
    table: Vec<f32>,
    run: usize,
    offset: f32,
}

/// What the file says of a weight, as JSON in a tensor of bytes.
#[derive(Deserialize)]
struct State {
    blocksize: usize,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f32>,
}

/// The tensors that make up a weight.
pub(super) struct Pieces {
    pub(super) codes: Piece,
    pub(super) state: Piece,
    pub(super) scales: Piece,
    pub(super) table: Piece,
    pub(super) nested_scales: Option<Piece>,
    pub(super) nested_table: Option<Piece>,
}

impl FourBit {
    pub(super) fn assemble(pieces: Pieces, files: &[NamedFile]) -> Result<PackedTensor> {
        let Pieces {
            codes,
            state,
            scales,
            table,
            nested_scales,
            nested_table,
        } = pieces;
        codes.expect(&[Kind::U8], files)?;
        state.expect(&[Kind::U8], files)?;
        let said: State = serde_json::from_slice(state.view(files)?.bytes())
            .map_err(|error| state.error(files, format!("is no quantization state: {error}")))?;
        let misshapen = |piece: &Piece| {
            piece.error(
                files,
                format!("has shape {:?}, which does not fit the others", piece.shape),
            )
        };
        let elements = said
            .shape
            .iter()
            .try_fold(1usize, |all, size| all.checked_mul(*size));
        let elements = elements.filter(|elements| *elements > 0 && said.blocksize > 0);
        let Some(elements) = elements.filter(|_| matches!(said.shape.len(), 1 | 2)) else {
            return Err(state.error(
                files,
                format!("describes a weight of shape {:?}", said.shape),
            ));
        };
        if codes.len() != elements.div_ceil(2) {
            return Err(misshapen(&codes));
        }
        let runs = elements.div_ceil(said.blocksize);
        if scales.len() != runs {
            return Err(misshapen(&scales));
        }
        let nested = match (nested_scales, nested_table, said.nested_blocksize) {
            (Some(nested_scales), Some(nested_table), Some(run)) if run > 0 => {
                scales.expect(&[Kind::U8], files)?;
                if nested_scales.len() != runs.div_ceil(run) {
                    return Err(misshapen(&nested_scales));
                }
                nested_scales.expect(&[Kind::F32], files)?;
                Some(Nested {
                    table: read_table(&nested_table, 256, files)?,
                    scales: nested_scales,
                    run,
                    offset: said.nested_offset.unwrap_or(0.0),
                })
            }
            _ => {
                scales.expect(&[Kind::F32, Kind::F16, Kind::BF16], files)?;
                None
            }
        };
        let mut numbers = [0.0; 16];
        numbers.copy_from_slice(&read_table(&table, 16, files)?);
        let columns = said.shape.last().copied().unwrap_or(1);
        Ok(PackedTensor {
            shape: said.shape,
            file: codes.file,
            recipe: Recipe::FourBit(Self {
                table: numbers,
                columns,
                codes,
                scales,
                nested,
                run: said.blocksize,
            }),
        })
    }

    /// Codes and scales.
    pub(super) fn pieces(&self) -> [&Piece; 2] {
        [&self.codes, &self.scales]
    }

    /// Writes the weights of row `row`.
    pub(super) fn read_row(
        &self,
        row: usize,
        files: &[NamedFile],
        numbers: &mut [f32],
    ) -> Result<()> {
        let mut codes = vec![0; numbers.len()];
        self.read_codes(row, files, &mut codes)?;
        let first = row * numbers.len();
        let scales = self.scales(files)?;
        for (column, (number, code)) in numbers.iter_mut().zip(codes).enumerate() {
            *number = self.table[usize::from(code)] * scales((first + column) / self.run);
        }
        Ok(())
    }

    /// Writes the indices of row `row`.
    pub(super) fn read_codes(
        &self,
        row: usize,
        files: &[NamedFile],
        codes: &mut [u8],
    ) -> Result<()> {
        let stored = self.codes.view(files)?;
        let first = row * codes.len();
        for (index, code) in (first..).zip(codes) {
            let byte = stored.byte(index / 2);
            // The first of a pair is the upper half.
            *code = if index.is_multiple_of(2) {
                byte >> 4
            } else {
                byte & 15
            };
        }
        Ok(())
    }

    /// Columns that share a scale; `None` where a run of weights does not fit the rows.
    pub(super) fn group_len(&self) -> Option<usize> {
        match (self.columns, self.run) {
            (columns, run) if run.is_multiple_of(columns) => Some(columns),
            (columns, run) if columns.is_multiple_of(run) && run.is_multiple_of(2) => Some(run),
            _ => None,
        }
    }

    /// Writes the scale of each group of row `row`.
    pub(super) fn read_scales(
        &self,
        row: usize,
        files: &[NamedFile],
        scales: &mut [f32],
    ) -> Result<()> {
        let group_len = self.columns / scales.len();
        let stored = self.scales(files)?;
        for (group, scale) in scales.iter_mut().enumerate() {
            *scale = stored((row * self.columns + group * group_len) / self.run);
        }
        Ok(())
    }

    /// What the codes stand for.
    pub(super) fn table(&self) -> [f32; 16] {
        self.table
    }

    /// The scale of each run of weights.
    fn scales<'a>(&'a self, files: &'a [NamedFile]) -> Result<impl Fn(usize) -> f32 + 'a> {
        let scales = self.scales.view(files)?;
        let nested = match &self.nested {
            Some(nested) => Some((nested, nested.scales.view(files)?)),
            None => None,
        };
        Ok(move |run: usize| match &nested {
            Some((nested, outer)) => {
                let inner = nested.table[usize::from(scales.byte(run))];
                inner * outer.number(run / nested.run) + nested.offset
            }
            None => scales.number(run),
        })
    }
}

fn read_table(piece: &Piece, len: usize, files: &[NamedFile]) -> Result<Vec<f32>> {
    piece.expect(&[Kind::F32, Kind::F16, Kind::BF16], files)?;
    if piece.len() != len {
        return Err(piece.error(
            files,
            format!("has shape {:?}, expected [{len}]", piece.shape),
        ));
    }
    let view = piece.view(files)?;
    Ok((0..len).map(|index| view.number(index)).collect())
}
