//! `/v1/responses`: what becomes of requests.

use serde_json::{Value, json};
use vllm_openai::tools::ToolChoice;
use vllm_openai::{ErrorResponse, RequestPolicy, ResponsesRequest};
use vllm_sampling::{OutputKind, SamplingParams};

use crate::members;
use crate::responses::{MAX_MODEL_LEN, PROMPT, TOOLS, params, request};

#[track_caller]
fn check_messages(body: &str, expected: Value) {
    assert_eq!(json!(request(body).messages), expected, "{body}");
}

#[test]
fn input_becomes_messages() {
    check_messages(
        r#"{"input": "a", "instructions": "i"}"#,
        json!([{"role": "system", "content": "i"}, {"role": "user", "content": "a"}]),
    );
    check_messages(r#"{"input": [], "instructions": ""}"#, json!([]));
    let parts = json!([{"type": "input_text", "text": "a"}]);
    check_messages(
        &json!({"input": [{"type": "message", "role": "developer", "content": parts}]}).to_string(),
        json!([{"role": "developer", "content": parts}]),
    );
    // What the assistant produced in one go is one message again.
    check_messages(
        r#"{"input": [
            {"role": "user", "content": "u"},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "s"}],
             "content": [{"type": "reasoning_text", "text": "r"}]},
            {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
             "content": [{"type": "output_text", "text": "t", "annotations": []}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{\"a\":1}"},
            {"type": "function_call_output", "call_id": "c1", "output": "o1"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "o2"}]}
        ]}"#,
        json!([
            {"role": "user", "content": "u"},
            {"role": "assistant", "reasoning": "r",
             "content": [{"type": "output_text", "text": "t", "annotations": []}],
             "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{\"a\":1}"}}
             ]},
            {"role": "tool", "content": "o1", "tool_call_id": "c1"},
            {"role": "tool", "content": [{"type": "input_text", "text": "o2"}], "tool_call_id": "c2"}
        ]),
    );
    // A second text or a second reasoning begins a new message.
    check_messages(
        r#"{"input": [
            {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"},
            {"type": "reasoning", "summary": [{"text": "s"}]}, {"type": "reasoning", "summary": []}
        ]}"#,
        json!([
            {"role": "assistant", "content": "a"},
            {"role": "assistant", "content": "b", "reasoning": "s"},
            {"role": "assistant", "reasoning": ""}
        ]),
    );
}

#[test]
fn an_unfinished_answer_is_continued() {
    let check = |item: Value, expected: bool| {
        let body = json!({"input": [{"role": "user", "content": "u"}, item]}).to_string();
        assert_eq!(request(&body).continue_final_message, expected, "{body}");
    };
    let answer = |status: &str| json!({"role": "assistant", "content": "a", "status": status});
    check(answer("incomplete"), true);
    check(answer("in_progress"), true);
    check(answer("completed"), false);
    check(json!({"role": "assistant", "content": "a"}), false);
    check(
        json!({"role": "user", "content": "a", "status": "incomplete"}),
        false,
    );
    check(
        json!({"type": "reasoning", "summary": [], "status": "incomplete"}),
        true,
    );
}

/// What a server does with a request up to the point where it hands it to its engine.
fn admit(body: &str) -> Result<(), ErrorResponse> {
    let request = ResponsesRequest::from_body(&members(body))?;
    request.check_supported(RequestPolicy::default())?;
    params(&request).map(drop)
}

#[track_caller]
fn check_refused(body: &str, status: u16, kind: &str, param: Option<&str>, message: &str) {
    let Err(error) = admit(body) else {
        panic!("accepted: {body}");
    };
    assert_eq!(
        (error.status, error.kind, error.param.as_deref()),
        (status, kind, param),
        "{error}"
    );
    assert_eq!(error.message, message);
}

