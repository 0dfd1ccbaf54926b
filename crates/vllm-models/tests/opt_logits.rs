//! OPT against logits recorded from transformers: `fixtures/make_opt.py` makes them.

mod support;

use support::{Fixture, Step, max_difference};
use vllm_tensor::DType;

const FIXTURES: [&str; 4] = [
    "opt-norm-before",
    "opt-norm-after-projected",
    "opt-untied-projected-gelu",
    "opt-half-bin",
];

const TOLERANCE: f32 = 1e-4;

/// Runs `steps` on every fixture in float32 and holds all logits to the recorded ones.
fn check(what: &str, steps: impl Fn(&Fixture) -> Vec<Vec<Step>>) {
    for name in FIXTURES {
        let fixture = Fixture::read(name);
        let logits = fixture.run(DType::F32, &steps(&fixture));
        for (prompt, (actual, expected)) in logits.iter().zip(&fixture.expected).enumerate() {
            let difference = max_difference(actual, expected);
            assert!(
                difference < TOLERANCE,
                "{what}, {name}, prompt {prompt}: off by {difference}"
            );
        }
    }
}

#[test]
fn whole_prompts_in_one_batch() {
    check("one batch", |fixture| vec![fixture.all_prompts().collect()]);
}

#[test]
fn prompts_in_chunks() {
    for chunk in [3, 7, 16] {
        check("chunks", |fixture| fixture.in_chunks(chunk));
    }
}

#[test]
fn one_token_at_a_time() {
    check("decode", |fixture| fixture.in_chunks(1));
}

#[test]
fn prefill_and_decode_in_one_step() {
    check("mixed", Fixture::mixed);
}

#[test]
fn rows_are_bit_equal_however_they_are_batched() {
    for name in FIXTURES {
        let fixture = Fixture::read(name);
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let together = fixture.run(dtype, &[fixture.all_prompts().collect()]);
            let alone: Vec<_> = fixture.all_prompts().map(|step| vec![step]).collect();
            assert_eq!(
                fixture.run(dtype, &alone),
                together,
                "{name} {dtype:?} alone"
            );
            for chunk in [1, 5, 16] {
                let chunked = fixture.run(dtype, &fixture.in_chunks(chunk));
                assert_eq!(chunked, together, "{name} {dtype:?} in chunks of {chunk}");
            }
            let mixed = fixture.run(dtype, &fixture.mixed());
            assert_eq!(mixed, together, "{name} {dtype:?} mixed");
        }
    }
}

#[test]
fn only_the_rows_asked_for_are_returned() {
    let fixture = Fixture::read("opt-norm-before");
    let all = fixture.run(DType::F32, &[fixture.all_prompts().collect()]);
    let last = fixture.last_rows(DType::F32);
    for (prompt, (last, all)) in last.iter().zip(&all).enumerate() {
        assert_eq!(Some(last), all.last(), "prompt {prompt}");
    }
}

#[test]
fn half_precision_stays_close() {
    for dtype in [DType::F16, DType::BF16] {
        let fixture = Fixture::read("opt-norm-before");
        let logits = fixture.run(dtype, &[fixture.all_prompts().collect()]);
        let largest = fixture
            .expected
            .iter()
            .flatten()
            .flatten()
            .fold(0f32, |m, v| m.max(v.abs()));
        for (actual, expected) in logits.iter().zip(&fixture.expected) {
            let difference = max_difference(actual, expected) / largest;
            assert!(
                difference < 2e-2,
                "{dtype:?}: off by {difference} of the largest logit"
            );
        }
    }
}
