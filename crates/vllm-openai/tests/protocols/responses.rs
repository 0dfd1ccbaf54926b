//! `/v1/responses`: answers and streams.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use vllm_openai::tools::{JsonCallsParser, tool_parser};
use vllm_openai::{
    ErrorResponse, LengthLimits, OutputParsers, ResponseObject, ResponsesRequest, ResponsesResult,
    ResponsesStream, SamplingDefaults, check_model, effective_max_tokens,
};
use vllm_sampling::{CompletionOutput, DecodedLogprob, FinishReason, SamplingParams};

use crate::{body_of, context, events, members, output, pieces, recorded, without_ids};

pub(crate) const MAX_MODEL_LEN: usize = 512;
pub(crate) const PROMPT: [u32; 16] = [3; 16];

pub(crate) const TOOLS: &str = r#""tools": [{"type": "function", "name": "f", "description": "d",
    "parameters": {"type": "object"}, "strict": true}, {"type": "web_search"}]"#;

pub(crate) fn request(body: &str) -> ResponsesRequest {
    ResponsesRequest::from_body(&members(body)).expect("test requests are valid")
}

pub(crate) fn params(request: &ResponsesRequest) -> Result<SamplingParams, ErrorResponse> {
    let limits = LengthLimits {
        max_model_len: MAX_MODEL_LEN,
        ..LengthLimits::default()
    };
    let max_tokens = effective_max_tokens(request.max_output_tokens, PROMPT.len(), limits);
    let defaults = SamplingDefaults {
        top_p: Some(0.9),
        ..SamplingDefaults::default()
    };
    request.sampling_params(
        max_tokens,
        &defaults,
        2048,
        &OutputParsers::of_tools(Arc::new(JsonCallsParser::HERMES)),
    )
}

fn initial(request: &ResponsesRequest) -> ResponseObject {
    let params = params(request).expect("test requests are valid");
    ResponseObject::new(request, &context("", 7), &params)
}

fn complete(request: &ResponsesRequest, output: &CompletionOutput) -> Value {
    let parser = tool_parser("hermes").expect("hermes is known");
    let result = ResponsesResult {
        prompt_text: "the prompt",
        prompt_token_ids: &PROMPT,
        output,
        num_cached_tokens: 2,
    };
    let built = initial(request).complete(
        request,
        &context("", 7),
        &result,
        &OutputParsers::of_tools(parser),
    );
    serde_json::to_value(built.expect("no output failed")).expect("responses serialize")
}

fn stream(request: &ResponsesRequest, outputs: &[CompletionOutput]) -> Vec<(String, Value)> {
    let parser = tool_parser("hermes").expect("hermes is known");
    let mut stream = ResponsesStream::new(
        request.clone(),
        context("", 7),
        initial(request),
        "the prompt".to_owned(),
        Arc::from(PROMPT),
        &OutputParsers::of_tools(parser),
    );
    stream.set_cached_tokens(2);
    let mut frames = Vec::new();
    for output in outputs {
        stream
            .push(std::slice::from_ref(output), &mut frames)
            .expect("no output failed");
    }
    stream.finish(&mut frames);
    events(&frames)
}

/// What the recorded server was given, so that heads agree.
fn recorded_request(case: &Value, head: &Value) -> (ResponsesRequest, ResponseObject) {
    let mut request = ResponsesRequest::from_body(&body_of(case)).expect("recorded requests");
    request.options.request_id = head["id"].as_str().expect("an id").to_owned();
    let params = request
        .sampling_params(
            24,
            &SamplingDefaults::default(),
            2048,
            &OutputParsers::of_tools(Arc::new(JsonCallsParser::HERMES)),
        )
        .expect("recorded requests");
    let created = head["created_at"].as_u64().expect("a time");
    let response = ResponseObject::new(&request, &context("", created), &params);
    (request, response)
}

