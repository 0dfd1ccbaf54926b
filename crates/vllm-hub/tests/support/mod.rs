//! A small HTTP server for tests that behave as the hubs do. Each test binary uses its part of it.
#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod hugging_face;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request as the server read it.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query, as sent.
    pub(crate) target: String,
    headers: Vec<(String, String)>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(header, _)| header.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The first byte of the range that is asked for.
    pub(crate) fn range_start(&self) -> Option<usize> {
        self.header("range")?
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    }
}

/// What the server answers.
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    cut_after: Option<usize>,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            cut_after: None,
        }
    }

    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    /// Promises the whole body and ends the connection after `bytes` of it.
    pub(crate) fn cut_after(mut self, bytes: usize) -> Self {
        self.cut_after = Some(bytes);
        self
    }

    /// The part of `contents` that `request` asks for: all, or from the start of its range.
    pub(crate) fn contents(request: &Request, contents: &[u8]) -> Self {
        match request.range_start() {
            None => Self::new(200, contents),
            Some(start) if start < contents.len() => {
                let (last, whole) = (contents.len() - 1, contents.len());
                Self::new(206, &contents[start..])
                    .with("Content-Range", format!("bytes {start}-{last}/{whole}"))
            }
            Some(_) => Self::new(416, ""),
        }
    }

    fn send(&self, stream: &mut TcpStream, without_body: bool) -> std::io::Result<()> {
        let mut head = format!("HTTP/1.1 {} Status\r\nConnection: close\r\n", self.status);
        if !self
            .headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        if !without_body {
            stream.write_all(&self.body[..self.cut_after.unwrap_or(self.body.len())])?;
        }
        stream.flush()
    }
}

/// A server on a free port of this machine, up to the end of the test.
pub(crate) struct Server {
    address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(crate) fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let handler = Arc::new(handler);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (handler, seen) = (Arc::clone(&handler), Arc::clone(&seen));
                std::thread::spawn(move || answer(stream, &*handler, &seen));
            }
        });
        Self { address, requests }
    }

    /// An address at which nobody listens.
    pub(crate) fn address_of_nobody() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// How many requests so far had this method and this text in their target.
    pub(crate) fn count(&self, method: &str, part: &str) -> usize {
        let matches =
            |request: &&Request| request.method == method && request.target.contains(part);
        self.requests().iter().filter(matches).count()
    }
}

fn answer(mut stream: TcpStream, handler: &dyn Fn(&Request) -> Reply, seen: &Mutex<Vec<Request>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap())
        .lines()
        .map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let mut words = first.split(' ').map(str::to_owned);
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return;
    };
    let headers = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            line.split_once(": ")
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
        });
    let request = Request {
        method,
        target,
        headers: headers.collect(),
    };
    seen.lock().unwrap().push(request.clone());
    let reply = handler(&request);
    // A client may hang up early; the test sees that from its side.
    let _ = reply.send(&mut stream, request.method == "HEAD");
}

/// Contents that differ at every position, so that a wrong resumption is noticed.
pub(crate) fn weights(length: usize) -> Vec<u8> {
    (0..length)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

pub(crate) fn sha256(contents: &[u8]) -> String {
    hexadecimal(ring::digest::digest(&ring::digest::SHA256, contents).as_ref())
}

/// The name that git gives to a blob.
pub(crate) fn git_blob(contents: &[u8]) -> String {
    let mut blob = format!("blob {}\0", contents.len()).into_bytes();
    blob.extend_from_slice(contents);
    hexadecimal(ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &blob).as_ref())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
