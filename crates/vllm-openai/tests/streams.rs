//! Recorded streams of the Python server: fed with the same pieces, ours must send the same
//! chunks, member for member and in the same order.

use std::sync::Arc;

use serde_json::Value;
use vllm_openai::tools::tool_parser;
use vllm_openai::{
    ChatCompletionRequest, ChatStream, CompletionRequest, CompletionStream, ErrorResponse,
    OutputParsers, ResponseContext, StreamPrompt, decode, parse_body, push_error,
};
use vllm_sampling::{CompletionOutput, DecodedLogprob, FinishReason, PositionLogprobs, StopReason};

const PROMPT: &str = "San Francisco is a";
const PROMPT_IDS: [u32; 5] = [2, 524, 484, 277, 270];

fn recorded(name: &str) -> Value {
    // Unlike serde_json's default, this parser reads every float exactly.
    let parse = |line: &str| decode::json::parse(line.as_bytes()).expect("fixtures are JSON");
    let mut cases = include_str!("data/streams.jsonl")
        .lines()
        .map(|line| parse(line).to_json());
    cases
        .find(|case| case["name"] == name)
        .unwrap_or_else(|| panic!("no fixture {name}"))
}

/// The head that the recorded server put on its chunks.
fn context_of(case: &Value) -> ResponseContext {
    let events = case["events"].as_array().expect("events are a list");
    let fingerprint = events
        .iter()
        .find_map(|event| event["system_fingerprint"].as_str());
    ResponseContext {
        id: events[0]["id"]
            .as_str()
            .expect("chunks have an id")
            .to_owned(),
        created: events[0]["created"].as_u64().expect("chunks have a time"),
        model: "demo-opt".to_owned(),
        system_fingerprint: fingerprint.map(str::to_owned),
        ..ResponseContext::default()
    }
}

fn entry(token: &str, logprob: &Value) -> DecodedLogprob {
    DecodedLogprob {
        token_id: 0,
        logprob: logprob.as_f64().expect("logprobs are numbers") as f32,
        rank: 1,
        decoded_token: token.to_owned(),
    }
}

fn recorded_logprobs(logprobs: &Value) -> Option<Vec<PositionLogprobs>> {
    if let Some(content) = logprobs["content"].as_array() {
        let token = |token: &Value| entry(token["token"].as_str().unwrap_or(""), &token["logprob"]);
        return Some(content.iter().map(|chosen| vec![token(chosen)]).collect());
    }
    let tops = logprobs["top_logprobs"].as_array()?;
    let position = |top: &Value| {
        let members = top.as_object().expect("tables are objects");
        members
            .iter()
            .map(|(token, logprob)| entry(token, logprob))
            .collect()
    };
    Some(tops.iter().map(position).collect())
}

/// The engine's output behind one recorded chunk.
fn output_of(choice: &Value) -> CompletionOutput {
    let text = choice["text"]
        .as_str()
        .or(choice["delta"]["content"].as_str());
    CompletionOutput {
        text: text.unwrap_or_default().to_owned(),
        token_ids: vec![7],
        logprobs: recorded_logprobs(&choice["logprobs"]),
        finish_reason: match choice["finish_reason"].as_str() {
            Some("length") => Some(FinishReason::Length),
            Some(_) => Some(FinishReason::Stop),
            None => None,
        },
        stop_reason: choice["stop_reason"]
            .as_u64()
            .map(|id| StopReason::TokenId(id as u32)),
        ..CompletionOutput::default()
    }
}

fn outputs_of(case: &Value) -> Vec<CompletionOutput> {
    let events = case["events"].as_array().expect("events are a list");
    let choices = events.iter().filter_map(|event| event["choices"].get(0));
    choices
        .filter(|choice| choice["delta"].get("role").is_none())
        .map(output_of)
        .collect()
}

/// Frames back to payloads; ids of tool calls are made alike.
fn payloads(frames: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(frames).expect("frames are text");
    assert!(text.ends_with("\n\n"));
    let blocks = text.trim_end_matches("\n\n").split("\n\n");
    blocks
        .map(|block| without_tool_ids(block.strip_prefix("data: ").expect("data frames")))
        .collect()
}

fn without_tool_ids(payload: &str) -> String {
    const MARK: &str = "chatcmpl-tool-";
    match payload.find(MARK) {
        Some(start) => {
            let id_end = start + MARK.len() + 16;
            format!(
                "{}ID{}",
                &payload[..start],
                without_tool_ids(&payload[id_end..])
            )
        }
        None => payload.to_owned(),
    }
}

fn expected(case: &Value) -> Vec<String> {
    let events = case["events"].as_array().expect("events are a list");
    let payload = |event: &Value| match event {
        Value::String(done) => done.clone(),
        chunk => without_tool_ids(&chunk.to_string()),
    };
    events.iter().map(payload).collect()
}

