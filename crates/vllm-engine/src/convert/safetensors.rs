use std::ops::ControlFlow;

use serde_json::{Map, Value, json};
use vllm_gguf::BlockType;
use vllm_models::{
    LoadProgress, Quantization, WeightRole, quantize_row_to_fp8, quantize_row_to_int8,
};
use vllm_tensor::{DType, dtype_name};

use super::Source;
use super::output::PartialOutput;
use super::tensor::Writer;
use crate::error::{Error, Result};

/// Files that are taken over as they are.
const COPIED: [&str; 9] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
];

/// How linear layers are stored: a byte for each weight and a scale for each output.
#[derive(Clone, Copy, PartialEq)]
enum Bytes {
    Int8,
    Fp8,
}

/// A tensor of the file.
struct Plan {
    name: String,
    shape: Vec<usize>,
    /// The file's name for the elements.
    dtype: &'static str,
    num_bytes: usize,
    part: Part,
}

/// What of the checkpoint's tensor it is.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Numbers,
    Codes(Bytes),
    /// The scales of the codes before it.
    Scales,
}

/// Writes a folder as Hugging Face has it; quantized weights are those of compressed-tensors.
pub(super) fn write(
    source: &Source,
    output: &mut PartialOutput,
    progress: &mut dyn FnMut(LoadProgress) -> ControlFlow<()>,
) -> Result<ControlFlow<()>> {
    let bytes = bytes(source)?;
    let (plans, ignored) = plans(source, bytes)?;
    output.make_folder()?;
    let put_file = |name: &str, contents: &[u8]| -> Result<()> {
        let mut file = output.file_in_folder(name)?;
        output.write_all(&mut file, contents)?;
        output.close(file)
    };
    for name in COPIED {
        if let Some(contents) = source.folder.read(name)? {
            put_file(name, &contents)?;
        }
    }
    for name in source.folder.files().list() {
        let is_template = name.starts_with("additional_chat_templates/");
        if is_template && let Some(contents) = source.folder.read(name)? {
            put_file(name, &contents)?;
        }
    }
    let config = config(source, bytes, &ignored)?;
    put_file("config.json", format!("{config:#}\n").as_bytes())?;

    let header = header(&plans);
    let data: usize = plans.iter().map(|plan| plan.num_bytes).sum();
    let total = (header.len() + data) as u64;
    let file = output.file_in_folder("model.safetensors")?;
    let mut writer = Writer::new(output, file, total, progress);
    let mut flow = writer.put(&header)?;
    let mut scales = Vec::new();
    for plan in &plans {
        if flow.is_continue() {
            flow = write_tensor(source, plan, &mut scales, &mut writer)?;
        }
    }
    writer.close()?;
    Ok(flow)
}

fn bytes(source: &Source) -> Result<Option<Bytes>> {
    if source.quantization.embeddings.is_some() {
        return Err(Error::Setup(
            "quantized embeddings cannot be said in safetensors files: leave \
             --embedding-quantization away or choose --format gguf"
                .to_owned(),
        ));
    }
    match source.quantization.layers {
        None => Ok(None),
        Some(Quantization::Fp8) => Ok(Some(Bytes::Fp8)),
        Some(Quantization::Blocks(BlockType::Q8_0)) => Ok(Some(Bytes::Int8)),
        Some(Quantization::Blocks(kind)) => Err(Error::Setup(format!(
            "safetensors files hold int8 and fp8, not {}: choose one of those or --format gguf",
            kind.name().to_lowercase()
        ))),
    }
}

/// The tensors, and the names of linear layers that stay as they are.
fn plans(source: &Source, bytes: Option<Bytes>) -> Result<(Vec<Plan>, Vec<String>)> {
    let dtype = match source.dtype {
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        _ => "F32",
    };
    let (mut plans, mut ignored) = (Vec::new(), Vec::new());
    for (name, shape) in source.tensors()? {
        let elements: usize = shape.iter().product();
        let role = source.model.role(&name);
        let is_quantized = role == Some(WeightRole::Linear)
            && source
                .quantization
                .method(&name, WeightRole::Linear)
                .is_some();
        let Some(bytes) = bytes.filter(|_| is_quantized) else {
            let layer = name.strip_suffix(".weight");
            let is_linear = matches!(role, Some(WeightRole::Linear | WeightRole::Head));
            ignored.extend(layer.filter(|_| is_linear).map(str::to_owned));
            plans.push(Plan {
                name,
                dtype,
                num_bytes: elements * source.plain_type().byte_len(1),
                shape,
                part: Part::Numbers,
            });
            continue;
        };
        let rows = shape.first().copied().unwrap_or(1);
        let scales = Plan {
            name: format!("{name}_scale"),
            shape: vec![rows, 1],
            dtype: "F32",
            num_bytes: rows * size_of::<f32>(),
            part: Part::Scales,
        };
        plans.push(Plan {
            name,
            shape,
            dtype: match bytes {
                Bytes::Int8 => "I8",
                Bytes::Fp8 => "F8_E4M3",
            },
            num_bytes: elements,
            part: Part::Codes(bytes),
        });
        plans.push(scales);
    }
    // A tied output layer has no tensor, but is one to those who read the configuration.
    if !ignored.iter().any(|name| name == "lm_head") {
        ignored.push("lm_head".to_owned());
    }
    Ok((plans, ignored))
}

