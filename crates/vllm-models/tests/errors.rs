//! Every way a checkpoint can be wrong ends in a sentence that names file and tensor.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Cursor, Write};

use proptest::prelude::*;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use support::{fixture_path, load_files};
use vllm_models::{Batch, BatchSequence, ModelConfig, supported_architectures};
use vllm_tensor::{Device, KvCache};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

fn fixture_file(fixture: &str, file: &str) -> Vec<u8> {
    std::fs::read(fixture_path(fixture).join(file)).unwrap()
}

fn config(fixture: &str) -> String {
    String::from_utf8(fixture_file(fixture, "config.json")).unwrap()
}

/// The error of loading a file in place of the fixture's own.
fn error_of(fixture: &str, file: &str, bytes: Vec<u8>) -> String {
    match load_files(&config(fixture), vec![(file, bytes)]) {
        Ok(_) => panic!("{file} was loaded"),
        Err(error) => error.to_string(),
    }
}

#[track_caller]
fn check_contains(message: &str, expected: &[&str]) {
    for part in expected {
        assert!(message.contains(part), "'{part}' is not in: {message}");
    }
}

/// The checkpoint `opt-norm-before` with its tensors changed by `edit`.
fn edited(edit: impl Fn(&mut Vec<(String, Vec<usize>, Dtype)>)) -> Vec<u8> {
    let original = fixture_file("opt-norm-before", "model.safetensors");
    let file = SafeTensors::deserialize(&original).unwrap();
    let mut tensors: Vec<_> = file
        .iter()
        .map(|(name, view)| (name.to_owned(), view.shape().to_vec(), view.dtype()))
        .collect();
    edit(&mut tensors);
    let zeros = vec![0; 1 << 16];
    let views = tensors.iter().map(|(name, shape, dtype)| {
        let len = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        (
            name,
            TensorView::new(*dtype, shape.clone(), &zeros[..len]).unwrap(),
        )
    });
    safetensors::serialize(views, None).unwrap()
}

#[test]
fn a_missing_tensor_is_named() {
    let bytes = edited(|tensors| tensors.retain(|(name, ..)| !name.ends_with("1.fc2.weight")));
    let message = error_of("opt-norm-before", "model.safetensors", bytes);
    check_contains(
        &message,
        &[
            "'decoder.layers.1.fc2.weight' is missing",
            "model.safetensors",
        ],
    );
}

#[test]
fn a_wrong_shape_is_shown_with_the_right_one() {
    let bytes = edited(|tensors| {
        let norm = tensors
            .iter_mut()
            .find(|(name, ..)| name.contains("1.final_layer_norm.bias"));
        norm.unwrap().1 = vec![31];
    });
    let message = error_of("opt-norm-before", "model.safetensors", bytes);
    check_contains(
        &message,
        &["layers.1.final_layer_norm.bias", "[31]", "[32]"],
    );
}

#[test]
fn integers_are_no_weights() {
    let bytes = edited(|tensors| tensors[0].2 = Dtype::I64);
    let message = error_of("opt-norm-before", "model.safetensors", bytes);
    check_contains(&message, &["dtype I64", "expected float32"]);
}

#[test]
fn surplus_tensors_are_refused_but_old_buffers_ignored() {
    let surplus = edited(|tensors| tensors.push(("model.rope".into(), vec![1], Dtype::F32)));
    let message = error_of("opt-norm-before", "model.safetensors", surplus);
    check_contains(&message, &["'model.rope'", "OPTForCausalLM does not have"]);
    let buffer = edited(|tensors| {
        tensors.push(("layers.0.rotary_emb.inv_freq".into(), vec![1], Dtype::F32));
    });
    load_files(
        &config("opt-norm-before"),
        vec![("model.safetensors", buffer)],
    )
    .unwrap();
}

