//! GGUF files of the families against what transformers computes from the same weights:
//! `gguf/make_gguf.py` writes them.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::sync::Arc;

use support::{Fixture, max_difference};
use vllm_gguf::Checkpoint;
use vllm_models::{FileBuffer, ModelConfig, WeightFiles, gguf_files, load_model};
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
        let kept = weights.quantized(&name("up_proj"), 2, 512).unwrap();
        assert_eq!(kept.is_some(), kind.is_quantized(), "{kind:?}");
        let Some(kept) = kept else { continue };
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
