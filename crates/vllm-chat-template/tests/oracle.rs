//! Byte equality with Python's Jinja, on a corpus of chat templates and on small snippets.
//!
//! `make_expected.py` renders everything with the environment of `transformers` and writes the
//! files under `expected`.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use chrono::{NaiveDate, NaiveDateTime};
use serde_json::{Map, Value};
use vllm_chat_template::{ChatTemplate, Error, RenderInput};

fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(relative)
}

fn read_json(relative: &str) -> Value {
    let text = fs::read_to_string(path(relative))
        .unwrap_or_else(|error| panic!("{relative}: {error}; run tests/make_expected.py"));
    serde_json::from_str(&text).unwrap()
}

/// The moment that `make_expected.py` freezes.
fn now() -> NaiveDateTime {
    NaiveDate::from_ymd_opt(2024, 7, 26)
        .unwrap()
        .and_hms_opt(14, 5, 9)
        .unwrap()
}

/// Compares a rendering with what Python did; returns a description of the difference.
fn difference(rendered: Result<String, Error>, expected: &Value) -> Option<String> {
    if let Some(text) = expected["text"].as_str() {
        return match rendered {
            Ok(rendered) if rendered == text => None,
            Ok(rendered) => Some(format!("expected {text:?}\n     got {rendered:?}")),
            Err(error) => Some(format!("expected {text:?}\n   error {error}")),
        };
    }
    if let Some(raised) = expected["raised"].as_str() {
        return match rendered {
            Err(error @ Error::Raised(_)) if error.to_string() == raised => None,
            other => Some(format!(
                "expected raise_exception {raised:?}\n     got {other:?}"
            )),
        };
    }
    match rendered {
        Err(Error::Raised(_)) | Ok(_) => Some(format!("expected a failure, got {rendered:?}")),
        Err(_) => None,
    }
}

fn list<'a>(inputs: &'a Value, case: &Value, field: &str) -> Option<&'a [Value]> {
    let name = case.get(field)?.as_str()?;
    Some(inputs[name].as_array().unwrap())
}

fn render_case(template: &ChatTemplate, inputs: &Value, case: &Value) -> Result<String, Error> {
    let special_tokens = [
        ("bos", "<s>"),
        ("eos", "</s>"),
        ("pad", "<pad>"),
        ("unk", "<unk>"),
    ]
    .map(|(name, token)| (format!("{name}_token"), token.to_owned()));
    let flag = |name: &str| {
        case.get(name)
            .is_some_and(|value| value == &Value::Bool(true))
    };
    let input = RenderInput {
        messages: list(inputs, case, "conversation").unwrap(),
        tools: list(inputs, case, "tools"),
        documents: list(inputs, case, "documents"),
        add_generation_prompt: flag("add_generation_prompt"),
        continue_final_message: flag("continue_final_message"),
        kwargs: &case
            .get("kwargs")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default(),
        special_tokens: &BTreeMap::from(special_tokens),
    };
    template.render_at(&input, now())
}

#[test]
fn corpus_renders_as_python_does() {
    let cases = read_json("cases.json");
    let mut report = String::new();
    let (mut compared, mut differing) = (0, 0);
    let mut files: Vec<_> = fs::read_dir(path("corpus"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    for file in files {
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let expected = read_json(&format!("expected/{name}.json"));
        let template = match ChatTemplate::new(&fs::read_to_string(&file).unwrap()) {
            Ok(template) => template,
            Err(error) => {
                writeln!(report, "{name}: {error}").unwrap();
                continue;
            }
        };
        for (case_name, case) in cases["cases"].as_object().unwrap() {
            let expected = expected
                .get(case_name)
                .unwrap_or_else(|| panic!("{name}: no expectation for {case_name}"));
            let rendered = render_case(&template, &cases["inputs"], case);
            compared += 1;
            if let Some(difference) = difference(rendered, expected) {
                differing += 1;
                writeln!(report, "{name}, {case_name}: {difference}").unwrap();
            }
        }
    }
    assert!(
        report.is_empty(),
        "{} of {compared} cases differ:\n{report}",
        differing
    );
    assert!(compared >= 1000, "only {compared} cases were compared");
}

#[test]
fn snippets_render_as_python_does() {
    let context = read_json("snippet_context.json");
    let messages = context["messages"].as_array().unwrap();
    let mut kwargs: Map<String, Value> = context.as_object().unwrap().clone();
    kwargs.remove("messages");
    let snippets = read_json("expected/snippets.json");
    let mut report = String::new();
    let mut differing = 0;
    for snippet in snippets.as_array().unwrap() {
        let source = snippet["template"].as_str().unwrap();
        let rendered = ChatTemplate::new(source).and_then(|template| {
            let input = RenderInput {
                messages,
                tools: None,
                documents: None,
                add_generation_prompt: false,
                continue_final_message: false,
                kwargs: &kwargs,
                special_tokens: &BTreeMap::new(),
            };
            template.render_at(&input, now())
        });
        // A known difference that is gone must leave the list.
        let is_known = snippet.get("known_difference").is_some();
        match difference(rendered, snippet) {
            Some(difference) if !is_known => {
                differing += 1;
                writeln!(report, "{source}\n{difference}\n").unwrap();
            }
            None if is_known => {
                differing += 1;
                writeln!(report, "{source}\nno longer differs\n").unwrap();
            }
            _ => {}
        }
    }
    assert!(report.is_empty(), "{differing} snippets differ:\n{report}");
}
