//! Everything that the service can be told, with vLLM's defaults.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use vllm_renderer::ContentFormatOption;

/// The whole configuration of the HTTP service.
#[derive(Debug, Clone, Default)]
pub struct ServerConfig {
    /// Sockets, limits, authentication: what is true of any HTTP service.
    pub http: HttpConfig,
    /// What the model API answers.
    pub api: ApiConfig,
    /// What is written down about the service's work.
    pub log: LogConfig,
}

/// Sockets, limits, authentication and cross-origin rules.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// Where to listen.
    pub listen: Listen,
    /// Certificate and key for HTTPS; plain HTTP without.
    pub tls: Option<TlsConfig>,
    /// The path prefix under which a proxy offers the service; works whether or not the proxy
    /// strips it.
    pub root_path: String,
    /// Accepted bearer keys; none means that no key is needed.
    pub api_keys: Vec<String>,
    /// Cross-origin access from browsers.
    pub cors: CorsConfig,
    /// The largest accepted request body in bytes; more is answered 413.
    pub max_body_bytes: usize,
    /// The most bytes of one request head, answered 431 beyond.
    pub max_head_bytes: usize,
    /// The most header lines of one request, answered 431 beyond.
    pub max_header_count: usize,
    /// An idle connection is closed after this time.
    pub keep_alive: Duration,
    /// How long running requests may go on after the first stop signal; zero ends them at once.
    pub shutdown_timeout: Duration,
    /// Answer with an `X-Request-Id` header.
    pub request_id_headers: bool,
    /// Offer the routes meant for development, such as `/reset_prefix_cache`.
    pub dev_mode: bool,
    /// Offer `/openapi.json` and the pages that show it.
    pub docs: bool,
    /// Go on answering errors after the engine has died instead of ending the process.
    pub keep_alive_on_engine_death: bool,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: Listen::default(),
            tls: None,
            root_path: String::new(),
            api_keys: Vec::new(),
            cors: CorsConfig::default(),
            max_body_bytes: 256 << 20,
            max_head_bytes: 4 << 20,
            max_header_count: 256,
            keep_alive: Duration::from_secs(5),
            shutdown_timeout: Duration::ZERO,
            request_id_headers: false,
            dev_mode: false,
            docs: true,
            keep_alive_on_engine_death: false,
        }
    }
}

/// Where the service listens.
#[derive(Debug, Clone)]
pub enum Listen {
    /// A TCP port. Without a host, on all IPv4 interfaces; port 0 picks a free one.
    Tcp {
        /// An address or a name to resolve.
        host: Option<String>,
        /// The port number.
        port: u16,
    },
    /// A Unix domain socket.
    Unix(PathBuf),
}

impl Default for Listen {
    fn default() -> Self {
        Self::Tcp {
            host: None,
            port: 8000,
        }
    }
}

/// HTTPS by rustls.
#[derive(Debug, Clone)]
pub struct TlsConfig {
    /// PEM file with the certificate chain, leaf first.
    pub certificate: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
    /// PEM file with the authorities that sign client certificates.
    pub client_authorities: Option<PathBuf>,
    /// Whether clients must show a certificate.
    pub client_certificates: ClientCertificates,
}

/// Whether clients must show a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Not asked for.
    #[default]
    None,
    /// Checked where one is shown.
    Optional,
    /// Connections without one are refused.
    Required,
}

/// Cross-origin access from browsers; off while `origins` is empty.
#[derive(Debug, Clone)]
pub struct CorsConfig {
    /// Allowed origins; `*` allows any.
    pub origins: Vec<String>,
    /// Allowed methods; `*` allows those that the service knows.
    pub methods: Vec<String>,
    /// Allowed request headers; `*` allows any.
    pub headers: Vec<String>,
    /// Allow cookies and credentials.
    pub credentials: bool,
}

impl Default for CorsConfig {
    fn default() -> Self {
        let any = || vec!["*".to_owned()];
        Self {
            origins: Vec::new(),
            methods: any(),
            headers: any(),
            credentials: false,
        }
    }
}

