//! What is true of every request: routes, keys, limits, headers, the metrics page.

mod support;

use serde_json::json;
use support::{Served, eventually, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vllm_server::{HttpConfig, ServerConfig};

fn config(http: HttpConfig) -> ServerConfig {
    ServerConfig {
        http,
        ..ServerConfig::default()
    }
}

#[tokio::test]
async fn every_route_answers_as_vllm_does() {
    let server = serve(ServerConfig::default()).await;
    let check = async |method: &str, path: &str, status: u16, body: &str| {
        let answer = server.send(method, path, "", b"").await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (status, body),
            "{method} {path}"
        );
    };
    const NOT_FOUND: &str = r#"{"detail":"Not Found"}"#;
    const NOT_ALLOWED: &str = r#"{"detail":"Method Not Allowed"}"#;
    check("GET", "/health", 200, "").await;
    check("GET", "/ping", 200, "").await;
    check("POST", "/ping", 200, "").await;
    check("GET", "/version", 200, r#"{"version":"0.32.0"}"#).await;
    check("GET", "/load", 200, r#"{"server_load":0}"#).await;
    check("GET", "/v1/models/mock", 404, NOT_FOUND).await;
    check("POST", "/v1/embeddings", 404, NOT_FOUND).await;
    check("POST", "/reset_prefix_cache", 404, NOT_FOUND).await;
    check("GET", "/", 404, NOT_FOUND).await;
    check("GET", "/v1/completions", 405, NOT_ALLOWED).await;
    check("PUT", "/v1/chat/completions", 405, NOT_ALLOWED).await;
    check("POST", "/health", 405, NOT_ALLOWED).await;
    check("OPTIONS", "/v1/models", 405, NOT_ALLOWED).await;
    let scale_out = r#"{"error":{"message":"Scale-out endpoints are disabled. Restart vllm serve with --enable-scale-out to enable them.","type":"PermissionDeniedError","param":null,"code":403}}"#;
    check("POST", "/v1/completions/render", 403, scale_out).await;
    check("POST", "/inference/v1/generate", 403, scale_out).await;
}

#[tokio::test]
async fn head_is_refused_on_get_routes() {
    let server = serve(ServerConfig::default()).await;
    let answer = server.send("HEAD", "/health", "", b"").await;
    assert_eq!(answer.status, 405);
    assert!(
        answer
            .header("allow")
            .is_some_and(|allowed| allowed.contains("GET"))
    );
}

#[tokio::test]
async fn a_trailing_slash_is_redirected() {
    let server = serve(ServerConfig::default()).await;
    let answer = server.get("/v1/models/?a=b").await;
    assert_eq!(
        (answer.status, answer.header("location")),
        (307, Some("/v1/models?a=b"))
    );
}

#[tokio::test]
async fn development_routes_need_the_mode() {
    let server = serve(config(HttpConfig {
        dev_mode: true,
        ..HttpConfig::default()
    }))
    .await;
    let answer = server.send("POST", "/reset_prefix_cache", "", b"").await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (200, r#"{"success":true}"#)
    );
}

#[tokio::test]
async fn models_are_listed_by_served_name() {
    let mut config = ServerConfig::default();
    config.api.served_model_names = vec!["first".to_owned(), "second".to_owned()];
    let server = serve(config).await;
    let list = server.get("/v1/models").await.json();
    let names: Vec<_> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|card| &card["id"])
        .collect();
    assert_eq!(names, ["first", "second"]);
    assert_eq!(list["data"][0]["root"], "mock");
    assert_eq!(list["data"][0]["max_model_len"], 512);

    let answer = server
        .post(
            "/v1/completions",
            &json!({"model": "second", "prompt": "a"}),
        )
        .await;
    assert_eq!(answer.json()["model"], "first");
    let answer = server
        .post("/v1/completions", &json!({"model": "third", "prompt": "a"}))
        .await;
    assert_eq!(answer.status, 404);
    let message = "The model `third` does not exist. Valid aliases: first, second.";
    assert_eq!(answer.json()["error"]["message"], message);
}

#[tokio::test]
async fn keys_guard_the_api_and_nothing_else() {
    let keys = vec!["secret".to_owned(), "other".to_owned()];
    let server = serve(config(HttpConfig {
        api_keys: keys,
        ..HttpConfig::default()
    }))
    .await;
    let check = async |path: &str, header: &str, status: u16| {
        let answer = server.send("GET", path, header, b"").await;
        assert_eq!(answer.status, status, "{path} {header:?}");
        if status == 401 {
            assert_eq!(answer.body, r#"{"error":"Unauthorized"}"#);
            assert_eq!(answer.header("vary"), None);
        }
    };
    check("/v1/models", "Authorization: Bearer secret\r\n", 200).await;
    check("/v1/models", "authorization: bearer other\r\n", 200).await;
    check("/v1/models", "Authorization: Bearer  secret\r\n", 401).await;
    check("/v1/models", "Authorization: secret\r\n", 401).await;
    check("/v1/models", "Authorization: Basic secret\r\n", 401).await;
    check("/v1/models", "x-api-key: secret\r\n", 401).await;
    check("/v1/models", "", 401).await;
    check("/v1/nothing", "", 401).await;
    check("/v1/models/", "", 401).await;
    check("/health", "", 200).await;
    check("/metrics", "", 200).await;
    check("/version", "", 200).await;
}

#[tokio::test]
async fn every_answer_names_the_server_and_varies_by_origin() {
    let server = serve(ServerConfig::default()).await;
    for path in ["/health", "/v1/models", "/nothing"] {
        let answer = server.get(path).await;
        assert_eq!(answer.header("server"), Some("uvicorn"), "{path}");
        assert_eq!(answer.header("vary"), Some("Origin"), "{path}");
        assert_eq!(answer.header("x-request-id"), None, "{path}");
    }
}

#[tokio::test]
async fn request_ids_are_returned_when_wanted() {
    let http = HttpConfig {
        request_id_headers: true,
        ..HttpConfig::default()
    };
    let server = serve(config(http)).await;
    let answer = server
        .send("GET", "/health", "X-Request-Id: mine\r\n", b"")
        .await;
    assert_eq!(answer.header("x-request-id"), Some("mine"));
    let answer = server.get("/health").await;
    let id = answer.header("x-request-id").unwrap();
    assert!(
        id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{id}"
    );
}

#[tokio::test]
async fn a_root_path_may_be_stripped_by_the_proxy_or_not() {
    let keys = vec!["secret".to_owned()];
    let root_path = "/p".to_owned();
    let server = serve(config(HttpConfig {
        root_path,
        api_keys: keys,
        ..HttpConfig::default()
    }))
    .await;
    let check = async |path: &str, status| {
        assert_eq!(server.get(path).await.status, status, "{path}");
    };
    check("/p/version", 200).await;
    check("/version", 200).await;
    check("/p/v1/models", 401).await;
    check("/px/version", 404).await;
}

#[tokio::test]
async fn bodies_beyond_the_limit_are_413() {
    let server = serve(config(HttpConfig {
        max_body_bytes: 1000,
        ..HttpConfig::default()
    }))
    .await;
    let answer = server
        .post("/v1/completions", &json!({"prompt": "a".repeat(2000)}))
        .await;
    assert_eq!(answer.status, 413);
    assert_eq!(answer.json()["error"]["code"], 413);

    let mut request = b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\
                        Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        .to_vec();
    request.extend_from_slice(format!("7d0\r\n{}\r\n0\r\n\r\n", "a".repeat(2000)).as_bytes());
    assert_eq!(server.raw(&request).await.status, 413);
}

#[tokio::test]
async fn heads_beyond_the_limits_are_431() {
    let http = HttpConfig {
        max_head_bytes: 8 << 10,
        max_header_count: 20,
        ..HttpConfig::default()
    };
    let server = serve(config(http)).await;
    let long = format!("X-Long: {}\r\n", "a".repeat(16 << 10));
    assert_eq!(server.send("GET", "/health", &long, b"").await.status, 431);
    let many: String = (0..30).map(|i| format!("X-{i}: a\r\n")).collect();
    assert_eq!(server.send("GET", "/health", &many, b"").await.status, 431);
}

#[tokio::test]
async fn what_is_not_http_is_400() {
    let server = serve(ServerConfig::default()).await;
    assert_eq!(server.raw(b"hello\r\n\r\n").await.status, 400);
}

#[tokio::test]
async fn idle_connections_are_closed_and_busy_ones_kept() {
    let keep_alive = std::time::Duration::from_millis(300);
    let server = serve(config(HttpConfig {
        keep_alive,
        ..HttpConfig::default()
    }))
    .await;
    let mut stream = server.connect().await;
    for _ in 0..2 {
        stream
            .write_all(b"GET /version HTTP/1.1\r\nHost: t\r\n\r\n")
            .await
            .unwrap();
        let mut buffer = [0; 1024];
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(buffer[..read].starts_with(b"HTTP/1.1 200"));
    }
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(support::PATIENCE, stream.read_to_end(&mut rest)).await;
    assert_eq!(closed.expect("the server closes").unwrap(), 0);
}

#[tokio::test]
async fn cross_origin_access_follows_the_rules() {
    let mut http = HttpConfig::default();
    http.cors.origins = vec!["https://a.example".to_owned()];
    let server = serve(config(http)).await;
    let preflight = "Origin: https://a.example\r\nAccess-Control-Request-Method: POST\r\n";
    let answer = server
        .send("OPTIONS", "/v1/completions", preflight, b"")
        .await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "OK"));
    assert_eq!(answer.header("access-control-max-age"), Some("600"));
    let other = preflight.replace("a.example", "b.example");
    let answer = server.send("OPTIONS", "/v1/completions", &other, b"").await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (400, "Disallowed CORS origin")
    );
    let answer = server
        .send("GET", "/v1/models", "Origin: https://a.example\r\n", b"")
        .await;
    assert_eq!(
        answer.header("access-control-allow-origin"),
        Some("https://a.example")
    );
}

