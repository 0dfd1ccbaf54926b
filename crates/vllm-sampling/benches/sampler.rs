//! Time to sample one row of 152,064 logits on one core.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use vllm_sampling::{SamplerContext, SamplerScratch, SamplingParams, SequenceSampler};

const VOCAB_SIZE: usize = 152_064;

/// Normally distributed logits: the sum of twelve uniform numbers. With a deviation of 3 the
/// nucleus of 95 % has a few hundred tokens, more than a language model usually leaves open.
fn logits(deviation: f32) -> Vec<f32> {
    let mut state = 1_u64;
    let mut uniform = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..VOCAB_SIZE)
        .map(|_| deviation * ((0..12).map(|_| uniform()).sum::<f32>() - 6.0))
        .collect()
}

fn benchmark(c: &mut Criterion) {
    let base = SamplingParams {
        seed: Some(1),
        ..SamplingParams::default()
    };
    let cases = [
        (
            "greedy",
            SamplingParams {
                temperature: 0.0,
                ..base.clone()
            },
        ),
        (
            "top_p",
            SamplingParams {
                temperature: 0.8,
                top_p: 0.95,
                ..base.clone()
            },
        ),
        (
            "top_k",
            SamplingParams {
                temperature: 0.8,
                top_k: 50,
                ..base.clone()
            },
        ),
        (
            "top_k_top_p_min_p",
            SamplingParams {
                temperature: 0.6,
                top_k: 20,
                top_p: 0.95,
                min_p: 0.05,
                ..base.clone()
            },
        ),
        (
            "min_p",
            SamplingParams {
                min_p: 0.05,
                ..base.clone()
            },
        ),
        (
            "unrestricted",
            SamplingParams {
                temperature: 0.8,
                ..base.clone()
            },
        ),
        (
            "greedy_logprobs_5",
            SamplingParams {
                temperature: 0.0,
                logprobs: Some(5),
                ..base.clone()
            },
        ),
    ];
    let mut group = c.benchmark_group("sample");
    for deviation in [1.0_f32, 3.0] {
        let mut row = logits(deviation);
        for (name, params) in &cases {
            let context = SamplerContext {
                vocab_size: VOCAB_SIZE,
                ..SamplerContext::default()
            };
            let mut sampler = SequenceSampler::new(params, context);
            let mut scratch = SamplerScratch::default();
            let id = BenchmarkId::new(*name, format!("deviation {deviation}"));
            group.bench_function(id, |b| {
                b.iter(|| sampler.sample(black_box(&mut row), &[], None, &mut scratch));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, benchmark);
criterion_main!(benches);
