//! GGUF files of the families against what transformers computes from the same weights:
//! `gguf/make_gguf.py` writes them.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;
use support::{Fixture, max_difference};
use vllm_gguf::{Checkpoint, Source, Value};
use vllm_models::{
    FileBuffer, ModelConfig, NarrowWeight, WeightFiles, WeightRole, gguf_files, load_model,
};
use vllm_tensor::{DType, Device};

const TOLERANCE: f32 = 1e-4;

fn read(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/gguf/{name}.gguf", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn derived_config(name: &str, file: &[u8]) -> ModelConfig {
    let checkpoint = Checkpoint::new(&[(name, file)]).unwrap();
    let json = vllm_gguf::config_json(&checkpoint).unwrap().to_string();
    ModelConfig::from_json(json.as_bytes()).unwrap()
}

#[track_caller]
fn check_logits(name: &str, config: &ModelConfig) {
    let files = vec![(format!("{name}.gguf"), Arc::new(read(name)) as FileBuffer)];
    let weights = WeightFiles::new(files).unwrap();
    let model = load_model(config, weights, &Device::Cpu, DType::F32).unwrap();
    let fixture = Fixture::read(name);
    let mut logits = vec![Vec::new(); fixture.prompts.len()];
    let steps = [fixture.all_prompts().collect()];
    fixture.run_model(
        model.as_ref(),
        &steps,
        |_| true,
        |prompt, row| logits[prompt].push(row),
    );
    for (actual, expected) in logits.iter().zip(&fixture.expected) {
        let difference = max_difference(actual, expected);
        assert!(difference < TOLERANCE, "{name}: off by {difference}");
    }
}

/// Weights from the file, configuration from beside it.
#[track_caller]
fn check_weights(name: &str) {
    check_logits(name, &Fixture::read(name).config());
}

/// Everything from the file.
#[track_caller]
fn check_alone(name: &str) {
    let mut config = derived_config(name, &read(name));
    config.max_model_len = Fixture::read(name).config().max_model_len;
    check_logits(name, &config);
}

#[test]
fn llama_with_scaled_rotation() {
    check_weights("llama");
    check_alone("llama");
}

#[test]
fn mistral() {
    check_weights("mistral");
    check_alone("mistral");
}

#[test]
fn mixtral() {
    check_weights("mixtral");
    check_alone("mixtral");
}

#[test]
fn qwen2() {
    check_weights("qwen2");
}

#[test]
fn qwen2_moe() {
    check_weights("qwen2-moe");
}

#[test]
fn qwen3() {
    check_weights("qwen3");
    check_alone("qwen3");
}

#[test]
fn qwen3_moe() {
    check_weights("qwen3-moe");
}

#[test]
fn gemma2() {
    check_weights("gemma2");
}

#[test]
fn gemma3() {
    check_weights("gemma3");
}

#[test]
fn phi3() {
    check_weights("phi3");
    check_alone("phi3");
    check_alone("phi3-longrope-long");
}

#[test]
fn the_configuration_says_what_the_original_said() {
    for name in [
        "llama",
        "mixtral",
        "qwen2",
        "qwen3",
        "qwen3-moe",
        "gemma2",
        "gemma3",
        "phi3",
    ] {
        let original = Fixture::read(name).config();
        let derived = derived_config(name, &read(name));
        let sizes = |config: &ModelConfig| {
            (
                config.architectures.clone(),
                config.model_type.clone(),
                [
                    config.hidden_size,
                    config.num_layers,
                    config.num_heads,
                    config.num_kv_heads,
                ],
                [config.head_dim, config.vocab_size],
                config.tie_word_embeddings,
            )
        };
        assert_eq!(sizes(&derived), sizes(&original), "{name}");
        for key in [
            "rms_norm_eps",
            "intermediate_size",
            "final_logit_softcapping",
            "moe_intermediate_size",
        ] {
            assert_eq!(derived.raw[key], original.raw[key], "{name}: {key}");
        }
    }
}

/// What we would write of a checkpoint, against what the published names and settings made of it.
#[track_caller]
fn check_export(name: &str) {
    let fixture = Fixture::read(name);
    let weights = fixture.weights();
    let tensors: Vec<_> = weights
        .tensor_names()
        .map(|tensor| {
            let numbers = weights.numbers(tensor).unwrap();
            (tensor.to_owned(), numbers.shape().to_vec())
        })
        .collect();
    let mut config = fixture.config().raw;
    // What a file cannot say: the windows of Qwen, and other than the usual choices of its families.
    config["use_sliding_window"] = json!(false);
    for key in ["query_pre_attn_scalar", "norm_topk_prob", "layer_types"] {
        config.as_object_mut().unwrap().remove(key);
    }
    let export = vllm_gguf::export(&config, &tensors).unwrap();
    let file = read(name);
    let checkpoint = Checkpoint::new(&[(name, &file)]).unwrap();

    let written: BTreeMap<String, Value> = export.metadata.into_iter().collect();
    for (key, expected) in checkpoint.metadata().iter() {
        if name.starts_with("qwen") && key.ends_with("sliding_window") {
            continue;
        }
        let actual = written.get(key);
        let is_equal = match (actual, expected) {
            (Some(Value::Float(actual)), Value::Float(expected)) => {
                *actual as f32 == *expected as f32
            }
            (actual, expected) => actual == Some(expected),
        };
        assert!(
            is_equal,
            "{name}: {key} is {actual:?}, expected {expected:?}"
        );
    }

    let mut names: Vec<&str> = export.tensors.iter().map(|t| t.name.as_str()).collect();
    let mut expected_names: Vec<&str> = checkpoint
        .tensors()
        .iter()
        .map(|tensor| tensor.info.name.as_str())
        .collect();
    names.sort_unstable();
    expected_names.sort_unstable();
    assert_eq!(names, expected_names, "{name}");
    for tensor in &export.tensors {
        let info = &checkpoint.tensor(&tensor.name).unwrap().info;
        assert_eq!(tensor.shape, info.shape, "{name}: {}", tensor.name);
        let mut expected = vec![0.0; info.shape.iter().product()];
        let kind = info.block_type.clone().unwrap();
        kind.dequantize(&file[info.bytes.clone()], &mut expected);
        let actual = exported_numbers(&weights, &tensor.source);
        let is_equal = match &tensor.source {
            Source::Tensors { .. } => actual == expected,
            // Worked out by two programs.
            Source::Numbers(_) => {
                let pairs = actual.iter().zip(&expected);
                pairs.fold(0f32, |most, (a, e)| most.max((a - e).abs())) < 1e-5
            }
        };
        assert!(is_equal, "{name}: {}", tensor.name);
    }
}

