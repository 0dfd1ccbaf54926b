//! Recorded refusals of the Python server: the same bodies must be refused with the same error.

use std::sync::Arc;

use serde_json::Value;
use vllm_openai::tools::JsonCallsParser;
use vllm_openai::{
    ChatCompletionRequest, CompletionRequest, DetokenizeRequest, ErrorResponse, LengthLimits,
    OutputParsers, RequestPolicy, Result, SamplingDefaults, TokenizeRequest, check_model,
    check_requested_tokens, effective_max_tokens, parse_body,
};
use vllm_sampling::ModelLimits;

const MAX_MODEL_LEN: usize = 512;
const VOCAB_SIZE: usize = 2048;
const PROMPT_TOKENS: usize = 5;

/// What a server does with a request up to the point where it hands it to its engine.
fn admit(path: &str, content_type: &str, body: &[u8]) -> Result<()> {
    let content_type = Some(content_type);
    let served = ["demo-opt".to_owned(), "facebook/demo".to_owned()];
    let policy = RequestPolicy {
        has_tool_parser: true,
        ..RequestPolicy::default()
    };
    let limits = LengthLimits {
        max_model_len: MAX_MODEL_LEN,
        ..LengthLimits::default()
    };
    let defaults = SamplingDefaults::default();
    let params = match path {
        "/tokenize" => return TokenizeRequest::parse(content_type, body)?.check_supported(policy),
        "/detokenize" => {
            return DetokenizeRequest::from_body(&parse_body(content_type, body)?).map(drop);
        }
        "/v1/completions" => {
            let request = CompletionRequest::from_body(&parse_body(content_type, body)?)?;
            check_model(request.options.model.as_deref(), &served)?;
            request.check_supported()?;
            let requested = Some(request.max_tokens);
            check_requested_tokens(requested, "max_tokens", MAX_MODEL_LEN)?;
            let max_tokens = effective_max_tokens(requested, PROMPT_TOKENS, limits);
            request.sampling_params(max_tokens, &defaults, VOCAB_SIZE)?
        }
        "/v1/chat/completions" => {
            let request = ChatCompletionRequest::from_body(&parse_body(content_type, body)?)?;
            check_model(request.options.model.as_deref(), &served)?;
            request.check_supported(policy)?;
            let (requested, field) = request.requested_tokens();
            check_requested_tokens(requested, field, MAX_MODEL_LEN)?;
            let max_tokens = effective_max_tokens(requested, PROMPT_TOKENS, limits);
            request.sampling_params(
                max_tokens,
                &defaults,
                VOCAB_SIZE,
                &OutputParsers::of_tools(Arc::new(JsonCallsParser::HERMES)),
            )?
        }
        other => panic!("no route {other}"),
    };
    let limits = ModelLimits {
        vocab_size: VOCAB_SIZE,
        max_logprobs: 20,
    };
    Ok(params.validate_for_model(&limits)?)
}

fn error_object(error: &ErrorResponse) -> String {
    let body: Value = serde_json::from_str(&error.to_json()).expect("errors are JSON");
    body["error"].to_string()
}

