//! How GGML packs numbers: blocks of codes that share scales.
//!
//! A packed number is `scale · (code − zero) − min`: `zero` belongs to the type, `scale` and `min` to
//! a group of neighbours. Every block type is unpacked into that one form; the plain numbers follow
//! from it.

use half::{bf16, f16};

/// A way of packing the elements of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlockType {
    /// float32.
    F32,
    /// float16.
    F16,
    /// bfloat16.
    BF16,
    /// 4 bits, a scale for 32.
    Q4_0,
    /// 4 bits, a scale and a minimum for 32.
    Q4_1,
    /// 5 bits, a scale for 32.
    Q5_0,
    /// 5 bits, a scale and a minimum for 32.
    Q5_1,
    /// 8 bits, a scale for 32.
    Q8_0,
    /// 2 bits, 4-bit scales and minima for 16.
    Q2K,
    /// 3 bits, 6-bit scales for 16.
    Q3K,
    /// 4 bits, 6-bit scales and minima for 32.
    Q4K,
    /// 5 bits, 6-bit scales and minima for 32.
    Q5K,
    /// 6 bits, 8-bit scales for 16.
    Q6K,
}

/// Number in files, name, elements and bytes of a block, elements of a group, bits of a code, zero.
type Properties = (u32, &'static str, usize, usize, usize, u32, u8);

/// The longest block, in elements.
pub(crate) const MAX_BLOCK_LEN: usize = 256;
const MAX_GROUPS: usize = 16;

/// Types that exist but are not read, for messages.
const OTHER_TYPES: &[(u32, &str)] = &[
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];

/// A block taken apart. Only the block's length of `codes`, and one entry of `scales` and `mins` for
/// each of its groups, mean something.
#[derive(Debug, Clone)]
pub struct Unpacked {
    /// The codes, in the order of the elements.
    pub codes: [u8; MAX_BLOCK_LEN],
    /// The factor of each group.
    pub scales: [f32; MAX_GROUPS],
    /// What is taken off each group; zeros for types without minima.
    pub mins: [f32; MAX_GROUPS],
}

impl Default for Unpacked {
    fn default() -> Self {
        Self {
            codes: [0; MAX_BLOCK_LEN],
            scales: [0.0; MAX_GROUPS],
            mins: [0.0; MAX_GROUPS],
        }
    }
}

impl BlockType {
    /// Every type that is read.
    pub const ALL: [Self; 13] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    fn properties(self) -> Properties {
        match self {
            Self::F32 => (0, "F32", 1, 4, 1, 32, 0),
            Self::F16 => (1, "F16", 1, 2, 1, 16, 0),
            Self::BF16 => (30, "BF16", 1, 2, 1, 16, 0),
            Self::Q4_0 => (2, "Q4_0", 32, 18, 32, 4, 8),
            Self::Q4_1 => (3, "Q4_1", 32, 20, 32, 4, 0),
            Self::Q5_0 => (6, "Q5_0", 32, 22, 32, 5, 16),
            Self::Q5_1 => (7, "Q5_1", 32, 24, 32, 5, 0),
            Self::Q8_0 => (8, "Q8_0", 32, 34, 32, 8, 128),
            Self::Q2K => (10, "Q2_K", 256, 84, 16, 2, 0),
            Self::Q3K => (11, "Q3_K", 256, 110, 16, 3, 4),
            Self::Q4K => (12, "Q4_K", 256, 144, 32, 4, 0),
            Self::Q5K => (13, "Q5_K", 256, 176, 32, 5, 0),
            Self::Q6K => (14, "Q6_K", 256, 210, 16, 6, 32),
        }
    }

    /// The type of this number in files; the error is the name of a type that is not read.
    ///
    /// # Errors
    /// See above.
    pub fn from_number(number: u32) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|known| known.number() == number);
        known.ok_or_else(|| {
            let other = OTHER_TYPES.iter().find(|(other, _)| *other == number);
            other.map_or_else(
                || format!("number {number}"),
                |(_, name)| (*name).to_owned(),
            )
        })
    }

    /// The names of all types, for messages.
    pub(crate) fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// The type's number in files.
    pub fn number(self) -> u32 {
        self.properties().0
    }

    /// The type's name, such as `Q4_K`.
    pub fn name(self) -> &'static str {
        self.properties().1
    }

    /// Elements of a block.
    pub fn block_len(self) -> usize {
        self.properties().2
    }

    /// Bytes of a block.
    pub fn block_size(self) -> usize {
        self.properties().3
    }

    /// Neighbours that share a scale.
    pub fn group_len(self) -> usize {
        self.properties().4
    }

    /// Bits of a code; of an element for the types without codes.
    pub fn bits(self) -> u32 {
        self.properties().5
    }

    /// The code that stands for zero.
    pub fn zero(self) -> u8 {
        self.properties().6
    }

    /// Whether numbers are made of codes and scales; otherwise they are written plainly.
    pub fn is_quantized(self) -> bool {
        self.block_len() > 1
    }

    /// Whether groups have minima.
    pub fn has_mins(self) -> bool {
        matches!(
            self,
            Self::Q4_1 | Self::Q5_1 | Self::Q2K | Self::Q4K | Self::Q5K
        )
    }

    /// Bytes of `elements` elements, which must be whole blocks.
    pub fn byte_len(self, elements: usize) -> usize {
        elements / self.block_len() * self.block_size()
    }

    /// Writes the numbers of `bytes`, whole blocks, to `numbers`.
    ///
    /// # Panics
    /// The lengths do not belong together.
    pub fn dequantize(self, bytes: &[u8], numbers: &mut [f32]) {
        assert_eq!(
            bytes.len(),
            self.byte_len(numbers.len()),
            "{} blocks",
            self.name()
        );
        match self {
            Self::F32 => {
                for (number, bytes) in numbers.iter_mut().zip(bytes.as_chunks().0) {
                    *number = f32::from_le_bytes(*bytes);
                }
            }
            Self::F16 => {
                for (number, bytes) in numbers.iter_mut().zip(bytes.as_chunks().0) {
                    *number = f16::from_le_bytes(*bytes).to_f32();
                }
            }
            Self::BF16 => {
                for (number, bytes) in numbers.iter_mut().zip(bytes.as_chunks().0) {
                    *number = bf16::from_le_bytes(*bytes).to_f32();
                }
            }
            _ => self.dequantize_blocks(bytes, numbers),
        }
    }

    fn dequantize_blocks(self, bytes: &[u8], numbers: &mut [f32]) {
        let mut block = Unpacked::default();
        let (zero, group_len) = (i32::from(self.zero()), self.group_len());
        let packed = bytes.chunks_exact(self.block_size());
        for (packed, numbers) in packed.zip(numbers.chunks_exact_mut(self.block_len())) {
            self.unpack(packed, &mut block);
            let groups = numbers
                .chunks_exact_mut(group_len)
                .zip(block.codes.chunks_exact(group_len));
            for ((numbers, codes), (scale, min)) in groups.zip(block.scales.iter().zip(&block.mins))
            {
                for (number, code) in numbers.iter_mut().zip(codes) {
                    *number = scale * (i32::from(*code) - zero) as f32 - min;
                }
            }
        }
    }

    /// Takes one quantized block apart.
    ///
    /// # Panics
    /// `packed` is not one block, or the type has no codes.
    pub fn unpack(self, packed: &[u8], block: &mut Unpacked) {
        assert!(packed.len() == self.block_size() && self.is_quantized());
        match self {
            Self::F32 | Self::F16 | Self::BF16 => {}
            Self::Q4_0 => {
                block.scales[0] = half(packed, 0);
                unpack_nibbles(&packed[2..18], &mut block.codes);
            }
            Self::Q4_1 => {
                block.scales[0] = half(packed, 0);
                block.mins[0] = -half(packed, 2);
                unpack_nibbles(&packed[4..20], &mut block.codes);
            }
            Self::Q5_0 => {
                block.scales[0] = half(packed, 0);
                unpack_nibbles(&packed[6..22], &mut block.codes);
                add_fifth_bits(&packed[2..6], &mut block.codes);
            }
            Self::Q5_1 => {
                block.scales[0] = half(packed, 0);
                block.mins[0] = -half(packed, 2);
                unpack_nibbles(&packed[8..24], &mut block.codes);
                add_fifth_bits(&packed[4..8], &mut block.codes);
            }
            Self::Q8_0 => {
                block.scales[0] = half(packed, 0);
                for (code, signed) in block.codes.iter_mut().zip(&packed[2..34]) {
                    // From -128..128 to 0..256.
                    *code = signed ^ 0x80;
                }
            }
            Self::Q2K => unpack_q2k(packed, block),
            Self::Q3K => unpack_q3k(packed, block),
            Self::Q4K => {
                unpack_six_bit_scales(packed, block);
                unpack_nibble_runs(&packed[16..144], &mut block.codes);
            }
            Self::Q5K => {
                unpack_six_bit_scales(packed, block);
                unpack_nibble_runs(&packed[48..176], &mut block.codes);
                for (run, codes) in block.codes.chunks_exact_mut(32).enumerate() {
                    for (code, high) in codes.iter_mut().zip(&packed[16..48]) {
                        *code |= (high >> run & 1) << 4;
                    }
                }
            }
            Self::Q6K => unpack_q6k(packed, block),
        }
    }
}

fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Low nibbles are the first half of the block, high ones the second.
fn unpack_nibbles(packed: &[u8], codes: &mut [u8]) {
    let (low, high) = codes.split_at_mut(packed.len());
    for ((low, high), byte) in low.iter_mut().zip(high).zip(packed) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
}

/// The same over runs of 64.
fn unpack_nibble_runs(packed: &[u8], codes: &mut [u8]) {
    for (packed, codes) in packed.chunks_exact(32).zip(codes.chunks_exact_mut(64)) {
        unpack_nibbles(packed, codes);
    }
}

/// One bit for each of 32 codes.
fn add_fifth_bits(bits: &[u8], codes: &mut [u8]) {
    for (index, code) in codes[..32].iter_mut().enumerate() {
        *code |= (bits[index / 8] >> (index % 8) & 1) << 4;
    }
}

/// The scales and minima of `Q4_K` and `Q5_K`: eight of each, of six bits, in twelve bytes after the
/// factors of both.
fn unpack_six_bit_scales(packed: &[u8], block: &mut Unpacked) {
    let (factor, min_factor) = (half(packed, 0), half(packed, 2));
    let bytes = &packed[4..16];
    for group in 0..8 {
        let (scale, min) = if group < 4 {
            (bytes[group] & 63, bytes[group + 4] & 63)
        } else {
            (
                bytes[group + 4] & 15 | bytes[group - 4] >> 6 << 4,
                bytes[group + 4] >> 4 | bytes[group] >> 6 << 4,
            )
        };
        block.scales[group] = factor * f32::from(scale);
        block.mins[group] = min_factor * f32::from(min);
    }
}

