//! Vocabularies of GGUF files: `vllm-gguf/tests/fixtures/make_fixtures.py` writes them.
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use vllm_gguf::Checkpoint;
use vllm_tokenizer::{Tokenizer, TokenizerFiles};

fn read(path: &str) -> Vec<u8> {
    let path = format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn from_gguf(name: &str) -> Tokenizer {
    let file = read(&format!("vllm-gguf/tests/fixtures/{name}.gguf"));
    let checkpoint = Checkpoint::new(&[(name, &file)]).unwrap();
    let tokenizer = vllm_gguf::tokenizer_json(&checkpoint).unwrap().to_string();
    let config = vllm_gguf::tokenizer_config_json(&checkpoint)
        .unwrap()
        .to_string();
    Tokenizer::from_files(&TokenizerFiles {
        tokenizer_json: Some(tokenizer.as_bytes()),
        tokenizer_config_json: Some(config.as_bytes()),
        ..TokenizerFiles::default()
    })
    .unwrap()
}

#[test]
fn sentence_pieces_give_the_ids_of_the_reference() {
    let tokenizer = from_gguf("pieces");
    let expected: Vec<Value> =
        serde_json::from_slice(&read("vllm-gguf/tests/fixtures/pieces.json")).unwrap();
    for case in &expected {
        let text = case["text"].as_str().unwrap();
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(tokenizer.encode(text, true).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
    }
}

#[test]
fn byte_level_vocabularies_give_the_ids_of_the_original() {
    let tokenizer = from_gguf("bytes");
    let original = Tokenizer::from_files(&TokenizerFiles {
        tokenizer_json: Some(&read("vllm-demo-model/model/tokenizer.json")),
        tokenizer_config_json: Some(&read("vllm-demo-model/model/tokenizer_config.json")),
        ..TokenizerFiles::default()
    })
    .unwrap();
    for text in [
        "The capital of France is",
        " two  spaces and\nlines\n\n",
        "Grüße, 你好, 🦀 12345",
        "<|im_start|>user\nHello<|im_end|>",
        "",
    ] {
        assert_eq!(
            tokenizer.encode(text, true).unwrap(),
            original.encode(text, true).unwrap(),
            "{text:?}"
        );
    }
}
