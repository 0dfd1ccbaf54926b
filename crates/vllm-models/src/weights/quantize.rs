//! Quantizing plain weights while they are loaded.

use vllm_gguf::{BlockType, Unpacked};
use vllm_tensor::{CodeForm, QuantizedMatrix, RowCodes, ScaledForm, fp8_from_f32};

use super::narrow::{NarrowWeight, ScaledRows, WeightRole};
use super::packed::{NamedFile, Piece};
use crate::{Error, Result};

/// What plain weights become while they are loaded; `None` leaves them as they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadQuantization {
    /// Linear layers within the model.
    pub layers: Option<Quantization>,
    /// Embeddings, and output layers that share them.
    pub embeddings: Option<Quantization>,
    /// Output layers of their own.
    pub head: Option<Quantization>,
}

impl LoadQuantization {
    /// What the weight `name` becomes. A router of experts decides too much to be rounded.
    pub fn method(&self, name: &str, role: WeightRole) -> Option<Quantization> {
        let is_router = name.ends_with(".gate.weight") || name.ends_with("expert_gate.weight");
        match role {
            WeightRole::Linear if is_router => None,
            WeightRole::Linear => self.layers,
            WeightRole::Head => self.head,
            WeightRole::Embedding => self.embeddings,
        }
    }
}

/// A form that weights are quantized to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantization {
    /// Blocks of a GGUF type; `int8` is `q8_0`.
    Blocks(BlockType),
    /// `float8_e4m3fn`, a scale for each output.
    Fp8,
}

impl Quantization {
    /// Reads a name: `int8`, `fp8`, or that of a quantized GGUF type, such as `q4_k`.
    ///
    /// # Errors
    /// Another name than those.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "int8" => return Ok(Self::Blocks(BlockType::Q8_0)),
            "fp8" => return Ok(Self::Fp8),
            _ => {}
        }
        let kind = BlockType::from_name(name).filter(|kind| kind.is_quantized());
        kind.map(Self::Blocks)
            .ok_or_else(|| Error::UnknownQuantization(name.to_owned()))
    }

    /// The block type for rows of `columns`; rows that are no whole blocks take a type with smaller
    /// ones, and `None` if there is none.
    pub fn block_type(self, columns: usize) -> Option<BlockType> {
        let Self::Blocks(wanted) = self else {
            return None;
        };
        let fits = |kind: &BlockType| columns.is_multiple_of(kind.block_len());
        [wanted, BlockType::Q8_0].into_iter().find(fits)
    }

    /// About how many bytes a matrix of this shape takes; `None` where it has to stay as it is.
    pub(super) fn kept_bytes(self, shape: &[usize]) -> Option<u64> {
        let [rows, columns] = *shape else {
            return None;
        };
        let of_row = match self {
            Self::Fp8 => columns + size_of::<f32>(),
            _ => self.block_type(columns)?.byte_len(columns),
        };
        Some(rows as u64 * of_row as u64)
    }

    /// A stored matrix `[rows, columns]` of plain numbers; `None` where it has to stay as it is.
    pub(super) fn apply(
        self,
        stored: Piece,
        files: &[NamedFile],
    ) -> Result<Option<NarrowWeight<'_>>> {
        let [rows, columns] = stored.shape[..] else {
            return Ok(None);
        };
        if self == Self::Fp8 {
            return Ok(Some(NarrowWeight::Scaled(ScaledRows {
                form: ScaledForm::Fp8,
                rows,
                columns,
                group_len: columns,
                read: Box::new(move |row, codes, scales| {
                    let mut numbers = vec![0.0; columns];
                    stored.read_row(row, files, &mut numbers)?;
                    scales.fill(quantize_row_to_fp8(&numbers, codes));
                    Ok(())
                }),
            })));
        }
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
        let matrix = QuantizedMatrix::from_rows(form, rows, columns, read)?;
        Ok(Some(NarrowWeight::Codes(matrix)))
    }
}

/// The largest number of `float8_e4m3fn`.
const FP8_MAX: f32 = 448.0;

/// A row as `float8_e4m3fn` bytes; gives the scale by which the largest number becomes the largest code.
pub fn quantize_row_to_fp8(numbers: &[f32], bytes: &mut [u8]) -> f32 {
    let scale = scale_to(numbers, FP8_MAX);
    for (byte, number) in bytes.iter_mut().zip(numbers) {
        *byte = fp8_from_f32(number / scale);
    }
    scale
}

/// The scale by which the largest of `numbers` becomes `largest_code`.
pub(super) fn scale_to(numbers: &[f32], largest_code: f32) -> f32 {
    let largest = numbers
        .iter()
        .fold(0f32, |largest, number| largest.max(number.abs()));
    match largest > 0.0 {
        true => largest / largest_code,
        false => 1.0,
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
