//! Weights that are not stored as plain numbers: each is put together from one or more stored pieces
//! when it is asked for.

mod bitsandbytes;
mod codes;
mod gguf;
mod grouped;
mod piece;
mod scaled;
pub(crate) mod scheme;

use std::ops::Range;

use half::{bf16, f16};
use vllm_tensor::{DType, Device, Tensor};

use super::FileBuffer;
use crate::{Error, Result};

pub(super) use gguf::read_checkpoint as read_gguf;
pub(super) use piece::{Kind, Piece};

/// A file of the checkpoint, as name and bytes.
pub(super) type NamedFile = (String, FileBuffer);

/// A weight under the name and of the shape that a model wants it.
#[derive(Debug)]
pub(super) struct PackedTensor {
    pub(super) shape: Vec<usize>,
    /// What is at hand first when a message names a file.
    pub(super) file: usize,
    recipe: Recipe,
}

/// How the numbers are found.
#[derive(Debug)]
enum Recipe {
    Gguf(gguf::Blocks),
    Grouped(grouped::Grouped),
    Scaled(scaled::Scaled),
    FourBit(bitsandbytes::FourBit),
}

impl PackedTensor {
    /// File and bytes of the large ones of its pieces.
    pub(super) fn pieces(&self) -> Vec<(usize, Range<usize>)> {
        let pieces = match &self.recipe {
            Recipe::Gguf(blocks) => return vec![(self.file, blocks.bytes())],
            Recipe::Grouped(grouped) => grouped.pieces(),
            Recipe::Scaled(scaled) => scaled.pieces(),
            Recipe::FourBit(weight) => weight.pieces(),
        };
        pieces.map(|piece| (piece.file, piece.bytes.clone())).into()
    }

    /// The numbers as `dtype` on `device`.
    pub(super) fn read(
        &self,
        files: &[NamedFile],
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let bytes = self.read_bytes(files, dtype)?;
        let tensor = Tensor::from_raw_buffer(&bytes, dtype, &self.shape, &Device::Cpu)?;
        Ok(tensor.to_device(device)?)
    }

    /// The numbers, row by row, little-endian, in float32, float16 or bfloat16.
    pub(super) fn read_bytes(&self, files: &[NamedFile], dtype: DType) -> Result<Vec<u8>> {
        match dtype {
            DType::BF16 => self.read_as(files, |number| bf16::from_f32(number).to_le_bytes()),
            DType::F16 => self.read_as(files, |number| f16::from_f32(number).to_le_bytes()),
            DType::F32 => self.read_as(files, f32::to_le_bytes),
            other => Err(Error::UnsupportedDType(other)),
        }
    }

    /// Narrows row by row, so that the numbers are never all there as float32.
    fn read_as<const N: usize>(
        &self,
        files: &[NamedFile],
        narrow: fn(f32) -> [u8; N],
    ) -> Result<Vec<u8>> {
        let (columns, outer) = match self.shape.split_last() {
            Some((columns, outer)) => (*columns, outer),
            None => (1, &[][..]),
        };
        let rows: usize = outer.iter().product();
        let mut bytes = Vec::with_capacity(rows * columns * N);
        let mut numbers = vec![0.0f32; columns];
        for row in 0..rows {
            self.read_row(row, rows, files, &mut numbers)?;
            bytes.extend(numbers.iter().flat_map(|number| narrow(*number)));
        }
        Ok(bytes)
    }

    /// Writes the numbers of row `row` of `rows`.
    pub(super) fn read_row(
        &self,
        row: usize,
        rows: usize,
        files: &[NamedFile],
        numbers: &mut [f32],
    ) -> Result<()> {
        match &self.recipe {
            Recipe::Gguf(blocks) => blocks.read_row(row, rows, files, numbers),
            Recipe::Grouped(grouped) => grouped.read_row(row, files, numbers),
            Recipe::Scaled(scaled) => scaled.read_row(row, files, numbers),
            Recipe::FourBit(weight) => weight.read_row(row, files, numbers),
        }
    }
}
