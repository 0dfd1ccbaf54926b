//! The other forms of the same service: Responses, Anthropic messages, batches, SageMaker, scoring.

mod support;

use serde_json::{Value, json};
use support::{Answer, mock, serve, serve_engine};
use vllm_engine::mock::MockEngine;
use vllm_server::ServerConfig;

/// What the mock says; the last token of its script plays the end of sequence.
const TEXT: &str = "Hello there, world";

/// Names and data of all events; the body must be nothing but frames with both.
fn named_events(answer: &Answer) -> Vec<(&str, Value)> {
    let frames = answer.body.strip_suffix("\n\n").expect("complete frames");
    frames
        .split("\n\n")
        .map(|frame| {
            let frame = frame.strip_prefix("event: ").expect(frame);
            let (name, data) = frame.split_once("\ndata: ").expect(frame);
            (name, serde_json::from_str(data).expect(data))
        })
        .collect()
}

#[tokio::test]
async fn a_response_is_answered_and_not_stored() {
    let server = serve(ServerConfig::default()).await;
    let body = json!({"input": "Hi", "max_output_tokens": 50});
    let answer = server.post("/v1/responses", &body).await;
    assert_eq!(answer.status, 200);
    let json = answer.json();
    assert_eq!(json["status"], "completed");
    assert_eq!(json["output"][0]["content"][0]["text"], TEXT);
    let count = |name: &str| json["usage"][name].as_u64().expect(name);
    assert!(count("output_tokens") > 0);
    let sum = count("input_tokens") + count("output_tokens");
    assert_eq!(count("total_tokens"), sum);

    let id = json["id"].as_str().expect("an id");
    assert!(id.starts_with("resp_"));
    for (method, path) in [
        ("GET", format!("/v1/responses/{id}")),
        ("POST", format!("/v1/responses/{id}/cancel")),
    ] {
        let answer = server.send(method, &path, "", b"").await;
        assert_eq!(answer.status, 404, "{method} {path}");
        let error = &answer.json()["error"];
        assert_eq!(
            error["message"],
            format!("Response with id '{id}' not found.")
        );
        assert_eq!(error["type"], "invalid_request_error");
        assert_eq!(error["param"], "response_id");
    }
    let refused = json!({"input": "Hi", "background": true});
    let answer = server.post("/v1/responses", &refused).await;
    assert_eq!(answer.status, 400);
}

#[tokio::test]
async fn a_response_streams_numbered_events_without_done() {
    let server = serve(ServerConfig::default()).await;
    let body = json!({"input": "Hi", "max_output_tokens": 3, "stream": true});
    let answer = server.post("/v1/responses", &body).await;
    let events = named_events(&answer);
    for (number, (name, data)) in events.iter().enumerate() {
        assert_eq!(data["sequence_number"], number);
        assert_eq!(data["type"], *name);
    }
    let names: Vec<_> = events.iter().map(|(name, _)| *name).collect();
    assert_eq!(&names[..2], ["response.created", "response.in_progress"]);
    let (last, data) = events.last().expect("events");
    assert_eq!(*last, "response.completed");
    assert_eq!(data["response"]["status"], "incomplete");
}

#[tokio::test]
async fn a_response_that_the_engine_refuses_ends_without_a_last_event() {
    let server = serve(ServerConfig::default()).await;
    let body = json!({"input": "Hi", "stream": true, "stop_token_ids": [999999]});
    let answer = server.post("/v1/responses", &body).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
}

fn message(extra: Value) -> Value {
    let mut body = json!({"model": "mock", "max_tokens": 50,
                          "messages": [{"role": "user", "content": "Hi"}]});
    for (name, value) in extra.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    body
}

#[tokio::test]
async fn a_message_is_answered_in_the_anthropic_form() {
    let server = serve(ServerConfig::default()).await;
    let answer = server.post("/v1/messages", &message(json!({}))).await;
    let json = answer.json();
    assert_eq!(json["type"], "message");
    assert_eq!(json["content"], json!([{"type": "text", "text": TEXT}]));
    assert_eq!(json["stop_reason"], "end_turn");

    let cut = message(json!({"stop_sequences": [","]}));
    let json = server.post("/v1/messages", &cut).await.json();
    assert_eq!(json["content"][0]["text"], "Hello there");
    assert_eq!(json["stop_reason"], "stop_sequence");
    assert_eq!(json["stop_sequence"], ",");

    let input_tokens = json["usage"]["input_tokens"].clone();
    let counted = server
        .post("/v1/messages/count_tokens", &message(json!({})))
        .await;
    assert_eq!(counted.json()["input_tokens"], input_tokens);
}

