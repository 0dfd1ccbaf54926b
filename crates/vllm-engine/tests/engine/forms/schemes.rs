//! How quantizers store a weight, by rounding to the nearest.

use serde_json::{Value, json};
use vllm_tensor::fp8_from_f32;

use super::Piece;

/// A weight `[rows, columns]`.
pub(crate) struct Matrix {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) numbers: Vec<f32>,
}

/// A way of storing it.
#[derive(Clone, Copy)]
pub(crate) enum Scheme {
    Gptq {
        bits: u32,
        group_len: usize,
        /// The groups are not of neighbours.
        shuffled: bool,
    },
    Awq {
        group_len: usize,
    },
    /// The packed form of compressed-tensors.
    Packed {
        bits: u32,
        group_len: usize,
        symmetric: bool,
    },
    Int8,
    Fp8Channels,
    Fp8Tensor,
    /// A scale for each square with sides of so many weights.
    Fp8Blocks(usize),
    Nf4 {
        /// The scales are quantized, too.
        nested: bool,
    },
    BnbInt8,
}

/// Where AWQ keeps each of eight outputs in a word.
const AWQ_SLOTS: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// The numbers of NF4 (Dettmers et al. 2023).
const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];
const NF4_RUN: usize = 64;
const NESTED_RUN: usize = 256;

impl Scheme {
    /// The `quantization_config`.
    pub(crate) fn config(self) -> Value {
        let compressed =
            |format: &str| json!({"quant_method": "compressed-tensors", "format": format});
        match self {
            Self::Gptq { bits, shuffled, .. } => {
                json!({"quant_method": "gptq", "bits": bits, "desc_act": shuffled})
            }
            Self::Awq { .. } => json!({"quant_method": "awq", "bits": 4, "version": "gemm"}),
            Self::Packed { .. } => compressed("pack-quantized"),
            Self::Int8 => compressed("int-quantized"),
            Self::Fp8Channels => compressed("float-quantized"),
            Self::Fp8Tensor => json!({"quant_method": "fp8", "activation_scheme": "static"}),
            Self::Fp8Blocks(side) => {
                json!({"quant_method": "fp8", "weight_block_size": [side, side]})
            }
            Self::Nf4 { .. } => json!({"quant_method": "bitsandbytes", "load_in_4bit": true}),
            Self::BnbInt8 => json!({"quant_method": "bitsandbytes", "load_in_8bit": true}),
        }
    }

