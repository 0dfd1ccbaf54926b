use std::ops::Range;

use half::{bf16, f16};

use super::NamedFile;
use crate::{Error, Result};

/// A stored tensor that is part of a packed one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Piece {
    pub(in super::super) name: String,
    pub(in super::super) file: usize,
    pub(in super::super) bytes: Range<usize>,
    pub(in super::super) shape: Vec<usize>,
    pub(in super::super) kind: Kind,
}

/// What the elements of a piece are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Kind {
    F32,
    F16,
    BF16,
    /// Eight bits: sign, four of exponent, three of mantissa, no infinities.
    F8E4M3,
    I8,
    U8,
    I32,
    I64,
}

impl Kind {
    /// By its name in safetensors files.
    pub(in super::super) fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "F32" => Self::F32,
            "F16" => Self::F16,
            "BF16" => Self::BF16,
            "F8_E4M3" => Self::F8E4M3,
            "I8" => Self::I8,
            "U8" => Self::U8,
            "I32" => Self::I32,
            "I64" => Self::I64,
            _ => return None,
        })
    }

    fn size(self) -> usize {
        match self {
            Self::F8E4M3 | Self::I8 | Self::U8 => 1,
            Self::F16 | Self::BF16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::I64 => 8,
        }
    }
}

/// The elements of a piece, at hand.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    bytes: &'a [u8],
    kind: Kind,
}

impl Piece {
    /// Number of elements.
    pub(super) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Rows and columns; a vector is one column, a single number one of both.
    pub(super) fn dims2(&self) -> Option<(usize, usize)> {
        match self.shape[..] {
            [] => Some((1, 1)),
            [rows] => Some((rows, 1)),
            [rows, columns] => Some((rows, columns)),
            _ => None,
        }
    }

    /// Writes the numbers of row `row`.
    pub(in super::super) fn read_row(
        &self,
        row: usize,
        files: &[NamedFile],
        numbers: &mut [f32],
    ) -> Result<()> {
        let view = self.view(files)?;
        let first = row * numbers.len();
        for (index, number) in numbers.iter_mut().enumerate() {
            *number = view.number(first + index);
        }
        Ok(())
    }

    pub(super) fn view<'a>(&self, files: &'a [NamedFile]) -> Result<View<'a>> {
        let (name, buffer) = &files[self.file];
        let file_bytes: &[u8] = buffer.as_ref().as_ref();
        let bytes = file_bytes
            .get(self.bytes.clone())
            .ok_or_else(|| Error::File {
                file: name.clone(),
                message: "the file became shorter while it was read".to_owned(),
            })?;
        Ok(View {
            bytes,
            kind: self.kind,
        })
    }

    /// Refuses elements of another kind.
    pub(super) fn expect(&self, kinds: &[Kind], files: &[NamedFile]) -> Result<()> {
        if kinds.contains(&self.kind) {
            return Ok(());
        }
        Err(self.error(
            files,
            format!("has dtype {:?}, expected one of {kinds:?}", self.kind),
        ))
    }

    pub(super) fn error(&self, files: &[NamedFile], problem: String) -> Error {
        Error::File {
            file: files[self.file].0.clone(),
            message: format!("tensor '{}' {problem}", self.name),
        }
    }
}

impl<'a> View<'a> {
    /// Element `index` as a number.
    pub(super) fn number(&self, index: usize) -> f32 {
        match self.kind {
            Kind::F32 => f32::from_le_bytes(self.bytes_at(index)),
            Kind::F16 => f16::from_le_bytes(self.bytes_at(index)).to_f32(),
            Kind::BF16 => bf16::from_le_bytes(self.bytes_at(index)).to_f32(),
            Kind::F8E4M3 => e4m3(self.byte(index)),
            Kind::I8 => f32::from(self.byte(index) as i8),
            Kind::U8 => f32::from(self.byte(index)),
            Kind::I32 => i32::from_le_bytes(self.bytes_at(index)) as f32,
            Kind::I64 => i64::from_le_bytes(self.bytes_at(index)) as f32,
        }
    }

    /// Element `index` of 32-bit words.
    pub(super) fn word(&self, index: usize) -> u32 {
        u32::from_le_bytes(self.bytes_at(index))
    }

    /// Element `index` of single bytes.
    pub(super) fn byte(&self, index: usize) -> u8 {
        self.bytes[index]
    }

    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    fn bytes_at<const N: usize>(&self, index: usize) -> [u8; N] {
        debug_assert_eq!(N, self.kind.size());
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.bytes[index * N..][..N]);
        bytes
    }
}

/// The number of an e4m3 byte. The exponent's bias is 7; all ones is no number.
fn e4m3(byte: u8) -> f32 {
    let exponent = i32::from(byte >> 3 & 15);
    let mantissa = f32::from(byte & 7);
    let magnitude = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if byte & 0x80 == 0 {
        magnitude
    } else {
        -magnitude
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_e4m3() {
        let check = |byte, expected: f32| assert_eq!(e4m3(byte), expected, "{byte:#x}");
        check(0x00, 0.0);
        check(0x01, 0.001953125);
        check(0x08, 0.015625);
        check(0x38, 1.0);
        check(0x3f, 1.875);
        check(0x7e, 448.0);
        check(0xb8, -1.0);
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
    }
}