#[tokio::test]
async fn load_is_tracked_when_wanted() {
    let mut config = ServerConfig::default();
    config.api.enable_server_load_tracking = true;
    let server = support::serve_engine(config, support::mock().stalling()).await;
    let stream = server
        .begin("/v1/completions", &json!({"prompt": "a"}))
        .await;
    wait_for_load(&server, 1).await;
    drop(stream);
    wait_for_load(&server, 0).await;
}

async fn wait_for_load(server: &Served, expected: u64) {
    for _ in 0..2000 {
        if server.get("/load").await.json()["server_load"] == expected {
            return;
        }
    }
    panic!("the load never became {expected}");
}

#[tokio::test]
async fn metrics_are_a_prometheus_page_of_what_happened() {
    let mut config = ServerConfig::default();
    config.api.served_model_names = vec!["m\"x".to_owned()];
    let server = serve(config).await;
    for max_tokens in [1, 3] {
        let body = json!({"prompt": "a b c", "max_tokens": max_tokens});
        assert_eq!(server.post("/v1/completions", &body).await.status, 200);
    }
    server.get("/nothing").await;
    server.get("/health").await;

    let answer = server.get("/metrics").await;
    assert_eq!(
        answer.header("content-type"),
        Some("text/plain; version=1.0.0; charset=utf-8")
    );
    let value = |sample: &str| -> f64 {
        let line = answer
            .body
            .lines()
            .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{sample} is missing"))
            .parse()
            .unwrap()
    };
    let labels = r#"{engine="0",model_name="m\"x"}"#;
    assert_eq!(
        value(&format!("vllm:request_generation_tokens_count{labels}")),
        2.0
    );
    assert_eq!(
        value(&format!("vllm:request_generation_tokens_sum{labels}")),
        4.0
    );
    assert_eq!(
        value(&format!("vllm:time_to_first_token_seconds_count{labels}")),
        2.0
    );
    let requests = |handler: &str, method: &str, status: &str| {
        value(&format!(
            r#"http_requests_total{{handler="{handler}",method="{method}",status="{status}"}}"#
        ))
    };
    assert_eq!(requests("/v1/completions", "POST", "2xx"), 2.0);
    assert_eq!(requests("none", "GET", "4xx"), 1.0);
    assert!(!answer.body.contains(r#"handler="/health""#));
    assert_eq!(value("http_request_duration_highr_seconds_count"), 3.0);
    assert_eq!(server.get("/metrics/x").await.status, 200);
}

#[tokio::test]
async fn every_family_has_a_type_and_every_sample_a_family() {
    let server = serve(ServerConfig::default()).await;
    server
        .post("/v1/completions", &json!({"prompt": "a"}))
        .await;
    let page = server.get("/metrics").await.body;
    let mut family = String::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().unwrap().to_owned();
        } else if !line.starts_with("# HELP ") {
            let name = line.split(['{', ' ']).next().unwrap();
            assert!(name.starts_with(&family), "{name} stands under {family}");
            assert!(
                line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(),
                "{line}"
            );
        }
    }
}

