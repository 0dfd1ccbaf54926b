//! The Responses and the Messages protocols: recorded answers of the Python server, refusals,
//! conversions and streams.

mod messages;
mod reasoning;
mod responses;
mod responses_requests;

use serde_json::Value;
use vllm_openai::{ResponseContext, decode, parse_body};
use vllm_sampling::{CompletionOutput, FinishReason};

fn members(body: &str) -> decode::Dict {
    parse_body(Some("application/json"), body.as_bytes()).expect("test bodies are JSON objects")
}

fn context(id: &str, created: u64) -> ResponseContext {
    ResponseContext {
        id: id.to_owned(),
        created,
        model: "demo-opt".to_owned(),
        ..ResponseContext::default()
    }
}

/// A recorded case with its exact floats and its order of members.
fn recorded(name: &str) -> Value {
    let parse = |line: &str| decode::json::parse(line.as_bytes()).expect("fixtures are JSON");
    let mut cases = include_str!("../data/other_protocols.jsonl")
        .lines()
        .map(|line| parse(line).to_json());
    cases
        .find(|case| case["name"] == name)
        .unwrap_or_else(|| panic!("no fixture {name}"))
}

fn body_of(case: &Value) -> decode::Dict {
    members(case["body"].as_str().expect("bodies are text"))
}

fn output(text: &str, tokens: usize, finish_reason: Option<FinishReason>) -> CompletionOutput {
    CompletionOutput {
        text: text.to_owned(),
        token_ids: vec![7; tokens],
        finish_reason,
        ..CompletionOutput::default()
    }
}

/// The pieces of a text as the engine would send them, one token each.
fn pieces(texts: &[&str], finish_reason: FinishReason) -> Vec<CompletionOutput> {
    let last = texts.len() - 1;
    let piece = |(index, text): (usize, &&str)| {
        let reason = (index == last).then_some(finish_reason);
        output(text, 1, reason)
    };
    texts.iter().enumerate().map(piece).collect()
}

/// The events of a stream: their names and their data.
fn events(frames: &[u8]) -> Vec<(String, Value)> {
    let text = std::str::from_utf8(frames).expect("frames are text");
    assert!(text.ends_with("\n\n"));
    let frames = text.trim_end_matches("\n\n").split("\n\n");
    frames
        .map(|frame| {
            let (name, data) = frame.split_once('\n').expect("an event and its data");
            let name = name.strip_prefix("event: ").expect("events have names");
            let data = data.strip_prefix("data: ").expect("events have data");
            let data: Value = serde_json::from_str(data).expect("data is JSON");
            assert_eq!(data["type"], name);
            (name.to_owned(), data)
        })
        .collect()
}

/// Replaces the random digits of ids.
fn without_ids(json: &Value) -> String {
    const DIGITS: usize = 16;
    let mut text = json.to_string();
    for prefix in ["\"msg_", "\"fc_", "\"chatcmpl-tool-"] {
        let mut done = 0;
        while let Some(found) = text[done..].find(prefix) {
            let start = done + found + prefix.len();
            text.replace_range(start..start + DIGITS, "ID");
            done = start;
        }
    }
    text
}
