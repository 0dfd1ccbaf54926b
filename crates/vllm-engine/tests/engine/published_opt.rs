//! A folder as facebook/opt-125m is published: half-precision `pytorch_model.bin` only, no
//! `tokenizer.json`, special tokens in side files. It must answer as the embedded model does.

use std::path::Path;

use crate::support::{complete, engine, greedy, prompts};
use crate::torch_file::{HalfTensor, torch_file};
use serde_json::{Value, json};
use vllm_engine::{ChatOptions, EngineClient, NO_CHAT_TEMPLATE, encode, render_chat};

fn demo_file(name: &str) -> &'static [u8] {
    vllm_demo_model::FILES
        .iter()
        .find(|(found, _)| *found == name)
        .unwrap()
        .1
}

fn demo_json(name: &str) -> Value {
    serde_json::from_slice(demo_file(name)).unwrap()
}

/// The demo model's weights under names with or without `model.` in front.
fn write_weights(folder: &Path, with_prefix: bool) {
    let file = demo_file("model.safetensors");
    let header_len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: serde_json::Map<String, Value> =
        serde_json::from_slice(&file[8..8 + header_len]).unwrap();
    let data = &file[8 + header_len..];
    let tensors: Vec<_> = header
        .iter()
        .filter(|(name, _)| *name != "__metadata__")
        .map(|(name, info)| {
            let number = |value: &Value| value.as_u64().unwrap() as usize;
            let offsets = &info["data_offsets"];
            let name = if with_prefix {
                name
            } else {
                name.strip_prefix("model.").unwrap()
            };
            HalfTensor {
                name: name.to_owned(),
                shape: info["shape"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(number)
                    .collect(),
                bytes: &data[number(&offsets[0])..number(&offsets[1])],
            }
        })
        .collect();
    std::fs::write(folder.join("pytorch_model.bin"), torch_file(&tensors)).unwrap();
}

/// `vocab.json` + `merges.txt` and the side files of a GPT-2 tokenizer with `</s>` in front.
fn write_tokenizer(folder: &Path) {
    let model = &demo_json("tokenizer.json")["model"];
    let merges: String = model["merges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|merge| match merge {
            Value::String(pair) => format!("{pair}\n"),
            pair => format!(
                "{} {}\n",
                pair[0].as_str().unwrap(),
                pair[1].as_str().unwrap()
            ),
        })
        .collect();
    let special = |content: &str| {
        json!({"__type": "AddedToken", "content": content, "lstrip": false,
               "normalized": true, "rstrip": false, "single_word": false})
    };
    let tokenizer_config = json!({
        "add_bos_token": true, "add_prefix_space": false, "errors": "replace",
        "bos_token": special("</s>"), "eos_token": special("</s>"),
        "pad_token": special("<pad>"), "unk_token": special("</s>"),
        "tokenizer_class": "GPT2Tokenizer",
    });
    let special_tokens = json!({
        "bos_token": special("</s>"), "eos_token": special("</s>"),
        "pad_token": "<pad>", "unk_token": special("</s>"),
    });
    let write = |name: &str, text: String| std::fs::write(folder.join(name), text).unwrap();
    write("vocab.json", model["vocab"].to_string());
    write("merges.txt", format!("#version: 0.2\n{merges}"));
    write("tokenizer_config.json", tokenizer_config.to_string());
    write("special_tokens_map.json", special_tokens.to_string());
}

#[test]
fn answers_as_the_embedded_model_does() {
    let demo = engine(|_| {});
    let answers = |engine: &vllm_engine::AsyncLlm| -> Vec<(Vec<u32>, Vec<u32>)> {
        prompts()
            .iter()
            .map(|prompt| complete(engine, prompt, &greedy(16)))
            .map(|output| {
                (
                    output.prompt_token_ids.to_vec(),
                    output.outputs[0].token_ids.clone(),
                )
            })
            .collect()
    };
    let expected = answers(&demo);
    for with_prefix in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let mut config = demo_json("config.json");
        config["torch_dtype"] = "float16".into();
        config.as_object_mut().unwrap().remove("dtype");
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        write_weights(folder.path(), with_prefix);
        write_tokenizer(folder.path());
        let published = engine(|config| config.model = folder.path().display().to_string());
        assert_eq!(
            answers(&published),
            expected,
            "with `model.` prefix: {with_prefix}"
        );

        let message = json!({"role": "user", "content": "Hi!"});
        let error = render_chat(&published, &[message], &ChatOptions::default()).unwrap_err();
        assert_eq!(error.to_string(), NO_CHAT_TEMPLATE);
        assert_eq!(encode(&published, "", true).unwrap(), [2]);
        assert_eq!(published.info().architecture, "OPTForCausalLM");
    }
}
