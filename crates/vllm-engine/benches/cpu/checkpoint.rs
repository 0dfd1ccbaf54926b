//! Checkpoints of full size with random weights, as any engine loads them.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::random::Random;
use crate::shapes::Shape;

/// Standard deviation of the weights, as such models are initialized.
const DEVIATION: f32 = 0.02;

/// Writes `config.json`, `model.safetensors` and a tokenizer of single bytes into `folder`. The last
/// file is written last, so that a folder with it is complete.
pub(crate) fn write(shape: &Shape, form: Form, folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let mut config = json!({
        "architectures": [shape.architecture],
        "model_type": shape.model_type,
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.max_positions,
        "rope_theta": shape.rope_theta,
        "rms_norm_eps": shape.rms_norm_eps,
        "hidden_act": "silu",
        "attention_bias": false,
        "mlp_bias": false,
        "tie_word_embeddings": true,
        "torch_dtype": "bfloat16",
    });
    if let Some(quantization) = form.config() {
        config["quantization_config"] = quantization;
    }
    write_json(&folder.join("config.json"), &config);
    write_json(&folder.join("tokenizer.json"), &tokenizer(shape.vocab_size));
    let tokenizer_config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
    });
    write_json(&folder.join("tokenizer_config.json"), &tokenizer_config);
    let partial = folder.join("model.safetensors.partial");
    write_weights(shape, form, &partial);
    fs::rename(partial, folder.join("model.safetensors")).unwrap();
}

fn write_json(path: &Path, value: &Value) {
    fs::write(path, serde_json::to_vec(value).unwrap()).unwrap();
}

/// One token per byte, the rest of the vocabulary made up.
fn tokenizer(vocab_size: usize) -> Value {
    let mut vocabulary = Map::new();
    vocabulary.insert("<|endoftext|>".to_owned(), json!(0));
    // The byte-level alphabet: printable bytes are themselves, the others follow from U+0100 on.
    let mut other = 0x100..;
    for byte in 0..=255_u8 {
        let is_printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let character = if is_printable {
            char::from(byte)
        } else {
            other.next().and_then(char::from_u32).unwrap()
        };
        vocabulary.insert(character.to_string(), json!(vocabulary.len()));
    }
    for id in vocabulary.len()..vocab_size {
        vocabulary.insert(format!("token{id}"), json!(id));
    }
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [{
            "id": 0, "content": "<|endoftext|>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true,
        }],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": vocabulary, "merges": [],
        },
    })
}

fn write_weights(shape: &Shape, form: Form, path: &Path) {
    let tensors = tensors(shape, form);
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut end = 0;
    for tensor in &tensors {
        let begin = end;
        end += tensor.contents.bytes_each() * tensor.num_elements();
        let entry = json!({
            "dtype": tensor.contents.dtype(),
            "shape": tensor.dimensions,
            "data_offsets": [begin, end],
        });
        header.insert(tensor.name.clone(), entry);
    }
    let mut header = serde_json::to_vec(&header).unwrap();
    header.resize(header.len().next_multiple_of(8), b' ');

    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
    file.write_all(&(header.len() as u64).to_le_bytes())
        .unwrap();
    file.write_all(&header).unwrap();
    let mut random = Random::new(0);
    for tensor in &tensors {
        let count = tensor.num_elements();
        match tensor.contents {
            Contents::Bf16(number) => {
                let bytes = bf16(number).to_le_bytes();
                file.write_all(&bytes.repeat(count)).unwrap();
            }
            Contents::NormalBf16 => write_normal(&mut file, count, &mut random),
            Contents::F16Bits(bits) => file.write_all(&bits.to_le_bytes().repeat(count)).unwrap(),
            Contents::Words(bits) => file.write_all(&bits.to_le_bytes().repeat(count)).unwrap(),
            Contents::RandomWords => {
                for _ in 0..count {
                    let word = (random.next() >> 16) as u32;
                    file.write_all(&word.to_le_bytes()).unwrap();
                }
            }
        }
    }
    file.flush().unwrap();
}

struct Tensor {
    name: String,
    dimensions: Vec<usize>,
    contents: Contents,
}

/// What the elements of a tensor are.
#[derive(Clone, Copy)]
enum Contents {
    Bf16(f32),
    NormalBf16,
    F16Bits(u16),
    Words(u32),
    RandomWords,
}

