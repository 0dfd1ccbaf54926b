use super::piece::{Kind, Piece};
use super::{NamedFile, PackedTensor, Recipe};
use crate::Result;

/// Whole-number codes in 32-bit words, with a scale and a zero for each group of inputs: GPTQ, AWQ and
/// the packed form of compressed-tensors. A weight is `scale · (code − zero)`.
#[derive(Debug)]
pub(super) struct Grouped {
    scheme: Scheme,
    pub(super) bits: u32,
    codes: Piece,
    scales: Piece,
    pub(super) zeros: Option<Piece>,
    /// The group of each input, where they are not in order.
    group_of_input: Option<GroupOfInput>,
    pub(super) group_len: usize,
    pub(super) out_features: usize,
    in_features: usize,
}

/// Groups that are not of neighbours.
#[derive(Debug)]
struct GroupOfInput {
    groups: Vec<u32>,
    /// The inputs group by group, if those are as long as neighbours' groups would be.
    sorted: Option<Vec<u32>>,
}

impl GroupOfInput {
    fn new(groups: Vec<u32>, group_len: usize) -> Self {
        let mut sorted: Vec<u32> = (0..groups.len() as u32).collect();
        sorted.sort_by_key(|input| groups[*input as usize]);
        let fits =
            |(place, input): (usize, &u32)| groups[*input as usize] as usize == place / group_len;
        let all_fit = sorted.iter().enumerate().all(fits);
        Self {
            sorted: all_fit.then_some(sorted),
            groups,
        }
    }
}

/// Which order makes the inputs of a group neighbours.
#[derive(Debug, Clone, Copy)]
pub(super) enum ColumnOrder<'a> {
    /// They are.
    Stored,
    /// This one.
    Sorted(&'a [u32]),
}

/// How codes and zeros lie in the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    /// Codes `[in / n, out]`, n inputs in a word; zeros `[groups, out / n]`; scales `[groups, out]`. What
    /// is stored of a zero is less by this much.
    Gptq { zero_offset: u32 },
    /// Codes `[in, out / n]`, n outputs in a word, even ones first; zeros likewise; scales
    /// `[groups, out]`.
    Awq,
    /// Codes `[out, in / n]`; zeros `[out / n, groups]`; scales `[out, groups]`.
    CompressedTensors,
}

/// Where AWQ keeps each of eight outputs in a word.
const AWQ_SLOTS: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// The tensors that make up a weight.
pub(super) struct Pieces {
    pub(super) codes: Piece,
    pub(super) scales: Piece,
    pub(super) zeros: Option<Piece>,
    pub(super) group_of_input: Option<Piece>,
}

impl Grouped {
    /// A weight from its pieces, all of which are checked against each other.
    pub(super) fn assemble(
        scheme: Scheme,
        bits: u32,
        in_features: Option<usize>,
        pieces: Pieces,
        files: &[NamedFile],
    ) -> Result<PackedTensor> {
        let Pieces {
            codes,
            scales,
            zeros,
            group_of_input,
        } = pieces;
        codes.expect(&[Kind::I32], files)?;
        scales.expect(&[Kind::F16, Kind::BF16, Kind::F32], files)?;
        let per_word = 32 / bits as usize;
        let misshapen = |piece: &Piece| {
            piece.error(
                files,
                format!("has shape {:?}, which does not fit the others", piece.shape),
            )
        };
        let (rows, columns) = codes.dims2().ok_or_else(|| misshapen(&codes))?;
        let wide = |count: usize| count.checked_mul(per_word).ok_or_else(|| misshapen(&codes));
        let (out_features, stored_inputs) = match scheme {
            Scheme::Gptq { .. } => (columns, wide(rows)?),
            Scheme::Awq => (wide(columns)?, rows),
            Scheme::CompressedTensors => (rows, wide(columns)?),
        };
        // The last word of a row may have room for more.
        let in_features = in_features.unwrap_or(stored_inputs);
        if in_features == 0
            || in_features > stored_inputs
            || stored_inputs - in_features >= per_word
        {
            return Err(misshapen(&codes));
        }
        let (scale_rows, scale_columns) = scales.dims2().ok_or_else(|| misshapen(&scales))?;
        let (groups, scaled_outputs) = match scheme {
            Scheme::CompressedTensors => (scale_columns, scale_rows),
            _ => (scale_rows, scale_columns),
        };
        if groups == 0 || scaled_outputs != out_features {
            return Err(misshapen(&scales));
        }
        if let Some(zeros) = &zeros {
            zeros.expect(&[Kind::I32], files)?;
            let packed_outputs = out_features.div_ceil(per_word);
            let expected = match scheme {
                Scheme::CompressedTensors => (packed_outputs, groups),
                _ => (groups, packed_outputs),
            };
            if zeros.dims2() != Some(expected) {
                return Err(misshapen(zeros));
            }
        }
        if let Some(indices) = &group_of_input {
            indices.expect(&[Kind::I32], files)?;
            let view = indices.view(files)?;
            let is_group = |input| (view.word(input) as usize) < groups;
            if indices.len() != in_features || !(0..in_features).all(is_group) {
                return Err(misshapen(indices));
            }
        }
        let group_len = in_features.div_ceil(groups);
        let group_of_input = match &group_of_input {
            Some(piece) => {
                let view = piece.view(files)?;
                let groups: Vec<u32> = (0..in_features).map(|input| view.word(input)).collect();
                let is_in_place =
                    |(input, group): (usize, &u32)| *group as usize == input / group_len;
                let in_order = groups.iter().enumerate().all(is_in_place);
                (!in_order).then(|| GroupOfInput::new(groups, group_len))
            }
            None => None,
        };
        if (in_features - 1) / group_len >= groups {
            return Err(misshapen(&scales));
        }
        Ok(PackedTensor {
            shape: vec![out_features, in_features],
            file: codes.file,
            recipe: Recipe::Grouped(Self {
                scheme,
                bits,
                codes,
                scales,
                zeros,
                group_of_input,
                group_len,
                out_features,
                in_features,
            }),
        })
    }

