//! Speaking HTTP to a hub: headers, redirects, retries. Knows nothing about models.

use std::io::{self, Read};
use std::time::Duration;

use ureq::Agent;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{Response, header};
use ureq::tls::{RootCerts, TlsConfig};

use crate::options::{HubKind, ResolveOptions, Token};
use crate::{Error, Result};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// A transfer that brings nothing for so long is taken up again on a new connection.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest wait between two attempts, also where the hub asks for more.
const LONGEST_DELAY: Duration = Duration::from_secs(60);
const REDIRECTS: u32 = 5;

/// Why a request brought nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The hub answered with an error status.
    Status {
        status: u16,
        /// The hub's own name for the error, from `X-Error-Code`.
        code: Option<String>,
        retry_after: Option<Duration>,
    },
    /// There is no connection to the hub.
    Unreachable(String),
    /// The connection ended or stalled, or the answer makes no sense.
    Broken(String),
    /// The problem is on this side.
    Local(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Local(error)
    }
}

impl Failure {
    /// Whether the same request may well succeed a little later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500..=599),
            Self::Broken(_) => true,
            Self::Unreachable(_) | Self::Local(_) => false,
        }
    }

    /// Whether the hub is away, so that a copy in the cache is the best there is.
    pub(crate) fn hub_is_away(&self) -> bool {
        matches!(self, Self::Unreachable(_)) || self.is_transient()
    }

    fn wanted_delay(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// The headers and the body of an answer.
pub(crate) type Answer = Response<ureq::Body>;

/// A connection pool with the hub's token and a patience for retries.
pub(crate) struct Client {
    agent: Agent,
    hub: HubKind,
    token: Option<Token>,
    pub(crate) retries: u32,
    retry_delay: Duration,
}

impl Client {
    pub(crate) fn new(options: &ResolveOptions) -> Self {
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::PlatformVerifier)
            .build();
        let config = Agent::config_builder()
            .user_agent(concat!("vllm-hub/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects(REDIRECTS)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(ANSWER_TIMEOUT))
            .timeout_per_read(Some(STALL_TIMEOUT))
            .max_idle_connections_per_host(options.parallel_files.max(1))
            .build();
        Self {
            agent: config.new_agent(),
            hub: options.hub,
            token: options.token.clone(),
            retries: options.retries,
            retry_delay: options.retry_delay,
        }
    }

    /// The text of a small answer, with retries.
    pub(crate) fn text(&self, url: &str) -> Result<String, Failure> {
        self.with_retries(|| {
            let mut answer = self.send(self.agent.get(url))?;
            answer.body_mut().read_to_string().map_err(broken)
        })
    }

    /// The headers of the answer to a HEAD request, with retries. Redirects to other hosts are not
    /// followed: what the hub itself says about a file is in its own answer.
    pub(crate) fn head(&self, url: &str) -> Result<Answer, Failure> {
        let mut url = url.to_owned();
        for _ in 0..REDIRECTS {
            let answer = self.with_retries(|| {
                let request = self.agent.head(&url).config();
                let request = request
                    .max_redirects(0)
                    .max_redirects_will_error(false)
                    .build();
                self.send(request.header(header::ACCEPT_ENCODING, "identity"))
            })?;
            match text_header(&answer, header::LOCATION.as_str()) {
                Some(location) if location.starts_with('/') && !location.starts_with("//") => {
                    url = format!("{}{location}", origin(&url));
                }
                _ => return Ok(answer),
            }
        }
        Err(Failure::Broken(format!("{url} leads in a circle")))
    }

    /// Opens the contents at `url` from byte `start` on; one attempt.
    pub(crate) fn open_from(&self, url: &str, start: u64) -> Result<Answer, Failure> {
        let mut request = self
            .agent
            .get(url)
            .header(header::ACCEPT_ENCODING, "identity");
        if start > 0 {
            request = request.header(header::RANGE, format!("bytes={start}-"));
        }
        self.send(request)
    }

    /// How long to wait before attempt number `attempt` (the first retry is 1).
    pub(crate) fn delay(&self, attempt: u32, failure: &Failure) -> Duration {
        let doubled = self
            .retry_delay
            .saturating_mul(1 << attempt.saturating_sub(1).min(10));
        failure.wanted_delay().unwrap_or(doubled).min(LONGEST_DELAY)
    }

    fn with_retries<T>(
        &self,
        mut attempt: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        for retry in 1..=self.retries {
            match attempt() {
                Err(failure) if failure.is_transient() => {
                    std::thread::sleep(self.delay(retry, &failure));
                }
                outcome => return outcome,
            }
        }
        attempt()
    }

    fn send(
        &self,
        mut request: ureq::RequestBuilder<ureq::typestate::WithoutBody>,
    ) -> Result<Answer, Failure> {
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.secret()));
            if self.hub == HubKind::ModelScope {
                let cookie = format!("m_session_id={}", token.secret());
                request = request.header(header::COOKIE, cookie);
            }
        }
        let answer = request.call().map_err(broken)?;
        if answer.status().is_client_error() || answer.status().is_server_error() {
            return Err(Failure::Status {
                status: answer.status().as_u16(),
                code: text_header(&answer, "x-error-code").map(str::to_owned),
                retry_after: text_header(&answer, "retry-after")
                    .and_then(|seconds| seconds.parse().ok())
                    .map(Duration::from_secs),
            });
        }
        Ok(answer)
    }
}

