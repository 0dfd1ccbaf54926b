//! Checkpoints written anew answer as those that they were written from.

use std::ops::ControlFlow;
use std::path::Path;

use crate::forms::{Piece, floats, safetensors};
use crate::support::{complete, greedy, last};
use serde_json::{Value, json};
use vllm_engine::{
    AsyncLlm, EngineClient, EngineConfig, GenerationRequest, LoadProgress, OutputFormat,
    SamplingParams, convert, encode,
};
use vllm_gguf::Checkpoint;

const HIDDEN: usize = 64;
const INNER: usize = 96;
const VOCABULARY: usize = 2048;

/// A small Llama with made-up weights and the demo model's vocabulary.
fn write_llama(folder: &Path) {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": INNER, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": VOCABULARY,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "tie_word_embeddings": false,
        "hidden_act": "silu", "bos_token_id": 2, "eos_token_id": 2, "dtype": "float32",
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 5000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
        },
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut state = 7u32;
    let mut weight = |name: String, shape: &[usize]| -> Piece {
        let random = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * 0.3
        });
        let numbers: Vec<f32> = random.take(shape.iter().product()).collect();
        floats(name, shape.to_vec(), &numbers)
    };
    let mut pieces = vec![
        weight("model.embed_tokens.weight".into(), &[VOCABULARY, HIDDEN]),
        weight("lm_head.weight".into(), &[VOCABULARY, HIDDEN]),
        floats("model.norm.weight".into(), vec![HIDDEN], &[1.0; HIDDEN]),
    ];
    for layer in 0..2 {
        for (part, shape) in [
            ("self_attn.q_proj", [HIDDEN, HIDDEN]),
            ("self_attn.k_proj", [HIDDEN / 2, HIDDEN]),
            ("self_attn.v_proj", [HIDDEN / 2, HIDDEN]),
            ("self_attn.o_proj", [HIDDEN, HIDDEN]),
            ("mlp.gate_proj", [INNER, HIDDEN]),
            ("mlp.up_proj", [INNER, HIDDEN]),
            ("mlp.down_proj", [HIDDEN, INNER]),
        ] {
            pieces.push(weight(
                format!("model.layers.{layer}.{part}.weight"),
                &shape,
            ));
        }
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            let name = format!("model.layers.{layer}.{norm}.weight");
            pieces.push(floats(name, vec![HIDDEN], &[1.0; HIDDEN]));
        }
    }
    std::fs::write(folder.join("model.safetensors"), safetensors(&pieces)).unwrap();
    for (name, contents) in vllm_demo_model::FILES {
        if name.starts_with("tokenizer") || *name == "chat_template.jinja" {
            std::fs::write(folder.join(name), contents).unwrap();
        }
    }
}

fn config(model: &Path) -> EngineConfig {
    let mut config = EngineConfig::new(model.to_str().unwrap());
    config.dtype = "float32".to_owned();
    config
}

/// Token ids of prompts and of what follows them.
fn tokens(config: &EngineConfig) -> Vec<(Vec<u32>, Vec<u32>)> {
    let engine = AsyncLlm::new(config).unwrap();
    let prompts = [
        "The capital of France is",
        "Äpfel, 12345!",
        "<|im_start|>a b",
    ];
    let answers = prompts.map(|prompt| {
        let ids = encode(&engine, prompt, true).unwrap();
        let output = complete(&engine, prompt, &greedy(12));
        (ids, output.outputs[0].token_ids.clone())
    });
    answers.to_vec()
}

fn write(config: &EngineConfig, output: &Path, format: OutputFormat) -> vllm_engine::Result<()> {
    let mut progress = |_: LoadProgress| ControlFlow::Continue(());
    convert(config, output, format, &mut progress).map(|flow| assert!(flow.is_continue()))
}

#[test]
fn a_gguf_file_answers_as_the_checkpoint_it_was_made_of() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("llama");
    std::fs::create_dir(&source).unwrap();
    write_llama(&source);
    let expected = tokens(&config(&source));

    let gguf = folder.path().join("plain.gguf");
    write(&config(&source), &gguf, OutputFormat::Gguf).unwrap();
    assert_eq!(tokens(&config(&gguf)), expected);
    let bytes = std::fs::read(&gguf).unwrap();
    let checkpoint = Checkpoint::new(&[("plain.gguf", &bytes)]).unwrap();
    let tokenizer = vllm_gguf::tokenizer_config_json(&checkpoint).unwrap();
    let template = std::fs::read_to_string(source.join("chat_template.jinja")).unwrap();
    assert_eq!(tokenizer["chat_template"], json!(template));

    // And back again.
    let back = folder.path().join("back");
    write(&config(&gguf), &back, OutputFormat::Safetensors).unwrap();
    assert_eq!(tokens(&config(&back)), expected);
}

/// Copies a small checkpoint of `vllm-models` with `changes` to its configuration, and gives it a vocabulary.
fn write_fixture(name: &str, changes: &Value, folder: &Path) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vllm-models/tests/fixtures");
    let fixture = fixtures.join(name);
    std::fs::create_dir(folder).unwrap();
    let file = "model.safetensors";
    std::fs::copy(fixture.join(file), folder.join(file)).unwrap();
    let read = |bytes: &[u8]| -> Value { serde_json::from_slice(bytes).unwrap() };
    let mut config = read(&std::fs::read(fixture.join("config.json")).unwrap());
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    // The first tokens of the demo model's.
    let size = config["vocab_size"].as_u64().unwrap();
    let mut files = vllm_demo_model::FILES.iter();
    let (_, contents) = files.find(|(name, _)| *name == "tokenizer.json").unwrap();
    let mut tokenizer = read(contents);
    tokenizer["model"]["merges"] = json!([]);
    let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    vocabulary.retain(|_, id| id.as_u64().unwrap() < size);
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

