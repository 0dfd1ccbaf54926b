//! Loading of the recorded tokenizer folders.

#![allow(
    dead_code,
    reason = "each test program uses the part of this module that it needs"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use vllm_tokenizer::{Result, Tokenizer, TokenizerFiles};

/// Every folder that `make_fixtures.py` makes.
#[allow(
    dead_code,
    reason = "each test program uses the part of this module that it needs"
)]
pub(crate) const FOLDERS: [&str; 16] = [
    "demo",
    "opt",
    "gpt2",
    "llama",
    "mistral",
    "gemma",
    "qwen",
    "llama3",
    "neox",
    "split",
    "qwen3",
    "phi3",
    "granite",
    "olmo2",
    "stablelm",
    "sentencepiece",
];

/// The files of a recorded folder, ready to be changed before they are loaded.
#[derive(Clone, Default)]
pub(crate) struct Fixture {
    pub(crate) expected: Value,
    files: Vec<(String, Vec<u8>)>,
}

impl Fixture {
    pub(crate) fn read(name: &str) -> Self {
        let folder = fixtures().join(name);
        let expected: Value =
            serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
        let mut fixture = Self::default();
        if name == "demo" {
            for (name, bytes) in vllm_demo_model::FILES {
                fixture.set(name, bytes.to_vec());
            }
        }
        if let Some(shared) = expected["vocabulary_of"].as_str() {
            fixture.add_folder(
                &fixtures().join(shared),
                &["tokenizer.json", "vocab.json", "merges.txt"],
            );
        }
        fixture.add_folder(
            &folder,
            &[
                "tokenizer.json",
                "vocab.json",
                "merges.txt",
                "tokenizer.model",
                "tokenizer_config.json",
                "special_tokens_map.json",
                "added_tokens.json",
                "config.json",
            ],
        );
        fixture.expected = expected;
        fixture
    }

    fn add_folder(&mut self, folder: &Path, names: &[&str]) {
        for name in names {
            if let Ok(bytes) = std::fs::read(folder.join(name)) {
                self.set(name, bytes);
            }
        }
    }

    pub(crate) fn set(&mut self, name: &str, bytes: impl Into<Vec<u8>>) {
        self.remove(name);
        self.files.push((name.to_owned(), bytes.into()));
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.files.retain(|(known, _)| known != name);
    }

    pub(crate) fn get(&self, name: &str) -> Option<&[u8]> {
        self.files
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, bytes)| bytes.as_slice())
    }

    /// Changes a JSON file of the folder.
    #[allow(
        dead_code,
        reason = "each test program uses the part of this module that it needs"
    )]
    pub(crate) fn edit(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut value = self.get(name).map_or_else(
            || serde_json::json!({}),
            |bytes| serde_json::from_slice(bytes).unwrap(),
        );
        change(&mut value);
        self.set(name, value.to_string());
    }

    pub(crate) fn load(&self) -> Result<Tokenizer> {
        Tokenizer::from_files(&TokenizerFiles {
            tokenizer_json: self.get("tokenizer.json"),
            vocab_json: self.get("vocab.json"),
            merges_txt: self.get("merges.txt"),
            sentencepiece_model: self.get("tokenizer.model"),
            tokenizer_config_json: self.get("tokenizer_config.json"),
            special_tokens_map_json: self.get("special_tokens_map.json"),
            added_tokens_json: self.get("added_tokens.json"),
            chat_template_jinja: self.get("chat_template.jinja"),
            additional_chat_templates: self
                .files
                .iter()
                .filter_map(|(name, bytes)| {
                    let name = name.strip_prefix("additional_chat_templates/")?;
                    Some((name.strip_suffix(".jinja")?.to_owned(), bytes.clone()))
                })
                .collect(),
            config_json: self.get("config.json"),
        })
    }
}

/// A recorded tokenizer as it is.
#[allow(
    dead_code,
    reason = "each test program uses the part of this module that it needs"
)]
pub(crate) fn tokenizer(name: &str) -> Arc<Tokenizer> {
    Arc::new(Fixture::read(name).load().unwrap())
}

#[allow(
    dead_code,
    reason = "each test program uses the part of this module that it needs"
)]
pub(crate) fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}