    /// What is stored of the weight of `layer`.
    pub(crate) fn pieces(self, layer: &str, matrix: &Matrix) -> Vec<Piece> {
        let name = |part: &str| format!("{layer}.{part}");
        let Matrix { rows, columns, .. } = *matrix;
        match self {
            Self::Gptq {
                bits,
                group_len,
                shuffled,
            } => {
                let group_len = group_len.min(columns);
                let place = |input: usize| match shuffled {
                    // 37 shares no factor with the widths.
                    true => input * 37 % columns,
                    false => input,
                };
                let groups: Vec<usize> =
                    (0..columns).map(|input| place(input) / group_len).collect();
                let codes = Grouped::new(matrix, bits, &groups, false);
                let indices: Vec<i32> = groups.iter().map(|group| *group as i32).collect();
                let per_word = 32 / bits as usize;
                vec![
                    codes.words(name("qweight"), (columns / per_word, rows), |o, i| {
                        (i / per_word * rows + o, i % per_word)
                    }),
                    codes.zero_words(
                        name("qzeros"),
                        (codes.groups, rows / per_word),
                        1,
                        |o, group| (group * (rows / per_word) + o / per_word, o % per_word),
                    ),
                    codes.scales_by_group(name("scales")),
                    whole_numbers(name("g_idx"), vec![columns], &indices),
                ]
            }
            Self::Awq { group_len } => {
                let groups: Vec<usize> = (0..columns).map(|input| input / group_len).collect();
                let codes = Grouped::new(matrix, 4, &groups, false);
                let words = rows / 8;
                vec![
                    codes.words(name("qweight"), (columns, words), |o, i| {
                        (i * words + o / 8, AWQ_SLOTS[o % 8])
                    }),
                    codes.zero_words(name("qzeros"), (codes.groups, words), 0, |o, group| {
                        (group * words + o / 8, AWQ_SLOTS[o % 8])
                    }),
                    codes.scales_by_group(name("scales")),
                ]
            }
            Self::Packed {
                bits,
                group_len,
                symmetric,
            } => {
                let groups: Vec<usize> = (0..columns).map(|input| input / group_len).collect();
                let codes = Grouped::new(matrix, bits, &groups, symmetric);
                let per_word = 32 / bits as usize;
                let words = columns / per_word;
                let shape: Vec<u8> = [rows as i64, columns as i64]
                    .iter()
                    .flat_map(|size| size.to_le_bytes())
                    .collect();
                let mut pieces = vec![
                    codes.words(name("weight_packed"), (rows, words), |o, i| {
                        (o * words + i / per_word, i % per_word)
                    }),
                    floats(
                        name("weight_scale"),
                        vec![rows, codes.groups],
                        &codes.scales,
                    ),
                    Piece {
                        name: name("weight_shape"),
                        dtype: "I64",
                        shape: vec![2],
                        bytes: shape,
                    },
                ];
                if !symmetric {
                    let groups = codes.groups;
                    pieces.push(codes.zero_words(
                        name("weight_zero_point"),
                        (rows / per_word, groups),
                        0,
                        |o, group| (o / per_word * groups + group, o % per_word),
                    ));
                }
                pieces
            }
            Self::Int8 | Self::BnbInt8 => {
                let largest = matrix.largest_of_tiles(1, columns);
                let codes = matrix.codes((1, columns), &largest, |share| {
                    (share * 127.0).round() as i8 as u8
                });
                let scales: Vec<f32> = largest.iter().map(|largest| largest / 127.0).collect();
                let weight = byte_piece(name("weight"), "I8", vec![rows, columns], codes);
                let scales = match self {
                    Self::Int8 => floats(name("weight_scale"), vec![rows, 1], &scales),
                    _ => floats(name("SCB"), vec![rows], &largest),
                };
                vec![weight, scales]
            }
            Self::Fp8Channels => matrix.fp8(layer, (1, columns), "weight_scale"),
            Self::Fp8Tensor => matrix.fp8(layer, (rows, columns), "weight_scale"),
            Self::Fp8Blocks(side) => matrix.fp8(layer, (side, side), "weight_scale_inv"),
            Self::Nf4 { nested } => nf4(&name("weight"), matrix, nested),
        }
    }
}

impl Matrix {
    /// The largest magnitude of each tile.
    fn largest_of_tiles(&self, tile_rows: usize, tile_columns: usize) -> Vec<f32> {
        let across = self.columns.div_ceil(tile_columns);
        let mut largest = vec![0f32; self.rows.div_ceil(tile_rows) * across];
        for (index, number) in self.numbers.iter().enumerate() {
            let (row, column) = (index / self.columns, index % self.columns);
            let largest = &mut largest[row / tile_rows * across + column / tile_columns];
            *largest = largest.max(number.abs());
        }
        largest
    }

    /// A byte for each weight, from its share of its tile's largest.
    fn codes(
        &self,
        (tile_rows, tile_columns): (usize, usize),
        largest: &[f32],
        code: impl Fn(f32) -> u8,
    ) -> Vec<u8> {
        let across = self.columns.div_ceil(tile_columns);
        let numbers = self.numbers.iter().enumerate();
        numbers
            .map(|(index, number)| {
                let (row, column) = (index / self.columns, index % self.columns);
                code(number / largest[row / tile_rows * across + column / tile_columns])
            })
            .collect()
    }