/// What follows prompts of several lengths, with the logarithm of its probability.
fn continuations(config: &EngineConfig) -> Vec<(Vec<u32>, f64)> {
    let engine = AsyncLlm::new(config).unwrap();
    let answers = [1, 5, 30].map(|length| {
        let ids = (0..length).map(|position| 3 + position * 37 % 77).collect();
        let params = SamplingParams {
            ignore_eos: true,
            logprobs: Some(1),
            ..greedy(24)
        };
        let stream = engine.generate(GenerationRequest::new("a", ids, params));
        let mut output = last(stream.unwrap());
        let output = output.outputs.remove(0);
        (output.token_ids, output.cumulative_logprob.unwrap())
    });
    answers.to_vec()
}

#[test]
fn every_family_answers_the_same_from_what_is_written() {
    // Changed where the original says what a GGUF file cannot.
    let gemma = json!({"query_pre_attn_scalar": 12, "layer_types": null});
    let same = json!({});
    let without_windows = json!({"use_sliding_window": false, "layer_types": null});
    for (name, changes) in [
        ("llama", &same),
        ("mistral", &same),
        ("mixtral", &same),
        ("qwen2", &without_windows),
        ("qwen2-moe", &same),
        ("qwen3", &same),
        ("qwen3-moe", &without_windows),
        ("gemma2", &gemma),
        ("gemma3", &gemma),
        ("phi3", &same),
        ("phi3-longrope-short", &same),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        write_fixture(name, changes, &source);
        let expected = continuations(&config(&source));
        let gguf = folder.path().join("a.gguf");
        write(&config(&source), &gguf, OutputFormat::Gguf).unwrap();
        let back = folder.path().join("back");
        write(&config(&gguf), &back, OutputFormat::Safetensors).unwrap();
        let copy = folder.path().join("copy");
        write(&config(&source), &copy, OutputFormat::Safetensors).unwrap();
        for written in [gguf, back, copy] {
            let actual = continuations(&config(&written));
            for ((tokens, logprob), (expected, expected_logprob)) in actual.iter().zip(&expected) {
                assert_eq!(tokens, expected, "{name}, {}", written.display());
                let difference = (logprob - expected_logprob).abs();
                assert!(difference < 1e-3, "{name}: off by {difference}");
            }
        }
    }
}

#[test]
fn a_quantized_file_holds_what_quantizing_while_loading_gives() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("llama");
    std::fs::create_dir(&source).unwrap();
    write_llama(&source);
    for (method, embeddings) in [("int8", None), ("q5_1", Some("q8_0"))] {
        let mut quantized = config(&source);
        quantized.quantization = Some(method.to_owned());
        quantized.embedding_quantization = embeddings.map(str::to_owned);
        let expected = tokens(&quantized);
        let gguf = folder.path().join(format!("{method}.gguf"));
        write(&quantized, &gguf, OutputFormat::Gguf).unwrap();
        assert_eq!(tokens(&config(&gguf)), expected, "{method}");
    }
}

#[test]
fn quantized_safetensors_know_the_capital_of_france() {
    let folder = tempfile::tempdir().unwrap();
    for method in ["int8", "fp8"] {
        let mut source = EngineConfig::new("demo");
        source.quantization = Some(method.to_owned());
        let output = folder.path().join(method);
        write(&source, &output, OutputFormat::Safetensors).unwrap();
        let written = std::fs::read(output.join("config.json")).unwrap();
        let written: Value = serde_json::from_slice(&written).unwrap();
        let scheme = &written["quantization_config"];
        assert_eq!(scheme["quant_method"], "compressed-tensors");
        assert_eq!(scheme["ignore"], json!(["lm_head"]));
        let engine = AsyncLlm::new(&config(&output)).unwrap();
        let answer = complete(&engine, "The capital of France is", &greedy(4));
        let text = &answer.outputs[0].text;
        assert!(text.contains("Paris"), "{method}: {text}");
    }
}

#[test]
fn what_cannot_be_written_is_refused_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("llama");
    std::fs::create_dir(&source).unwrap();
    write_llama(&source);
    let output = folder.path().join("out");
    let refused = |model: &str, method: Option<&str>, format, expected: &str| {
        let mut config = EngineConfig::new(model);
        config.quantization = method.map(str::to_owned);
        let message = write(&config, &output, format).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    };
    let llama = source.to_str().unwrap();
    refused(llama, Some("fp8"), OutputFormat::Gguf, "hold no fp8");
    refused(llama, Some("q4_k"), OutputFormat::Safetensors, "not q4_k");
    refused(
        llama,
        Some("int3"),
        OutputFormat::Gguf,
        "'int3' is not supported",
    );
    refused(
        "demo",
        None,
        OutputFormat::Gguf,
        "'opt' have no layout there; supported",
    );

    let stopped = convert(&config(&source), &output, OutputFormat::Gguf, &mut |_| {
        ControlFlow::Break(())
    });
    assert!(stopped.unwrap().is_break());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);

    std::fs::write(&output, "mine").unwrap();
    let existing = write(&config(&source), &output, OutputFormat::Gguf);
    let message = existing.unwrap_err().to_string();
    assert!(message.contains("is not overwritten"), "{message}");
    assert_eq!(std::fs::read(&output).unwrap(), b"mine");
}