#[tokio::test]
async fn a_message_streams_blocks() {
    let server = serve(ServerConfig::default()).await;
    let body = message(json!({"stream": true}));
    let answer = server.post("/v1/messages", &body).await;
    let events = named_events(&answer);
    let mut names: Vec<_> = events.iter().map(|(name, _)| *name).collect();
    names.dedup();
    assert_eq!(
        names,
        [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop"
        ]
    );
    let deltas = events
        .iter()
        .filter_map(|(_, data)| data["delta"]["text"].as_str());
    assert_eq!(deltas.collect::<String>(), TEXT);
}

#[tokio::test]
async fn errors_about_messages_have_the_form_of_who_finds_them() {
    let server = serve(ServerConfig::default()).await;
    let by_schema = server
        .post("/v1/messages", &message(json!({"max_tokens": 0})))
        .await;
    assert_eq!(by_schema.status, 400);
    assert_eq!(by_schema.json()["error"]["param"], "body.max_tokens");
    let by_handler = server
        .post("/v1/messages", &message(json!({"model": "other"})))
        .await;
    assert_eq!(by_handler.status, 404);
    assert_eq!(by_handler.json()["type"], "error");
    assert_eq!(by_handler.json()["error"]["type"], "NotFoundError");
}

#[tokio::test]
async fn a_batch_has_one_choice_per_conversation() {
    let server = serve(ServerConfig::default()).await;
    let conversation = |text: &str| json!([{"role": "user", "content": text}]);
    let body = json!({"messages": [conversation("a"), conversation("b")], "max_tokens": 2});
    let json = server
        .post("/v1/chat/completions/batch", &body)
        .await
        .json();
    assert_eq!(json["object"], "chat.completion");
    let choices = json["choices"].as_array().expect("choices");
    let indices: Vec<_> = choices.iter().map(|choice| &choice["index"]).collect();
    assert_eq!(indices, [0, 1]);
    assert_eq!(json["usage"]["completion_tokens"], 4);
    let single = json!({"messages": conversation("a"), "max_tokens": 2});
    let alone = server.post("/v1/chat/completions", &single).await.json();
    assert_eq!(
        json["usage"]["prompt_tokens"].as_u64(),
        alone["usage"]["prompt_tokens"].as_u64().map(|it| it * 2)
    );

    for (name, value, param) in [
        ("stream", json!(true), "stream"),
        ("n", json!(2), "n"),
        ("messages", json!([]), "body.messages"),
        ("messages", json!([[]]), "body.messages.0"),
        ("messages", conversation("a"), "body.messages.0"),
    ] {
        let mut refused = body.clone();
        refused[name] = value;
        let answer = server.post("/v1/chat/completions/batch", &refused).await;
        assert_eq!(answer.status, 400, "{refused}");
        assert_eq!(answer.json()["error"]["param"], param);
    }
}

#[tokio::test]
async fn an_invocation_is_a_chat_or_a_completion() {
    let server = serve(ServerConfig::default()).await;
    let chat = json!({"messages": [{"role": "user", "content": "Hi"}]});
    let json = server.post("/invocations", &chat).await.json();
    assert_eq!(json["object"], "chat.completion");
    let completion = json!({"prompt": "Hi", "max_tokens": 2});
    let json = server.post("/invocations", &completion).await.json();
    assert_eq!(json["object"], "text_completion");
    let answer = server.post("/invocations", &json!({"inputs": "Hi"})).await;
    assert_eq!(answer.status, 400);
    let message = answer.json()["error"]["message"].clone();
    let expected = "Cannot find suitable handler for request. Expected one of: \
                    ['ChatCompletionRequest', 'CompletionRequest']";
    assert_eq!(message, expected);

    let body = completion.to_string();
    let headers = "Content-Type: application/json\r\n\
                   X-Amzn-SageMaker-Adapter-Identifier: other\r\n";
    let answer = server
        .send("POST", "/invocations", headers, body.as_bytes())
        .await;
    assert_eq!(answer.status, 404);
}

#[tokio::test]
async fn scoring_checks_its_request() {
    let server = serve(ServerConfig::default()).await;
    let body = json!({"query": "a", "items": ["b"], "label_token_ids": [4096]});
    let answer = server.post("/generative_scoring", &body).await;
    assert_eq!(answer.status, 400);
    let message = "label_token_id 4096 is out of vocabulary range [0, 2048). Please provide valid \
                   token IDs.";
    assert_eq!(answer.json()["error"]["message"], message);
    let body = json!({"model": "x", "query": "a", "items": ["b"], "label_token_ids": [1]});
    assert_eq!(server.post("/generative_scoring", &body).await.status, 404);
}