#[test]
fn what_needs_a_store_is_refused() {
    check_refused(
        r#"{"input": "a", "background": true}"#,
        400,
        "invalid_request_error",
        Some("background"),
        "This vLLM engine does not support `store=True` and therefore does not support the \
         background mode. To enable these features, set the environment variable \
         `VLLM_ENABLE_RESPONSES_API_STORE=1` when launching the vLLM server.",
    );
    check_refused(
        r#"{"input": "a", "background": true, "store": false}"#,
        400,
        "BadRequestError",
        None,
        "background can only be used when `store` is true",
    );
    check_refused(
        r#"{"input": "a", "previous_response_id": "resp_1"}"#,
        404,
        "invalid_request_error",
        Some("response_id"),
        "Response with id 'resp_1' not found.",
    );
    check_refused(
        r#"{"input": "a", "previous_response_id": "resp_1", "previous_input_messages": [{}]}"#,
        400,
        "invalid_request_error",
        Some("previous_response_id"),
        "Only one of `previous_input_messages` and `previous_response_id` can be set.",
    );
    let room = |tokens| ResponsesRequest::check_room(tokens, MAX_MODEL_LEN);
    assert_eq!(room(MAX_MODEL_LEN - 1), Ok(()));
    assert_eq!(
        room(MAX_MODEL_LEN).map_err(|error| error.to_json()),
        Err(
            r#"{"error":{"message":"The engine prompt length 512 exceeds the max_model_len 512. Please reduce prompt.","type":"invalid_request_error","param":"input","code":400}}"#
                .to_owned()
        )
    );
}

#[test]
fn contradictions_are_refused_before_the_schema() {
    let check = |body: &str, param: Option<&str>, message: &str| {
        check_refused(body, 400, "BadRequestError", param, message);
    };
    check(
        r#"{"input": 1, "prompt": {"id": "p"}}"#,
        Some("prompt"),
        "prompt template is not supported (parameter=prompt)",
    );
    check(
        r#"{"input": 1, "cache_salt": ""}"#,
        Some("cache_salt"),
        "Parameter 'cache_salt' must be a non-empty string if provided. (parameter=cache_salt)",
    );
    check(
        r#"{"input": "a", "tool_choice": "required"}"#,
        Some("tool_choice"),
        "When using `tool_choice`, `tools` must be set. (parameter=tool_choice)",
    );
    check(
        &format!(
            r#"{{"input": "a", {TOOLS}, "tool_choice": {{"type": "function", "name": "g"}}}}"#
        ),
        Some("tool_choice"),
        "The tool specified in `tool_choice` does not match any of the specified `tools` \
         (parameter=tool_choice)",
    );
    check(
        r#"{"input": "a", "text": {"format": {"type": "json_object"}},
            "structured_outputs": {"regex": "a"}}"#,
        None,
        "Cannot specify both structured_outputs and text.format",
    );
    check(
        r#"{"input": "a", "temperature": 3}"#,
        Some("temperature"),
        "temperature must be in [0, 2], got 3.0. (parameter=temperature, value=3.0)",
    );
    check(
        r#"{"input": "a", "max_output_tokens": 0}"#,
        Some("max_tokens"),
        "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)",
    );
    check(
        r#"{"input": "a", "chat_template_kwargs": {"chat_template": "x"}}"#,
        None,
        "Chat template is passed with request, but --trust-request-chat-template is not set. \
         Refused request with untrusted chat template.",
    );
}

#[test]
fn schema_errors_name_their_place() {
    let check = |body: &str, places: &[&str]| {
        let error = admit(body).expect_err("the body is wrong");
        assert_eq!(error.kind, "Bad Request", "{error}");
        assert_eq!(error.param.as_deref(), places.first().copied());
        let count = error.message.matches("'loc': ").count();
        assert_eq!(count, places.len(), "{error}");
        for place in places {
            assert!(error.message.contains(&format!("'{place}'")), "{error}");
        }
    };
    check("{}", &["body.input"]);
    check(r#"{"input": 5}"#, &["body.input", "body.input"]);
    check(
        r#"{"input": "a", "stream": "maybe", "include": ["x"], "max_output_tokens": 1.5}"#,
        &["body.include.0", "body.max_output_tokens", "body.stream"],
    );
    check(
        r#"{"input": [{"role": "tool", "content": 1}]}"#,
        &[
            "body.input",
            "body.input.0.EasyInputMessageParam.content",
            "body.input.0.EasyInputMessageParam.content",
            "body.input.0.EasyInputMessageParam.role",
        ],
    );
    check(
        r#"{"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}"#,
        &[
            "body.input",
            "body.input.0.ResponseFunctionToolCallParam.call_id",
        ],
    );
    check(
        r#"{"input": [{"type": "item_reference", "id": "msg_1"}]}"#,
        &["body.input", "body.input.0.type"],
    );
    check(
        r#"{"input": [{"type": "reasoning", "summary": [], "encrypted_content": "x"}]}"#,
        &["body.input", "body.input.0.ResponseReasoningItemParam"],
    );
    check(
        r#"{"input": "a", "tools": [{"type": "function"}], "tool_choice": null}"#,
        &["body.tool_choice", "body.tools.0.FunctionTool.name"],
    );
    check(
        r#"{"input": "a", "text": {"format": {"type": "json_schema", "name": "n"}}}"#,
        &["body.text.format.schema"],
    );
    check(
        r#"{"input": "a", "reasoning": {"effort": "huge"}, "metadata": {"a": 1}}"#,
        &["body.metadata.a", "body.reasoning.effort"],
    );
}

#[test]
fn fields_of_other_endpoints_are_ignored() {
    let request = request(
        r#"{"input": "a", "n": "many", "min_tokens": 7, "prompt_logprobs": "x", "echo": [],
            "response_format": 5, "bad_words": 1, "max_tokens": 3, "logprobs": true}"#,
    );
    let params = params(&request).expect("the request is valid");
    assert_eq!((params.n, params.min_tokens), (1, 0));
    assert_eq!(
        params.max_tokens,
        Some((MAX_MODEL_LEN - PROMPT.len()) as i64)
    );
    assert_eq!(params.logprobs, None);
}