    /// Codes and scales.
    pub(super) fn pieces(&self) -> [&Piece; 2] {
        [&self.codes, &self.scales]
    }

    /// Writes the weights of output `output`.
    pub(super) fn read_row(
        &self,
        output: usize,
        files: &[NamedFile],
        numbers: &mut [f32],
    ) -> Result<()> {
        let (scales, zeros) = self.scales_and_zeros(output, files)?;
        let mut codes = vec![0; self.in_features];
        self.read_codes(output, files, &mut codes)?;
        for (input, (number, code)) in numbers.iter_mut().zip(codes).enumerate() {
            let group = match &self.group_of_input {
                Some(of_input) => of_input.groups[input] as usize,
                None => input / self.group_len,
            };
            *number = scales[group] * (i32::from(code) - zeros[group]) as f32;
        }
        Ok(())
    }

    /// `None` where no order does it.
    pub(super) fn column_order(&self) -> Option<ColumnOrder<'_>> {
        match &self.group_of_input {
            None => Some(ColumnOrder::Stored),
            Some(of_input) => of_input.sorted.as_deref().map(ColumnOrder::Sorted),
        }
    }

    /// Writes the codes of output `output`.
    pub(super) fn read_codes(
        &self,
        output: usize,
        files: &[NamedFile],
        codes: &mut [u8],
    ) -> Result<()> {
        let words = self.codes.view(files)?;
        let mask = (1u32 << self.bits) - 1;
        for (input, code) in codes.iter_mut().enumerate() {
            let (word, slot) = self.code_place(output, input);
            *code = (words.word(word) >> (self.bits as usize * slot) & mask) as u8;
        }
        Ok(())
    }

    /// Those of each group, for one output.
    pub(super) fn scales_and_zeros(
        &self,
        output: usize,
        files: &[NamedFile],
    ) -> Result<(Vec<f32>, Vec<i32>)> {
        let groups = self.scales.len() / self.out_features;
        let view = self.scales.view(files)?;
        let scales = (0..groups).map(|group| match self.scheme {
            Scheme::CompressedTensors => view.number(output * groups + group),
            _ => view.number(group * self.out_features + output),
        });
        let Some(zeros) = &self.zeros else {
            return Ok((scales.collect(), vec![1 << (self.bits - 1); groups]));
        };
        let per_word = 32 / self.bits as usize;
        let packed_outputs = self.out_features.div_ceil(per_word);
        let view = zeros.view(files)?;
        let mask = (1u32 << self.bits) - 1;
        let zeros = (0..groups).map(|group| {
            let (word, slot, offset) = match self.scheme {
                Scheme::Gptq { zero_offset } => (
                    group * packed_outputs + output / per_word,
                    output % per_word,
                    zero_offset,
                ),
                Scheme::Awq => (
                    group * packed_outputs + output / per_word,
                    AWQ_SLOTS[output % per_word],
                    0,
                ),
                Scheme::CompressedTensors => {
                    (output / per_word * groups + group, output % per_word, 0)
                }
            };
            let stored = view.word(word) >> (self.bits as usize * slot) & mask;
            (stored + offset) as i32
        });
        Ok((scales.collect(), zeros.collect()))
    }

    /// The word with a code, and its place there.
    fn code_place(&self, output: usize, input: usize) -> (usize, usize) {
        let per_word = 32 / self.bits as usize;
        match self.scheme {
            Scheme::Gptq { .. } => (
                input / per_word * self.out_features + output,
                input % per_word,
            ),
            Scheme::Awq => {
                let words = self.out_features / per_word;
                (
                    input * words + output / per_word,
                    AWQ_SLOTS[output % per_word],
                )
            }
            Scheme::CompressedTensors => {
                let words = self.in_features.div_ceil(per_word);
                (output * words + input / per_word, input % per_word)
            }
        }
    }
}