impl Contents {
    fn dtype(self) -> &'static str {
        match self {
            Self::Bf16(_) | Self::NormalBf16 => "BF16",
            Self::F16Bits(_) => "F16",
            Self::Words(_) | Self::RandomWords => "I32",
        }
    }

    fn bytes_each(self) -> usize {
        match self {
            Self::Bf16(_) | Self::NormalBf16 | Self::F16Bits(_) => 2,
            Self::Words(_) | Self::RandomWords => 4,
        }
    }
}

impl Tensor {
    fn num_elements(&self) -> usize {
        self.dimensions.iter().product()
    }
}

fn tensors(shape: &Shape, form: Form) -> Vec<Tensor> {
    let tensor = |name: String, dimensions: &[usize], contents| Tensor {
        name,
        dimensions: dimensions.to_vec(),
        contents,
    };
    let norm = |name: String, size| tensor(name, &[size], Contents::Bf16(1.0));
    let embedding = [shape.vocab_size, shape.hidden_size];
    let embed_tokens = "model.embed_tokens.weight".to_owned();
    let mut tensors = vec![tensor(embed_tokens, &embedding, Contents::NormalBf16)];
    for layer in 0..shape.num_layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let hidden_size = shape.hidden_size;
        tensors.push(norm(name("input_layernorm.weight"), hidden_size));
        tensors.push(norm(name("post_attention_layernorm.weight"), hidden_size));
        if shape.has_qk_norm {
            tensors.push(norm(name("self_attn.q_norm.weight"), shape.head_dim));
            tensors.push(norm(name("self_attn.k_norm.weight"), shape.head_dim));
        }
        for (matrix, outputs, inputs) in shape.layer_matrices() {
            let parts = form.matrix(outputs, inputs);
            tensors.extend(parts.into_iter().map(|(part, dimensions, contents)| {
                tensor(name(&format!("{matrix}.{part}")), &dimensions, contents)
            }));
        }
    }
    tensors.push(norm("model.norm.weight".to_owned(), shape.hidden_size));
    tensors
}

/// What the layers' matrices are stored in.
#[derive(Clone, Copy)]
pub(crate) enum Form {
    Bf16,
    /// Codes of 4 bits, a scale and a zero for each [`GROUP`] inputs.
    Gptq,
    /// The same, packed along the outputs.
    Awq,
}

/// Inputs that share a scale.
const GROUP: usize = 128;

/// Codes in a word.
const PACKED: usize = 8;

impl Form {
    pub(crate) fn named(name: &str) -> Self {
        match name {
            "gptq" => Self::Gptq,
            "awq" => Self::Awq,
            _ => Self::Bf16,
        }
    }

    fn config(self) -> Option<Value> {
        match self {
            Self::Bf16 => None,
            Self::Gptq => Some(json!({
                "quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": false,
                "sym": true,
            })),
            Self::Awq => Some(json!({
                "quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": true,
                "version": "gemm",
            })),
        }
    }

    /// The tensors of a matrix, by the ends of their names.
    fn matrix(self, outputs: usize, inputs: usize) -> Vec<(&'static str, [usize; 2], Contents)> {
        /// 0.004: random codes of 4 bits deviate from their zero by 4.6.
        const SCALE: Contents = Contents::F16Bits(0x1c19);
        let groups = inputs / GROUP;
        let packed = match self {
            Self::Bf16 => return vec![("weight", [outputs, inputs], Contents::NormalBf16)],
            Self::Gptq => [inputs / PACKED, outputs],
            Self::Awq => [inputs, outputs / PACKED],
        };
        vec![
            ("qweight", packed, Contents::RandomWords),
            (
                "qzeros",
                [groups, outputs / PACKED],
                Contents::Words(0x7777_7777),
            ),
            ("scales", [groups, outputs], SCALE),
        ]
    }
}

/// Writes `count` values, near enough to normal: the sum of four uniform ones.
fn write_normal(file: &mut impl Write, count: usize, random: &mut Random) {
    let mut buffer = Vec::with_capacity(2 << 16);
    for at in 0..count {
        let bits = random.next();
        let sum = (0..4)
            .map(|part| (bits >> (16 * part)) & 0xffff)
            .sum::<u64>();
        // Four uniform values on [0, 1) have mean 2 and variance 1/3.
        let centred = sum as f32 / 65_536.0 - 2.0;
        let value = centred * (3_f32.sqrt() * DEVIATION);
        buffer.extend_from_slice(&bf16(value).to_le_bytes());
        if buffer.len() == buffer.capacity() || at + 1 == count {
            file.write_all(&buffer).unwrap();
            buffer.clear();
        }
    }
}

/// The upper half of a float32; how it rounds does not matter for random weights.
fn bf16(value: f32) -> u16 {
    (value.to_bits() >> 16) as u16
}