#[track_caller]
fn check_completion(name: &str, outputs: Option<Vec<CompletionOutput>>) {
    let case = recorded(name);
    let body = case["body"].as_str().expect("bodies are text");
    let members = parse_body(Some("application/json"), body.as_bytes()).expect("recorded bodies");
    let request = CompletionRequest::from_body(&members).expect("recorded requests");
    let prompt = StreamPrompt {
        text: Some(PROMPT.to_owned()),
        token_ids: Arc::from(PROMPT_IDS),
        first_token: "</s>".to_owned(),
    };
    let mut stream = CompletionStream::new(request, context_of(&case), vec![prompt]);
    let mut frames = Vec::new();
    for output in outputs.unwrap_or_else(|| outputs_of(&case)) {
        stream
            .push(0, None, &[output], &mut frames)
            .expect("no output failed");
    }
    stream.finish(&mut frames);
    assert_eq!(payloads(&frames), expected(&case));
}

fn chat_stream(case: &Value, parsers: &OutputParsers) -> ChatStream {
    let body = case["body"].as_str().expect("bodies are text");
    let members = parse_body(Some("application/json"), body.as_bytes()).expect("recorded bodies");
    let request = ChatCompletionRequest::from_body(&members).expect("recorded requests");
    ChatStream::new(request, context_of(case), Arc::from([0; 15]), parsers)
}

#[track_caller]
fn check_chat(name: &str, outputs: Option<Vec<CompletionOutput>>) {
    let case = recorded(name);
    let parser = tool_parser("hermes").expect("hermes is known");
    let mut stream = chat_stream(&case, &OutputParsers::of_tools(parser));
    let mut frames = Vec::new();
    for output in outputs.unwrap_or_else(|| outputs_of(&case)) {
        stream
            .push(&[output], &mut frames)
            .expect("no output failed");
    }
    stream.finish(&mut frames);
    assert_eq!(payloads(&frames), expected(&case));
}

#[test]
fn completion_streams_are_repeated() {
    check_completion("completions/stream", None);
    check_completion("completions/stream-usage", None);
    check_completion("completions/stream-continuous-usage", None);
    check_completion("completions/stream-logprobs", None);
}

#[test]
fn an_echoed_prompt_comes_with_the_first_chunk() {
    let mut outputs = outputs_of(&recorded("completions/stream-echo"));
    outputs[0].text = outputs[0].text.replacen(PROMPT, "", 1);
    check_completion("completions/stream-echo", Some(outputs));
}

#[test]
fn chat_streams_are_repeated() {
    check_chat("chat/stream-usage", None);
    check_chat("chat/stream-logprobs", None);
}

#[test]
fn tool_calls_are_streamed_as_they_are_written() {
    let pieces = [
        "<tool_call>",
        "\n",
        "{\"",
        "name",
        "\":",
        " \"",
        "get_weather",
        "\",",
        " \"",
        "arguments",
        "\":",
        " ",
        "{\"",
        "city",
        "\":",
        " \"",
        "Rome",
        "\"}}",
        "\n",
        "</tool_call>",
    ];
    let output = |text: &str| CompletionOutput {
        text: text.to_owned(),
        token_ids: vec![7],
        ..CompletionOutput::default()
    };
    let mut outputs: Vec<CompletionOutput> = pieces.iter().map(|piece| output(piece)).collect();
    outputs.push(CompletionOutput {
        finish_reason: Some(FinishReason::Stop),
        stop_reason: Some(StopReason::TokenId(5)),
        ..output("")
    });
    check_chat("chat/tools-stream", Some(outputs));
}

