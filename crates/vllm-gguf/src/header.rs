use std::collections::BTreeSet;
use std::ops::Range;

use crate::reader::Reader;
use crate::{BlockType, Error, Metadata, Result};

/// What a file holds, its tensors' data aside.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Keys and values.
    pub metadata: Metadata,
    /// The tensors, in the file's order.
    pub tensors: Vec<TensorInfo>,
}

/// Where a tensor lies in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, as GGUF has it.
    pub name: String,
    /// Shape, the last dimension fastest: the reverse of the order in the file.
    pub shape: Vec<usize>,
    /// How the elements are packed; `Err` holds the name of a type that is not read.
    pub block_type: Result<BlockType, String>,
    /// The data within the file; within its bounds, and as long as shape and type want it. Empty for
    /// a type that is not read.
    pub bytes: Range<usize>,
}

const MAGIC: &[u8] = b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_DIMENSIONS: u32 = 4;

/// Bytes of the smallest entry: an empty key with a one-byte value.
const SMALLEST_ENTRY: usize = 8 + 4 + 1;
/// Bytes of the smallest tensor: no name, no dimension, type and offset.
const SMALLEST_TENSOR: usize = 8 + 4 + 4 + 8;

impl Header {
    /// Reads the header at the start of `file`, all bytes of a GGUF file.
    ///
    /// # Errors
    /// Not a GGUF file, another version, or anything that does not fit the bytes that are there.
    pub fn parse(file: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(file);
        if reader.take(MAGIC.len(), "the magic number").ok() != Some(MAGIC) {
            return Err(Error::NotGguf);
        }
        let version = reader.u32("the version")?;
        if !matches!(version, 2 | 3) {
            return Err(Error::UnsupportedVersion(version));
        }
        // Both counts come first; the first one is checked again where its things are read.
        let num_tensors = reader.count(SMALLEST_TENSOR, "the number of tensors")?;
        let num_entries = reader.count(SMALLEST_ENTRY, "the number of metadata entries")?;
        let metadata = Metadata::read(&mut reader, num_entries)?;
        let alignment = metadata
            .size("general.alignment")?
            .unwrap_or(DEFAULT_ALIGNMENT);
        if !alignment.is_power_of_two() || alignment > 1 << 20 {
            return Err(Error::Damaged(format!("its alignment is {alignment}")));
        }
        let mut names = BTreeSet::new();
        let mut raw_tensors = Vec::new();
        for _ in 0..num_tensors {
            let tensor = RawTensor::read(&mut reader)?;
            if !names.insert(tensor.name) {
                return Err(Error::Damaged(format!(
                    "tensor '{}' is there twice",
                    tensor.name
                )));
            }
            raw_tensors.push(tensor);
        }
        let data_start = (reader.position() as u64).next_multiple_of(alignment);
        let tensors = raw_tensors
            .into_iter()
            .map(|tensor| tensor.place(data_start, alignment, file.len()));
        Ok(Self {
            metadata,
            tensors: tensors.collect::<Result<_>>()?,
        })
    }
}

struct RawTensor<'a> {
    name: &'a str,
    /// As in the file: the first dimension fastest.
    dimensions: Vec<u64>,
    type_number: u32,
    offset: u64,
}

impl<'a> RawTensor<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self> {
        let name = reader.string("the name of a tensor")?;
        let num_dimensions = reader.u32("the number of dimensions")?;
        if num_dimensions == 0 || num_dimensions > MAX_DIMENSIONS {
            return Err(Error::Damaged(format!(
                "tensor '{name}' has {num_dimensions} dimensions"
            )));
        }
        let dimensions = (0..num_dimensions).map(|_| reader.u64("a dimension"));
        Ok(Self {
            name,
            dimensions: dimensions.collect::<Result<_>>()?,
            type_number: reader.u32("the type of a tensor")?,
            offset: reader.u64("the offset of a tensor")?,
        })
    }

    fn place(self, data_start: u64, alignment: u64, file_size: usize) -> Result<TensorInfo> {
        let name = self.name;
        let damaged = |problem: String| Error::Damaged(format!("tensor '{name}' {problem}"));
        let mut shape = Vec::new();
        for size in self.dimensions.iter().rev() {
            match usize::try_from(*size) {
                Ok(size) if size > 0 => shape.push(size),
                _ => return Err(damaged(format!("has a dimension of {size}"))),
            }
        }
        let block_type = BlockType::from_number(self.type_number);
        let Ok(known_type) = block_type else {
            return Ok(TensorInfo {
                name: name.to_owned(),
                shape,
                block_type,
                bytes: 0..0,
            });
        };
        let row = shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(known_type.block_len()) {
            return Err(damaged(format!(
                "has rows of {row} elements, no multiple of the {} of a {} block",
                known_type.block_len(),
                known_type.name()
            )));
        }
        let rows = shape[..shape.len() - 1]
            .iter()
            .try_fold(1usize, |all, size| all.checked_mul(*size));
        let length = rows
            .and_then(|rows| rows.checked_mul(row / known_type.block_len()))
            .and_then(|blocks| blocks.checked_mul(known_type.block_size()))
            .ok_or_else(|| damaged(format!("of shape {shape:?} is beyond all measure")))?;
        if !self.offset.is_multiple_of(alignment) {
            return Err(damaged(format!(
                "lies at {}, which is not aligned",
                self.offset
            )));
        }
        let start = data_start
            .checked_add(self.offset)
            .and_then(|start| usize::try_from(start).ok());
        let bytes = start
            .and_then(|start| Some(start..start.checked_add(length)?))
            .filter(|bytes| bytes.end <= file_size)
            .ok_or_else(|| {
                damaged(format!(
                    "({length} bytes at {}) goes beyond the file's end",
                    self.offset
                ))
            })?;
        Ok(TensorInfo {
            name: name.to_owned(),
            shape,
            block_type,
            bytes,
        })
    }
}
