//! The numbers of a checkpoint, whatever form they are stored in, for those who write another.

use vllm_tensor::{DType, Device};

use super::WeightFiles;
use super::quantize::scale_to;
use crate::{Error, Result};

/// The rows of a tensor as float32.
pub struct NumberRows<'a> {
    shape: Vec<usize>,
    read: Box<ReadRow<'a>>,
}

/// Writes the numbers of a row.
type ReadRow<'a> = dyn Fn(usize, &mut [f32]) -> Result<()> + Sync + 'a;

impl NumberRows<'_> {
    /// The tensor's shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Elements of a row: the last dimension.
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// How many rows there are: one in a vector.
    pub fn num_rows(&self) -> usize {
        let outer = self.shape.split_last().map_or(&[][..], |(_, outer)| outer);
        outer.iter().product()
    }

    /// Writes the numbers of row `row`, as many as there are columns.
    ///
    /// # Errors
    /// The file became shorter.
    pub fn read(&self, row: usize, numbers: &mut [f32]) -> Result<()> {
        (self.read)(row, numbers)
    }
}

impl WeightFiles {
    /// The numbers of the tensor `name`.
    ///
    /// # Errors
    /// No such tensor, or elements that are no floating-point numbers.
    pub fn numbers(&self, name: &str) -> Result<NumberRows<'_>> {
        if let Some(packed) = self.packed.get(name) {
            let rows = packed.shape.iter().rev().skip(1).product();
            return Ok(NumberRows {
                shape: packed.shape.clone(),
                read: Box::new(move |row, numbers| {
                    packed.read_row(row, rows, &self.files, numbers)
                }),
            });
        }
        let Some(stored) = self.tensors.get(name) else {
            return Err(Error::MissingTensor {
                tensor: name.to_owned(),
                files: self.file_names(),
                expected: Vec::new(),
            });
        };
        let shape = stored.info.shape.clone();
        self.check(name, &shape)?;
        let read: Box<ReadRow<'_>> = match stored.as_piece(name) {
            Some(piece) => Box::new(move |row, numbers| piece.read_row(row, &self.files, numbers)),
            // float64 is rare enough to be read as a whole.
            None => {
                let whole = self.tensor(name, &shape, DType::F32, &Device::Cpu)?;
                let whole = whole.flatten_all()?.to_vec1::<f32>()?;
                Box::new(move |row, numbers| {
                    numbers.copy_from_slice(&whole[row * numbers.len()..][..numbers.len()]);
                    Ok(())
                })
            }
        };
        Ok(NumberRows { shape, read })
    }
}

/// A row as int8 bytes; gives the scale by which the largest number becomes 127.
pub fn quantize_row_to_int8(numbers: &[f32], bytes: &mut [u8]) -> f32 {
    let scale = scale_to(numbers, 127.0);
    for (byte, number) in bytes.iter_mut().zip(numbers) {
        *byte = (number / scale).round_ties_even().clamp(-127.0, 127.0) as i8 as u8;
    }
    scale
}