#[test]
fn recorded_answers_are_repeated() {
    for name in ["responses/basic", "responses/list-input"] {
        let case = recorded(name);
        let answer = &case["json"];
        let (request, response) = recorded_request(&case, answer);
        let output = output(
            "The capital of France is Paris.",
            8,
            Some(FinishReason::Stop),
        );
        let result = ResponsesResult {
            prompt_text: "",
            prompt_token_ids: &PROMPT,
            output: &output,
            num_cached_tokens: 0,
        };
        let built = response
            .complete(
                &request,
                &context("", 0),
                &result,
                &OutputParsers::default(),
            )
            .expect("no output failed");
        let built = serde_json::to_value(&built).expect("responses serialize");
        assert_eq!(without_ids(&built), without_ids(answer), "{name}");
    }
}

#[test]
fn the_recorded_refusal_is_repeated() {
    let case = recorded("responses/unknown-model");
    let request = ResponsesRequest::from_body(&body_of(&case)).expect("recorded requests");
    let served = ["demo-opt".to_owned(), "facebook/demo".to_owned()];
    let refused = check_model(request.options.model.as_deref(), &served);
    let refused = refused.expect_err("the model is not served");
    assert_eq!(refused.to_json(), case["json"].to_string());
}

#[test]
fn the_recorded_stream_is_repeated() {
    let case = recorded("responses/stream");
    let expected = case["events"].as_array().expect("events are a list");
    let (request, response) = recorded_request(&case, &expected[0]["data"]["response"]);
    let mut stream = ResponsesStream::new(
        request,
        context("", 0),
        response,
        String::new(),
        Arc::from(PROMPT),
        &OutputParsers::default(),
    );
    let mut frames = Vec::new();
    let texts = [
        "The",
        "",
        " capital of France is Paris",
        "",
        "",
        "",
        ".",
        "",
    ];
    let outputs = pieces(&texts, FinishReason::Stop);
    stream
        .push(&outputs, &mut frames)
        .expect("no output failed");
    assert_eq!(stream.usage().total_tokens, 24);
    stream.finish(&mut frames);
    let sent: Vec<String> = events(&frames)
        .iter()
        .map(|(_, data)| without_ids(data))
        .collect();
    let expected: Vec<String> = expected
        .iter()
        .map(|event| without_ids(&event["data"]))
        .collect();
    assert_eq!(sent, expected);
}

#[test]
fn the_answer_repeats_the_request_with_effective_values() {
    let answer = complete(
        &request(&format!(
            r#"{{"input": "a", {TOOLS}, "instructions": "i", "metadata": {{"k": "v"}}, "user": "u",
                "service_tier": "flex", "max_tool_calls": 3, "store": true,
                "reasoning": {{"effort": "none"}}, "text": {{"verbosity": "low"}}}}"#
        )),
        &output("x", 2, Some(FinishReason::Length)),
    );
    let expected = [
        ("status", json!("incomplete")),
        ("incomplete_details", json!({"reason": "max_output_tokens"})),
        ("instructions", json!("i")),
        ("metadata", json!({"k": "v"})),
        ("user", json!("u")),
        ("service_tier", json!("flex")),
        ("max_tool_calls", json!(3)),
        ("tool_choice", json!("auto")),
        (
            "tools",
            json!([
                {"name": "f", "parameters": {"type": "object"}, "strict": true, "type": "function",
                 "defer_loading": null, "description": "d"},
                {"type": "web_search"}
            ]),
        ),
        (
            "reasoning",
            json!({"effort": "none", "generate_summary": null, "summary": null}),
        ),
        ("text", json!({"format": null, "verbosity": "low"})),
        ("temperature", json!(1.0)),
        ("top_p", json!(0.9)),
        ("max_output_tokens", json!(496)),
        ("top_logprobs", json!(null)),
    ];
    for (name, value) in expected {
        assert_eq!(answer[name], value, "{name}");
    }
    assert_eq!(answer["usage"]["input_tokens_details"]["cached_tokens"], 2);
}