#[tokio::test]
async fn what_one_small_server_cannot_do_is_said() {
    let server = serve(ServerConfig::default()).await;
    let sources = server.get("/kv_event_sources").await;
    assert_eq!((sources.status, sources.body.as_str()), (200, "{}"));
    let scaling = server.send("POST", "/is_scaling_elastic_ep", "", b"").await;
    assert_eq!(scaling.body, r#"{"is_scaling_elastic_ep":false}"#);
    let check = async |path: &str, body: Value, status: u16, param: Value| {
        let answer = server.post(path, &body).await;
        assert_eq!(answer.status, status, "{path} {body}");
        assert_eq!(answer.json()["error"]["param"], param);
    };
    let size = json!("body.new_data_parallel_size");
    check("/scale_elastic_ep", json!({}), 400, size).await;
    let two = json!({"new_data_parallel_size": 2});
    check("/scale_elastic_ep", two, 400, Value::Null).await;
    check("/v1/systemone", json!({}), 501, Value::Null).await;
}

#[tokio::test]
async fn the_load_is_told_on_request() {
    let server = serve_engine(ServerConfig::default(), mock()).await;
    let check = async |format: &str, stream: bool, expected: Option<&str>| {
        let body = json!({"prompt": "a", "max_tokens": 1, "stream": stream}).to_string();
        let headers =
            format!("Content-Type: application/json\r\nendpoint-load-metrics-format: {format}\r\n");
        let path = "/v1/completions";
        let answer = server.send("POST", path, &headers, body.as_bytes()).await;
        assert_eq!(answer.header("endpoint-load-metrics"), expected);
    };
    let text = "TEXT named_metrics.kv_cache_usage_perc=0.0, named_metrics.num_requests_waiting=0.0";
    check("TEXT", false, Some(text)).await;
    let json =
        r#"JSON {"named_metrics": {"kv_cache_usage_perc": 0.0, "num_requests_waiting": 0.0}}"#;
    check("JSON", false, Some(json)).await;
    check("TEXT", true, None).await;
    check("XML", false, None).await;
}

#[tokio::test]
async fn reasoning_is_told_from_the_answer() {
    let mut config = ServerConfig::default();
    config.api.reasoning_parser = Some("qwen3".to_owned());
    let engine = MockEngine::new("Hm, well.</think>Hello there!").unwrap();
    let server = serve_engine(config, engine).await;
    let ask = async |name: &str, value: Value| {
        let mut body = json!({"messages": [{"role": "user", "content": "a"}]});
        body[name] = value;
        server.post("/v1/chat/completions", &body).await
    };
    let message = ask("n", json!(1)).await.json()["choices"][0]["message"].take();
    assert_eq!(message["reasoning"], "Hm, well.");
    assert_eq!(message["content"], "Hello there");

    let off = json!({"enable_thinking": false});
    let message = ask("chat_template_kwargs", off).await.json()["choices"][0]["message"].take();
    assert_eq!(message["reasoning"], Value::Null);
    assert_eq!(message["content"], "Hm, well.</think>Hello there");

    let answer = ask("stream", json!(true)).await;
    let (mut reasoning, mut content) = (String::new(), String::new());
    for event in answer.events() {
        let Ok(chunk) = serde_json::from_str::<Value>(event) else {
            continue;
        };
        let delta = &chunk["choices"][0]["delta"];
        reasoning += delta["reasoning"].as_str().unwrap_or_default();
        content += delta["content"].as_str().unwrap_or_default();
    }
    assert_eq!((&*reasoning, &*content), ("Hm, well.", "Hello there"));

    let limited = ask("thinking_token_budget", json!(5)).await;
    assert_eq!(limited.status, 400);
    assert!(
        limited.body.contains("thinking_token_budget"),
        "{}",
        limited.body
    );
}

#[tokio::test]
async fn only_engines_that_are_there_can_be_asked() {
    let server = serve(ServerConfig::default()).await;
    let json = "Content-Type: application/json\r\nX-data-parallel-rank: ";
    for (rank, status) in [("0", 200), ("x", 200), ("1", 400), ("-1", 400)] {
        let headers = format!("{json}{rank}\r\n");
        let body = br#"{"prompt": "a", "max_tokens": 1}"#;
        let answer = server.send("POST", "/v1/completions", &headers, body).await;
        assert_eq!(answer.status, status, "{rank}: {}", answer.body);
    }
}
