//! Completions and chat through the whole HTTP stack: answers, streams, errors, disconnects, stops.

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{PATIENCE, eventually, mock, read_answer, serve, serve_engine};
use tokio::io::AsyncReadExt;
use vllm_server::{ExitCause, ServerConfig};

/// What the mock says; the last token of its script plays the end of sequence.
const TEXT: &str = "Hello there, world";

fn chat(extra: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "Hi"}], "temperature": 0});
    for (name, value) in extra.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    body
}

#[tokio::test]
async fn a_completion_is_answered() {
    let server = serve(ServerConfig::default()).await;
    let body = json!({"prompt": "Say it", "max_tokens": 50});
    let answer = server.post("/v1/completions", &body).await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("application/json"))
    );
    let json = answer.json();
    assert_eq!(json["object"], "text_completion");
    assert_eq!(json["choices"][0]["text"], TEXT);
    assert_eq!(json["choices"][0]["finish_reason"], "stop");
    assert!(
        json["system_fingerprint"]
            .as_str()
            .unwrap()
            .starts_with("vllm-0.32.0-")
    );
}

#[tokio::test]
async fn prompts_and_samples_are_numbered_in_order() {
    let server = serve(ServerConfig::default()).await;
    let body = json!({"prompt": ["a", "b"], "n": 2, "max_tokens": 2, "echo": true});
    let answer = server.post("/v1/completions", &body).await.json();
    let choices: Vec<_> = answer["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| {
            (
                choice["index"].as_u64().unwrap(),
                &choice["text"].as_str().unwrap()[..1],
            )
        })
        .collect();
    assert_eq!(choices, [(0, "a"), (1, "a"), (2, "b"), (3, "b")]);
    assert_eq!(answer["usage"]["completion_tokens"], 8);
}

#[tokio::test]
async fn a_chat_is_answered() {
    let server = serve(ServerConfig::default()).await;
    let json = server
        .post("/v1/chat/completions", &chat(json!({})))
        .await
        .json();
    assert_eq!(json["object"], "chat.completion");
    assert_eq!(json["choices"][0]["message"]["content"], TEXT);
    assert_eq!(json["choices"][0]["message"]["role"], "assistant");
}

#[tokio::test]
async fn the_callers_request_id_is_part_of_the_answers() {
    let server = serve(ServerConfig::default()).await;
    let body = json!({"prompt": "a", "request_id": "field"}).to_string();
    let headers = "Content-Type: application/json\r\nX-Request-Id: header\r\n";
    let answer = server
        .send("POST", "/v1/completions", headers, body.as_bytes())
        .await;
    assert_eq!(answer.json()["id"], "cmpl-header");
    let headers = "Content-Type: application/json\r\n";
    let answer = server
        .send("POST", "/v1/completions", headers, body.as_bytes())
        .await;
    assert_eq!(answer.json()["id"], "cmpl-field");
}

#[tokio::test]
async fn a_completion_stream_is_nothing_but_frames() {
    let server = serve(ServerConfig::default()).await;
    let body = json!({"prompt": "a", "max_tokens": 50, "stream": true,
                      "stream_options": {"include_usage": true}});
    let answer = server.post("/v1/completions", &body).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.header("content-type"),
        Some("text/event-stream; charset=utf-8")
    );
    let events = answer.events();
    let (done, chunks) = events.split_last().unwrap();
    assert_eq!(*done, "[DONE]");
    let chunks: Vec<Value> = chunks
        .iter()
        .map(|c| serde_json::from_str(c).unwrap())
        .collect();
    let text: String = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["text"].as_str())
        .collect();
    assert_eq!(text, TEXT);
    assert!(chunks.last().unwrap()["usage"]["completion_tokens"].as_u64() > Some(0));
}

#[tokio::test]
async fn a_chat_stream_begins_with_the_role() {
    let server = serve(ServerConfig::default()).await;
    let answer = server
        .post("/v1/chat/completions", &chat(json!({"stream": true})))
        .await;
    let events = answer.events();
    let first: Value = serde_json::from_str(events[0]).unwrap();
    assert_eq!(
        first["choices"][0]["delta"],
        json!({"role": "assistant", "content": ""})
    );
    assert_eq!(events.last(), Some(&"[DONE]"));
}

#[tokio::test]
async fn bodies_that_are_no_requests_are_400() {
    let server = serve(ServerConfig::default()).await;
    let check = async |content_type: &str, body: &[u8], expected: &str| {
        for path in [
            "/v1/completions",
            "/v1/chat/completions",
            "/tokenize",
            "/detokenize",
        ] {
            let headers = format!("Content-Type: {content_type}\r\n");
            let answer = server.send("POST", path, &headers, body).await;
            assert_eq!(answer.status, 400, "{path} {body:?}");
            assert!(
                answer.body.contains(expected),
                "{path} {body:?}: {}",
                answer.body
            );
        }
    };
    check("application/json", b"{", "json_invalid").await;
    check("application/json", b"", "Field required").await;
    check("application/json", b"null", "Field required").await;
    check("application/json", b"[1]", "model_attributes_type").await;
    check(
        "application/json",
        b"\xff\xfe{}",
        "There was an error parsing the body",
    )
    .await;
    check("text/plain", b"{}", "Unsupported Media Type").await;
    check("application/json; charset=utf-8", b"{", "json_invalid").await;
}

