//! `/v1/messages` and `/v1/messages/count_tokens`.

use std::sync::Arc;

use serde_json::{Value, json};
use vllm_openai::tools::{JsonCallsParser, ToolChoice, tool_parser};
use vllm_openai::{
    ChatCompletionRequest, ChatResult, CountTokensResponse, ErrorResponse, MessagesRequest,
    MessagesResponse, MessagesStream, OutputParsers, ResponseContext, SamplingDefaults,
    push_messages_error,
};
use vllm_sampling::{CompletionOutput, FinishReason, StopReason};

use crate::{body_of, context, events, members, output, pieces, recorded};

const PROMPT: [u32; 15] = [3; 15];

fn chat(fields: Value) -> Result<ChatCompletionRequest, ErrorResponse> {
    let mut body = json!({"model": "m", "max_tokens": 2000, "messages": []});
    let members = body.as_object_mut().expect("the body is an object");
    for (name, value) in fields.as_object().expect("fields are an object") {
        members.insert(name.clone(), value.clone());
    }
    MessagesRequest::from_body(&crate::members(&body.to_string()))?.to_chat("none")
}

fn valid(fields: Value) -> ChatCompletionRequest {
    chat(fields).expect("test requests are valid")
}

fn tools() -> Value {
    json!([{"name": "f", "description": "d", "input_schema": {"properties": {}}}])
}

fn result_of(outputs: &[CompletionOutput]) -> ChatResult<'_> {
    ChatResult {
        prompt_text: None,
        prompt_token_ids: &PROMPT,
        prompt_logprobs: None,
        echo_text: None,
        outputs,
        num_cached_tokens: 4,
    }
}

fn answer(
    request: &ChatCompletionRequest,
    context: &ResponseContext,
    output: CompletionOutput,
) -> String {
    let parser = tool_parser("hermes").expect("hermes is known");
    let outputs = [output];
    let built = MessagesResponse::new(
        request,
        context,
        &result_of(&outputs),
        &OutputParsers::of_tools(parser),
    );
    let built = built.expect("no output failed");
    assert_eq!(built.usage().prompt_tokens, PROMPT.len());
    serde_json::to_string(&built).expect("answers serialize")
}

fn stream(
    request: &ChatCompletionRequest,
    context: ResponseContext,
    outputs: &[CompletionOutput],
) -> Vec<(String, Value)> {
    let parser = tool_parser("hermes").expect("hermes is known");
    let mut stream = MessagesStream::new(
        request,
        context,
        PROMPT.len(),
        &OutputParsers::of_tools(parser),
    );
    let mut frames = Vec::new();
    stream.set_cached_tokens(4);
    stream.push(outputs, &mut frames).expect("no output failed");
    stream.finish(&mut frames);
    events(&frames)
}

#[test]
fn recorded_answers_are_repeated() {
    for name in ["messages/basic", "messages/system"] {
        let case = recorded(name);
        let request = MessagesRequest::from_body(&body_of(&case)).expect("recorded requests");
        let request = request.to_chat("low").expect("recorded requests");
        let id = case["json"]["id"].as_str().expect("an id");
        let prompt_tokens = case["json"]["usage"]["input_tokens"].as_u64();
        let output = output(
            "The capital of France is Paris.",
            8,
            Some(FinishReason::Stop),
        );
        let result = ChatResult {
            prompt_token_ids: &vec![3; prompt_tokens.expect("a count") as usize],
            ..result_of(std::slice::from_ref(&output))
        };
        let built = MessagesResponse::new(
            &request,
            &context(id, 0),
            &result,
            &OutputParsers::default(),
        );
        let built = serde_json::to_string(&built.expect("no output failed"));
        let built = built.expect("answers serialize");
        assert_eq!(built, case["json"].to_string(), "{name}");
    }
    let case = recorded("messages/no-max-tokens");
    let refused = MessagesRequest::from_body(&body_of(&case)).expect_err("max_tokens is null");
    assert_eq!(refused.to_json(), case["json"].to_string());
    let case = recorded("messages/count");
    assert!(MessagesRequest::from_counted_body(&body_of(&case)).is_ok());
    let counted = serde_json::to_string(&CountTokensResponse::new(15));
    assert_eq!(counted.expect("counts serialize"), case["json"].to_string());
}

