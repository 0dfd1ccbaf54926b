//! What the HTTP stack costs: one-token completions a second over keep-alive connections, and the
//! CPU time that a streamed token takes.
//!
//! The server runs in a process of its own in front of an engine that costs nothing; this process
//! is the load generator. `cargo bench -p vllm-server --bench http` prints the figures; CPU time is
//! read from `/proc` and left out where there is none.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for people who measure"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use vllm_engine::mock::MockEngine;
use vllm_server::{BoundSocket, Listen, Server, ServerConfig, Shutdown};

const SERVE: &str = "--serve";
const SECONDS: u64 = 5;
const CONNECTIONS: [usize; 3] = [1, 16, 64];
const STREAMS: [usize; 2] = [1, 32];
/// Tokens of one streamed answer.
const STREAMED_TOKENS: usize = 256;
/// The unit of CPU time in `/proc`.
const TICKS_PER_SECOND: f64 = 100.0;

fn main() {
    if std::env::args().any(|argument| argument == SERVE) {
        return serve();
    }
    let server = ServerProcess::start();
    for connections in CONNECTIONS {
        let body = r#"{"prompt":"The capital of France is","max_tokens":1,"temperature":0}"#;
        let load = server.load(connections, body);
        println!(
            "one-token completions, {connections:>3} connections: {:>7.0} requests/s{}",
            load.answers / load.seconds,
            load.cpu("request", load.answers),
        );
    }
    for streams in STREAMS {
        let body = format!(
            r#"{{"prompt":"a","max_tokens":{STREAMED_TOKENS},"ignore_eos":true,"stream":true,"temperature":0}}"#
        );
        let load = server.load(streams, &body);
        let tokens = load.answers * STREAMED_TOKENS as f64;
        println!(
            "streamed completions,  {streams:>3} connections: {:>7.0} tokens/s in {:.0} events \
             per answer{}",
            tokens / load.seconds,
            load.events / load.answers,
            load.cpu("token", tokens),
        );
    }
}

/// Serves until the process is killed; the first line of output is the address.
fn serve() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut config = ServerConfig::default();
        config.http.listen = Listen::Tcp {
            host: Some("127.0.0.1".to_owned()),
            port: 0,
        };
        // A script longer than any answer, so that the mock's end of sequence never comes.
        let engine = MockEngine::new(&"Paris is a city. ".repeat(STREAMED_TOKENS)).unwrap();
        let socket = BoundSocket::bind(&config.http.listen).await.unwrap();
        println!("{}", socket.local_addr().unwrap());
        let server = Server::new(&config, Arc::new(engine), Shutdown::new()).unwrap();
        server.serve(socket).await.unwrap();
    });
}

struct ServerProcess {
    child: Child,
    address: SocketAddr,
}

/// What came of a load.
struct Load {
    answers: f64,
    events: f64,
    seconds: f64,
    cpu_seconds: Option<f64>,
}

impl Load {
    fn cpu(&self, unit: &str, count: f64) -> String {
        match self.cpu_seconds {
            Some(seconds) => format!(", {:.1} µs of CPU per {unit}", seconds / count * 1e6),
            None => String::new(),
        }
    }
}

impl ServerProcess {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg(SERVE)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let address = line.trim().parse().unwrap();
        while TcpStream::connect(address).is_err() {
            thread::sleep(Duration::from_millis(10));
        }
        Self { child, address }
    }

    /// Asks for completions over so many connections, each one after the other.
    fn load(&self, connections: usize, body: &str) -> Load {
        let request = format!(
            "POST /v1/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let (answers, events) = (AtomicU64::new(0), AtomicU64::new(0));
        let cpu_before = self.cpu_seconds();
        let start = Instant::now();
        let end = start + Duration::from_secs(SECONDS);
        thread::scope(|scope| {
            for _ in 0..connections {
                scope.spawn(|| {
                    let mut connection = Connection::open(self.address);
                    while Instant::now() < end {
                        connection.ask(request.as_bytes());
                        answers.fetch_add(1, Relaxed);
                        events.fetch_add(connection.num_events(), Relaxed);
                    }
                });
            }
        });
        Load {
            answers: answers.load(Relaxed) as f64,
            events: events.load(Relaxed) as f64,
            seconds: start.elapsed().as_secs_f64(),
            cpu_seconds: cpu_before
                .zip(self.cpu_seconds())
                .map(|(before, after)| after - before),
        }
    }

    /// User and system time of the server so far.
    fn cpu_seconds(&self) -> Option<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        // The second field is a name, which may contain anything but ends with the last `)`.
        let (_, fields) = stat.rsplit_once(')')?;
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: f64 = ticks.filter_map(|field| field.parse::<f64>().ok()).sum();
        Some(ticks / TICKS_PER_SECOND)
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A keep-alive connection that reads one answer after the other.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            buffer: Vec::with_capacity(64 << 10),
        }
    }

    /// Sends a request and reads its answer, which must be a success.
    fn ask(&mut self, request: &[u8]) {
        self.stream.write_all(request).unwrap();
        self.buffer.clear();
        let head_end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            self.read_more();
        };
        let head = String::from_utf8_lossy(&self.buffer[..head_end]).to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map(|length| length.parse::<usize>().unwrap());
        loop {
            let is_whole = match length {
                Some(length) => self.buffer.len() >= head_end + length,
                None => self.buffer.ends_with(b"\r\n0\r\n\r\n"),
            };
            if is_whole {
                return;
            }
            self.read_more();
        }
    }

    /// Server-sent events in the latest answer.
    fn num_events(&self) -> u64 {
        let windows = self.buffer.windows(8);
        windows.filter(|window| window == b"\ndata: {").count() as u64
    }

    fn read_more(&mut self) {
        let start = self.buffer.len();
        self.buffer.resize(start + (16 << 10), 0);
        let count = self.stream.read(&mut self.buffer[start..]).unwrap();
        assert!(count > 0, "the server has closed the connection");
        self.buffer.truncate(start + count);
    }
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes
        .windows(pattern.len())
        .position(|window| window == pattern)
}
