//! Every family against what transformers computes: `fixtures/make_fixtures.py` records it.

mod support;

use std::collections::BTreeSet;

use support::{Fixture, Logits, Step, fixture_names, max_difference};
use vllm_models::supported_architectures;
use vllm_tensor::{DType, Isa};

/// In float32, of logits of a size around one.
const TOLERANCE: f32 = 1e-4;

/// In half precision, of the largest logit and of all logits together.
const HALF_TOLERANCE: f32 = 2e-2;

fn for_each_fixture(mut check: impl FnMut(&Fixture)) {
    fixture_names()
        .iter()
        .for_each(|name| check(&Fixture::read(name)));
}

#[track_caller]
fn assert_close(what: &str, fixture: &Fixture, logits: &[Logits], tolerance: f32) {
    for (prompt, (actual, expected)) in logits.iter().zip(&fixture.expected).enumerate() {
        let difference = max_difference(actual, expected);
        assert!(
            difference < tolerance,
            "{}, {what}, prompt {prompt}: off by {difference}",
            fixture.name
        );
    }
}

/// Runs `steps` on every fixture in float32 and holds all logits to the recorded ones.
fn check(what: &str, steps: impl Fn(&Fixture) -> Vec<Vec<Step>>) {
    for_each_fixture(|fixture| {
        let logits = fixture.run(DType::F32, &steps(fixture));
        assert_close(what, fixture, &logits, TOLERANCE);
    });
}

#[test]
fn every_architecture_is_checked() {
    let mut checked = BTreeSet::new();
    for_each_fixture(|fixture| checked.extend(fixture.config().architectures));
    let supported = supported_architectures();
    assert_eq!(
        checked.iter().map(String::as_str).collect::<Vec<_>>(),
        supported
            .into_iter()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>(),
    );
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
fn greedy_continuations_are_the_same() {
    for_each_fixture(|fixture| {
        // Given the tokens before it, each one recorded is the likeliest.
        let continued = fixture.continued();
        let logits = continued.run(DType::F32, &continued.prefill_then_decode(&fixture.prompts));
        for (prompt, logits) in logits.iter().enumerate() {
            let likeliest: Vec<u32> = logits[fixture.prompts[prompt].len() - 1..]
                .iter()
                .map(|row| argmax(row))
                .collect();
            assert_eq!(
                likeliest, fixture.greedy[prompt],
                "{}, prompt {prompt}",
                fixture.name
            );
        }
    });
}

#[test]
fn rows_are_bit_equal_however_they_are_batched() {
    for_each_fixture(|fixture| {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let together = fixture.run(dtype, &[fixture.all_prompts().collect()]);
            let same = |what: &str, steps: Vec<Vec<Step>>| {
                assert_eq!(
                    fixture.run(dtype, &steps),
                    together,
                    "{} {dtype:?} {what}",
                    fixture.name
                );
            };
            same("alone", fixture.all_prompts().map(|s| vec![s]).collect());
            for chunk in [1, 5, 16] {
                same("in chunks", fixture.in_chunks(chunk));
            }
            same("mixed", fixture.mixed());
        }
    });
}

#[test]
fn long_steps_are_the_same_as_short_ones() {
    for_each_fixture(|fixture| {
        let copies = 600 / fixture.prompts.iter().map(Vec::len).sum::<usize>() + 1;
        let many = fixture.repeated(copies);
        let steps: Vec<Step> = many.all_prompts().collect();
        let short: Vec<Vec<Step>> = steps
            .chunks(fixture.prompts.len())
            .map(<[_]>::to_vec)
            .collect();
        let together = many.run(DType::BF16, &[steps]);
        assert_eq!(together, many.run(DType::BF16, &short), "{}", fixture.name);
    });
}

#[test]
fn only_the_rows_asked_for_are_returned() {
    for_each_fixture(|fixture| {
        let all = fixture.run(DType::F32, &[fixture.all_prompts().collect()]);
        let last = fixture.last_rows(DType::F32);
        for (prompt, (last, all)) in last.iter().zip(&all).enumerate() {
            assert_eq!(Some(last), all.last(), "{} {prompt}", fixture.name);
        }
    });
}

#[test]
fn half_precision_stays_close() {
    for_each_fixture(|fixture| {
        let all = fixture.expected.iter().flatten().flatten();
        let largest = all.fold(0f32, |largest, value| largest.max(value.abs()));
        for dtype in [DType::F16, DType::BF16] {
            // Where activations are rounded as well, single logits of models this small stray
            // further, so that only the sum of squares says something.
            let rounds = dtype == DType::BF16 && Isa::current().unwrap().multiplies_bf16();
            for steps in [vec![fixture.all_prompts().collect()], fixture.mixed()] {
                let logits = fixture.run(dtype, &steps);
                let error = relative_error(&logits, &fixture.expected);
                let name = &fixture.name;
                assert!(
                    error < HALF_TOLERANCE,
                    "{name}, {dtype:?}: off by {error} of the whole"
                );
                if !rounds {
                    let what = format!("{dtype:?}");
                    assert_close(&what, fixture, &logits, HALF_TOLERANCE * largest);
                }
            }
        }
    });
}

/// The length of the difference as a share of the length of `expected`, all logits taken as one
/// vector.
fn relative_error(actual: &[Logits], expected: &[Logits]) -> f32 {
    let pairs = actual
        .iter()
        .flatten()
        .flatten()
        .zip(expected.iter().flatten().flatten());
    let (difference, length) = pairs.fold((0f32, 0f32), |(difference, length), (a, e)| {
        (difference + (a - e) * (a - e), length + e * e)
    });
    (difference / length).sqrt()
}

fn argmax(row: &[f32]) -> u32 {
    (0u32..)
        .zip(row)
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .map_or(0, |(token, _)| token)
}
