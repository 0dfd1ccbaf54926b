//! Checkpoints of full size with random bfloat16 weights, as any engine loads them.

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
pub(crate) fn write(shape: &Shape, folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    let config = json!({
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
    write_json(&folder.join("config.json"), &config);
    write_json(&folder.join("tokenizer.json"), &tokenizer(shape.vocab_size));
    let tokenizer_config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
    });
    write_json(&folder.join("tokenizer_config.json"), &tokenizer_config);
    let partial = folder.join("model.safetensors.partial");
    write_weights(shape, &partial);
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

fn write_weights(shape: &Shape, path: &Path) {
    let tensors = tensors(shape);
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut end = 0;
    for (name, dimensions) in &tensors {
        let begin = end;
        end += 2 * dimensions.iter().product::<usize>();
        let entry = json!({"dtype": "BF16", "shape": dimensions, "data_offsets": [begin, end]});
        header.insert(name.clone(), entry);
    }
    let mut header = serde_json::to_vec(&header).unwrap();
    header.resize(header.len().next_multiple_of(8), b' ');

    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
    file.write_all(&(header.len() as u64).to_le_bytes())
        .unwrap();
    file.write_all(&header).unwrap();
    let mut random = Random::new(0);
    for (_, dimensions) in &tensors {
        let count = dimensions.iter().product::<usize>();
        if dimensions.len() == 1 {
            let one = bf16(1.0).to_le_bytes();
            file.write_all(&one.repeat(count)).unwrap();
        } else {
            write_normal(&mut file, count, &mut random);
        }
    }
    file.flush().unwrap();
}

/// Name and shape of every tensor.
fn tensors(shape: &Shape) -> Vec<(String, Vec<usize>)> {
    let embedding = vec![shape.vocab_size, shape.hidden_size];
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), embedding)];
    for layer in 0..shape.num_layers {
        let mut add = |name: &str, dimensions: Vec<usize>| {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), dimensions));
        };
        add("input_layernorm", vec![shape.hidden_size]);
        add("post_attention_layernorm", vec![shape.hidden_size]);
        if shape.has_qk_norm {
            add("self_attn.q_norm", vec![shape.head_dim]);
            add("self_attn.k_norm", vec![shape.head_dim]);
        }
        for (name, outputs, inputs) in shape.layer_matrices() {
            add(name, vec![outputs, inputs]);
        }
    }
    tensors.push(("model.norm.weight".to_owned(), vec![shape.hidden_size]));
    tensors
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