fn exported_numbers(weights: &WeightFiles, source: &Source) -> Vec<f32> {
    let (names, order, offset) = match source {
        Source::Numbers(numbers) => return numbers.clone(),
        Source::Tensors {
            names,
            rows,
            offset,
        } => (names, *rows, *offset),
    };
    let mut all = Vec::new();
    for name in names {
        let numbers = weights.numbers(name).unwrap();
        let mut row = vec![0.0; numbers.columns()];
        for index in 0..numbers.num_rows() {
            let original = order.original_row(index, numbers.num_rows());
            numbers.read(original, &mut row).unwrap();
            all.extend(row.iter().map(|number| number - offset));
        }
    }
    all
}

#[test]
fn what_is_written_is_what_the_published_names_and_settings_make() {
    for name in [
        "llama",
        "mistral",
        "mixtral",
        "qwen2",
        "qwen2-moe",
        "qwen3",
        "qwen3-moe",
        "gemma2",
        "gemma3",
        "phi3",
        "phi3-longrope-long",
    ] {
        check_export(name);
    }
}

#[test]
fn what_a_file_cannot_say_is_refused() {
    let config = Fixture::read("qwen2").config().raw;
    let message = vllm_gguf::export(&config, &[]).unwrap_err().to_string();
    assert!(
        message.contains("sets use_sliding_window to true"),
        "{message}"
    );
    let mut config = Fixture::read("gemma3").config().raw;
    config["query_pre_attn_scalar"] = config["head_dim"].clone();
    let message = vllm_gguf::export(&config, &[]).unwrap_err().to_string();
    assert!(message.contains("sets layer_types to"), "{message}");
}

#[test]
fn families_without_a_layout_are_named() {
    let fixture = Fixture::read("gpt2");
    let message = vllm_gguf::export(&fixture.config().raw, &[]).unwrap_err();
    let message = message.to_string();
    assert!(message.contains("'gpt2' have no layout"), "{message}");
    assert!(
        message.contains("llama") && message.contains("gemma3"),
        "{message}"
    );
}

#[test]
fn blocks_are_kept_as_they_are() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../vllm-gguf/tests/fixtures/blocks.gguf"
    );
    let file = Arc::new(std::fs::read(path).unwrap()) as FileBuffer;
    let weights = WeightFiles::new(vec![("blocks.gguf".to_owned(), file)]).unwrap();
    for kind in vllm_gguf::BlockType::ALL {
        let name = |part: &str| format!("model.layers.{}.mlp.{part}.weight", kind.number());
        let kept = weights.narrow(&name("up_proj"), 2, 512, WeightRole::Linear);
        let kept = kept.unwrap();
        assert_eq!(kept.is_some(), kind.is_quantized(), "{kind:?}");
        let Some(NarrowWeight::Codes(kept)) = kept else {
            continue;
        };
        let numbers = weights
            .tensor(&name("gate_proj"), &[2, 512], DType::F32, &Device::Cpu)
            .unwrap();
        let numbers = numbers.to_vec2::<f32>().unwrap().concat();
        // Scales are float16 products of the block's.
        let largest = numbers
            .iter()
            .fold(0f32, |largest, number| largest.max(number.abs()));
        for (actual, expected) in kept.rows(&[0, 1]).iter().zip(numbers) {
            assert!(
                (actual - expected).abs() < 1e-3 * largest,
                "{kind:?}: {actual}, expected {expected}"
            );
        }
    }
}

#[test]
fn one_model_is_chosen_among_the_files_of_a_folder() {
    let names =
        |text: &str| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
    let check = |files: &str, expected: &str| {
        assert_eq!(
            gguf_files(&names(files)).unwrap(),
            names(expected),
            "{files}"
        );
    };
    check("README.md config.json a.gguf mmproj-a.gguf", "a.gguf");
    check(
        "a-00002-of-00002.gguf a-00001-of-00002.gguf",
        "a-00001-of-00002.gguf a-00002-of-00002.gguf",
    );
    check("a.gguf model.safetensors", "");
    check("config.json", "");
    let refused = |files: &str, expected: &str| {
        let message = gguf_files(&names(files)).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    };
    refused(
        "a-Q4_K_M.gguf a-Q8_0.gguf",
        "lies beside another model, a-Q8_0.gguf",
    );
    refused("a-00001-of-00002.gguf", "a-00002-of-00002.gguf is missing");
}