#[test]
fn recorded_refusals_are_repeated() {
    let mut failures = Vec::new();
    for line in include_str!("data/refusals.jsonl").lines() {
        let case: Value = serde_json::from_str(line).expect("fixtures are JSON");
        let text = |name: &str| case[name].as_str().expect("fixture members are strings");
        let outcome = admit(text("path"), text("content_type"), text("body").as_bytes());
        let got = outcome.map_or_else(|error| error_object(&error), |()| "accepted".to_owned());
        let expected = case["error"].to_string();
        if got != expected {
            failures.push(format!("{}\n  want {expected}\n  got  {got}", text("name")));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Bodies with the beginning of the message, the parameter and the status of their refusal.
#[track_caller]
fn check(path: &str, body: &str, status: u16, param: Option<&str>, message: &str) {
    let Err(error) = admit(path, "application/json", body.as_bytes()) else {
        panic!("accepted: {body}");
    };
    assert_eq!(
        (error.status, error.param.as_deref()),
        (status, param),
        "{error}"
    );
    assert_eq!(error.message, message);
}

#[track_caller]
fn check_accepted(path: &str, body: &str) {
    let outcome = admit(path, "application/json", body.as_bytes());
    assert_eq!(outcome.err().map(|error| error.message), None, "{body}");
}

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

#[test]
fn completion_bodies_that_lean_on_coercion_are_accepted() {
    for body in [
        r#"{"prompt": "x", "max_tokens": "5", "temperature": "0.5", "echo": "yes", "stream": 0}"#,
        r#"{"prompt": "x", "max_tokens": null, "seed": -1, "stop": null, "n": true}"#,
        r#"{"prompt": ["1", 2], "model": "", "frobnicate": {}, "best_of": 9, "guided_json": 1}"#,
        r#"{"prompt": "x", "stream_options": {}, "logit_bias": {"7": 1e9}}"#,
        r#"{"prompt": "x", "logprobs": true, "prompt_logprobs": 0, "stream": true}"#,
        r#"{"prompt": "x", "echo": true, "max_tokens": 0}"#,
        r#"{"prompt": "x", "n": 2, "n": 1, "temperature": 0}"#,
    ] {
        check_accepted(COMPLETIONS, body);
    }
}

#[test]
fn cross_field_checks_come_in_order_and_before_the_schema() {
    check(
        COMPLETIONS,
        r#"{"prompt": "", "stream_options": {"include_usage": true}, "max_tokens": "x"}"#,
        400,
        Some("prompt"),
        "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)",
    );
    check(
        COMPLETIONS,
        r#"{"prompt": "x", "stream_options": {"include_usage": true}, "logprobs": -2}"#,
        400,
        Some("stream_options"),
        "Stream options can only be defined when `stream=True`. (parameter=stream_options)",
    );
    check(
        COMPLETIONS,
        r#"{"prompt": "x", "logprobs": "many", "cache_salt": "", "max_tokens": "x"}"#,
        400,
        Some("logprobs"),
        "`logprobs` must be an integer. (parameter=logprobs, value=many)",
    );
    check(
        COMPLETIONS,
        r#"{"prompt": "x", "cache_salt": "a/b", "max_tokens": "x"}"#,
        400,
        Some("cache_salt"),
        "Parameter 'cache_salt' must be at most 128 characters and must not contain '@', '/', \
         '\\\\', or NUL. (parameter=cache_salt)",
    );
    check(
        CHAT,
        r#"{"messages": [], "tool_choice": "auto", "top_logprobs": 2, "continue_final_message": 1,
            "add_generation_prompt": 1}"#,
        400,
        None,
        "Cannot set both `continue_final_message` and `add_generation_prompt` to True.",
    );
    check(
        CHAT,
        r#"{"messages": [], "tool_choice": "auto", "top_logprobs": 2}"#,
        400,
        Some("tool_choice"),
        "When using `tool_choice`, `tools` must be set. (parameter=tool_choice)",
    );
    check(
        CHAT,
        r#"{"messages": [], "prompt_logprobs": 1, "stream": true}"#,
        400,
        Some("prompt_logprobs"),
        "`prompt_logprobs` are not available when `stream=True`. (parameter=prompt_logprobs)",
    );
}

#[test]
fn schema_errors_are_listed_in_the_order_of_the_schema() {
    check(
        CHAT,
        r#"{"stream": "maybe", "messages": [], "n": [], "model": 5}"#,
        400,
        Some("body.model"),
        "3 validation errors:\n  {'type': 'string_type', 'loc': 'body.model', 'msg': 'Input should \
         be a valid string', 'input': '5'}\n  {'type': 'int_type', 'loc': 'body.n', 'msg': 'Input \
         should be a valid integer', 'input': '<list of 0 items>'}\n  {'type': 'bool_parsing', \
         'loc': 'body.stream', 'msg': 'Input should be a valid boolean, unable to interpret \
         input', 'input': 'maybe'}",
    );
    check(
        COMPLETIONS,
        r#"{"prompt": "x", "stop": ["a", "b", "c", "d", "e"]}"#,
        400,
        Some("body.stop"),
        "2 validation errors:\n  {'type': 'string_type', 'loc': 'body.stop', 'msg': 'Input should \
         be a valid string', 'input': '<list of 5 items>'}\n  {'type': 'too_long', 'loc': \
         'body.stop', 'msg': 'List should have at most 4 items after validation, not 5', 'input': \
         '<list of 5 items>', 'ctx': {'field_type': 'List', 'max_length': 4, 'actual_length': 5}}",
    );
    check(
        COMPLETIONS,
        r#"{"prompt": ["a", 1]}"#,
        400,
        Some("body.prompt.0"),
        "5 validation errors:\n  {'type': 'int_parsing', 'loc': 'body.prompt.0', 'msg': 'Input \
         should be a valid integer, unable to parse string as an integer', 'input': 'a'}\n  \
         {'type': 'list_type', 'loc': 'body.prompt.0', 'msg': 'Input should be a valid list', \
         'input': 'a'}\n  {'type': 'list_type', 'loc': 'body.prompt.1', 'msg': 'Input should be a \
         valid list', 'input': '1'}\n  {'type': 'string_type', 'loc': 'body.prompt', 'msg': 'Input \
         should be a valid string', 'input': '<list of 2 items>'}\n  {'type': 'string_type', \
         'loc': 'body.prompt.1', 'msg': 'Input should be a valid string', 'input': '1'}",
    );
    check(
        CHAT,
        r#"{"messages": [], "reasoning_effort": "huge"}"#,
        400,
        Some("body.reasoning_effort"),
        "1 validation error:\n  {'type': 'literal_error', 'loc': 'body.reasoning_effort', 'msg': \
         \"Input should be 'none', 'minimal', 'low', 'medium', 'high', 'xhigh' or 'max'\", \
         'input': 'huge', 'ctx': {'expected': \"'none', 'minimal', 'low', 'medium', 'high', \
         'xhigh' or 'max'\"}}",
    );
    check(
        "/detokenize",
        r#"{"tokens": [-1]}"#,
        400,
        Some("body.tokens.0"),
        "1 validation error:\n  {'type': 'greater_than_equal', 'loc': 'body.tokens.0', 'msg': \
         'Input should be greater than or equal to 0', 'input': '-1', 'ctx': {'ge': 0}}",
    );
}

#[test]
fn nested_models_name_their_branches() {
    const NOT_A_MODEL: &str = "Input should be a valid dictionary or object to extract fields from";
    let model_error = |branch: &str| {
        format!(
            "\n  {{'type': 'model_attributes_type', 'loc': 'body.response_format.{branch}', 'msg': \
             '{NOT_A_MODEL}', 'input': 'x'}}"
        )
    };
    check(
        CHAT,
        r#"{"messages": [], "response_format": "x"}"#,
        400,
        Some("body.response_format.ResponseFormat"),
        &format!(
            "3 validation errors:{}{}{}",
            model_error("ResponseFormat"),
            model_error("StructuralTagResponseFormat"),
            model_error("LegacyStructuralTagResponseFormat"),
        ),
    );
    check(
        COMPLETIONS,
        r#"{"prompt": "x", "structured_outputs": 5}"#,
        400,
        Some("body.structured_outputs"),
        "1 validation error:\n  {'type': 'dataclass_type', 'loc': 'body.structured_outputs', 'msg': \
         'Input should be a dictionary or an instance of StructuredOutputsParams', 'input': '5', \
         'ctx': {'class_name': 'StructuredOutputsParams'}}",
    );
    check(
        CHAT,
        r#"{"messages": [], "tools": [{"type": "x"}]}"#,
        400,
        Some("body.tools.0.type"),
        "2 validation errors:\n  {'type': 'literal_error', 'loc': 'body.tools.0.type', 'msg': \
         \"Input should be 'function'\", 'input': 'x', 'ctx': {'expected': \"'function'\"}}\n  \
         {'type': 'missing', 'loc': 'body.tools.0.function', 'msg': 'Field required', 'input': \
         '<dict of 1 items>'}",
    );
    check(
        "/tokenize",
        "[]",
        400,
        Some("body"),
        &format!(
            "2 validation errors:\n  {0}\n  {0}",
            format_args!(
                "{{'type': 'model_attributes_type', 'loc': 'body', 'msg': '{NOT_A_MODEL}', \
                 'input': '<list of 0 items>'}}"
            )
        ),
    );
}

#[test]
fn values_out_of_range_are_refused() {
    let sampling = |fields: &str| format!(r#"{{"prompt": "x", {fields}}}"#);
    check(
        COMPLETIONS,
        &sampling(r#""temperature": NaN"#),
        400,
        Some("temperature"),
        "temperature must be a finite number, got nan. (parameter=temperature, value=nan)",
    );
    check(
        COMPLETIONS,
        &sampling(r#""max_tokens": -3"#),
        400,
        Some("max_tokens"),
        "max_tokens must be at least 1, got -3. (parameter=max_tokens, value=-3)",
    );
    check(
        COMPLETIONS,
        &sampling(r#""logit_bias": {"a": 1, "3": 1}"#),
        400,
        None,
        "logit_bias contains key(s) that cannot be converted to integer token IDs: ['a']",
    );
    check(
        COMPLETIONS,
        &sampling(r#""stop": """#),
        400,
        None,
        "stop cannot contain an empty string.",
    );
    check(
        COMPLETIONS,
        r#"{"prompt": [4294967296]}"#,
        400,
        None,
        "Token id 4294967296 is out of vocabulary",
    );
    check(
        COMPLETIONS,
        &sampling(r#""structured_outputs": {"choice": []}"#),
        400,
        None,
        "Choice '[]' cannot be an empty list",
    );
    check(
        COMPLETIONS,
        &sampling(r#""structured_outputs": {"json": "{"}"#),
        400,
        None,
        "Invalid JSON grammar specification.",
    );
    check(
        CHAT,
        r#"{"messages": [], "media_io_kwargs": {"image": {"a": 1}}}"#,
        400,
        Some("media_io_kwargs"),
        "Per-request media_io_kwargs are disabled by default because they can change multimodal \
         media loading resource usage. Start the server with --trust-request-mm-kwargs only when \
         clients are trusted. (parameter=media_io_kwargs)",
    );
}

#[test]
fn messages_of_every_kind_are_accepted() {
    for messages in [
        r#"[]"#,
        r#"[{"role": "anything", "content": "x", "name": "n"}]"#,
        r#"[{"role": "user", "content": [{"type": "text", "text": "x"}, "y"]}]"#,
        r#"[{"role": "assistant", "content": null, "tool_calls": null}]"#,
        r#"[{"role": "assistant"}]"#,
        r#"[{"role": "user"}]"#,
        r#"[{"role": "tool", "tool_call_id": "a", "content": "x"}]"#,
        r#"[{"role": "function", "name": "f", "content": null}]"#,
    ] {
        check_accepted(CHAT, &format!(r#"{{"messages": {messages}}}"#));
    }
}