#[tokio::test]
async fn mistakes_found_early_are_400_and_those_of_the_engine_end_a_stream() {
    let server = serve(ServerConfig::default()).await;
    let early = json!({"prompt": "a", "temperature": -1, "stream": true});
    assert_eq!(server.post("/v1/completions", &early).await.status, 400);
    let long = json!({"prompt": "word ".repeat(2000), "stream": true});
    assert_eq!(server.post("/v1/completions", &long).await.status, 400);

    let late = json!({"prompt": "a", "logprobs": 50});
    let answer = server.post("/v1/completions", &late).await;
    assert_eq!(answer.status, 400);
    let message = answer.json()["error"]["message"].clone();

    let late = json!({"prompt": "a", "logprobs": 50, "stream": true});
    let answer = server.post("/v1/completions", &late).await;
    assert_eq!(answer.status, 200);
    let events = answer.events();
    assert_eq!(events.len(), 2, "{events:?}");
    assert!(
        events[0].starts_with(r#"{"error": {"message": "#),
        "{}",
        events[0]
    );
    let error: Value = serde_json::from_str(events[0]).unwrap();
    assert_eq!(error["error"]["message"], message);
    assert_eq!(events[1], "[DONE]");
}

#[tokio::test]
async fn tokens_are_counted_and_turned_back() {
    let server = serve(ServerConfig::default()).await;
    let body = json!({"prompt": "Hello there", "return_token_strs": true});
    let tokens = server.post("/tokenize", &body).await.json();
    assert_eq!(tokens["max_model_len"], 512);
    assert_eq!(
        tokens["count"].as_u64(),
        Some(tokens["tokens"].as_array().unwrap().len() as u64)
    );
    let text = server
        .post("/detokenize", &json!({"tokens": tokens["tokens"]}))
        .await
        .json();
    assert!(
        text["prompt"].as_str().unwrap().ends_with("Hello there"),
        "{text}"
    );
    let chat = server.post("/tokenize", &chat(json!({}))).await.json();
    assert!(chat["count"].as_u64() > Some(1));
}

#[tokio::test]
async fn a_client_that_leaves_aborts_its_request_streaming_or_not() {
    for stream in [false, true] {
        let server = serve_engine(ServerConfig::default(), mock().stalling()).await;
        let body = json!({"prompt": ["a", "b"], "stream": stream});
        let connection = server.begin("/v1/completions", &body).await;
        if stream {
            // The head of the answer tells that the engine has the request.
            let mut byte = [0];
            let mut connection = connection;
            tokio::time::timeout(PATIENCE, connection.read_exact(&mut byte))
                .await
                .unwrap()
                .unwrap();
        } else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            drop(connection);
        }
        eventually(|| server.engine.num_aborted() == 2).await;
    }
}

#[tokio::test]
async fn silence_is_filled_with_comments_when_wanted() {
    let mut config = ServerConfig::default();
    config.api.sse_keep_alive_interval = Some(Duration::from_millis(20));
    let server = serve_engine(config, mock().stalling()).await;
    let body = json!({"prompt": "a", "stream": true});
    let mut connection = server.begin("/v1/completions", &body).await;
    let mut received = String::new();
    while received.matches(": keep-alive\n\n").count() < 2 {
        let mut buffer = [0; 1024];
        let read = tokio::time::timeout(PATIENCE, connection.read(&mut buffer)).await;
        let read = read.expect("comments come").unwrap();
        received.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
}

#[tokio::test]
async fn a_stop_tells_running_requests_why_they_end() {
    let server = serve_engine(ServerConfig::default(), mock().stalling()).await;
    let plain = server
        .begin("/v1/completions", &json!({"prompt": "a"}))
        .await;
    let body = json!({"prompt": "a", "stream": true});
    let streamed = server.begin("/v1/completions", &body).await;
    let idle = server.connect().await;
    streamed.readable().await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.shutdown.trigger();

    let answer = read_answer(plain).await;
    let ended_well = answer.status == 200
        && answer.json()["choices"][0]["finish_reason"] == "abort"
        || answer.status == 503
            && answer.json()["error"]["message"] == "The server is shutting down.";
    assert!(ended_well, "{} {}", answer.status, answer.body);
    let answer = read_answer(streamed).await;
    assert_eq!(answer.events().last(), Some(&"[DONE]"));
    assert!(answer.events().len() >= 2, "{:?}", answer.events());
    assert_eq!(server.ended.await.unwrap(), ExitCause::Stopped);
    drop(idle);
}

#[tokio::test]
async fn a_patient_stop_lets_requests_finish_and_a_second_signal_does_not() {
    let mut config = ServerConfig::default();
    config.http.shutdown_timeout = Duration::from_secs(3600);
    let server = serve_engine(config, mock().stalling()).await;
    let _connection = server
        .begin("/v1/completions", &json!({"prompt": "a"}))
        .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.shutdown.trigger();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!server.ended.is_finished());
    server.shutdown.trigger();
    eventually(|| server.ended.is_finished()).await;
}
