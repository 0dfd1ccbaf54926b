//! Quantizing plain weights while they are loaded.

use vllm_gguf::{BlockType, Unpacked};
use vllm_tensor::{CodeForm, QuantizedMatrix, RowCodes};

use super::packed::{NamedFile, Piece};
use crate::{Error, Result};

/// What linear layers become while they are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantization {
    /// 8 bits, a scale for 32 neighbours: `q8_0`, also called `int8`.
    Q8_0,
    /// 6 bits, scales for 16: `q6_k`.
    Q6K,
    /// 4 bits, scales and minima for 32: `q4_k`.
    Q4K,
}

impl Quantization {
    /// Reads a name.
    ///
    /// # Errors
    /// Another name than those above.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "int8" | "q8_0" => Ok(Self::Q8_0),
            "q6_k" => Ok(Self::Q6K),
            "q4_k" => Ok(Self::Q4K),
            other => Err(Error::UnknownQuantization(other.to_owned())),
        }
    }

    /// The block type for rows of `columns`; rows that are no whole blocks take a type with smaller
    /// ones, and `None` if there is none.
    fn block_type(self, columns: usize) -> Option<BlockType> {
        let wanted = match self {
            Self::Q8_0 => BlockType::Q8_0,
            Self::Q6K => BlockType::Q6K,
            Self::Q4K => BlockType::Q4K,
        };
        let fits = |kind: &BlockType| columns.is_multiple_of(kind.block_len());
        [wanted, BlockType::Q8_0].into_iter().find(fits)
    }

    /// A stored matrix `[rows, columns]` of plain numbers; `None` where it has to stay as it is.
    pub(super) fn apply(
        self,
        stored: &Piece,
        files: &[NamedFile],
    ) -> Result<Option<QuantizedMatrix>> {
        let [rows, columns] = stored.shape[..] else {
            return Ok(None);
        };
        let Some(kind) = self.block_type(columns) else {
            return Ok(None);
        };
        let form = CodeForm::new(kind.bits(), kind.group_len(), kind.zero(), kind.has_mins());
        let Some(form) = form else {
            return Ok(None);
        };
        let read = |row: usize, codes: &mut RowCodes| {
            let mut numbers = vec![0.0; columns];
            stored.read_row(row, files, &mut numbers)?;
            let mut blocks = vec![0; kind.byte_len(columns)];
            kind.quantize(&numbers, &mut blocks);
            unpack_row(kind, &blocks, codes);
            Ok::<_, Error>(())
        };
        QuantizedMatrix::from_rows(form, rows, columns, read).map(Some)
    }
}

/// Writes the codes of a row of blocks.
pub(super) fn unpack_row(kind: BlockType, bytes: &[u8], codes: &mut RowCodes) {
    let mut block = Unpacked::default();
    let (len, groups) = (kind.block_len(), kind.block_len() / kind.group_len());
    for (index, packed) in bytes.chunks_exact(kind.block_size()).enumerate() {
        kind.unpack(packed, &mut block);
        codes.codes[index * len..][..len].copy_from_slice(&block.codes[..len]);
        codes.scales[index * groups..][..groups].copy_from_slice(&block.scales[..groups]);
        if kind.has_mins() {
            codes.mins[index * groups..][..groups].copy_from_slice(&block.mins[..groups]);
        }
    }
}
