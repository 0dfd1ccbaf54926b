//! Reasoning in the answers of all protocols, whole and streamed.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use vllm_openai::reasoning::reasoning_parser;
use vllm_openai::tools::{JsonCallsParser, ToolParser};
use vllm_openai::{
    ChatCompletionRequest, ChatCompletionResponse, ChatResult, ChatStream, MessagesRequest,
    MessagesResponse, MessagesStream, OutputParsers, ResponseObject, ResponsesRequest,
    ResponsesResult, ResponsesStream, SamplingDefaults,
};
use vllm_sampling::{CompletionOutput, FinishReason};

use crate::{context, events, members, output, pieces};

const TOOLS: &str = r#"[{"type": "function", "function": {"name": "f"}}]"#;
/// The tokens of a text that thinks and then calls.
const TEXTS: [&str; 9] = [
    "<think>",
    "Hm",
    ", well",
    "</think>",
    "So:",
    "<tool_call>",
    r#"{"name": "f", "arguments": {"a": 1}}"#,
    "</tool_call>",
    "",
];
const BEGIN: u32 = 1;
const END: u32 = 2;

fn parsers() -> OutputParsers {
    let parser = reasoning_parser("qwen3").expect("the parser is known");
    let parser = parser.with_vocabulary(|mark| match mark {
        "<think>" => Some(BEGIN),
        "</think>" => Some(END),
        _ => None,
    });
    let tools: Arc<dyn ToolParser> = Arc::new(JsonCallsParser::HERMES);
    OutputParsers {
        tools: Some(tools),
        reasoning: Some(parser.for_prompt("", &Map::new())),
    }
}

fn streamed() -> Vec<CompletionOutput> {
    let mut outputs = pieces(&TEXTS, FinishReason::Stop);
    outputs[0].token_ids = vec![BEGIN];
    outputs[3].token_ids = vec![END];
    outputs
}

fn whole() -> CompletionOutput {
    CompletionOutput {
        token_ids: streamed()
            .iter()
            .flat_map(|output| output.token_ids.clone())
            .collect(),
        ..output(&TEXTS.concat(), 0, Some(FinishReason::Stop))
    }
}

fn chat_request(fields: &str) -> ChatCompletionRequest {
    let body = format!(r#"{{"messages": [], "tools": {TOOLS}, {fields}}}"#);
    ChatCompletionRequest::from_body(&members(&body)).expect("the request is valid")
}

fn chat_result(outputs: &[CompletionOutput]) -> ChatResult<'_> {
    ChatResult {
        prompt_text: None,
        prompt_token_ids: &[7, 8],
        prompt_logprobs: None,
        echo_text: None,
        outputs,
        num_cached_tokens: 0,
    }
}

fn chat_answer(fields: &str) -> Value {
    let outputs = [whole()];
    let result = chat_result(&outputs);
    let request = chat_request(fields);
    let answer = ChatCompletionResponse::new(&request, &context("i", 0), &result, &parsers());
    serde_json::to_value(answer.expect("no output failed")).expect("answers serialize")
}

