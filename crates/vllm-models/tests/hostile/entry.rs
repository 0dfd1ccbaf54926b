//! What is done with bytes that may be a checkpoint: by the fuzz targets in `fuzz` and by the tests here.
//!
//! Nothing in here may panic, whatever the bytes. Errors come back as the sentences that a user would read.

use std::sync::Arc;

use serde_json::{Value, json};
use vllm_gguf::Checkpoint;
use vllm_models::{FileBuffer, NarrowWeight, ScaledRows, WeightFiles, WeightRole};
use vllm_tensor::DType;

/// In front of an input of several files: length and bytes of each follow.
const SPLIT: &[u8] = b"FUZZSPLT";

/// Numbers of larger tensors are not looked at, to be quick.
const MAX_ELEMENTS: usize = 1 << 14;

/// Bytes as a GGUF model: one file, or several behind [`SPLIT`].
pub(crate) fn gguf(bytes: &[u8]) -> Result<(), String> {
    let parts = match bytes.strip_prefix(SPLIT) {
        Some(rest) => split_parts(rest),
        None => vec![bytes],
    };
    let count = parts.len();
    let name = |index: usize| match count {
        1 => "a.gguf".to_owned(),
        _ => format!("a-{:05}-of-{count:05}.gguf", index + 1),
    };
    let names: Vec<String> = (0..count).map(name).collect();
    let named: Vec<(&str, &[u8])> = names
        .iter()
        .zip(&parts)
        .map(|(name, part)| (name.as_str(), *part))
        .collect();
    if let Ok(checkpoint) = Checkpoint::new(&named) {
        let _ = vllm_gguf::config_json(&checkpoint);
        let _ = vllm_gguf::generation_config_json(&checkpoint);
        let _ = vllm_gguf::tokenizer_json(&checkpoint);
        let _ = vllm_gguf::tokenizer_config_json(&checkpoint);
    }
    let files = named
        .iter()
        .map(|(name, part)| ((*name).to_owned(), Arc::new(part.to_vec()) as FileBuffer));
    let files = files.collect();
    read_numbers(&WeightFiles::new(files).map_err(|error| error.to_string())?)
}

fn split_parts(mut rest: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let (part, behind) = behind.split_at(length.min(behind.len()));
        parts.push(part);
        rest = behind;
    }
    parts
}

/// Bytes as a safetensors file, plain and under every scheme of quantization.
pub(crate) fn safetensors(bytes: &[u8]) -> Result<(), String> {
    let open = |config: &Value| {
        let file = Arc::new(bytes.to_vec()) as FileBuffer;
        let files = WeightFiles::new(vec![("a.safetensors".to_owned(), file)])?;
        files.unpack(config)
    };
    let schemes = [
        json!({"quant_method": "gptq", "bits": 4}),
        json!({"quant_method": "gptq", "bits": 8, "checkpoint_format": "gptq_v2"}),
        json!({"quant_method": "awq", "bits": 4}),
        json!({"quant_method": "compressed-tensors", "format": "pack-quantized"}),
        json!({"quant_method": "fp8", "weight_block_size": [16, 48]}),
        json!({"quant_method": "bitsandbytes", "load_in_4bit": true}),
    ];
    for scheme in &schemes {
        // Most files fit one of them at most.
        if let Ok(files) = open(scheme) {
            let _ = read_numbers(&files);
        }
    }
    read_numbers(&open(&Value::Null).map_err(|error| error.to_string())?)
}

fn read_numbers(files: &WeightFiles) -> Result<(), String> {
    let names: Vec<String> = files.tensor_names().map(str::to_owned).collect();
    for name in names {
        let Ok(numbers) = files.numbers(&name) else {
            // Elements that are no floating-point numbers.
            continue;
        };
        let elements = numbers
            .shape()
            .iter()
            .try_fold(1usize, |all, size| all.checked_mul(*size));
        if elements.is_none_or(|elements| elements > MAX_ELEMENTS) {
            continue;
        }
        let mut row = vec![0.0; numbers.columns()];
        for index in 0..numbers.num_rows() {
            let read = numbers.read(index, &mut row);
            read.map_err(|error| error.to_string())?;
        }
        let [rows, columns] = *numbers.shape() else {
            continue;
        };
        let narrow = files.narrow(&name, rows, columns, WeightRole::Linear);
        if let Ok(Some(NarrowWeight::Scaled(scaled))) = narrow {
            let _ = ScaledRows::stack(&[scaled], DType::F32);
        }
    }
    Ok(())
}