#[test]
fn a_head_in_the_checkpoint_wins_over_the_tie() {
    let original = fixture_file("opt-norm-before", "model.safetensors");
    let head_of_zeros = vec![0; 80 * 32 * 4];
    let head = TensorView::new(Dtype::F32, vec![80, 32], &head_of_zeros).unwrap();
    let head = safetensors::serialize([("lm_head.weight", head)], None).unwrap();
    let greatest_logit = |files: Vec<(&str, Vec<u8>)>| {
        let model = load_files(&config("opt-norm-before"), files).unwrap();
        let mut kv = KvCache::new(model.kv_cache_spec(), 2, 16, &Device::Cpu).unwrap();
        let sequence = BatchSequence {
            query_start: 0,
            query_len: 1,
            context_len: 0,
            block_table: &[1],
        };
        let batch = Batch {
            token_ids: &[5],
            positions: &[0],
            sequences: &[sequence],
            logit_rows: &[0],
        };
        let logits = model.forward(&batch, &mut kv).unwrap();
        logits.to_vec2::<f32>().unwrap()[0]
            .iter()
            .fold(0f32, |max, logit| max.max(logit.abs()))
    };
    assert!(greatest_logit(vec![("a.safetensors", original.clone())]) > 0.1);
    let with_head = vec![("a.safetensors", original), ("b.safetensors", head)];
    assert_eq!(greatest_logit(with_head), 0.0);
}

#[test]
fn the_same_weight_twice_is_refused() {
    let twice = edited(|tensors| {
        tensors.push(("decoder.layers.0.fc1.bias".into(), vec![48], Dtype::F32));
    });
    let message = error_of("opt-norm-before", "model.safetensors", twice);
    check_contains(&message, &["decoder.layers.0.fc1.bias", "the same weight"]);
    let whole = fixture_file("opt-norm-before", "model.safetensors");
    let files = vec![("a.safetensors", whole.clone()), ("b.safetensors", whole)];
    let message = load_files(&config("opt-norm-before"), files)
        .err()
        .unwrap()
        .to_string();
    check_contains(
        &message,
        &["b.safetensors: tensor", "is also in a.safetensors"],
    );
}

#[test]
fn truncated_files_are_refused_at_every_length() {
    for (fixture, file) in [
        ("opt-norm-before", "model.safetensors"),
        ("opt-half-bin", "pytorch_model.bin"),
    ] {
        let whole = fixture_file(fixture, file);
        for len in (0..whole.len())
            .step_by(977)
            .chain([1, 2, 7, 8, 9, whole.len() - 1])
        {
            let message = error_of(fixture, file, whole[..len].to_vec());
            check_contains(&message, &[file]);
        }
    }
}

