//! Numbers into blocks. What a block loses is kept small by trying several scales for each group and
//! solving for the best scale (and minimum) of the codes that each leads to.

use half::{bf16, f16};

use crate::BlockType;

impl BlockType {
    /// The types that numbers can be written in.
    pub const WRITTEN: [Self; 6] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q4K,
        Self::Q6K,
    ];

    /// The type of this name, such as `q4_k`, if numbers can be written in it.
    pub fn from_written_name(name: &str) -> Option<Self> {
        Self::WRITTEN
            .into_iter()
            .find(|known| known.name().eq_ignore_ascii_case(name))
    }

    /// Writes `numbers`, whole blocks, to `bytes`; nothing is written in a type that is only read.
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
        let blocks = numbers
            .chunks_exact(self.block_len())
            .zip(bytes.chunks_exact_mut(self.block_size()));
        for (numbers, block) in blocks {
            match self {
                Self::F32 => block.copy_from_slice(&numbers[0].to_le_bytes()),
                Self::F16 => block.copy_from_slice(&f16::from_f32(numbers[0]).to_le_bytes()),
                Self::BF16 => block.copy_from_slice(&bf16::from_f32(numbers[0]).to_le_bytes()),
                Self::Q8_0 => write_q8_0(numbers, block),
                Self::Q4K => write_q4k(numbers, block),
                Self::Q6K => write_q6k(numbers, block),
                _ => {}
            }
        }
    }
}

fn put_half(block: &mut [u8], at: usize, number: f32) -> f32 {
    let half = f16::from_f32(number);
    block[at..at + 2].copy_from_slice(&half.to_le_bytes());
    half.to_f32()
}

fn inverse(number: f32) -> f32 {
    if number == 0.0 { 0.0 } else { number.recip() }
}

fn write_q8_0(numbers: &[f32], block: &mut [u8]) {
    let largest = numbers
        .iter()
        .fold(0f32, |largest, number| largest.max(number.abs()));
    let scale = put_half(block, 0, largest / 127.0);
    let factor = inverse(scale);
    for (code, number) in block[2..].iter_mut().zip(numbers) {
        *code = (number * factor).round().clamp(-127.0, 127.0) as i8 as u8;
    }
}

/// A group's scale and minimum, both at least 0.
#[derive(Clone, Copy, Default)]
struct Line {
    scale: f32,
    min: f32,
}

/// Large numbers count for more: they meet large activations' products.
fn importance(numbers: &[f32]) -> Vec<f32> {
    let squares: f32 = numbers.iter().map(|number| number * number).sum();
    let typical = (squares / numbers.len() as f32).sqrt();
    numbers
        .iter()
        .map(|number| typical + number.abs())
        .collect()
}

/// The line `scale · code − min` that fits `numbers` best with codes up to `largest_code`.
fn best_line(numbers: &[f32], largest_code: f32) -> Line {
    const STEPS: i32 = 12;
    let weights = importance(numbers);
    let low = numbers.iter().fold(0f32, |low, number| low.min(*number));
    let high = numbers
        .iter()
        .fold(f32::MIN, |high, number| high.max(*number));
    if high <= low {
        return Line {
            scale: 0.0,
            min: -low,
        };
    }
    let mut best = Line {
        scale: (high - low) / largest_code,
        min: -low,
    };
    let mut least = line_error(numbers, &weights, best, largest_code);
    for step in -STEPS..=STEPS {
        let scale = (high - low) / (largest_code + 0.1 * step as f32);
        let codes = numbers
            .iter()
            .map(|number| code_of(*number + -low, scale, largest_code));
        // Weighted least squares for scale and minimum.
        let (mut w, mut wc, mut wcc, mut wx, mut wcx) = (0f32, 0f32, 0f32, 0f32, 0f32);
        for ((number, weight), code) in numbers.iter().zip(&weights).zip(codes) {
            w += weight;
            wc += weight * code;
            wcc += weight * code * code;
            wx += weight * number;
            wcx += weight * code * number;
        }
        let determinant = w * wcc - wc * wc;
        if determinant <= 0.0 {
            continue;
        }
        let mut line = Line {
            scale: (w * wcx - wx * wc) / determinant,
            min: -(wcc * wx - wc * wcx) / determinant,
        };
        if line.min < 0.0 {
            line = Line {
                scale: wcx * inverse(wcc),
                min: 0.0,
            };
        }
        let error = line_error(numbers, &weights, line, largest_code);
        if line.scale > 0.0 && error < least {
            (best, least) = (line, error);
        }
    }
    best
}

fn code_of(number: f32, scale: f32, largest_code: f32) -> f32 {
    (number * inverse(scale)).round().clamp(0.0, largest_code)
}

