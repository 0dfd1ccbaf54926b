//! Weights as the common quantizers store them against the numbers they stand for:
//! `quantized/make_quantized.py` writes both.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;

use safetensors::SafeTensors;
use serde_json::{Value, json};
use vllm_models::{FileBuffer, NarrowWeight, Result, ScaledRows, WeightFiles, WeightRole};
use vllm_tensor::{DType, Device};

const NAMES: [&str; 22] = [
    "gptq-4bit-32",
    "gptq-4bit-64",
    "gptq-4bit-128",
    "gptq-4bit--1",
    "gptq-8bit-32",
    "gptq-2bit-64",
    "gptq-act-order",
    "gptq-symmetric",
    "gptq-second-form",
    "awq-32",
    "awq-128",
    "packed-4bit-symmetric",
    "packed-4bit-zeros",
    "packed-4bit-channels",
    "packed-8bit",
    "packed-act-order",
    "int8-channels",
    "fp8-channels",
    "fp8-tensor",
    "fp8-blocks",
    "nf4",
    "nf4-nested",
];

fn read(name: &str) -> Vec<u8> {
    let path = format!(
        "{}/tests/quantized/{name}.safetensors",
        env!("CARGO_MANIFEST_DIR")
    );
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn config(file: &[u8]) -> Value {
    let (_, metadata) = SafeTensors::read_metadata(file).unwrap();
    let metadata = metadata.metadata().clone().unwrap();
    serde_json::from_str(&metadata["quantization_config"]).unwrap()
}

fn open(file: Vec<u8>, config: &Value) -> Result<WeightFiles> {
    WeightFiles::new(vec![(
        "model.safetensors".to_owned(),
        Arc::new(file) as FileBuffer,
    )])?
    .unpack(config)
}

#[track_caller]
fn check(name: &str) {
    let file = read(name);
    let config = config(&file);
    let weights = open(file, &config).unwrap();
    let mut names: Vec<&str> = weights.tensor_names().collect();
    names.sort_unstable();
    assert_eq!(names, ["expected", "layer.weight"], "{name}");
    let tensor = |tensor: &str| {
        let tensor = weights
            .tensor(tensor, &[24, 128], DType::F32, &Device::Cpu)
            .unwrap();
        tensor.to_vec2::<f32>().unwrap().concat()
    };
    for (actual, expected) in tensor("layer.weight").iter().zip(tensor("expected")) {
        let difference = (actual - expected).abs();
        assert!(
            difference <= 1e-6 * expected.abs(),
            "{name}: {actual}, expected {expected}"
        );
    }
    let kept = weights.narrow("layer.weight", 24, 128, WeightRole::Linear);
    let rows: Vec<u32> = (0..24).collect();
    let (kept, tolerance) = match kept.unwrap().unwrap() {
        // Scales and minima become float16.
        NarrowWeight::Codes(matrix) => (matrix.rows(&rows), 2e-2),
        NarrowWeight::Scaled(scaled) => {
            let matrix = ScaledRows::stack(&[scaled], DType::F32).unwrap().unwrap();
            (matrix.rows(&rows), 1e-6)
        }
    };
    for (actual, expected) in kept.iter().zip(tensor("expected")) {
        let difference = (actual - expected).abs();
        assert!(
            difference <= tolerance * expected.abs().max(1.0),
            "{name}: {actual} kept, expected {expected}"
        );
    }
}

#[test]
fn every_scheme_gives_its_numbers() {
    NAMES.into_iter().chain(["bnb-int8"]).for_each(check);
}

#[test]
fn schemes_that_are_not_read_name_themselves() {
    let check = |config: Value, expected: &str| {
        let message = open(read("awq-32"), &config).err().unwrap().to_string();
        assert!(
            message.contains(&format!("quantized with '{expected}")),
            "{message}"
        );
        assert!(message.contains("supported: gptq, awq"), "{message}");
    };
    check(json!({"quant_method": "aqlm"}), "aqlm'");
    check(json!({"bits": 4}), "unknown'");
    check(json!({"quant_method": "gptq", "bits": 3}), "gptq with ");
    check(
        json!({"quant_method": "awq", "version": "gemv"}),
        "awq with 4 bits in the gemv layout'",
    );
    check(
        json!({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}),
        "compressed-tensors in the form nvfp4-pack-quantized'",
    );
}

#[test]
fn pieces_that_do_not_fit_are_refused() {
    let check = |name: &str, change: fn(&mut Value), expected: &str| {
        let file = read(name);
        let mut config = config(&file);
        change(&mut config);
        let message = open(file, &config).err().unwrap().to_string();
        assert!(message.contains(expected), "{message}");
    };
    check(
        "gptq-4bit-32",
        |config| config["bits"] = json!(8),
        "does not fit the others",
    );
    check(
        "fp8-blocks",
        |config| config["weight_block_size"] = json!([16, 16]),
        "does not fit the others",
    );
    check(
        "gptq-4bit-32",
        |config| config["quant_method"] = json!("awq"),
        "does not fit the others",
    );
}
