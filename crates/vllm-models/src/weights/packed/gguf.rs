use std::ops::Range;

use vllm_gguf::{BlockType, Checkpoint, RowOrder};

use super::{NamedFile, PackedTensor, Recipe};
use crate::{Error, Result};

/// The blocks of one tensor of a GGUF file.
#[derive(Debug)]
pub(super) struct Blocks {
    file: usize,
    bytes: Range<usize>,
    block_type: BlockType,
    rows: RowOrder,
    offset: f32,
}

/// The weights of GGUF files under the names that the model zoo uses.
pub(in super::super) fn read_checkpoint(
    files: &[NamedFile],
) -> Result<Vec<(String, PackedTensor)>> {
    let named: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(name, buffer)| (name.as_str(), buffer.as_ref().as_ref()))
        .collect();
    let error = |error: vllm_gguf::Error| Error::File {
        file: files
            .first()
            .map(|(name, _)| name.clone())
            .unwrap_or_default(),
        message: error.to_string(),
    };
    let checkpoint = Checkpoint::new(&named).map_err(error)?;
    let weights = vllm_gguf::weights(&checkpoint).map_err(error)?;
    let packed = weights.into_iter().map(|weight| {
        let blocks = Blocks {
            file: weight.file,
            bytes: weight.bytes,
            block_type: weight.block_type,
            rows: weight.rows,
            offset: weight.offset,
        };
        let packed = PackedTensor {
            shape: weight.shape,
            file: weight.file,
            recipe: Recipe::Gguf(blocks),
        };
        (weight.name, packed)
    });
    Ok(packed.collect())
}

impl Blocks {
    /// Writes row `row` of `rows`.
    pub(super) fn read_row(
        &self,
        row: usize,
        rows: usize,
        files: &[NamedFile],
        numbers: &mut [f32],
    ) -> Result<()> {
        let columns = numbers.len();
        // A vector is permuted as a matrix of one column would be.
        if let (1, RowOrder::Interleaved { .. }) = (rows, self.rows) {
            let mut stored = vec![0.0; columns];
            self.block_type
                .dequantize(self.row_bytes(0, columns, files)?, &mut stored);
            for (index, number) in numbers.iter_mut().enumerate() {
                *number = stored[self.rows.source_row(index, columns)];
            }
        } else {
            let source = self.rows.source_row(row, rows);
            self.block_type
                .dequantize(self.row_bytes(source, columns, files)?, numbers);
        }
        if self.offset != 0.0 {
            for number in numbers {
                *number += self.offset;
            }
        }
        Ok(())
    }

    pub(super) fn bytes(&self) -> Range<usize> {
        self.bytes.clone()
    }

    pub(super) fn block_type(&self) -> BlockType {
        self.block_type
    }

    pub(super) fn row_order(&self) -> RowOrder {
        self.rows
    }

    pub(super) fn offset(&self) -> f32 {
        self.offset
    }

    pub(super) fn row_bytes<'a>(
        &self,
        row: usize,
        columns: usize,
        files: &'a [NamedFile],
    ) -> Result<&'a [u8]> {
        let size = self.block_type.byte_len(columns);
        let (name, buffer) = &files[self.file];
        let file_bytes: &[u8] = buffer.as_ref().as_ref();
        let start = self.bytes.start + row * size;
        file_bytes
            .get(start..start + size)
            .ok_or_else(|| Error::File {
                file: name.clone(),
                message: "the file became shorter while it was read".to_owned(),
            })
    }
}