    fn fp8(&self, layer: &str, tile: (usize, usize), scales_name: &str) -> Vec<Piece> {
        let largest = self.largest_of_tiles(tile.0, tile.1);
        let codes = self.codes(tile, &largest, |share| fp8_from_f32(share * 448.0));
        let scales: Vec<f32> = largest.iter().map(|largest| largest / 448.0).collect();
        let shape = match scales.len() {
            1 => vec![1],
            _ => vec![self.rows.div_ceil(tile.0), self.columns.div_ceil(tile.1)],
        };
        let weight = format!("{layer}.weight");
        vec![
            byte_piece(weight, "F8_E4M3", vec![self.rows, self.columns], codes),
            floats(format!("{layer}.{scales_name}"), shape, &scales),
        ]
    }
}

/// Whole-number codes with a scale and a zero for each group of an output's inputs.
struct Grouped {
    bits: u32,
    rows: usize,
    groups: usize,
    codes: Vec<u32>,
    /// `[rows, groups]`.
    scales: Vec<f32>,
    zeros: Vec<u32>,
}

impl Grouped {
    fn new(matrix: &Matrix, bits: u32, group_of_input: &[usize], symmetric: bool) -> Self {
        let groups = group_of_input.iter().max().unwrap() + 1;
        let largest_code = ((1u32 << bits) - 1) as f32;
        let mut grouped = Self {
            bits,
            rows: matrix.rows,
            groups,
            codes: Vec::new(),
            scales: Vec::new(),
            zeros: Vec::new(),
        };
        for row in matrix.numbers.chunks_exact(matrix.columns) {
            let (mut low, mut high) = (vec![0f32; groups], vec![0f32; groups]);
            for (number, group) in row.iter().zip(group_of_input) {
                low[*group] = low[*group].min(*number);
                high[*group] = high[*group].max(*number);
            }
            let first = grouped.scales.len();
            for (low, high) in low.into_iter().zip(high) {
                let middle = 1u32 << (bits - 1);
                let (scale, zero) = if symmetric {
                    (high.max(-low) / (middle - 1) as f32, middle)
                } else {
                    let scale = (high - low) / largest_code;
                    (scale, ((-low / scale).round().max(1.0)) as u32)
                };
                grouped.scales.push(scale);
                grouped.zeros.push(zero);
            }
            for (number, group) in row.iter().zip(group_of_input) {
                let (scale, zero) = (grouped.scales[first + group], grouped.zeros[first + group]);
                let code = (number / scale).round() + zero as f32;
                grouped.codes.push(code.clamp(0.0, largest_code) as u32);
            }
        }
        grouped
    }

    /// Codes in words; `place` gives the word and the slot of an output and an input.
    fn words(
        &self,
        name: String,
        shape: (usize, usize),
        place: impl Fn(usize, usize) -> (usize, usize),
    ) -> Piece {
        let columns = self.codes.len() / self.rows;
        self.pack(name, shape, &self.codes, columns, place)
    }

    /// The zeros, less `offset`, in words.
    fn zero_words(
        &self,
        name: String,
        shape: (usize, usize),
        offset: u32,
        place: impl Fn(usize, usize) -> (usize, usize),
    ) -> Piece {
        let zeros: Vec<u32> = self.zeros.iter().map(|zero| zero - offset).collect();
        self.pack(name, shape, &zeros, self.groups, place)
    }

    fn pack(
        &self,
        name: String,
        (outer, inner): (usize, usize),
        codes: &[u32],
        width: usize,
        place: impl Fn(usize, usize) -> (usize, usize),
    ) -> Piece {
        let mut words = vec![0u32; outer * inner];
        for (index, code) in codes.iter().enumerate() {
            let (word, slot) = place(index / width, index % width);
            words[word] |= code << (self.bits as usize * slot);
        }
        let words: Vec<i32> = words.into_iter().map(u32::cast_signed).collect();
        whole_numbers(name, vec![outer, inner], &words)
    }

