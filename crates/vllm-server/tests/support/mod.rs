//! A served mock engine, and a client that speaks HTTP byte by byte.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "tests may")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use vllm_engine::mock::MockEngine;
use vllm_server::{BoundSocket, ExitCause, Listen, Server, ServerConfig, Shutdown};

/// Nothing here takes this long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Served {
    pub(crate) engine: Arc<MockEngine>,
    pub(crate) address: SocketAddr,
    pub(crate) shutdown: Shutdown,
    pub(crate) ended: JoinHandle<ExitCause>,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }

    /// The data of all events; the body must be nothing but frames.
    pub(crate) fn events(&self) -> Vec<&str> {
        let frames = self
            .body
            .strip_suffix("\n\n")
            .expect("the last frame is complete");
        frames
            .split("\n\n")
            .filter(|frame| *frame != ": keep-alive")
            .map(|frame| frame.strip_prefix("data: ").expect(frame))
            .collect()
    }
}

/// A server in front of an engine that answers every request with `Hello there, world`.
pub(crate) async fn serve(config: ServerConfig) -> Served {
    serve_engine(config, mock()).await
}

pub(crate) fn mock() -> MockEngine {
    MockEngine::new("Hello there, world!").unwrap()
}

pub(crate) async fn serve_engine(mut config: ServerConfig, engine: MockEngine) -> Served {
    config.http.listen = Listen::Tcp {
        host: Some("127.0.0.1".to_owned()),
        port: 0,
    };
    let socket = BoundSocket::bind(&config.http.listen).await.unwrap();
    let address = socket.local_addr().unwrap();
    let engine = Arc::new(engine);
    let shutdown = Shutdown::new();
    let server = Server::new(&config, Arc::clone(&engine) as _, shutdown.clone()).unwrap();
    let ended = tokio::spawn(async move { server.serve(socket).await.unwrap() });
    Served {
        engine,
        address,
        shutdown,
        ended,
    }
}

impl Served {
    pub(crate) async fn connect(&self) -> TcpStream {
        loop {
            // Connections are refused until the server listens.
            match TcpStream::connect(self.address).await {
                Ok(stream) => return stream,
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// Sends a request as it stands and reads until the server closes.
    pub(crate) async fn raw(&self, request: &[u8]) -> Answer {
        let mut stream = self.connect().await;
        stream.write_all(request).await.unwrap();
        read_answer(stream).await
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &[u8],
    ) -> Answer {
        let mut request = head(method, path, headers, body.len());
        request.extend_from_slice(body);
        self.raw(&request).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "", b"").await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        let body = body.to_string();
        self.send(
            "POST",
            path,
            "Content-Type: application/json\r\n",
            body.as_bytes(),
        )
        .await
    }

    /// Begins a request and leaves its connection open.
    pub(crate) async fn begin(&self, path: &str, body: &Value) -> TcpStream {
        let body = body.to_string();
        let mut request = head(
            "POST",
            path,
            "Content-Type: application/json\r\n",
            body.len(),
        );
        request.extend_from_slice(body.as_bytes());
        let mut stream = self.connect().await;
        stream.write_all(&request).await.unwrap();
        stream
    }
}

fn head(method: &str, path: &str, headers: &str, length: usize) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\
         Content-Length: {length}\r\n{headers}\r\n"
    )
    .into_bytes()
}

/// Reads until the server closes the connection.
pub(crate) async fn read_answer(mut stream: impl AsyncRead + Unpin) -> Answer {
    let mut bytes = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    // A reset behind a complete answer is as good as an end.
    let _ = read.expect("the server answers and closes");
    parse_answer(&bytes)
}

fn parse_answer(bytes: &[u8]) -> Answer {
    let text = String::from_utf8(bytes.to_vec()).expect("answers are UTF-8");
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no head: {text:?}"));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .expect("a status");
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    let body = if chunked {
        unchunk(body)
    } else {
        body.to_owned()
    };
    Answer {
        status,
        head: head.to_owned(),
        body,
    }
}

fn unchunk(mut rest: &str) -> String {
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n").expect("a chunk's size");
        let size = usize::from_str_radix(size, 16).expect("a hexadecimal size");
        if size == 0 {
            return body;
        }
        body.push_str(&after[..size]);
        rest = &after[size + 2..];
    }
}

/// Waits until `condition` holds; fails if it never does.
pub(crate) async fn eventually(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait).await.expect("it comes to be");
}