#[test]
fn without_a_parser_every_token_gives_a_chunk() {
    let case = recorded("chat/stream-usage");
    let mut stream = chat_stream(&case, &OutputParsers::default());
    let mut frames = Vec::new();
    let output = CompletionOutput {
        token_ids: vec![7],
        finish_reason: Some(FinishReason::Stop),
        ..CompletionOutput::default()
    };
    stream
        .push(&[output], &mut frames)
        .expect("no output failed");
    let last = payloads(&frames).pop().expect("there are chunks");
    assert!(last.contains(r#""delta":{"content":""},"logprobs":null,"finish_reason":"stop""#));
}

#[test]
fn a_failure_ends_the_stream_with_an_error_frame() {
    let case = recorded("chat/stream-usage");
    let mut stream = chat_stream(&case, &OutputParsers::default());
    let mut frames = Vec::new();
    let output = CompletionOutput {
        finish_reason: Some(FinishReason::Error),
        ..CompletionOutput::default()
    };
    let error = stream
        .push(&[output], &mut frames)
        .expect_err("the output failed");
    assert_eq!(error, ErrorResponse::internal());
    push_error(&mut frames, &error);
    let payloads = payloads(&frames);
    assert_eq!(payloads[payloads.len() - 1], "[DONE]");
    assert_eq!(
        payloads[payloads.len() - 2],
        r#"{"error": {"message": "Internal server error", "type": "InternalServerError", "param": null, "code": 500}}"#
    );
}

/// A chat stream for a body of `fields` beside the messages, fed with texts of one token each;
/// the last one ends with `reason`.
fn chat_payloads(fields: &str, texts: &[&str], reason: FinishReason) -> Vec<String> {
    let body = format!(
        r#"{{"messages": [{{"role": "user", "content": "a"}}], "stream": true, {fields}}}"#
    );
    let members = parse_body(Some("application/json"), body.as_bytes()).expect("bodies are JSON");
    let request = ChatCompletionRequest::from_body(&members).expect("requests are valid");
    let parser = tool_parser("hermes").expect("hermes is known");
    let context = ResponseContext {
        id: "i".to_owned(),
        ..ResponseContext::default()
    };
    let mut stream = ChatStream::new(
        request,
        context,
        Arc::from([1, 2]),
        &OutputParsers::of_tools(parser),
    );
    let mut frames = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let output = CompletionOutput {
            text: (*text).to_owned(),
            token_ids: vec![7],
            finish_reason: (index + 1 == texts.len()).then_some(reason),
            ..CompletionOutput::default()
        };
        stream
            .push(&[output], &mut frames)
            .expect("no output failed");
    }
    stream.finish(&mut frames);
    payloads(&frames)
}

#[test]
fn continuous_usage_stands_on_every_chat_chunk() {
    let options = r#""stream_options": {"include_usage": true, "continuous_usage_stats": true}"#;
    let payloads = chat_payloads(options, &["a", "b"], FinishReason::Stop);
    let usage = |completion: usize, tail: &str| {
        let total = completion + 2;
        format!(
            r#""usage":{{"prompt_tokens":2,"total_tokens":{total},"completion_tokens":{completion}{tail}}}"#
        )
    };
    const EMPTY_DETAIL: &str = r#","completion_tokens_details":null"#;
    for (payload, completion) in payloads.iter().zip(0..3) {
        assert!(
            payload.contains(&usage(completion, EMPTY_DETAIL)),
            "{payload}"
        );
    }
    assert!(
        payloads[3].contains(&format!(r#""choices":[],{}"#, usage(2, ""))),
        "{}",
        payloads[3]
    );
}

const TOOLS: &str = r#""tools": [{"type": "function", "function": {"name": "f"}}]"#;
const CALLS: [&str; 3] = [
    r#"<tool_call>{"name": "f", "arguments": {}}</tool_call>"#,
    r#"<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>"#,
    "",
];

#[test]
fn calls_that_were_cut_off_end_with_length() {
    let last_reason = |fields: &str, reason| {
        let payloads = chat_payloads(fields, &CALLS, reason);
        let start = payloads[payloads.len() - 2]
            .split(r#""finish_reason":""#)
            .nth(1);
        start
            .and_then(|rest| rest.split('"').next())
            .map(str::to_owned)
    };
    assert_eq!(
        last_reason(TOOLS, FinishReason::Stop).as_deref(),
        Some("tool_calls")
    );
    assert_eq!(
        last_reason(TOOLS, FinishReason::Length).as_deref(),
        Some("length")
    );
    let none = format!(r#"{TOOLS}, "tool_choice": "none""#);
    assert_eq!(
        last_reason(&none, FinishReason::Stop).as_deref(),
        Some("stop")
    );
    let named =
        format!(r#"{TOOLS}, "tool_choice": {{"type": "function", "function": {{"name": "f"}}}}"#);
    assert_eq!(
        last_reason(&named, FinishReason::Stop).as_deref(),
        Some("stop")
    );
}

#[test]
fn only_the_first_call_is_kept_without_parallel_calls() {
    let count = |fields: &str| {
        let payloads = chat_payloads(fields, &CALLS, FinishReason::Stop);
        payloads
            .iter()
            .filter(|payload| payload.contains(r#""name":"f""#))
            .count()
    };
    assert_eq!(count(TOOLS), 2);
    assert_eq!(
        count(&format!(r#"{TOOLS}, "parallel_tool_calls": false"#)),
        1
    );
}

#[test]
fn a_call_in_one_piece_is_one_entry() {
    let payloads = chat_payloads(TOOLS, &[CALLS[1]], FinishReason::Stop);
    let entry = r#""delta":{"content":null,"tool_calls":[{"id":"ID","type":"function","index":0,"function":{"name":"f","arguments":"{\"a\": 1}"}}]}"#;
    assert!(payloads[1].contains(entry), "{}", payloads[1]);
}
