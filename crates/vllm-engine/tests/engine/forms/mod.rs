//! The demo model in every form of weights that is read: quantized while it is loaded, and as the common
//! quantizers would store it.

mod schemes;

use std::path::Path;

use serde_json::{Map, Value};
use vllm_engine::{AsyncLlm, EngineConfig};
use vllm_tensor::{DType, Device, Tensor};

use schemes::Matrix;
pub(crate) use schemes::{Scheme, floats};

/// A form of weights.
#[derive(Clone, Copy)]
pub(crate) struct Form {
    /// Its name in the table.
    pub(crate) name: &'static str,
    weights: FormWeights,
    /// How many of the forty capitals it has to know.
    #[allow(dead_code, reason = "the benchmark prints what the test asserts")]
    pub(crate) least: usize,
}

#[derive(Clone, Copy)]
enum FormWeights {
    DType(&'static str),
    WhileLoading(&'static str),
    Stored(Scheme),
}

const fn plain(name: &'static str) -> Form {
    Form {
        name,
        weights: FormWeights::DType(name),
        least: 40,
    }
}

const fn loading(name: &'static str, method: &'static str, least: usize) -> Form {
    Form {
        name,
        weights: FormWeights::WhileLoading(method),
        least,
    }
}

const fn stored(name: &'static str, scheme: Scheme, least: usize) -> Form {
    Form {
        name,
        weights: FormWeights::Stored(scheme),
        least,
    }
}

const fn gptq(bits: u32, group_len: usize, shuffled: bool) -> Scheme {
    Scheme::Gptq {
        bits,
        group_len,
        shuffled,
    }
}

const fn packed(bits: u32, symmetric: bool) -> Scheme {
    Scheme::Packed {
        bits,
        group_len: 32,
        symmetric,
    }
}

/// All of them, the plain ones first.
pub(crate) const FORMS: [Form; 32] = [
    plain("float32"),
    plain("float16"),
    plain("bfloat16"),
    loading("`int8`, GGUF Q8_0", "int8", 40),
    loading("`fp8`", "fp8", 40),
    loading("GGUF Q6_K", "q6_k", 40),
    loading("GGUF Q5_K", "q5_k", 40),
    loading("GGUF Q5_1", "q5_1", 40),
    loading("GGUF Q5_0", "q5_0", 40),
    loading("GGUF Q4_K", "q4_k", 40),
    loading("GGUF Q4_1", "q4_1", 39),
    loading("GGUF Q4_0", "q4_0", 39),
    loading("GGUF Q3_K", "q3_k", 38),
    loading("GGUF Q2_K", "q2_k", 30),
    stored("GPTQ, 8 bits, groups of 32", gptq(8, 32, false), 40),
    stored("GPTQ, 4 bits, groups of 32", gptq(4, 32, false), 39),
    stored("GPTQ, 4 bits, groups of 64", gptq(4, 64, false), 39),
    stored(
        "GPTQ, 4 bits, groups of 32, act-order",
        gptq(4, 32, true),
        39,
    ),
    stored(
        "GPTQ, 4 bits, a scale for an output",
        gptq(4, usize::MAX, false),
        30,
    ),
    stored("GPTQ, 2 bits, groups of 32", gptq(2, 32, false), 30),
    stored("AWQ, groups of 32", Scheme::Awq { group_len: 32 }, 39),
    stored("AWQ, groups of 64", Scheme::Awq { group_len: 64 }, 39),
    stored("compressed-tensors W4A16, symmetric", packed(4, true), 38),
    stored(
        "compressed-tensors W4A16, zero points",
        packed(4, false),
        39,
    ),
    stored("compressed-tensors W8A16", packed(8, true), 40),
    stored("compressed-tensors W8A8 int8", Scheme::Int8, 40),
    stored("compressed-tensors FP8, channels", Scheme::Fp8Channels, 40),
    stored("FP8, a scale for a tensor", Scheme::Fp8Tensor, 40),
    stored("FP8, a scale for 128 × 128", Scheme::Fp8Blocks(128), 40),
    stored("bitsandbytes NF4", Scheme::Nf4 { nested: false }, 39),
    stored(
        "bitsandbytes NF4, quantized scales",
        Scheme::Nf4 { nested: true },
        39,
    ),
    stored("bitsandbytes int8", Scheme::BnbInt8, 40),
];

impl Form {
    /// An engine on the demo model in this form; `folder` is for its files.
    pub(crate) fn engine(&self, folder: &Path) -> AsyncLlm {
        let mut config = EngineConfig::new("demo");
        config.dtype = "float32".to_owned();
        match self.weights {
            FormWeights::DType(dtype) => config.dtype = dtype.to_owned(),
            FormWeights::WhileLoading(method) => config.quantization = Some(method.to_owned()),
            FormWeights::Stored(scheme) => {
                write_checkpoint(scheme, folder);
                config.model = folder.to_str().unwrap().to_owned();
            }
        }
        AsyncLlm::new(&config).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }
}

/// Countries and their capitals.
pub(crate) fn capitals() -> Vec<(String, String)> {
    serde_json::from_str(include_str!("../../data/capitals.json")).unwrap()
}

/// A tensor of a file: name, dtype as safetensors calls it, shape and bytes.
pub(crate) struct Piece {
    pub(crate) name: String,
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

fn write_checkpoint(scheme: Scheme, folder: &Path) {
    let mut pieces = Vec::new();
    for (name, contents) in vllm_demo_model::FILES {
        match *name {
            "model.safetensors" => {
                for (name, shape, numbers) in demo_tensors(contents) {
                    let layer = name.strip_suffix(".weight");
                    match (layer, &shape[..]) {
                        (Some(layer), [rows, columns]) if layer.contains(".layers.") => {
                            let matrix = Matrix {
                                rows: *rows,
                                columns: *columns,
                                numbers,
                            };
                            pieces.extend(scheme.pieces(layer, &matrix));
                        }
                        _ => pieces.push(floats(name, shape, &numbers)),
                    }
                }
            }
            "config.json" => {
                let mut config: Value = serde_json::from_slice(contents).unwrap();
                config["quantization_config"] = scheme.config();
                std::fs::write(folder.join(name), config.to_string()).unwrap();
            }
            _ => std::fs::write(folder.join(name), contents).unwrap(),
        }
    }
    std::fs::write(folder.join("model.safetensors"), safetensors(&pieces)).unwrap();
}

/// Name, shape and numbers of the demo model's tensors.
fn demo_tensors(file: &[u8]) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let header_len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&file[8..8 + header_len]).unwrap();
    let data = &file[8 + header_len..];
    let number = |value: &Value| value.as_u64().unwrap() as usize;
    let entries = header.iter().filter(|(name, _)| *name != "__metadata__");
    entries
        .map(|(name, info)| {
            assert_eq!(info["dtype"], "F16");
            let shape: Vec<usize> = info["shape"]
                .as_array()
                .unwrap()
                .iter()
                .map(number)
                .collect();
            let offsets = &info["data_offsets"];
            let bytes = &data[number(&offsets[0])..number(&offsets[1])];
            let tensor = Tensor::from_raw_buffer(bytes, DType::F16, &shape, &Device::Cpu).unwrap();
            let numbers = tensor.to_dtype(DType::F32).unwrap();
            let numbers = numbers.flatten_all().unwrap().to_vec1().unwrap();
            (name.clone(), shape, numbers)
        })
        .collect()
}

pub(crate) fn safetensors(pieces: &[Piece]) -> Vec<u8> {
    let mut header = Map::new();
    let mut start = 0;
    for piece in pieces {
        let end = start + piece.bytes.len();
        let entry = serde_json::json!({
            "dtype": piece.dtype, "shape": piece.shape, "data_offsets": [start, end],
        });
        header.insert(piece.name.clone(), entry);
        start = end;
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.into_bytes());
    pieces.iter().for_each(|piece| file.extend(&piece.bytes));
    file
}
