//! Made-up weights, for measuring speed without a checkpoint.

use vllm_tensor::{DType, Device, Tensor, WithDType};

use crate::Result;

/// Weights are uniform between minus and plus this, as vLLM's are: small enough that no layer
/// overflows.
const LIMIT: f32 = 1e-3;

/// vLLM's, too.
const SEED: u64 = 1234;

/// Numbers that are drawn for a tensor before they repeat: a prime, so that they do not line up with
/// the rows of any usual matrix. Drawing all of them would take longer than writing them.
const PERIOD: usize = 65_521;

/// The tensor called `name`: the same on every run, whatever else is loaded.
pub(super) fn tensor(name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
    let len = shape.iter().product();
    let mut random = Random::new(name);
    let pattern: Vec<f32> = (0..PERIOD.min(len)).map(|_| random.next()).collect();
    let tensor = match dtype {
        DType::F16 => repeated(&pattern, len, half::f16::from_f32, shape)?,
        DType::BF16 => repeated(&pattern, len, half::bf16::from_f32, shape)?,
        _ => repeated(&pattern, len, |number| number, shape)?.to_dtype(dtype)?,
    };
    Ok(tensor.to_device(device)?)
}

/// `pattern` over and over, as often as it takes to fill `len` elements.
fn repeated<T: WithDType>(
    pattern: &[f32],
    len: usize,
    convert: impl Fn(f32) -> T,
    shape: &[usize],
) -> Result<Tensor> {
    let pattern: Vec<T> = pattern.iter().map(|number| convert(*number)).collect();
    let mut elements = Vec::with_capacity(len);
    while elements.len() < len {
        let rest = pattern.len().min(len - elements.len());
        elements.extend_from_slice(&pattern[..rest]);
    }
    Ok(Tensor::from_vec(elements, shape, &Device::Cpu)?)
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

    fn values(name: &str, len: usize, dtype: DType) -> Vec<f32> {
        let tensor = tensor(name, &[len], dtype, &Device::Cpu).unwrap();
        assert_eq!(tensor.dtype(), dtype);
        tensor.to_dtype(DType::F32).unwrap().to_vec1().unwrap()
    }

    #[test]
    fn the_same_name_gives_the_same_small_numbers() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let first = values("a.weight", 200_000, dtype);
            assert_eq!(first, values("a.weight", 200_000, dtype));
            assert!(first.iter().all(|value| value.abs() <= 1.01 * LIMIT));
            let mean = first.iter().sum::<f32>() / first.len() as f32;
            assert!(mean.abs() < 1e-5, "{mean}");
            assert_ne!(first[..100], values("b.weight", 100, dtype));
        }
    }
}