#[tokio::test]
async fn the_page_has_every_family_of_vllm() {
    let mut config = ServerConfig::default();
    config.api.enable_auto_tool_choice = true;
    config.api.tool_call_parser = Some("hermes".to_owned());
    let page = serve(config).await.get("/metrics").await.body;
    let mut found: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter(|family| !family.ends_with("_created gauge"))
        .collect();
    found.sort_unstable();
    let expected: Vec<&str> = include_str!("metric_families.txt").lines().collect();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn engine_metrics_can_be_switched_off() {
    let mut config = ServerConfig::default();
    config.log.statistics = false;
    let page = serve(config).await.get("/metrics").await.body;
    assert!(
        !page.contains("vllm:") && page.contains("process_cpu_seconds_total"),
        "{page}"
    );
}

#[tokio::test]
async fn a_dead_engine_shows_in_health_and_ends_the_service() {
    let server = serve(ServerConfig::default()).await;
    assert_eq!(server.get("/health").await.status, 200);
    let mut stream = server.connect().await;
    server.engine.kill();
    stream
        .write_all(b"GET /health HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(support::read_answer(stream).await.status, 503);
    eventually(|| server.ended.is_finished()).await;
    assert_eq!(
        server.ended.await.unwrap(),
        vllm_server::ExitCause::EngineDead
    );
}

#[tokio::test]
async fn a_dead_engine_can_be_survived() {
    let http = HttpConfig {
        keep_alive_on_engine_death: true,
        ..HttpConfig::default()
    };
    let server = serve(config(http)).await;
    server.engine.kill();
    let answer = server
        .post("/v1/completions", &json!({"prompt": "a"}))
        .await;
    assert_eq!(answer.status, 500);
    assert_eq!(answer.json()["error"]["type"], "InternalServerError");
    assert_eq!(server.get("/health").await.status, 503);
}

#[tokio::test]
async fn every_route_is_documented() {
    let server = serve(ServerConfig::default()).await;
    let answer = server.get("/openapi.json").await;
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let api = answer.json();
    assert!(api["openapi"].as_str().unwrap().starts_with("3."));
    let paths = api["paths"].as_object().unwrap();
    let known_methods = ["get", "post"];
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().unwrap() {
            assert!(known_methods.contains(&method.as_str()), "{method} {path}");
            let method = method.to_uppercase();
            let real = server.send(&method, path, "", b"").await;
            assert!(
                ![404, 405].contains(&real.status) || path.contains('{'),
                "{method} {path}"
            );
            let body = &operation["requestBody"]["content"]["application/json"]["schema"];
            let references = body["anyOf"].as_array().cloned();
            for reference in references.unwrap_or_else(|| vec![body.clone()]) {
                if let Some(pointer) = reference["$ref"].as_str() {
                    let pointer = pointer.trim_start_matches('#');
                    let schema = api.pointer(pointer).expect(pointer);
                    assert_eq!(schema["type"], "object");
                }
            }
        }
    }
    assert!(paths.contains_key("/v1/chat/completions"));
    let completion = &api["components"]["schemas"]["CompletionRequest"]["properties"];
    assert_eq!(completion["max_tokens"]["anyOf"][0]["type"], "integer");
}

#[tokio::test]
async fn the_documentation_needs_nothing_from_elsewhere_and_can_be_left_out() {
    const PAGES: [&str; 4] = ["/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect"];
    let server = serve(ServerConfig::default()).await;
    for page in PAGES {
        let answer = server.get(page).await;
        assert_eq!(answer.status, 200, "{page}");
        assert!(!answer.body.contains("http://") && !answer.body.contains("https://"));
        let head = server.send("HEAD", page, "", b"").await;
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{page}");
    }
    let server = serve(config(HttpConfig {
        docs: false,
        ..HttpConfig::default()
    }))
    .await;
    for page in PAGES {
        assert_eq!(server.get(page).await.status, 404, "{page}");
    }
}
