use candle_core::{Device, Tensor};

/// Numbers between -1 and 1 that look random and are the same every time.
pub(crate) fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed;
    (0..len)
        .map(|_| {
            // SplitMix64 (Steele et al. 2014).
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

pub(crate) fn random_tensor(seed: u64, shape: &[usize]) -> Tensor {
    Tensor::from_vec(random(seed, shape.iter().product()), shape, &Device::Cpu).unwrap()
}

/// Fails unless the largest difference of two tensors of one shape is below `tolerance`.
pub(crate) fn assert_close(actual: &Tensor, expected: &Tensor, tolerance: f32, what: &str) {
    assert_eq!(actual.dims(), expected.dims(), "{what}");
    let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (index, (a, e)) in flat(actual).iter().zip(flat(expected)).enumerate() {
        assert!(
            (a - e).abs() < tolerance,
            "{what}: element {index} is {a}, expected {e}"
        );
    }
}
