//! Time to sample one row of 152,064 logits on one core.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use vllm_sampling::{SamplerContext, SamplerScratch, SamplingParams, SequenceSampler};

const VOCAB_SIZE: usize = 152_064;

/// Logits as a language model gives them: falling with the logarithm of the rank (Zipf's law), the
/// ranks spread over the ids. At temperature 0.8 some 270 tokens make up 95 %.
fn peaked_logits() -> Vec<f32> {
    const COPRIME: usize = 70_001;
    let mut row = vec![0.0; VOCAB_SIZE];
    for rank in 0..VOCAB_SIZE {
        row[rank * COPRIME % VOCAB_SIZE] = 15.0 - 1.3 * (rank as f32 + 2.7).ln();
    }
    row
}

/// Normally distributed logits (the sum of twelve uniform numbers) of deviation 3, as an untrained
/// or confused model gives them. At temperature 0.8 over a thousand tokens make up 95 %.
fn wide_logits() -> Vec<f32> {
    let mut state = 1_u64;
    let mut uniform = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..VOCAB_SIZE)
        .map(|_| 3.0 * ((0..12).map(|_| uniform()).sum::<f32>() - 6.0))
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
    for (shape, mut row) in [("peaked", peaked_logits()), ("wide", wide_logits())] {
        for (name, params) in &cases {
            let context = SamplerContext {
                vocab_size: VOCAB_SIZE,
                ..SamplerContext::default()
            };
            let mut sampler = SequenceSampler::new(params, context);
            let mut scratch = SamplerScratch::default();
            let id = BenchmarkId::new(*name, shape);
            group.bench_function(id, |b| {
                b.iter(|| sampler.sample(black_box(&mut row), &[], None, &mut scratch));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, benchmark);
criterion_main!(benches);