fn line_error(numbers: &[f32], weights: &[f32], line: Line, largest_code: f32) -> f32 {
    let errors = numbers.iter().zip(weights).map(|(number, weight)| {
        let code = code_of(number + line.min, line.scale, largest_code);
        let error = line.scale * code - line.min - number;
        weight * error * error
    });
    errors.sum()
}

fn write_q4k(numbers: &[f32], block: &mut [u8]) {
    const GROUP: usize = 32;
    let mut lines = [Line::default(); 8];
    for (line, group) in lines.iter_mut().zip(numbers.chunks_exact(GROUP)) {
        *line = best_line(group, 15.0);
    }
    let most = |part: fn(&Line) -> f32| lines.iter().map(part).fold(0f32, f32::max);
    let factor = put_half(block, 0, most(|line| line.scale) / 63.0);
    let min_factor = put_half(block, 2, most(|line| line.min) / 63.0);
    block[4..].fill(0);
    for (group, line) in lines.iter_mut().enumerate() {
        let scale = (line.scale * inverse(factor)).round().clamp(0.0, 63.0) as u8;
        let min = (line.min * inverse(min_factor)).round().clamp(0.0, 63.0) as u8;
        if group < 4 {
            block[4 + group] |= scale;
            block[8 + group] |= min;
        } else {
            block[8 + group] |= scale & 15 | (min & 15) << 4;
            block[group] |= scale >> 4 << 6;
            block[4 + group] |= min >> 4 << 6;
        }
        *line = Line {
            scale: factor * f32::from(scale),
            min: min_factor * f32::from(min),
        };
    }
    for (index, number) in numbers.iter().enumerate() {
        let line = lines[index / GROUP];
        let code = code_of(number + line.min, line.scale, 15.0) as u8;
        let (run, within) = (index / 64, index % 64);
        block[16 + 32 * run + within % 32] |= if within < 32 { code } else { code << 4 };
    }
}

/// The scale that fits `numbers` best with codes from -32 to 31; of either sign.
fn best_scale(numbers: &[f32]) -> f32 {
    const STEPS: i32 = 9;
    let weights = importance(numbers);
    let largest = numbers.iter().fold(0f32, |largest, number| {
        if number.abs() > largest.abs() {
            *number
        } else {
            largest
        }
    });
    let mut best = (0.0, f32::MAX);
    for step in -STEPS..=STEPS {
        // The number farthest from zero takes the end of the range that reaches farther.
        let inverse_scale = -(32.0 + 0.1 * step as f32) * inverse(largest);
        let (mut wcc, mut wcx) = (0f32, 0f32);
        for (number, weight) in numbers.iter().zip(&weights) {
            let code = (number * inverse_scale).round().clamp(-32.0, 31.0);
            wcc += weight * code * code;
            wcx += weight * code * number;
        }
        let scale = wcx * inverse(wcc);
        let errors = numbers.iter().zip(&weights).map(|(number, weight)| {
            let code = (number * inverse(scale)).round().clamp(-32.0, 31.0);
            weight * (scale * code - number).powi(2)
        });
        let error: f32 = errors.sum();
        if error < best.1 {
            best = (scale, error);
        }
    }
    best.0
}

fn write_q6k(numbers: &[f32], block: &mut [u8]) {
    const GROUP: usize = 16;
    let mut scales = [0f32; 16];
    for (scale, group) in scales.iter_mut().zip(numbers.chunks_exact(GROUP)) {
        *scale = best_scale(group);
    }
    let largest = scales.iter().fold(0f32, |largest, scale| {
        if scale.abs() > largest.abs() {
            *scale
        } else {
            largest
        }
    });
    let factor = put_half(block, 208, -largest / 128.0);
    block[..208].fill(0);
    for (group, scale) in scales.iter_mut().enumerate() {
        let code = (*scale * inverse(factor)).round().clamp(-128.0, 127.0) as i8;
        block[192 + group] = code as u8;
        *scale = factor * f32::from(code);
    }
    for (index, number) in numbers.iter().enumerate() {
        let factor = inverse(scales[index / GROUP]);
        let code = ((number * factor).round().clamp(-32.0, 31.0) as i8 + 32) as u8;
        let (half, run, within) = (index / 128, index % 128 / 32, index % 32);
        let low = &mut block[64 * half + within + 32 * (run % 2)];
        *low |= if run < 2 { code & 15 } else { (code & 15) << 4 };
        block[128 + 32 * half + within] |= code >> 4 << (2 * run);
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
        check(BlockType::Q4K, 8e-2);
    }

    #[test]
    fn extremes_are_written() {
        for kind in BlockType::WRITTEN {
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
        assert_eq!(BlockType::from_written_name("q4_k"), Some(BlockType::Q4K));
        assert_eq!(BlockType::from_written_name("Q8_0"), Some(BlockType::Q8_0));
        assert_eq!(BlockType::from_written_name("q2_k"), None);
    }
}