#[test]
fn calls_and_text_are_items_of_their_own() {
    const TEXT: &str = "Sure.<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}</tool_call>\
                        <tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
    let items = |fields: &str| {
        let request = request(&format!(r#"{{"input": "a", {TOOLS}{fields}}}"#));
        let answer = complete(&request, &output(TEXT, 9, Some(FinishReason::Stop)));
        without_ids(&answer["output"])
    };
    let text = r#"{"id":"msg_ID","content":[{"annotations":[],"text":"Sure.","type":"output_text","logprobs":null}],"role":"assistant","status":"completed","type":"message","phase":null}"#;
    let call = |arguments: &str| {
        format!(
            r#"{{"arguments":"{arguments}","call_id":"chatcmpl-tool-ID","name":"f","type":"function_call","id":"fc_ID","namespace":null,"status":"completed"}}"#
        )
    };
    let first = call(r#"{\"a\": 1}"#);
    assert_eq!(items(""), format!("[{text},{first},{}]", call("{}")));
    assert_eq!(
        items(r#", "parallel_tool_calls": false"#),
        format!("[{text},{first}]")
    );
    let plain = complete(
        &request(r#"{"input": "a"}"#),
        &output(TEXT, 9, Some(FinishReason::Stop)),
    );
    assert_eq!(plain["output"][0]["content"][0]["text"], TEXT);
    let nothing = complete(
        &request(r#"{"input": "a"}"#),
        &output("", 1, Some(FinishReason::Stop)),
    );
    assert_eq!(nothing["output"], json!([]));
}

#[test]
fn a_stream_of_a_call_has_its_events() {
    let request = request(&format!(r#"{{"input": "a", {TOOLS}, "stream": true}}"#));
    let texts = [
        "Hi",
        "<tool_call>",
        "{\"name\": \"f\", \"arguments\": {\"a\":",
        " 1}}",
        "</tool_call>",
    ];
    let events = stream(&request, &pieces(&texts, FinishReason::Stop));
    let mut names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    names.dedup();
    assert_eq!(
        names,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    let numbers: Vec<u64> = events
        .iter()
        .filter_map(|(_, data)| data["sequence_number"].as_u64())
        .collect();
    let expected: Vec<u64> = (0..events.len() as u64).collect();
    assert_eq!(numbers, expected);
    let done = events
        .iter()
        .find(|(name, _)| name == "response.function_call_arguments.done");
    let (_, done) = done.expect("the call ends");
    assert_eq!(
        (&done["arguments"], &done["name"], &done["output_index"]),
        (&json!("{\"a\": 1}"), &json!("f"), &json!(1))
    );
    let (_, completed) = events.last().expect("the stream ends");
    assert_eq!(completed["response"]["output"][1]["id"], done["item_id"]);
}

#[test]
fn an_incomplete_stream_is_completed_too() {
    let request = request(r#"{"input": "a", "stream": true, "enable_response_messages": true}"#);
    let events = stream(&request, &pieces(&["x", "y"], FinishReason::Length));
    let (name, data) = events.last().expect("the stream ends");
    assert_eq!(name, "response.completed");
    let response = &data["response"];
    assert_eq!(response["status"], "incomplete");
    assert_eq!(
        response["input_messages"],
        json!([{"message": "the prompt", "tokens": PROMPT, "type": "raw_message_tokens"}])
    );
    assert_eq!(
        response["output_messages"],
        json!([{"message": "xy", "tokens": [7, 7], "type": "raw_message_tokens"}])
    );
}

#[test]
fn a_failed_output_ends_the_stream_without_an_event() {
    let request = request(r#"{"input": "a", "stream": true}"#);
    let response = initial(&request);
    let ids = Arc::from(PROMPT);
    let context = context("", 7);
    let mut stream = ResponsesStream::new(
        request,
        context,
        response,
        String::new(),
        ids,
        &OutputParsers::default(),
    );
    let mut frames = Vec::new();
    let failed = output("", 0, Some(FinishReason::Error));
    let outcome = stream.push(&[failed], &mut frames);
    assert_eq!(outcome, Err(ErrorResponse::internal()));
    assert!(frames.is_empty());
}

#[test]
fn logprobs_come_with_the_text() {
    let body = |stream: bool| {
        format!(
            r#"{{"input": "a", "include": ["message.output_text.logprobs"], "top_logprobs": 1,
                "stream": {stream}}}"#
        )
    };
    let entry = |text: &str, logprob: f32| DecodedLogprob {
        token_id: 1,
        logprob,
        rank: 1,
        decoded_token: text.to_owned(),
    };
    let output = |text: &str, reason| CompletionOutput {
        logprobs: Some(vec![vec![entry(text, -0.5), entry("z", f32::NEG_INFINITY)]]),
        ..output(text, 1, reason)
    };
    let whole = complete(
        &request(&body(false)),
        &output("é", Some(FinishReason::Stop)),
    );
    assert_eq!(whole["top_logprobs"], 1);
    assert_eq!(
        whole["output"][0]["content"][0]["logprobs"].to_string(),
        r#"[{"token":"é","bytes":[195,169],"logprob":-0.5,"top_logprobs":[{"token":"é","bytes":[195,169],"logprob":-0.5}]}]"#
    );
    // The first token has no text of its own yet.
    let outputs = [
        CompletionOutput {
            text: String::new(),
            ..output("b", None)
        },
        output("c", Some(FinishReason::Stop)),
    ];
    let events = stream(&request(&body(true)), &outputs);
    let data = |wanted: &str| {
        let found = events.iter().find(|(name, _)| name == wanted);
        &found.unwrap_or_else(|| panic!("no event {wanted}")).1
    };
    const BOTH: &str = r#"[{"token":"b","logprob":-0.5,"top_logprobs":[{"token":"b","logprob":-0.5}]},{"token":"c","logprob":-0.5,"top_logprobs":[{"token":"c","logprob":-0.5}]}]"#;
    assert_eq!(
        data("response.output_text.delta")["logprobs"].to_string(),
        BOTH
    );
    assert_eq!(
        data("response.output_text.done")["logprobs"].to_string(),
        BOTH
    );
    let part = &data("response.content_part.done")["part"];
    assert_eq!(part["logprobs"][1]["bytes"], json!([99]));
    assert_eq!(
        data("response.completed")["response"]["output"][0]["content"][0],
        *part
    );
}

proptest! {
    /// However a text is cut, the stream ends with the output that the whole answer has.
    #[test]
    fn a_stream_completes_to_the_whole_answer(
        prefix in "(a|é|<|<tool|_call){0,6}",
        calls in prop::collection::vec("[a-z \"{}]{0,6}", 0..3),
        cuts in prop::collection::vec(1usize..9, 1..20),
    ) {
        let calls = calls.iter().map(|value| {
            // Written as Python writes JSON, so that reading and writing it again changes nothing.
            let value = json!(value);
            format!("<tool_call>{{\"name\": \"f\", \"arguments\": {{\"k\": {value}}}}}</tool_call>")
        });
        let text = prefix.clone() + &calls.collect::<String>();
        let request = request(&format!(r#"{{"input": "a", {TOOLS}, "stream": true}}"#));
        let characters: Vec<char> = text.chars().collect();
        let mut outputs = Vec::new();
        let mut rest = &characters[..];
        for cut in cuts.iter().cycle() {
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            rest = after;
            let piece: String = piece.iter().collect();
            let reason = rest.is_empty().then_some(FinishReason::Stop);
            outputs.push(output(&piece, 1, reason));
            if rest.is_empty() {
                break;
            }
        }
        let events = stream(&request, &outputs);
        let (_, completed) = events.last().expect("the stream ends");
        let whole = complete(&request, &output(&text, outputs.len(), Some(FinishReason::Stop)));
        prop_assert_eq!(without_ids(&completed["response"]["output"]), without_ids(&whole["output"]));
        prop_assert_eq!(&completed["response"]["usage"], &whole["usage"]);
        let sent: String = events
            .iter()
            .filter(|(name, _)| name == "response.output_text.delta")
            .filter_map(|(_, data)| data["delta"].as_str())
            .collect();
        prop_assert_eq!(sent, prefix);
    }
}