    /// `[groups, rows]`.
    fn scales_by_group(&self, name: String) -> Piece {
        let scales = (0..self.groups)
            .flat_map(|group| (0..self.rows).map(move |row| (row, group)))
            .map(|(row, group)| self.scales[row * self.groups + group]);
        let scales: Vec<f32> = scales.collect();
        floats(name, vec![self.groups, self.rows], &scales)
    }
}

fn nf4(name: &str, matrix: &Matrix, nested: bool) -> Vec<Piece> {
    let largest = |run: &[f32]| run.iter().fold(0f32, |largest, n| largest.max(n.abs()));
    let scales: Vec<f32> = matrix.numbers.chunks(NF4_RUN).map(largest).collect();
    let nearest = |table: &[f32], number: f32| -> u8 {
        let distance = |index: &usize| (table[*index] - number).abs();
        let near = (0..table.len()).min_by(|a, b| distance(a).total_cmp(&distance(b)));
        near.unwrap() as u8
    };
    let numbers = matrix.numbers.iter().enumerate();
    let codes: Vec<u8> = numbers
        .map(|(index, number)| nearest(&NF4, number / scales[index / NF4_RUN]))
        .collect();
    let pairs = codes.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]);
    let pairs: Vec<u8> = pairs.collect();
    let mut state = json!({
        "quant_type": "nf4", "blocksize": NF4_RUN, "dtype": "float16",
        "shape": [matrix.rows, matrix.columns],
    });
    let mut pieces = vec![
        byte_piece(name.to_owned(), "U8", vec![pairs.len(), 1], pairs),
        floats(format!("{name}.quant_map"), vec![16], &NF4),
    ];
    if nested {
        let offset = scales.iter().sum::<f32>() / scales.len() as f32;
        let table: Vec<f32> = (0..256).map(|i| i as f32 / 127.5 - 1.0).collect();
        let centred: Vec<f32> = scales.iter().map(|scale| scale - offset).collect();
        let outer: Vec<f32> = centred.chunks(NESTED_RUN).map(largest).collect();
        let runs = centred.iter().enumerate();
        let inner: Vec<u8> = runs
            .map(|(index, scale)| nearest(&table, scale / outer[index / NESTED_RUN]))
            .collect();
        state["nested_blocksize"] = json!(NESTED_RUN);
        state["nested_offset"] = json!(offset);
        pieces.push(byte_piece(
            format!("{name}.absmax"),
            "U8",
            vec![inner.len()],
            inner,
        ));
        pieces.push(floats(
            format!("{name}.nested_absmax"),
            vec![outer.len()],
            &outer,
        ));
        pieces.push(floats(
            format!("{name}.nested_quant_map"),
            vec![256],
            &table,
        ));
    } else {
        pieces.push(floats(
            format!("{name}.absmax"),
            vec![scales.len()],
            &scales,
        ));
    }
    let state = state.to_string().into_bytes();
    pieces.push(byte_piece(
        format!("{name}.quant_state.bitsandbytes__nf4"),
        "U8",
        vec![state.len()],
        state,
    ));
    pieces
}

/// A tensor in float32.
pub(crate) fn floats(name: String, shape: Vec<usize>, numbers: &[f32]) -> Piece {
    Piece {
        name,
        dtype: "F32",
        shape,
        bytes: numbers.iter().flat_map(|n| n.to_le_bytes()).collect(),
    }
}

fn whole_numbers(name: String, shape: Vec<usize>, numbers: &[i32]) -> Piece {
    Piece {
        name,
        dtype: "I32",
        shape,
        bytes: numbers.iter().flat_map(|n| n.to_le_bytes()).collect(),
    }
}

fn byte_piece(name: String, dtype: &'static str, shape: Vec<usize>, bytes: Vec<u8>) -> Piece {
    Piece {
        name,
        dtype,
        shape,
        bytes,
    }
}