/// What the model API answers.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// Names under which clients may ask for the model; the first one stands in every answer.
    /// Empty means the model's own name.
    pub served_model_names: Vec<String>,
    /// Accept any model name in requests.
    pub skip_model_name_validation: bool,
    /// Jinja source that replaces the model's own chat template.
    pub chat_template: Option<String>,
    /// How message contents are handed to the template: `auto`, `string` or `openai`.
    pub chat_template_content_format: ContentFormatOption,
    /// Template variables merged under those of each request.
    pub default_chat_template_kwargs: serde_json::Map<String, serde_json::Value>,
    /// Accept `chat_template` from requests.
    pub trust_request_chat_template: bool,
    /// The sampling defaults' `max_tokens` is a limit that no request may exceed.
    pub default_max_tokens_is_cap: bool,
    /// Allow `tool_choice: "auto"`.
    pub enable_auto_tool_choice: bool,
    /// The name of the parser that finds tool calls in the model's text.
    pub tool_call_parser: Option<String>,
    /// The name of the parser that tells reasoning from the answer in the model's text.
    pub reasoning_parser: Option<String>,
    /// Do not show tools to the template when the request's choice is `none`.
    pub exclude_tools_when_tool_choice_none: bool,
    /// The effort on reasoning that Anthropic-form requests with disabled thinking mean.
    pub disabled_thinking_effort: String,
    /// Logprob tokens are shown as `token_id:N`.
    pub return_tokens_as_token_ids: bool,
    /// Fill `usage.prompt_tokens_details`.
    pub enable_prompt_tokens_details: bool,
    /// Report usage in every stream.
    pub enable_force_include_usage: bool,
    /// Count requests in flight for `/load`.
    pub enable_server_load_tracking: bool,
    /// The fewest tokens per chunk of a stream, whatever a request asks for.
    pub stream_interval: Option<i64>,
    /// Send a comment into a stream that was silent for this long.
    pub sse_keep_alive_interval: Option<Duration>,
    /// What stands in `system_fingerprint`.
    pub fingerprint: Fingerprint,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            served_model_names: Vec::new(),
            skip_model_name_validation: false,
            chat_template: None,
            chat_template_content_format: ContentFormatOption::Auto,
            default_chat_template_kwargs: serde_json::Map::new(),
            trust_request_chat_template: false,
            default_max_tokens_is_cap: false,
            enable_auto_tool_choice: false,
            tool_call_parser: None,
            reasoning_parser: None,
            exclude_tools_when_tool_choice_none: false,
            disabled_thinking_effort: "none".to_owned(),
            return_tokens_as_token_ids: false,
            enable_prompt_tokens_details: false,
            enable_force_include_usage: false,
            enable_server_load_tracking: false,
            stream_interval: None,
            sse_keep_alive_interval: None,
            fingerprint: Fingerprint::Full,
        }
    }
}

/// What stands in `system_fingerprint`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Fingerprint {
    /// `vllm-<version>-<hash of the configuration>`.
    #[default]
    Full,
    /// The hash alone.
    Hash,
    /// This text.
    Custom(String),
    /// Null.
    None,
}

/// What is written down about the service's work.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// One line per answered request.
    pub access: bool,
    /// Paths that get no such line.
    pub access_excluded: BTreeSet<String>,
    /// One line per request with its parameters, and one when it is aborted.
    pub requests: bool,
    /// One line per request with what was generated.
    pub outputs: bool,
    /// The most characters of a prompt or an output in a line.
    pub max_length: Option<usize>,
    /// Engine metrics and the periodic line.
    pub statistics: bool,
    /// Time between periodic lines.
    pub statistics_interval: Duration,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            access: true,
            access_excluded: BTreeSet::new(),
            requests: false,
            outputs: false,
            max_length: None,
            statistics: true,
            statistics_interval: Duration::from_secs(10),
        }
    }
}

impl Listen {
    /// The address as shown to people: `http://0.0.0.0:8000`, `https://[::1]:8000`, `unix:/path`.
    pub fn display(&self, tls: bool) -> String {
        match self {
            Self::Unix(path) => format!("unix:{}", path.display()),
            Self::Tcp { host, port } => {
                let scheme = if tls { "https" } else { "http" };
                let host = host.as_deref().unwrap_or("0.0.0.0");
                match host.parse() {
                    Ok(IpAddr::V6(address)) => format!("{scheme}://[{address}]:{port}"),
                    _ => format!("{scheme}://{host}:{port}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_as_urls() {
        let check = |host: Option<&str>, tls, expected: &str| {
            let listen = Listen::Tcp {
                host: host.map(str::to_owned),
                port: 8000,
            };
            assert_eq!(listen.display(tls), expected);
        };
        check(None, false, "http://0.0.0.0:8000");
        check(Some("::1"), true, "https://[::1]:8000");
        check(Some("localhost"), false, "http://localhost:8000");
        assert_eq!(Listen::Unix("/run/s".into()).display(true), "unix:/run/s");
    }
}