/// The deltas of a chat stream and the data of its usage chunk.
fn chat_stream(fields: &str) -> (Vec<Value>, Value) {
    let fields =
        format!(r#""stream": true, "stream_options": {{"include_usage": true}}, {fields}"#);
    let ids = Arc::from([7, 8]);
    let mut stream = ChatStream::new(chat_request(&fields), context("i", 0), ids, &parsers());
    let mut frames = Vec::new();
    for output in streamed() {
        stream
            .push(&[output], &mut frames)
            .expect("no output failed");
    }
    stream.finish(&mut frames);
    let text = String::from_utf8(frames).expect("frames are text");
    let mut chunks: Vec<Value> = text
        .split("\n\n")
        .filter_map(|frame| serde_json::from_str(frame.strip_prefix("data: ")?).ok())
        .collect();
    let usage = chunks.pop().expect("a usage chunk");
    let deltas = chunks
        .iter_mut()
        .map(|chunk| chunk["choices"][0]["delta"].take());
    (deltas.collect(), usage)
}

#[test]
fn chat_tells_reasoning_from_the_answer() {
    let answer = chat_answer(r#""user": "u""#);
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["reasoning"], "Hm, well");
    assert_eq!(message["content"], "So:");
    assert_eq!(
        message["tool_calls"][0]["function"]["arguments"],
        r#"{"a": 1}"#
    );
    let details = json!({"reasoning_tokens": 2});
    assert_eq!(answer["usage"]["completion_tokens_details"], details);

    let (deltas, usage) = chat_stream(r#""user": "u""#);
    assert_eq!(deltas[1], json!({"reasoning": "Hm"}));
    assert_eq!(deltas[2], json!({"reasoning": ", well"}));
    assert_eq!(deltas[3], json!({"content": "So:"}));
    assert_eq!(deltas[4]["tool_calls"][0]["function"]["name"], "f");
    assert_eq!(usage["usage"]["completion_tokens_details"], details);
}

#[test]
fn reasoning_can_be_left_out() {
    let fields = r#""include_reasoning": false"#;
    let answer = chat_answer(fields);
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["reasoning"], Value::Null);
    assert_eq!(message["content"], "So:");
    let (deltas, _) = chat_stream(fields);
    assert_eq!(deltas[1], json!({"content": "So:"}));
}

#[test]
fn an_answer_cut_off_while_thinking_has_no_content() {
    let outputs = [output("<think>Hm", 2, Some(FinishReason::Length))];
    let result = chat_result(&outputs);
    let request = chat_request(r#""user": "u""#);
    let answer = ChatCompletionResponse::new(&request, &context("i", 0), &result, &parsers());
    let answer = serde_json::to_value(answer.expect("no output failed")).expect("JSON");
    assert_eq!(answer["choices"][0]["message"]["content"], Value::Null);
    assert_eq!(answer["choices"][0]["message"]["reasoning"], "Hm");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}

#[test]
fn constraints_leave_room_for_reasoning() {
    let request =
        chat_request(r#""response_format": {"type": "json_object"}, "tool_choice": "none""#);
    let params = request.sampling_params(9, &SamplingDefaults::default(), 2048, &parsers());
    let constraint = params
        .expect("valid")
        .structured_outputs
        .expect("a constraint");
    let tag: Value =
        serde_json::from_str(&constraint.structural_tag.expect("a tag")).expect("JSON");
    let elements = &tag["format"]["elements"];
    assert_eq!(elements[0]["end"], json!(["</think>"]));
    assert_eq!(elements[1]["type"], "json_schema");
}

#[test]
fn messages_show_thinking_blocks() {
    let body = r#"{"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "a"}],
                   "tools": [{"name": "f", "input_schema": {}}]}"#;
    let request = MessagesRequest::from_body(&members(body)).expect("the request is valid");
    let request = request.to_chat("none").expect("the request is valid");
    let outputs = [whole()];
    let result = chat_result(&outputs);
    let answer = MessagesResponse::new(&request, &context("i", 0), &result, &parsers());
    let answer = serde_json::to_value(answer.expect("no output failed")).expect("JSON");
    let content = answer["content"].as_array().expect("blocks");
    let kinds: Vec<&str> = content
        .iter()
        .filter_map(|block| block["type"].as_str())
        .collect();
    assert_eq!(kinds, ["thinking", "text", "tool_use"]);
    assert_eq!(content[0]["thinking"], "Hm, well");
    assert_eq!(content[0]["signature"].as_str().map(str::len), Some(16));

    let mut stream = MessagesStream::new(&request, context("i", 0), 2, &parsers());
    let mut frames = Vec::new();
    stream
        .push(&streamed(), &mut frames)
        .expect("no output failed");
    stream.finish(&mut frames);
    let events = events(&frames);
    let told: Vec<&Value> = events.iter().map(|(_, data)| data).collect();
    let start = json!({"type": "thinking", "thinking": ""});
    assert_eq!(told[1]["content_block"], start);
    assert_eq!(
        told[2]["delta"],
        json!({"type": "thinking_delta", "thinking": "Hm"})
    );
    assert_eq!(told[4]["delta"]["type"], "signature_delta");
    assert_eq!(told[5]["type"], "content_block_stop");
    assert_eq!(told[6]["content_block"]["type"], "text");
}

#[test]
fn responses_have_reasoning_items() {
    let body = r#"{"input": "a", "tools": [{"type": "function", "name": "f", "parameters": {}}]}"#;
    let request = ResponsesRequest::from_body(&members(body)).expect("the request is valid");
    let params = request.sampling_params(9, &SamplingDefaults::default(), 2048, &parsers());
    let context = context("i", 0);
    let response = ResponseObject::new(&request, &context, &params.expect("valid"));
    let result = ResponsesResult {
        prompt_text: "",
        prompt_token_ids: &[7, 8],
        output: &whole(),
        num_cached_tokens: 0,
    };
    let answer = response
        .clone()
        .complete(&request, &context, &result, &parsers());
    let answer = serde_json::to_value(answer.expect("no output failed")).expect("JSON");
    let items = answer["output"].as_array().expect("items");
    let kinds: Vec<&str> = items
        .iter()
        .filter_map(|item| item["type"].as_str())
        .collect();
    assert_eq!(kinds, ["reasoning", "message", "function_call"]);
    let content = json!([{"text": "Hm, well", "type": "reasoning_text"}]);
    assert_eq!(items[0]["content"], content);
    assert_eq!(
        answer["usage"]["output_tokens_details"]["reasoning_tokens"],
        2
    );

    let (text, ids) = (String::new(), Arc::from([7, 8]));
    let mut stream = ResponsesStream::new(request, context, response, text, ids, &parsers());
    let mut frames = Vec::new();
    stream
        .push(&streamed(), &mut frames)
        .expect("no output failed");
    stream.finish(&mut frames);
    let events = events(&frames);
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names[2..9],
        [
            "response.output_item.added",
            "response.reasoning_part.added",
            "response.reasoning_text.delta",
            "response.reasoning_text.delta",
            "response.reasoning_text.done",
            "response.reasoning_part.done",
            "response.output_item.done",
        ]
    );
    let (_, last) = events.last().expect("events");
    assert_eq!(last["response"]["output"][0]["content"], content);
    assert_eq!(last["response"]["usage"], answer["usage"]);
}
