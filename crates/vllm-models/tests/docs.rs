//! The table of supported models cannot lie: it is made from the registry and the fixtures.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use support::{Fixture, fixture_names};
use vllm_models::supported_models;

const INTRODUCTION: &str = "\
# Supported models

The architecture is the name that `architectures` in a model's `config.json` holds. The table is made
from the code; a test fails if it is out of date.

On the CPU every architecture is held to what transformers computes of small random checkpoints: all logits of
prompts of several lengths within 1e-4 in float32 and within 2 % of the largest logit in bfloat16 and
float16, whether the prompts run whole, in chunks, token by token or mixed with others; and 64 tokens
of greedy decoding in float32 without a difference. [Adding a model](adding-a-model.md) tells how to
extend it.

| architecture | models | task | checkpoints | checked against |
|---|---|---|---|---|
";

const AFTERWORD: &str = "
Checkpoints come in one file or in shards, safetensors or PyTorch's `.bin`, stored as float32, float16
or bfloat16. Rotary scalings: linear, dynamic (for a fixed length), llama3, yarn, longrope. Configs
may be those of transformers 4 or 5.
";

fn transformers_version(architecture: &str) -> String {
    let checked = fixture_names()
        .iter()
        .map(|name| Fixture::read(name).config())
        .find(|config| config.architectures[0] == architecture)
        .unwrap();
    let version = checked.raw["transformers_version"].as_str();
    format!("transformers {}", version.unwrap())
}

#[test]
fn the_table_of_models_is_up_to_date() {
    let rows: String = supported_models()
        .map(|(architecture, models)| {
            let checked = transformers_version(architecture);
            format!("| `{architecture}` | {models} | generate | safetensors, bin | {checked} |\n")
        })
        .collect();
    let expected = format!("{INTRODUCTION}{rows}{AFTERWORD}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/supported-models.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == expected,
        "docs/supported-models.md is out of date: run `UPDATE_DOCS=1 cargo test -p vllm-models \
         --test docs`"
    );
}
