use super::piece::{Kind, Piece};
use super::{NamedFile, PackedTensor, Recipe};
use crate::Result;

/// One byte for each weight, and scales for tiles of them: int8 and FP8.
#[derive(Debug)]
pub(super) struct Scaled {
    codes: Piece,
    scales: Piece,
    /// Rows and columns of a tile.
    tile: (usize, usize),
    tiles_in_row: usize,
    /// What all scales are multiplied by.
    factor: f32,
}

impl Scaled {
    /// A weight `[out, in]` and its scales: one for all, one a row, or one for each tile of `tile`.
    pub(super) fn assemble(
        codes: Piece,
        scales: Piece,
        tile: Option<(usize, usize)>,
        factor: f32,
        files: &[NamedFile],
    ) -> Result<PackedTensor> {
        codes.expect(&[Kind::F8E4M3, Kind::I8], files)?;
        scales.expect(&[Kind::F16, Kind::BF16, Kind::F32], files)?;
        let misshapen = |piece: &Piece| {
            piece.error(
                files,
                format!("has shape {:?}, which does not fit the others", piece.shape),
            )
        };
        let [rows, columns] = codes.shape[..] else {
            return Err(misshapen(&codes));
        };
        let dims = scales.dims2().ok_or_else(|| misshapen(&scales))?;
        let tile = match (tile, dims) {
            (Some((tile_rows, tile_columns)), dims)
                if tile_rows > 0
                    && tile_columns > 0
                    && dims == (rows.div_ceil(tile_rows), columns.div_ceil(tile_columns)) =>
            {
                (tile_rows, tile_columns)
            }
            (_, (1, 1)) => (rows, columns),
            (_, dims) if dims == (rows, 1) => (1, columns),
            // Groups along a row.
            (None, (scale_rows, groups))
                if scale_rows == rows && groups > 0 && columns.is_multiple_of(groups) =>
            {
                (1, columns / groups)
            }
            _ => return Err(misshapen(&scales)),
        };
        Ok(PackedTensor {
            shape: codes.shape.clone(),
            file: codes.file,
            recipe: Recipe::Scaled(Self {
                tiles_in_row: columns.div_ceil(tile.1.max(1)),
                codes,
                scales,
                tile,
                factor,
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
        let columns = numbers.len();
        let (codes, scales) = (self.codes.view(files)?, self.scales.view(files)?);
        let first_scale = row / self.tile.0 * self.tiles_in_row;
        for (column, number) in numbers.iter_mut().enumerate() {
            let scale = scales.number(first_scale + column / self.tile.1) * self.factor;
            *number = codes.number(row * columns + column) * scale;
        }
        Ok(())
    }

    /// Columns that share a scale, if as many as a kernel for floating-point codes takes.
    pub(super) fn group_len(&self) -> Option<usize> {
        let (_, columns) = self.tile;
        (columns.is_multiple_of(2) || columns >= self.codes.shape[1]).then_some(columns)
    }

    /// Writes the bytes of row `row`.
    pub(super) fn read_bytes(
        &self,
        row: usize,
        files: &[NamedFile],
        bytes: &mut [u8],
    ) -> Result<()> {
        let stored = self.codes.view(files)?.bytes();
        bytes.copy_from_slice(&stored[row * bytes.len()..][..bytes.len()]);
        Ok(())
    }

    /// Writes the scale of each group of row `row`.
    pub(super) fn read_scales(
        &self,
        row: usize,
        files: &[NamedFile],
        scales: &mut [f32],
    ) -> Result<()> {
        let stored = self.scales.view(files)?;
        let first = row / self.tile.0 * self.tiles_in_row;
        for (index, scale) in scales.iter_mut().enumerate() {
            *scale = stored.number(first + index) * self.factor;
        }
        Ok(())
    }

    /// Writes the codes of row `row` of an int8 weight, moved from around 0 to around 128.
    pub(super) fn read_codes(
        &self,
        row: usize,
        files: &[NamedFile],
        codes: &mut [u8],
    ) -> Result<()> {
        let stored = self.codes.view(files)?;
        for (column, code) in codes.iter_mut().enumerate() {
            *code = stored.byte(row * self.codes.shape[1] + column) ^ 0x80;
        }
        Ok(())
    }

    /// The scale of one weight.
    pub(super) fn scale(&self, row: usize, column: usize, files: &[NamedFile]) -> Result<f32> {
        let index = row / self.tile.0 * self.tiles_in_row + column / self.tile.1;
        Ok(self.scales.view(files)?.number(index) * self.factor)
    }

    pub(super) fn is_int8(&self) -> bool {
        self.codes.kind == Kind::I8
    }

    /// Rows and columns that share a scale.
    pub(super) fn tile(&self) -> (usize, usize) {
        self.tile
    }
}
