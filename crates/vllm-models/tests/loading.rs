//! What is known before weights are read, and how they are read.

#![allow(clippy::unwrap_used)]

mod support;

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use support::{Fixture, fixture_names, fixture_path};
use vllm_models::{
    Batch, BatchSequence, CheckedModel, Error, FileBuffer, LoadProgress, Model, ModelConfig,
    WeightFiles, Weights,
};
use vllm_tensor::{DType, Device, KvCache};

fn first_logits(model: &dyn Model, token_ids: &[u32]) -> Vec<f32> {
    let mut kv = KvCache::new(model.kv_cache_spec(), 4, 16, &Device::Cpu).unwrap();
    let positions: Vec<u32> = (0..).take(token_ids.len()).collect();
    let batch = Batch {
        token_ids,
        positions: &positions,
        sequences: &[BatchSequence {
            query_start: 0,
            query_len: token_ids.len(),
            context_len: 0,
            block_table: &[1],
        }],
        logit_rows: &[0],
    };
    let logits = model.forward(&batch, &mut kv).unwrap();
    logits.to_vec2::<f32>().unwrap().remove(0)
}

#[test]
fn every_family_runs_on_made_up_weights() {
    for name in fixture_names() {
        let config = Fixture::read(&name).config();
        for dtype in [DType::F32, DType::BF16] {
            let build = || CheckedModel::new(&config, Weights::Dummy, &Device::Cpu, dtype).unwrap();
            let logits = || {
                first_logits(
                    &*build().load(&mut |_| ControlFlow::Continue(())).unwrap(),
                    &[1, 2, 3],
                )
            };
            let first = logits();
            assert!(first.iter().all(|logit| logit.is_finite()), "{name}");
            assert!(first.iter().any(|logit| *logit != first[0]), "{name}");
            assert_eq!(first, logits(), "{name}");
        }
    }
}

#[test]
fn progress_ends_at_the_bytes_that_were_promised() {
    let config = Fixture::read("llama").config();
    let model = CheckedModel::new(&config, Weights::Dummy, &Device::Cpu, DType::BF16).unwrap();
    let promised = model.weight_bytes();
    let mut seen = Vec::<LoadProgress>::new();
    let watch = &mut |progress| {
        seen.push(progress);
        ControlFlow::Continue(())
    };
    model.load(watch).unwrap();
    assert!(seen.len() > 4 && seen.iter().all(|step| step.total_bytes == promised));
    assert!(seen.is_sorted_by_key(|step| step.loaded_bytes));
    assert_eq!(seen.last().unwrap().loaded_bytes, promised);
}

#[test]
fn loading_can_be_broken_off() {
    let config = Fixture::read("llama").config();
    let model = CheckedModel::new(&config, Weights::Dummy, &Device::Cpu, DType::BF16).unwrap();
    let mut steps = 0;
    let stopped = model.load(&mut |_| {
        steps += 1;
        ControlFlow::Break(())
    });
    assert!(matches!(stopped, Err(Error::Stopped)));
    assert_eq!(steps, 1);
}

/// The size is that of the dtype to run in, not that of the files.
#[test]
fn the_size_is_known_before_anything_is_read() {
    let path = fixture_path("opt-norm-before");
    let read = |file: &str| std::fs::read(path.join(file)).unwrap();
    let config = ModelConfig::from_json(&read("config.json")).unwrap();
    let bytes_in = |dtype| {
        let file = (
            "model.safetensors".to_owned(),
            Arc::new(read("model.safetensors")) as FileBuffer,
        );
        let weights = WeightFiles::new(vec![file]).unwrap();
        let model = CheckedModel::new(&config, weights, &Device::Cpu, dtype).unwrap();
        model.weight_bytes()
    };
    assert_eq!(bytes_in(DType::F32), 2 * bytes_in(DType::BF16));
}

#[test]
fn what_was_read_is_released_once() {
    let path = fixture_path("qwen3");
    let read = |file: &str| std::fs::read(path.join(file)).unwrap();
    let config = ModelConfig::from_json(&read("config.json")).unwrap();
    let file = Arc::new(read("model.safetensors"));
    let released = Arc::new(Mutex::new(0));
    let sum = released.clone();
    let files = vec![("model.safetensors".to_owned(), file.clone() as FileBuffer)];
    let weights = WeightFiles::new(files).unwrap().on_release(move |part| {
        let offset = part.as_ptr().addr() - file.as_ptr().addr();
        assert!(offset + part.len() <= file.len());
        *sum.lock().unwrap() += part.len() as u64;
    });
    let model = CheckedModel::new(&config, weights, &Device::Cpu, DType::BF16).unwrap();
    let promised = model.weight_bytes();
    model.load(&mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(*released.lock().unwrap(), promised);
}
