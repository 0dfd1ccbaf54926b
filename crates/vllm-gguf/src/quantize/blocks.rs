//! What is written of each block.

use half::f16;

use super::fit::{Line, best_line, best_scale, code_of, farthest, inverse};

fn put_half(block: &mut [u8], at: usize, number: f32) -> f32 {
    let half = f16::from_f32(number);
    block[at..at + 2].copy_from_slice(&half.to_le_bytes());
    half.to_f32()
}

pub(super) fn write_q8_0(numbers: &[f32], block: &mut [u8]) {
    let largest = numbers
        .iter()
        .fold(0f32, |largest, number| largest.max(number.abs()));
    let scale = put_half(block, 0, largest / 127.0);
    let factor = inverse(scale);
    for (code, number) in block[2..].iter_mut().zip(numbers) {
        *code = (number * factor).round().clamp(-127.0, 127.0) as i8 as u8;
    }
}

/// `Q4_0` and `Q5_0`: a scale, the fifth bits if there are any, and nibbles.
pub(super) fn write_centred(numbers: &[f32], block: &mut [u8], bits: u32) {
    let reach = f32::from(1u8 << (bits - 1));
    let scale = put_half(block, 0, best_scale(numbers, reach));
    let factor = inverse(scale);
    let codes = numbers.iter().map(|number| {
        let code = (number * factor).round().clamp(-reach, reach - 1.0);
        (code + reach) as u8
    });
    put_codes(codes, &mut block[2..], bits);
}

/// `Q4_1` and `Q5_1`: the same with a minimum.
pub(super) fn write_line(numbers: &[f32], block: &mut [u8], bits: u32) {
    let largest_code = f32::from((1u8 << bits) - 1);
    let line = best_line(numbers, largest_code);
    let scale = put_half(block, 0, line.scale);
    let min = -put_half(block, 2, -line.min);
    let codes = numbers
        .iter()
        .map(|number| code_of(number + min, scale, largest_code) as u8);
    put_codes(codes, &mut block[4..], bits);
}

/// Fifth bits if there are any, then nibbles: the first half of the codes in the lower ones.
fn put_codes(codes: impl Iterator<Item = u8>, block: &mut [u8], bits: u32) {
    block.fill(0);
    let (fifth_bits, nibbles) = block.split_at_mut(if bits == 5 { 4 } else { 0 });
    let half = nibbles.len();
    for (index, code) in codes.enumerate() {
        let nibble = code & 15;
        nibbles[index % half] |= if index < half { nibble } else { nibble << 4 };
        if let Some(byte) = fifth_bits.get_mut(index / 8) {
            *byte |= (code >> 4) << (index % 8);
        }
    }
}

/// `Q4_K` and `Q5_K`: six-bit scales and minima, the fifth bits if there are any, and nibbles.
pub(super) fn write_six_bit_lines(numbers: &[f32], block: &mut [u8], bits: u32) {
    const GROUP: usize = 32;
    let largest_code = f32::from((1u8 << bits) - 1);
    let mut lines = [Line::default(); 8];
    for (line, group) in lines.iter_mut().zip(numbers.chunks_exact(GROUP)) {
        *line = best_line(group, largest_code);
    }
    block.fill(0);
    put_six_bit_lines(&mut lines, block);
    let (fifth_bits, nibbles) = block[16..].split_at_mut(if bits == 5 { 32 } else { 0 });
    for (index, number) in numbers.iter().enumerate() {
        let line = lines[index / GROUP];
        let code = code_of(number + line.min, line.scale, largest_code) as u8;
        let (run, within) = (index / 64, index % 64);
        let nibble = code & 15;
        nibbles[32 * run + within % 32] |= if within < 32 { nibble } else { nibble << 4 };
        if let Some(byte) = fifth_bits.get_mut(index % 32) {
            *byte |= (code >> 4) << (index / 32);
        }
    }
}

/// Rounds the lines to what the block holds.
fn put_six_bit_lines(lines: &mut [Line; 8], block: &mut [u8]) {
    let most = |part: fn(&Line) -> f32| lines.iter().map(part).fold(0f32, f32::max);
    let factor = put_half(block, 0, most(|line| line.scale) / 63.0);
    let min_factor = put_half(block, 2, most(|line| line.min) / 63.0);
    for (group, line) in lines.iter_mut().enumerate() {
        let scale = code_of(line.scale, factor, 63.0) as u8;
        let min = code_of(line.min, min_factor, 63.0) as u8;
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
}

pub(super) fn write_q2k(numbers: &[f32], block: &mut [u8]) {
    const GROUP: usize = 16;
    let mut lines = [Line::default(); 16];
    for (line, group) in lines.iter_mut().zip(numbers.chunks_exact(GROUP)) {
        *line = best_line(group, 3.0);
    }
    block.fill(0);
    let most = |part: fn(&Line) -> f32| lines.iter().map(part).fold(0f32, f32::max);
    let factor = put_half(block, 80, most(|line| line.scale) / 15.0);
    let min_factor = put_half(block, 82, most(|line| line.min) / 15.0);
    for (line, byte) in lines.iter_mut().zip(&mut block[..16]) {
        let scale = code_of(line.scale, factor, 15.0) as u8;
        let min = code_of(line.min, min_factor, 15.0) as u8;
        *byte = scale | min << 4;
        *line = Line {
            scale: factor * f32::from(scale),
            min: min_factor * f32::from(min),
        };
    }
    for (index, number) in numbers.iter().enumerate() {
        let line = lines[index / GROUP];
        let code = code_of(number + line.min, line.scale, 3.0) as u8;
        put_bit_pair(&mut block[16..80], index, code);
    }
}

/// Each 32 bytes hold four runs of 32 codes, lowest bits first.
fn put_bit_pair(packed: &mut [u8], index: usize, code: u8) {
    packed[index / 128 * 32 + index % 32] |= (code & 3) << (2 * (index % 128 / 32));
}

pub(super) fn write_q3k(numbers: &[f32], block: &mut [u8]) {
    const GROUP: usize = 16;
    let mut scales = [0f32; 16];
    for (scale, group) in scales.iter_mut().zip(numbers.chunks_exact(GROUP)) {
        *scale = best_scale(group, 4.0);
    }
    block.fill(0);
    let factor = put_half(block, 108, -farthest(&scales) / 32.0);
    for (group, scale) in scales.iter_mut().enumerate() {
        let code = (*scale * inverse(factor)).round().clamp(-32.0, 31.0);
        let stored = (code + 32.0) as u8;
        let low = stored & 15;
        block[96 + group % 8] |= if group < 8 { low } else { low << 4 };
        block[104 + group % 4] |= (stored >> 4) << (2 * (group / 4));
        *scale = factor * code;
    }
    for (index, number) in numbers.iter().enumerate() {
        let factor = inverse(scales[index / GROUP]);
        let code = ((number * factor).round().clamp(-4.0, 3.0) + 4.0) as u8;
        put_bit_pair(&mut block[32..96], index, code);
        block[index % 32] |= (code >> 2) << (index / 32);
    }
}

pub(super) fn write_q6k(numbers: &[f32], block: &mut [u8]) {
    const GROUP: usize = 16;
    let mut scales = [0f32; 16];
    for (scale, group) in scales.iter_mut().zip(numbers.chunks_exact(GROUP)) {
        *scale = best_scale(group, 32.0);
    }
    let factor = put_half(block, 208, -farthest(&scales) / 128.0);
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