#[test]
fn fields_reach_the_sampling_parameters() {
    let request = request(
        r#"{"input": "a", "max_output_tokens": 9, "temperature": "0.5", "top_k": 4, "seed": 3,
            "stop": "x", "stop_token_ids": [5], "ignore_eos": true, "logit_bias": {"7": 200},
            "include": ["message.output_text.logprobs"], "top_logprobs": 2, "truncation": "auto",
            "skip_special_tokens": false, "include_stop_str_in_output": true, "stream": true,
            "reasoning": {"effort": "low"}, "request_id": "mine",
            "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "null"}}}}"#,
    );
    assert_eq!(request.options.request_id, "mine");
    assert_eq!(request.options.truncate_prompt_tokens, Some(-1));
    assert!(request.options.add_special_tokens);
    let params = params(&request).expect("the request is valid");
    let kwargs = Value::Object(request.template_kwargs(&Default::default()));
    assert_eq!(
        kwargs,
        json!({"reasoning_effort": "low", "enable_thinking": true})
    );
    let schema = params.structured_outputs.and_then(|it| it.json);
    assert_eq!(schema.as_deref(), Some(r#"{"type":"null"}"#));
    let expected = SamplingParams {
        temperature: 0.5,
        top_p: 0.9,
        top_k: 4,
        seed: Some(3),
        stop: vec!["x".to_owned()],
        stop_token_ids: vec![5],
        ignore_eos: true,
        max_tokens: Some(9),
        logprobs: Some(2),
        skip_special_tokens: false,
        include_stop_str_in_output: true,
        logit_bias: vec![(7, 100.0)],
        skip_reading_prefix_cache: Some(false),
        output_kind: OutputKind::Delta,
        ..SamplingParams::default()
    };
    let got = SamplingParams {
        structured_outputs: None,
        ..params
    };
    assert_eq!(got, expected);
}

#[test]
fn tool_choices_are_understood() {
    let check = |choice: &str, expected: ToolChoice, functions: usize, forces: bool| {
        let request = request(&format!(
            r#"{{"input": "a", {TOOLS}, "tool_choice": {choice}}}"#
        ));
        let params = params(&request).expect("the request is valid");
        assert_eq!(request.tool_choice, expected, "{choice}");
        assert_eq!(request.functions.len(), functions, "{choice}");
        assert_eq!(params.structured_outputs.is_some(), forces, "{choice}");
        // Calls are marked by special tokens.
        assert_eq!(
            params.skip_special_tokens,
            request.tool_choice == ToolChoice::None
        );
    };
    check(r#""auto""#, ToolChoice::Auto, 1, false);
    check(r#""none""#, ToolChoice::None, 1, false);
    check(r#""required""#, ToolChoice::Required, 1, true);
    check(
        r#"{"type": "function", "name": "f"}"#,
        ToolChoice::Named("f".to_owned()),
        1,
        true,
    );
    let allowed = |mode: &str, name: &str| {
        format!(
            r#"{{"type": "allowed_tools", "mode": "{mode}",
                "tools": [{{"type": "function", "name": "{name}"}}]}}"#
        )
    };
    check(&allowed("required", "f"), ToolChoice::Required, 1, true);
    check(&allowed("auto", "g"), ToolChoice::None, 0, false);
}
