//! The client against servers that answer well and badly.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use vllm_bench::serve::{
    Api, Arrivals, Client, ClientSettings, LoadSettings, Observation, TextRequest, apply_load,
};

const OK: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream\r\n\r\n";

fn event(json: &Value) -> String {
    format!("data: {json}\n\n")
}

fn token(text: &str) -> String {
    event(&json!({"choices": [{"text": text}]}))
}

fn usage(count: usize) -> String {
    event(&json!({"choices": [], "usage": {"completion_tokens": count}}))
}

/// A server that gives every request this answer; its task ends with the bodies that it got.
async fn answering(answer: String, requests: usize) -> (String, JoinHandle<Vec<Value>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let mut bodies = Vec::new();
        for _ in 0..requests {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head_and_body = Vec::new();
            let body = loop {
                assert!(socket.read_buf(&mut head_and_body).await.unwrap() > 0);
                let text = String::from_utf8_lossy(&head_and_body);
                let body = text.split_once("\r\n\r\n").map(|(_, body)| body);
                if let Some(Ok(body)) = body.map(serde_json::from_str) {
                    break body;
                }
            };
            bodies.push(body);
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
        bodies
    });
    (url, server)
}

fn client(base_url: &str, api: Api) -> Client {
    let extra_body = Map::from_iter([("ignore_eos".to_owned(), true.into())]);
    Client::new(ClientSettings {
        base_url: base_url.to_owned(),
        api,
        endpoint: api.endpoint().to_owned(),
        api_key: Some("key".to_owned()),
        extra_body,
    })
    .unwrap()
}

fn request() -> TextRequest {
    TextRequest {
        prompt: "Say something".to_owned(),
        prompt_len: 2,
        output_len: 3,
    }
}

async fn observe(answer: &str, api: Api) -> (Observation, Value) {
    let (url, server) = answering(answer.to_owned(), 1).await;
    let observation = client(&url, api)
        .measure("m", &request(), Instant::now())
        .await;
    (observation, server.await.unwrap().remove(0))
}

#[tokio::test]
async fn tokens_are_timed_and_counted_as_the_server_counts_them() {
    let answer = [OK, &token("a"), &token("b"), &usage(5), "data: [DONE]\n\n"].concat();
    let (observation, body) = observe(&answer, Api::Completions).await;
    assert_eq!(observation.error, None);
    assert_eq!((observation.output_len, observation.itl.len()), (5, 1));
    assert_eq!(observation.text, "ab");
    assert!(observation.ttft <= observation.latency && !observation.ttft.is_zero());
    assert_eq!(body["prompt"], "Say something");
    assert_eq!(body["max_tokens"], 3);
    assert_eq!(body["ignore_eos"], true);
    assert_eq!(body["stream_options"]["include_usage"], true);
}

#[tokio::test]
async fn the_opening_of_a_chat_answer_is_no_token() {
    let delta = |delta: Value| event(&json!({"choices": [{"delta": delta}]}));
    let opening = delta(json!({"role": "assistant", "content": ""}));
    let content = delta(json!({"content": "hello"}));
    let answer = [OK, &opening, &content, &delta(json!({"content": ""}))].concat();
    let (observation, body) = observe(&answer, Api::Chat).await;
    assert_eq!((observation.output_len, observation.itl.len()), (2, 1));
    assert_eq!(observation.text, "hello");
    assert_eq!(body["messages"][0]["content"], "Say something");
    assert_eq!(body["max_completion_tokens"], 3);
}

#[tokio::test]
async fn answers_that_fail_say_how() {
    let check = async |answer: &str, part: &str| {
        let (observation, _) = observe(answer, Api::Completions).await;
        let reason = observation.error.expect("the answer fails");
        assert!(reason.contains(part), "{reason}");
    };
    let busy = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";
    check(busy, "503 Service Unavailable: busy").await;
    check(
        &[OK, &event(&json!({"error": {"message": "dead"}}))].concat(),
        "dead",
    )
    .await;
    check(&[OK, "data: {\n\n"].concat(), "not JSON").await;
    check(OK, "no tokens").await;
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n";
    check(&[cut, &token("a")].concat(), "broke off").await;
}

#[tokio::test]
async fn many_clients_are_answered_within_the_limit() {
    let answer = [OK, &token("a"), "data: [DONE]\n\n"].concat();
    let (url, server) = answering(answer, 20).await;
    let settings = LoadSettings {
        model: "m".to_owned(),
        arrivals: Arrivals {
            request_rate: 1e4,
            burstiness: 1.0,
            seed: 0,
        },
        max_concurrency: Some(3),
    };
    let requests = vec![request(); 20];
    let mut finished = 0;
    let client = client(&url, Api::Completions);
    let load = apply_load(&client, &requests, &settings, |_| finished += 1)
        .await
        .unwrap();
    assert_eq!((finished, server.await.unwrap().len()), (20, 20));
    assert!(load.observations.iter().all(|o| o.error.is_none()));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", unused.local_addr().unwrap());
    drop(unused);
    let client = client(&url, Api::Completions);
    let request = request();
    let ready = client.wait_until_ready("m", &request, Duration::ZERO);
    let message = ready.await.unwrap_err().to_string();
    assert!(
        message.starts_with(&url) && message.contains("/v1/completions"),
        "{message}"
    );
    assert!(client.first_model().await.is_err());
}

#[test]
fn only_plain_http_is_spoken() {
    let settings = ClientSettings {
        base_url: "https://example.com".to_owned(),
        api: Api::Chat,
        endpoint: Api::Chat.endpoint().to_owned(),
        api_key: None,
        extra_body: Map::new(),
    };
    let message = Client::new(settings).unwrap_err().to_string();
    assert!(message.contains("http://"), "{message}");
}