/// 16 bytes of scale and minimum, 64 of codes, the factors of both.
fn unpack_q2k(packed: &[u8], block: &mut Unpacked) {
    let (factor, min_factor) = (half(packed, 80), half(packed, 82));
    for (group, byte) in packed[..16].iter().enumerate() {
        block.scales[group] = factor * f32::from(byte & 15);
        block.mins[group] = min_factor * f32::from(byte >> 4);
    }
    unpack_bit_pairs(&packed[16..80], &mut block.codes);
}

/// Each 32 bytes hold four runs of 32 codes, lowest bits first.
fn unpack_bit_pairs(packed: &[u8], codes: &mut [u8]) {
    for (packed, codes) in packed.chunks_exact(32).zip(codes.chunks_exact_mut(128)) {
        for (run, codes) in codes.chunks_exact_mut(32).enumerate() {
            for (code, byte) in codes.iter_mut().zip(packed) {
                *code = byte >> (2 * run) & 3;
            }
        }
    }
}

/// 32 bytes of third bits, 64 of bit pairs, 12 of six-bit scales around 32, their factor.
fn unpack_q3k(packed: &[u8], block: &mut Unpacked) {
    let factor = half(packed, 108);
    let bytes = &packed[96..108];
    for group in 0..16 {
        let low = if group < 8 {
            bytes[group] & 15
        } else {
            bytes[group - 8] >> 4
        };
        let high = bytes[8 + group % 4] >> (2 * (group / 4)) & 3;
        block.scales[group] = factor * f32::from((low | high << 4) as i8 - 32);
    }
    unpack_bit_pairs(&packed[32..96], &mut block.codes);
    for (run, codes) in block.codes.chunks_exact_mut(32).enumerate() {
        for (code, bits) in codes.iter_mut().zip(&packed[..32]) {
            *code |= (bits >> run & 1) << 2;
        }
    }
}

/// 128 bytes of low nibbles, 64 of high bit pairs, 16 signed scales, their factor.
fn unpack_q6k(packed: &[u8], block: &mut Unpacked) {
    let factor = half(packed, 208);
    for (group, scale) in packed[192..208].iter().enumerate() {
        block.scales[group] = factor * f32::from(*scale as i8);
    }
    for half in 0..2 {
        let low = &packed[64 * half..][..64];
        let high = &packed[128 + 32 * half..][..32];
        let codes = &mut block.codes[128 * half..][..128];
        for index in 0..32 {
            let pair = |run: usize| (high[index] >> (2 * run) & 3) << 4;
            codes[index] = low[index] & 15 | pair(0);
            codes[index + 32] = low[index + 32] & 15 | pair(1);
            codes[index + 64] = low[index] >> 4 | pair(2);
            codes[index + 96] = low[index + 32] >> 4 | pair(3);
        }
    }
}