#[test]
fn configs_that_no_model_can_have_are_refused() {
    let check = |fixture: &str, key: &str, value: &str, expected: &str| {
        let mut json: serde_json::Value = serde_json::from_str(&config(fixture)).unwrap();
        json[key] = serde_json::from_str(value).unwrap();
        let bytes = fixture_file(fixture, "model.safetensors");
        let loaded = load_files(&json.to_string(), vec![("model.safetensors", bytes)]);
        check_contains(&loaded.err().unwrap().to_string(), &[expected]);
    };
    check("llama", "intermediate_size", "null", "config.json");
    check("llama", "intermediate_size", "9", "expected [9, 32]");
    check("llama", "hidden_act", r#""sparkle""#, "'sparkle'");
    check("llama", "head_dim", "11", "cannot be rotated");
    check("llama", "head_dim", "4294967294", "cannot be rotated");
    check(
        "llama",
        "rope_parameters",
        r#"{"rope_theta": 0}"#,
        "above 0",
    );
    check("llama", "rope_parameters", r#"{"rope_type": "x"}"#, "'x'");
    check(
        "llama",
        "layer_types",
        r#"["full_attention"]"#,
        "lacks layer 1",
    );
    check(
        "gemma3",
        "use_bidirectional_attention",
        "true",
        "not supported",
    );
    check("mixtral", "num_experts_per_tok", "5", "5 of 4 experts");
    check("mixtral", "num_experts_per_tok", "0", "0 of 4 experts");
    check("mixtral", "num_local_experts", "5", "experts.4.w1");
    check("mixtral", "num_local_experts", "3", "expected [3, 32]");
    check(
        "phi3",
        "intermediate_size",
        "18446744073709551615",
        "gate_up_proj",
    );
    let aqlm = r#"{"quant_method": "aqlm"}"#;
    check(
        "llama",
        "quantization_config",
        aqlm,
        "quantized with 'aqlm'",
    );
    check("gpt2", "n_positions", "7", "expected [7, 32]");
}

#[test]
fn unknown_architectures_list_the_known_ones() {
    let json = config("opt-norm-before").replace("OPTForCausalLM", "NopeForCausalLM");
    let message = load_files(&json, Vec::new()).err().unwrap().to_string();
    let supported: Vec<String> = supported_architectures()
        .iter()
        .map(|name| format!("'{name}'"))
        .collect();
    assert_eq!(
        message,
        format!(
            "Model architectures ['NopeForCausalLM'] are not supported for now. Supported \
             architectures: [{}]",
            supported.join(", ")
        )
    );
}

#[test]
fn old_pytorch_files_say_what_to_do() {
    let message = error_of(
        "opt-half-bin",
        "pytorch_model.bin",
        b"\x80\x02\x8a\nl\xfc\x9c".to_vec(),
    );
    check_contains(
        &message,
        &["pytorch_model.bin", "before version 1.6", "safetensors"],
    );
}

/// A `torch.save` archive around a pickle, with one storage of eight bytes.
fn archive(pickle: &[u8]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, data) in [
        ("m/data.pkl", pickle),
        ("m/byteorder", b"little"),
        ("m/data/0", &[0; 8]),
    ] {
        zip.start_file(name, stored).unwrap();
        zip.write_all(data).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

#[test]
fn pickles_are_data_and_never_run() {
    let check = |pickle: &[u8], expected: &str| {
        let message = error_of("opt-half-bin", "pytorch_model.bin", archive(pickle));
        check_contains(&message, &["pytorch_model.bin", expected]);
    };
    // os.system("true"), by both ways to name a function.
    check(
        b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R.",
        "'os.system', which no tensor file needs",
    );
    check(
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        "'os.system'",
    );
    check(b"", "the data ends too early");
    check(b"\x80\x02.", "the stack is empty");
    check(b"\x80\x02K\x01.", "holds no dict of tensors");
    check(b"\x80\x02}K\x01K\x02s.", "name is not text");
    check(
        b"\x80\x02}X\x01\0\0\0aK\x02s.",
        "tensor 'a': it is no tensor",
    );
    check(b"\x80\x02X\xff\xff\xff\xffa.", "the data ends too early");
    check(b"\x80\x02t.", "no mark");
    check(b"\x80\x02(0.", "the stack is empty");
    check(b"\x80\x02}(K\x01u.", "a key without a value");
    check(b"\x80\x02h\x07.", "nothing is stored under 7");
    check(
        b"\x80\x02\x8a\x09\0\0\0\0\0\0\0\0\x01.",
        "more than 64 bits",
    );
    check(b"\x80\x02\xff.", "opcode 0xff");
    // Nested a million deep: refused, not followed.
    let deep = [b"\x80\x02N".as_slice(), &vec![0x85; 1_000_000], b"."].concat();
    check(&deep, "holds no dict of tensors");
}

#[test]
fn tensors_of_a_pickle_stay_within_their_storage() {
    /// `{'a': _rebuild_tensor_v2(('storage', CLASS, KEY, 'cpu', 2), OFFSET, (SIZE,), (STRIDE,))}`.
    fn tensor(class: &str, key: &str, offset: u8, size: i32, stride: u8) -> Vec<u8> {
        let text = |text: &str| [&[0x8c, text.len() as u8], text.as_bytes()].concat();
        let mut pickle = b"\x80\x02}".to_vec();
        pickle.extend(text("a"));
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        pickle.extend(text("storage"));
        pickle.extend(format!("ctorch\n{class}\n").bytes());
        pickle.extend(text(key));
        pickle.extend(text("cpu"));
        pickle.extend([b'K', 2, b't', b'Q', b'K', offset, b'J']);
        pickle.extend(size.to_le_bytes());
        pickle.extend([0x85, b'K', stride, 0x85, b't', b'R', b's', b'.']);
        pickle
    }
    let check = |pickle: Vec<u8>, expected: &str| {
        let message = error_of("opt-half-bin", "pytorch_model.bin", archive(&pickle));
        check_contains(&message, &["pytorch_model.bin", expected]);
    };
    // Read well: the complaint is that the model's own tensors are missing.
    check(
        tensor("FloatStorage", "0", 0, 2, 1),
        "is missing from the checkpoint",
    );
    check(
        tensor("FloatStorage", "0", 1, 2, 1),
        "goes beyond its storage of 8 bytes",
    );
    check(
        tensor("FloatStorage", "0", 0, i32::MAX, 1),
        "goes beyond its storage",
    );
    check(tensor("FloatStorage", "0", 0, -1, 1), "-1 is no size");
    check(tensor("FloatStorage", "0", 0, 2, 3), "not contiguous");
    check(tensor("FloatStorage", "7", 0, 2, 1), "data/7 is missing");
    check(
        tensor("QuantumStorage", "0", 0, 2, 1),
        "'torch.QuantumStorage'",
    );
}

#[test]
fn configs_say_what_is_wrong() {
    let check = |edit: fn(&mut serde_json::Value), expected: &str| {
        let mut json: serde_json::Value = serde_json::from_str(&config("opt-norm-before")).unwrap();
        edit(&mut json);
        let result = load_files(
            &json.to_string(),
            vec![("model.safetensors", edited(|_| {}))],
        );
        check_contains(&result.err().unwrap().to_string(), &[expected]);
    };
    check(
        |json| json["hidden_size"] = (-4).into(),
        "'hidden_size' is not a size: -4",
    );
    check(
        |json| json["hidden_size"] = 33.into(),
        "not a multiple of num_attention_heads",
    );
    check(|json| json["vocab_size"] = 0.into(), "'vocab_size' is zero");
    check(
        |json| json["dtype"] = "int3".into(),
        "Unknown dtype: 'int3'",
    );
    check(
        |json| json["activation_function"] = "sparkle".into(),
        "'sparkle'",
    );
    check(
        |json| drop(json.as_object_mut().unwrap().remove("ffn_dim")),
        "ffn_dim",
    );
    check(|json| *json = "text".into(), "expected a JSON object");
    assert!(
        ModelConfig::from_json(b"{")
            .unwrap_err()
            .to_string()
            .contains("invalid JSON")
    );
}

#[test]
fn impossible_batches_are_refused() {
    let model = load_files(
        &config("opt-norm-before"),
        vec![("model.safetensors", edited(|_| {}))],
    )
    .unwrap();
    let mut kv = KvCache::new(model.kv_cache_spec(), 4, 16, &Device::Cpu).unwrap();
    let mut check = |token_ids: &[u32], positions: &[u32], logit_rows: &[u32], expected: &str| {
        let query_len = 2;
        let sequence = BatchSequence {
            query_start: 0,
            query_len,
            context_len: 0,
            block_table: &[1],
        };
        let batch = Batch {
            token_ids,
            positions,
            sequences: &[sequence],
            logit_rows,
        };
        let message = model.forward(&batch, &mut kv).unwrap_err().to_string();
        check_contains(&message, &["invalid batch", expected]);
    };
    check(&[1], &[0], &[0], "1 tokens");
    check(&[1, 2], &[0], &[0], "1 positions");
    check(&[1, 80], &[0, 1], &[0], "token id 80 is not below 80");
    check(&[1, 2], &[0, 100], &[0], "position 100 is not below 100");
    check(&[1, 2], &[0, 1], &[2], "logit row 2 is not below 2");
}

proptest! {
    /// Whatever lies in a file, reading it ends in a value or an error.
    #[test]
    fn damaged_files_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        for (fixture, file) in
            [("opt-norm-before", "model.safetensors"), ("opt-half-bin", "pytorch_model.bin")]
        {
            let mut bytes = fixture_file(fixture, file);
            for (index, value) in &flips {
                let at = index.index(bytes.len());
                bytes[at] = *value;
            }
            let _ = load_files(&config(fixture), vec![(file, bytes)]);
        }
    }

    #[test]
    fn random_pickles_never_panic(pickle in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = load_files(&config("opt-half-bin"), vec![("pytorch_model.bin", archive(&pickle))]);
    }
}
