//! Results must not depend on the number of threads. Alone in its process: the setting is global.

mod support;

use support::Fixture;
use vllm_tensor::{DType, Linear, Tensor, num_threads, set_num_threads};

#[test]
fn results_are_bit_equal_on_any_number_of_threads() {
    let fixture = Fixture::read("opt-norm-before");
    let run = |threads| {
        set_num_threads(threads).unwrap();
        assert_eq!(num_threads().unwrap(), threads);
        // Large enough to be spread over threads, which the fixture is not.
        let numbers: Vec<f32> = (0..512 * 300)
            .map(|i| ((i * 7919) % 1000) as f32 / 999.0)
            .collect();
        let weight = Tensor::new(numbers.as_slice(), &vllm_tensor::Device::Cpu).unwrap();
        let weight = weight.reshape((512, 300)).unwrap();
        let product = Linear::new(weight.clone(), None)
            .unwrap()
            .forward(&weight)
            .unwrap();
        let logits = fixture.run(DType::F32, &[fixture.all_prompts().collect()]);
        (product.to_vec2::<f32>().unwrap(), logits)
    };
    let one = run(1);
    for threads in [2, 3] {
        assert!(run(threads) == one, "{threads} threads differ from one");
    }
}