/// The value of a header, if it is there and is text.
pub(crate) fn text_header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.headers().get(name)?.to_str().ok()
}

/// Reads into `buffer` as [`Read::read`] does, with failures as the hub's.
pub(crate) fn read_some(body: &mut impl Read, buffer: &mut [u8]) -> Result<usize, Failure> {
    loop {
        match body.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::Broken(error.to_string())),
            Ok(count) => return Ok(count),
        }
    }
}

/// `text` as it stands in one segment of an address's path.
pub(crate) fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// A path with `/` between its segments, each of them encoded.
pub(crate) fn percent_encode_path(path: &str) -> String {
    path.split('/')
        .map(percent_encode)
        .collect::<Vec<_>>()
        .join("/")
}

/// Scheme and host of an address.
fn origin(url: &str) -> &str {
    let host_start = url.find("://").map_or(0, |position| position + 3);
    let host_length = url[host_start..]
        .find('/')
        .unwrap_or(url.len() - host_start);
    &url[..host_start + host_length]
}

fn broken(error: ureq::Error) -> Failure {
    let is_refused = |error: &io::Error| {
        use io::ErrorKind::{
            AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkDown, NetworkUnreachable,
        };
        matches!(
            error.kind(),
            AddrNotAvailable
                | ConnectionRefused
                | HostUnreachable
                | NetworkDown
                | NetworkUnreachable
        )
    };
    match error {
        ureq::Error::HostNotFound => Failure::Unreachable("its name cannot be resolved".to_owned()),
        ureq::Error::ConnectionFailed | ureq::Error::Timeout(ureq::Timeout::Connect) => {
            Failure::Unreachable("no connection can be made".to_owned())
        }
        ureq::Error::Io(error) if is_refused(&error) => Failure::Unreachable(error.to_string()),
        ureq::Error::InvalidProxyUrl | ureq::Error::BadUri(_) | ureq::Error::Tls(_) => {
            Failure::Unreachable(error.to_string())
        }
        other => Failure::Broken(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_encoded_by_segment() {
        assert_eq!(percent_encode("refs/pr/1"), "refs%2Fpr%2F1");
        assert_eq!(percent_encode_path("a b/ü.json"), "a%20b/%C3%BC.json");
    }

    #[test]
    fn origin_is_scheme_and_host() {
        assert_eq!(origin("http://localhost:80/a/b"), "http://localhost:80");
        assert_eq!(origin("https://hub.example"), "https://hub.example");
    }

    #[test]
    fn delays_double_and_obey_the_hub_within_reason() {
        let client = Client::new(&ResolveOptions {
            retry_delay: Duration::from_millis(10),
            ..ResolveOptions::default()
        });
        let broken = Failure::Broken(String::new());
        assert_eq!(client.delay(1, &broken), Duration::from_millis(10));
        assert_eq!(client.delay(3, &broken), Duration::from_millis(40));
        let asked = |seconds| Failure::Status {
            status: 429,
            code: None,
            retry_after: Some(Duration::from_secs(seconds)),
        };
        assert_eq!(client.delay(1, &asked(7)), Duration::from_secs(7));
        assert_eq!(client.delay(1, &asked(86_400)), LONGEST_DELAY);
    }
}
