//! Made-up weights, for measuring speed without a checkpoint.

use half::{bf16, f16};
use vllm_tensor::{DType, Device, Tensor, WeightRows};

use crate::Result;

/// Weights are uniform between minus and plus this, as vLLM's are: small enough that no layer
/// overflows.
const LIMIT: f32 = 1e-3;

/// vLLM's, too.
const SEED: u64 = 1234;

/// Numbers that are drawn for a tensor before they repeat: a prime, so that they do not line up with
/// the rows of any usual matrix. Drawing all of them would take longer than writing them.
const PERIOD: usize = 65_521;

/// Rows that no file holds: the same on every run, whatever else is loaded.
pub(super) struct DummyRows {
    /// A period and another row, so that each row is a piece of it.
    pattern: Vec<u8>,
    dtype: DType,
    num_rows: usize,
    columns: usize,
}

impl DummyRows {
    /// The matrix called `name`, in float32, float16 or bfloat16.
    pub(super) fn new(name: &str, num_rows: usize, columns: usize, dtype: DType) -> Self {
        let mut random = Random::new(name);
        let drawn: Vec<f32> = (0..PERIOD).map(|_| random.next()).collect();
        let len = (PERIOD + columns).min(num_rows.saturating_mul(columns));
        let numbers = drawn.iter().cycle().take(len);
        let pattern = match dtype {
            DType::F16 => numbers
                .flat_map(|number| f16::from_f32(*number).to_le_bytes())
                .collect(),
            DType::BF16 => numbers
                .flat_map(|number| bf16::from_f32(*number).to_le_bytes())
                .collect(),
            _ => numbers.flat_map(|number| number.to_le_bytes()).collect(),
        };
        Self {
            pattern,
            dtype,
            num_rows,
            columns,
        }
    }

    /// All rows as a tensor of this shape.
    pub(super) fn tensor(&self, shape: &[usize]) -> Result<Tensor> {
        let rows = (0..self.num_rows).map(|index| self.row(index));
        let bytes = rows.collect::<Vec<_>>().concat();
        Ok(Tensor::from_raw_buffer(
            &bytes,
            self.dtype,
            shape,
            &Device::Cpu,
        )?)
    }
}

impl WeightRows for DummyRows {
    fn dtype(&self) -> DType {
        self.dtype
    }

    fn num_rows(&self) -> usize {
        self.num_rows
    }

    fn row(&self, index: usize) -> &[u8] {
        let element_size = self.dtype.size_in_bytes();
        let start = index * self.columns % PERIOD * element_size;
        &self.pattern[start..start + self.columns * element_size]
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014), begun at the hash of a name (FNV-1a).
struct Random(u64);

impl Random {
    fn new(name: &str) -> Self {
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        Self(hash ^ SEED)
    }

    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        // 24 bits are what a float32 between 0 and 1 has.
        let unit = (bits >> 40) as f32 / (1u32 << 24) as f32;
        (2.0 * unit - 1.0) * LIMIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(name: &str, (num_rows, columns): (usize, usize), dtype: DType) -> Vec<f32> {
        let rows = DummyRows::new(name, num_rows, columns, dtype);
        let tensor = rows.tensor(&[num_rows * columns]).unwrap();
        assert_eq!(tensor.dtype(), dtype);
        tensor.to_dtype(DType::F32).unwrap().to_vec1().unwrap()
    }

    #[test]
    fn the_same_name_gives_the_same_small_numbers() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let first = values("a.weight", (200, 1000), dtype);
            assert_eq!(first.len(), 200_000);
            assert_eq!(first, values("a.weight", (200, 1000), dtype));
            assert!(first.iter().all(|value| value.abs() <= 1.01 * LIMIT));
            let mean = first.iter().sum::<f32>() / first.len() as f32;
            assert!(mean.abs() < 1e-5, "{mean}");
            assert_ne!(first[..100], values("b.weight", (1, 100), dtype));
            assert_ne!(first[..1000], first[1000..2000]);
        }
        assert_eq!(values("wide", (2, 70_000), DType::F32).len(), 140_000);
    }
}