/// The length of the header and the header, filled up so that the data begins at a multiple of eight.
fn header(plans: &[Plan]) -> Vec<u8> {
    let mut entries = Map::new();
    entries.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut start = 0;
    for plan in plans {
        let end = start + plan.num_bytes;
        let entry = json!({"dtype": plan.dtype, "shape": plan.shape, "data_offsets": [start, end]});
        entries.insert(plan.name.clone(), entry);
        start = end;
    }
    let mut json = Value::Object(entries).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let length = (json.len() as u64).to_le_bytes();
    [&length, &json[..]].concat()
}

/// The scales of codes are kept until their turn comes, right behind the codes.
fn write_tensor(
    source: &Source,
    plan: &Plan,
    scales: &mut Vec<u8>,
    writer: &mut Writer<'_>,
) -> Result<ControlFlow<()>> {
    if plan.part == Part::Scales {
        return writer.put(scales);
    }
    let numbers = source.weights.numbers(&plan.name).map_err(Error::setup)?;
    let (rows, columns) = (numbers.num_rows(), numbers.columns());
    let read = |row: usize| -> Result<Vec<f32>> {
        let mut row_numbers = vec![0.0; columns];
        numbers.read(row, &mut row_numbers).map_err(Error::setup)?;
        Ok(row_numbers)
    };
    let flow = match plan.part {
        Part::Codes(bytes) => {
            let kept = std::sync::Mutex::new(vec![0; rows * size_of::<f32>()]);
            let flow = writer.put_rows(rows, columns, |row, codes| {
                let scale = match bytes {
                    Bytes::Int8 => quantize_row_to_int8(&read(row)?, codes),
                    Bytes::Fp8 => quantize_row_to_fp8(&read(row)?, codes),
                };
                let mut kept = kept
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                kept[row * size_of::<f32>()..][..size_of::<f32>()]
                    .copy_from_slice(&scale.to_le_bytes());
                Ok(())
            })?;
            *scales = kept
                .into_inner()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            flow
        }
        Part::Numbers | Part::Scales => {
            let kind = source.plain_type();
            writer.put_rows(rows, kind.byte_len(columns), |row, bytes| {
                kind.quantize(&read(row)?, bytes);
                Ok(())
            })?
        }
    };
    source.weights.release(&plan.name);
    Ok(flow)
}

/// The source's configuration with what is new about the weights.
fn config(source: &Source, bytes: Option<Bytes>, ignored: &[String]) -> Result<Value> {
    let mut config = source.json("config.json")?;
    if let Some(entries) = config.as_object_mut() {
        for key in ["quantization_config", "compression_config", "torch_dtype"] {
            entries.remove(key);
        }
        entries.insert("dtype".to_owned(), json!(dtype_name(source.dtype)));
        if let Some(bytes) = bytes {
            entries.insert("quantization_config".to_owned(), scheme(bytes, ignored));
        }
    }
    Ok(config)
}

/// The `quantization_config` of compressed-tensors for weights with a scale for each output and
/// activations that are rounded row by row.
fn scheme(bytes: Bytes, ignored: &[String]) -> Value {
    let (format, kind) = match bytes {
        Bytes::Int8 => ("int-quantized", "int"),
        Bytes::Fp8 => ("float-quantized", "float"),
    };
    json!({
        "quant_method": "compressed-tensors",
        "format": format,
        "quantization_status": "compressed",
        "global_compression_ratio": null,
        "kv_cache_scheme": null,
        "ignore": ignored,
        "config_groups": {"group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 8,
                "type": kind,
                "symmetric": true,
                "strategy": "channel",
                "dynamic": false,
                "group_size": null,
                "block_structure": null,
                "actorder": null,
                "observer": "minmax",
            },
            "input_activations": {
                "num_bits": 8,
                "type": kind,
                "symmetric": true,
                "strategy": "token",
                "dynamic": true,
                "group_size": null,
                "block_structure": null,
                "actorder": null,
                "observer": null,
            },
            "output_activations": null,
        }},
    })
}
