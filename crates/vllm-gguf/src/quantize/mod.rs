//! Numbers into blocks. What a block loses is kept small by trying several scales for each group and
//! solving for the best scale (and minimum) of the codes that each leads to.

mod blocks;
mod fit;

use half::{bf16, f16};

use crate::BlockType;

impl BlockType {
    /// The type of this name, such as `q4_k`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|known| known.name().eq_ignore_ascii_case(name))
    }

    /// Writes `numbers`, whole blocks, to `bytes`.
    ///
    /// # Panics
    /// The lengths do not belong together.
    pub fn quantize(self, numbers: &[f32], bytes: &mut [u8]) {
        assert_eq!(
            bytes.len(),
            self.byte_len(numbers.len()),
            "{} blocks",
            self.name()
        );
        let pieces = numbers
            .chunks_exact(self.block_len())
            .zip(bytes.chunks_exact_mut(self.block_size()));
        for (numbers, block) in pieces {
            match self {
                Self::F32 => block.copy_from_slice(&numbers[0].to_le_bytes()),
                Self::F16 => block.copy_from_slice(&f16::from_f32(numbers[0]).to_le_bytes()),
                Self::BF16 => block.copy_from_slice(&bf16::from_f32(numbers[0]).to_le_bytes()),
                Self::Q4_0 => blocks::write_centred(numbers, block, 4),
                Self::Q4_1 => blocks::write_line(numbers, block, 4),
                Self::Q5_0 => blocks::write_centred(numbers, block, 5),
                Self::Q5_1 => blocks::write_line(numbers, block, 5),
                Self::Q8_0 => blocks::write_q8_0(numbers, block),
                Self::Q2K => blocks::write_q2k(numbers, block),
                Self::Q3K => blocks::write_q3k(numbers, block),
                Self::Q4K => blocks::write_six_bit_lines(numbers, block, 4),
                Self::Q5K => blocks::write_six_bit_lines(numbers, block, 5),
                Self::Q6K => blocks::write_q6k(numbers, block),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers() -> Vec<f32> {
        let mut state = 1u32;
        let uniform = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        });
        // Sums of three are closer to how weights are spread.
        let uniform: Vec<f32> = uniform.take(3 * 1024).collect();
        uniform
            .chunks_exact(3)
            .map(|three| 0.1 * three.iter().sum::<f32>())
            .collect()
    }

    fn error(kind: BlockType, numbers: &[f32]) -> f32 {
        let mut bytes = vec![0xff; kind.byte_len(numbers.len())];
        kind.quantize(numbers, &mut bytes);
        let mut read = vec![0.0; numbers.len()];
        kind.dequantize(&bytes, &mut read);
        let squares = |numbers: &mut dyn Iterator<Item = f32>| numbers.map(|n| n * n).sum::<f32>();
        let lost = squares(&mut numbers.iter().zip(&read).map(|(a, b)| a - b));
        (lost / squares(&mut numbers.iter().copied())).sqrt()
    }

    #[test]
    fn little_is_lost() {
        let numbers = numbers();
        let check = |kind, limit| {
            let error = error(kind, &numbers);
            assert!(error < limit, "{kind:?} loses {error}");
        };
        check(BlockType::F32, 1e-9);
        check(BlockType::F16, 5e-4);
        check(BlockType::BF16, 3e-3);
        check(BlockType::Q8_0, 8e-3);
        check(BlockType::Q6K, 2.5e-2);
        check(BlockType::Q5K, 4e-2);
        check(BlockType::Q5_1, 4e-2);
        check(BlockType::Q5_0, 5e-2);
        check(BlockType::Q4K, 8e-2);
        check(BlockType::Q4_1, 8e-2);
        check(BlockType::Q4_0, 1e-1);
        check(BlockType::Q3K, 2.2e-1);
        check(BlockType::Q2K, 4e-1);
    }

    #[test]
    fn extremes_are_written() {
        for kind in BlockType::ALL {
            for number in [0.0, 1.0, -1.0, 1e-30, 3e4] {
                let constant = vec![number; 256];
                assert!(
                    error(kind, &constant).is_nan() || error(kind, &constant) < 1.1,
                    "{kind:?} {number}"
                );
            }
        }
    }

    #[test]
    fn names_of_types() {
        assert_eq!(BlockType::from_name("q4_k"), Some(BlockType::Q4K));
        assert_eq!(BlockType::from_name("Q8_0"), Some(BlockType::Q8_0));
        assert_eq!(BlockType::from_name("q9_k"), None);
    }
}