#[test]
fn the_recorded_stream_is_repeated() {
    let case = recorded("messages/stream");
    let request = MessagesRequest::from_body(&body_of(&case)).expect("recorded requests");
    let request = request.to_chat("low").expect("recorded requests");
    let expected = case["events"].as_array().expect("events are a list");
    let id = expected[0]["data"]["message"]["id"]
        .as_str()
        .expect("an id");
    let texts = [
        "The capital",
        "",
        " of",
        " France",
        " is",
        " Paris",
        ".",
        "",
    ];
    let sent = stream(
        &request,
        context(id, 0),
        &pieces(&texts, FinishReason::Stop),
    );
    let sent: Vec<String> = sent.iter().map(|(_, data)| data.to_string()).collect();
    let expected: Vec<String> = expected
        .iter()
        .map(|event| event["data"].to_string())
        .collect();
    assert_eq!(sent, expected);
}

#[track_caller]
fn check_messages(fields: Value, expected: Value) {
    assert_eq!(json!(valid(fields.clone()).messages), expected, "{fields}");
}

#[test]
fn turns_become_messages() {
    let user = |content: Value| json!({"role": "user", "content": content});
    let text = |text: &str| json!({"type": "text", "text": text});
    check_messages(
        json!({"system": "s", "messages": [user(json!("u")), {"role": "assistant", "content": "a"}]}),
        json!([
            {"role": "system", "content": "s"},
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": "a"}
        ]),
    );
    // Billing marks go, system turns move to the front, unknown roles of some clients are users.
    check_messages(
        json!({"system": [text("x-anthropic-billing-header: 1"), text("s")], "messages": [
            {"role": "ctx", "content": [text("u"), text("")]},
            {"role": "system", "content": "t"}
        ]}),
        json!([
            {"role": "system", "content": "st"},
            {"role": "user", "content": [text("u")]}
        ]),
    );
    check_messages(
        json!({"messages": [
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "r", "signature": "x"},
                {"type": "redacted_thinking", "data": "x"},
                text("t"),
                {"type": "tool_use", "id": "c", "name": "f", "input": {"a": [1, "é"]}}
            ]},
            user(json!([
                {"type": "tool_result", "tool_use_id": "c", "content": "o"},
                {"type": "tool_result", "tool_use_id": "d", "is_error": true,
                 "content": [text("p"), {"type": "tool_reference", "tool_name": "g"}]},
                text("u")
            ])),
            user(json!([{"type": "tool_result", "tool_use_id": "e"}])),
        ]}),
        json!([
            {"role": "assistant", "content": [text("t")],
             "tool_calls": [{"id": "c", "type": "function",
                             "function": {"name": "f", "arguments": "{\"a\": [1, \"é\"]}"}}],
             "reasoning": "r"},
            {"role": "tool", "content": [text("o")], "tool_call_id": "c"},
            {"role": "tool", "content": [text("p"), {"type": "tool_reference", "name": "g"}],
             "tool_call_id": "d"},
            {"role": "user", "content": [text("u")]},
            {"role": "tool", "content": [], "tool_call_id": "e"}
        ]),
    );
    let image = |source: Value| json!({"type": "image", "source": source});
    let url = |url: &str| json!({"type": "image_url", "image_url": {"url": url}});
    check_messages(
        json!({"messages": [user(json!([
            image(json!({"type": "url", "url": "http://x"})),
            image(json!({"type": "base64", "media_type": "image/png", "data": "QQ=="})),
            {"type": "tool_result", "tool_use_id": "c",
             "content": [image(json!({"type": "url", "url": "http://y"}))]}
        ]))]}),
        json!([
            {"role": "tool", "content": [], "tool_call_id": "c"},
            {"role": "user", "content": [url("http://y")]},
            {"role": "user", "content": [url("http://x"), url("data:image/png;base64,QQ==")]}
        ]),
    );
}

#[test]
fn options_become_those_of_chat() {
    let request = valid(json!({
        "stop_sequences": ["x"], "temperature": 0.5, "top_p": 0.9, "top_k": 4, "stream": true,
        "metadata": {"user_id": "u"}, "cache_salt": "s", "chat_template_kwargs": {"a": 1},
        "output_config": {"effort": "high", "format": {"schema": {"type": "null"}}},
        "n": 3, "logprobs": true, "min_tokens": 5
    }));
    assert_eq!(request.requested_tokens(), (Some(2000), "max_tokens"));
    assert_eq!(request.reasoning_effort, Some("high"));
    assert!(request.options.stream && !request.logprobs);
    let params = request
        .sampling_params(
            9,
            &SamplingDefaults::default(),
            2048,
            &OutputParsers::of_tools(Arc::new(JsonCallsParser::HERMES)),
        )
        .expect("the request is valid");
    assert_eq!(
        (params.temperature, params.top_p, params.top_k),
        (0.5, 0.9, 4)
    );
    assert_eq!((params.n, params.min_tokens), (1, 0));
    assert_eq!(params.stop, ["x"]);
    let schema = params.structured_outputs.and_then(|it| it.json);
    assert_eq!(schema.as_deref(), Some(r#"{"type":"null"}"#));

    let thinking = |config: Value| {
        let request = valid(json!({"thinking": config, "output_config": {"effort": "high"}}));
        (
            request.reasoning_effort,
            request.options.thinking_token_budget,
        )
    };
    assert_eq!(thinking(json!({"type": "disabled"})), (Some("none"), None));
    assert_eq!(thinking(json!({"type": "adaptive"})), (Some("high"), None));
    assert_eq!(
        thinking(json!({"type": "enabled", "budget_tokens": 1024})),
        (Some("high"), Some(1024))
    );
}

#[test]
fn tools_become_those_of_chat() {
    let check = |choice: Value, expected: ToolChoice, parallel: bool| {
        let request = valid(json!({"tools": tools(), "tool_choice": choice}));
        assert_eq!(request.tool_choice, expected);
        assert_eq!(request.parallel_tool_calls, parallel);
        assert_eq!(
            json!(request.tools),
            json!([{"type": "function", "function": {"name": "f", "description": "d",
                    "parameters": {"properties": {}, "type": "object"}}}])
        );
    };
    check(json!(null), ToolChoice::Auto, true);
    check(json!({"type": "none"}), ToolChoice::None, true);
    check(
        json!({"type": "any", "disable_parallel_tool_use": true}),
        ToolChoice::Required,
        false,
    );
    let named = json!({"type": "tool", "name": "f"});
    check(named, ToolChoice::Named("f".to_owned()), true);
    let without_tools = valid(json!({"tools": [], "tool_choice": {"type": "auto"}}));
    assert_eq!(
        (without_tools.tools, without_tools.tool_choice),
        (None, ToolChoice::None)
    );
}

#[track_caller]
fn check_refused(fields: Value, kind: &str, param: Option<&str>, part: &str) {
    let Err(error) = chat(fields.clone()) else {
        panic!("accepted: {fields}");
    };
    assert_eq!((error.status, error.kind), (400, kind), "{error}");
    assert_eq!(error.param.as_deref(), param, "{error}");
    assert!(error.message.contains(part), "{error}");
}

#[test]
fn schema_errors_name_their_place() {
    let check = |fields: Value, param: &str, part: &str| {
        check_refused(fields, "Bad Request", Some(param), part);
    };
    check(
        json!({"model": ""}),
        "body.model",
        "{'type': 'value_error', 'loc': 'body.model', 'msg': 'Value error, Model is required', \
         'input': '', 'ctx': {'error': ValueError('Model is required')}}",
    );
    check(
        json!({"max_tokens": 0}),
        "body.max_tokens",
        "Value error, max_tokens must be positive",
    );
    check(
        json!({"max_tokens": null}),
        "body.max_tokens",
        "'msg': 'Input should be a valid integer', 'input': 'None'",
    );
    check(
        json!({"messages": [{"role": "tool", "content": "x"}]}),
        "body.messages.0.role",
        "Input should be 'user', 'assistant' or 'system'",
    );
    check(
        json!({"messages": [{"role": "user", "content": [{"type": "video"}]}]}),
        "body.messages.0.content",
        "'loc': 'body.messages.0.content.0.type'",
    );
    check(
        json!({"tools": [{"name": "f"}], "top_k": "x"}),
        "body.tools.0.input_schema",
        "2 validation errors:",
    );
    check(
        json!({"tools": tools(), "tool_choice": {"type": "tool"}}),
        "body.tool_choice",
        "tool_choice.name is required when type is",
    );
    let thinking = |budget: i64| json!({"thinking": {"type": "enabled", "budget_tokens": budget}});
    check(
        thinking(1023),
        "body.thinking.budget_tokens",
        "Input should be greater than or equal to 1024",
    );
    check(
        thinking(2000),
        "body",
        "thinking.budget_tokens must be less than max_tokens",
    );
    let counted = MessagesRequest::from_counted_body(&members(r#"{"model": "m"}"#));
    assert_eq!(
        counted.err().and_then(|error| error.param).as_deref(),
        Some("body.messages")
    );
    let counted = r#"{"model": "m", "messages": [], "max_tokens": "x", "stream": "maybe"}"#;
    assert!(MessagesRequest::from_counted_body(&members(counted)).is_ok());
}

#[test]
fn what_chat_refuses_is_refused_in_the_anthropic_form() {
    check_refused(
        json!({"stop_sequences": ["a", "b", "c", "d", "e"]}),
        "BadRequestError",
        Some("body.stop"),
        "List should have at most 4 items after validation, not 5",
    );
    check_refused(
        json!({"tool_choice": {"type": "any"}}),
        "BadRequestError",
        Some("tool_choice"),
        "When using `tool_choice`, `tools` must be set.",
    );
    let error = ErrorResponse::unknown_model("x", &["demo".to_owned()]);
    assert_eq!(
        error.to_messages_json(),
        r#"{"type":"error","error":{"type":"NotFoundError","message":"The model `x` does not exist. Valid aliases: demo."}}"#
    );
    let mut frames = Vec::new();
    push_messages_error(&mut frames, &ErrorResponse::internal());
    assert_eq!(
        String::from_utf8(frames).as_deref(),
        Ok(
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"internal_error\",\
             \"message\":\"Internal server error\"}}\n\n"
        )
    );
}

const CALLS: &str = "Sure.<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}</tool_call>\
                     <tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";

/// Stop reason and sequence, which whole answers and streams must agree on.
#[test]
fn ends_are_told_in_the_words_of_the_protocol() {
    let check = |request: &ChatCompletionRequest,
                 text: &str,
                 reason: FinishReason,
                 stop: Option<StopReason>,
                 expected: Value| {
        let output = CompletionOutput {
            stop_reason: stop,
            ..output(text, 1, Some(reason))
        };
        let whole = answer(request, &context("i", 0), output.clone());
        let whole: Value = serde_json::from_str(&whole).expect("answers are JSON");
        assert_eq!(
            json!([whole["stop_reason"], whole["stop_sequence"]]),
            expected
        );
        let events = stream(request, context("i", 0), &[output]);
        let (name, data) = &events[events.len() - 2];
        assert_eq!(name, "message_delta");
        let delta = &data["delta"];
        assert_eq!(
            json!([delta["stop_reason"], delta["stop_sequence"]]),
            expected
        );
    };
    let plain = valid(json!({}));
    let text = StopReason::Text("x".to_owned());
    check(
        &plain,
        "a",
        FinishReason::Stop,
        None,
        json!(["end_turn", null]),
    );
    check(
        &plain,
        "a",
        FinishReason::Stop,
        Some(text),
        json!(["stop_sequence", "x"]),
    );
    let token = Some(StopReason::TokenId(5));
    check(
        &plain,
        "a",
        FinishReason::Stop,
        token,
        json!(["end_turn", null]),
    );
    check(
        &plain,
        "a",
        FinishReason::Length,
        None,
        json!(["max_tokens", null]),
    );
    check(&plain, "a", FinishReason::Abort, None, json!([null, null]));
    let free = valid(json!({"tools": tools()}));
    check(
        &free,
        CALLS,
        FinishReason::Stop,
        None,
        json!(["tool_use", null]),
    );
    check(
        &free,
        "a",
        FinishReason::Stop,
        None,
        json!(["end_turn", null]),
    );
    let named = json!({"tools": tools(), "tool_choice": {"type": "tool", "name": "f"}});
    check(
        &valid(named),
        CALLS,
        FinishReason::Stop,
        None,
        json!(["tool_use", null]),
    );
}

/// The blocks that a client puts together from a stream, without ids.
fn assembled(events: &[(String, Value)]) -> Vec<Value> {
    let mut blocks: Vec<Value> = Vec::new();
    let mut inputs: Vec<String> = Vec::new();
    for (name, data) in events {
        let delta = &data["delta"];
        match (name.as_str(), delta["type"].as_str()) {
            ("content_block_start", _) => {
                assert_eq!(data["index"], blocks.len());
                blocks.push(data["content_block"].clone());
                inputs.push(String::new());
            }
            ("content_block_delta", Some("text_delta")) => {
                let block = blocks.last_mut().expect("a block is open");
                let text = block["text"].as_str().expect("a text block").to_owned();
                block["text"] = (text + delta["text"].as_str().expect("text")).into();
            }
            ("content_block_delta", _) => {
                let json = delta["partial_json"].as_str().expect("arguments");
                inputs.last_mut().expect("a block is open").push_str(json);
            }
            _ => {}
        }
    }
    for (block, input) in blocks.iter_mut().zip(inputs) {
        if !input.is_empty() {
            block["input"] = serde_json::from_str(&input).expect("arguments are JSON");
        }
        without_id(block);
    }
    blocks
}

fn without_id(block: &mut Value) {
    if let Some(id) = block.get_mut("id") {
        assert!(
            id.as_str()
                .is_some_and(|id| id.starts_with("chatcmpl-tool-"))
        );
        *id = Value::Null;
    }
}

#[test]
fn streams_assemble_to_the_whole_answer() {
    let check = |fields: Value, text: &str, blocks: usize| {
        let request = valid(fields);
        let whole = output(text, 9, Some(FinishReason::Stop));
        let whole: Value = serde_json::from_str(&answer(&request, &context("i", 0), whole))
            .expect("answers are JSON");
        let mut expected = whole["content"].as_array().expect("blocks").clone();
        expected.iter_mut().for_each(without_id);
        assert_eq!(expected.len(), blocks, "{text}");
        let characters: Vec<String> = text.chars().map(String::from).collect();
        for size in [1, 2, 5, 100] {
            let texts: Vec<String> = characters
                .chunks(size)
                .map(|piece| piece.concat())
                .collect();
            let mut texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            texts.push("");
            let events = stream(
                &request,
                context("i", 0),
                &pieces(&texts, FinishReason::Stop),
            );
            assert_eq!(assembled(&events), expected, "{text} in pieces of {size}");
        }
    };
    check(json!({}), "", 1);
    check(json!({}), "héllo", 1);
    check(json!({}), CALLS, 1);
    check(json!({"tools": tools()}), CALLS, 3);
    let only_one = json!({"type": "auto", "disable_parallel_tool_use": true});
    check(json!({"tools": tools(), "tool_choice": only_one}), CALLS, 2);
    let named = json!({"type": "tool", "name": "f"});
    check(json!({"tools": tools(), "tool_choice": named}), CALLS, 3);
}

#[test]
fn cached_tokens_are_not_input_where_the_cache_is_told_about() {
    let context = ResponseContext {
        prompt_tokens_details: true,
        ..context("i", 0)
    };
    const USAGE: &str = r#"{"input_tokens":11,"output_tokens":1,"cache_creation_input_tokens":0,"cache_read_input_tokens":4}"#;
    let request = valid(json!({}));
    let output = output("a", 1, Some(FinishReason::Stop));
    let whole = answer(&request, &context, output.clone());
    assert!(whole.ends_with(&format!("\"usage\":{USAGE}}}")), "{whole}");
    let events = stream(&request, context, &[output]);
    let (_, last) = &events[events.len() - 2];
    assert_eq!(last["usage"].to_string(), USAGE);
}
