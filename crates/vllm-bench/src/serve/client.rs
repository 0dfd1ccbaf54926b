//! One client of an OpenAI-compatible server.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::serve::events::EventReader;
use crate::serve::prompts::TextRequest;
use crate::serve::report::Observation;

/// The longest answer that is read where none is measured, such as an error, in bytes.
const MAX_PLAIN_ANSWER: usize = 1 << 20;

/// The route that requests go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// `/v1/completions`, with the prompt as it is.
    Completions,
    /// `/v1/chat/completions`, with the prompt as a user's message.
    Chat,
}

impl Api {
    /// The path of the route.
    pub fn endpoint(self) -> &'static str {
        match self {
            Self::Completions => "/v1/completions",
            Self::Chat => "/v1/chat/completions",
        }
    }
}

/// Where requests go and what they have in common.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// Scheme, host and port, for example `http://127.0.0.1:8000`.
    pub base_url: String,
    /// The form of requests.
    pub api: Api,
    /// Path of the route.
    pub endpoint: String,
    /// Key that the server asks for.
    pub api_key: Option<String>,
    /// Further members of every request.
    pub extra_body: Map<String, Value>,
}

/// A client that keeps its connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: HttpClient<HttpConnector, Full<Bytes>>,
    settings: ClientSettings,
}

impl Client {
    /// A client that has sent nothing yet. It needs a Tokio runtime with time and network.
    ///
    /// # Errors
    /// An address that is not plain HTTP.
    pub fn new(settings: ClientSettings) -> Result<Self> {
        if !settings.base_url.starts_with("http://") {
            let reason = "the benchmark speaks plain HTTP; give an address with http://";
            return Err(Error::Server {
                url: settings.base_url,
                reason: reason.to_owned(),
            });
        }
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let http = HttpClient::builder(TokioExecutor::new()).build(connector);
        Ok(Self { http, settings })
    }

    /// The first model that the server names.
    ///
    /// # Errors
    /// The server cannot be reached, or names none.
    pub async fn first_model(&self) -> Result<String> {
        let url = self.url("/v1/models");
        let answer = self.ask(Method::GET, &url, String::new()).await;
        let named = answer.and_then(|body| {
            let models: Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
            let id = models["data"][0]["id"].as_str();
            id.map(str::to_owned)
                .ok_or_else(|| "names no model".to_owned())
        });
        named.map_err(|reason| Error::Server { url, reason })
    }

    /// Sends one request and watches the answer come. `start` is when the run began.
    pub async fn measure(&self, model: &str, request: &TextRequest, start: Instant) -> Observation {
        let sent = Instant::now();
        let mut observation = Observation {
            start: sent.saturating_duration_since(start),
            prompt_len: request.prompt_len,
            ..Observation::default()
        };
        if let Err(reason) = self.stream(model, request, sent, &mut observation).await {
            observation.error = Some(reason);
        }
        observation
    }

    async fn stream(
        &self,
        model: &str,
        request: &TextRequest,
        sent: Instant,
        observation: &mut Observation,
    ) -> std::result::Result<(), String> {
        let url = self.url(&self.settings.endpoint);
        let body = self.body(model, request).to_string();
        let response = self.send(Method::POST, &url, body).await?;
        let mut body = response.into_body();
        let mut events = EventReader::default();
        let mut chunks = 0;
        let mut latest = sent;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| format!("the answer broke off: {error}"))?;
            let now = Instant::now();
            for data in events.push(frame.data_ref().map_or(&[][..], |data| data)) {
                if data == b"[DONE]" {
                    continue;
                }
                let event: Value = serde_json::from_slice(&data)
                    .map_err(|error| format!("an event is not JSON: {error}"))?;
                if let Some(error) = event.get("error") {
                    return Err(error.to_string());
                }
                if let Some(count) = event["usage"]["completion_tokens"].as_u64() {
                    observation.output_len = usize::try_from(count).unwrap_or(usize::MAX);
                }
                let Some(text) = text_of(&event) else {
                    continue;
                };
                match chunks {
                    0 => observation.ttft = now - sent,
                    _ => observation.itl.push(now - latest),
                }
                chunks += 1;
                latest = now;
                observation.text.push_str(text);
            }
        }
        if chunks == 0 {
            return Err("the answer holds no tokens".to_owned());
        }
        // A server that tells no usage has sent one token a chunk, as far as a client can see.
        if observation.output_len == 0 {
            observation.output_len = chunks;
        }
        observation.latency = latest - sent;
        Ok(())
    }

    fn body(&self, model: &str, request: &TextRequest) -> Value {
        let mut body = json!({
            "model": model,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        match self.settings.api {
            Api::Completions => {
                body["prompt"] = request.prompt.as_str().into();
                body["max_tokens"] = request.output_len.into();
            }
            Api::Chat => {
                body["messages"] = json!([{"role": "user", "content": request.prompt}]);
                body["max_completion_tokens"] = request.output_len.into();
            }
        }
        for (name, value) in &self.settings.extra_body {
            body[name] = value.clone();
        }
        body
    }

    async fn ask(
        &self,
        method: Method,
        url: &str,
        body: String,
    ) -> std::result::Result<Bytes, String> {
        let response = self.send(method, url, body).await?;
        read(response.into_body()).await
    }

    async fn send(
        &self,
        method: Method,
        url: &str,
        body: String,
    ) -> std::result::Result<http::Response<hyper::body::Incoming>, String> {
        let uri: Uri = url
            .parse()
            .map_err(|error| format!("no address: {error}"))?;
        let mut request = Request::builder().method(method).uri(uri);
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(key) = &self.settings.api_key {
            request = request.header(AUTHORIZATION, format!("Bearer {key}"));
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())?;
        let response = self.http.request(request).await.map_err(|error| {
            let cause = std::error::Error::source(&error);
            cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
        })?;
        match response.status() {
            StatusCode::OK => Ok(response),
            status => {
                let body = read(response.into_body()).await.unwrap_or_default();
                Err(format!("{status}: {}", String::from_utf8_lossy(&body)))
            }
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.settings.base_url.trim_end_matches('/'))
    }

    /// Waits until a first request is answered, and for no longer than `patience`.
    ///
    /// # Errors
    /// What became of the last attempt.
    pub async fn wait_until_ready(
        &self,
        model: &str,
        request: &TextRequest,
        patience: Duration,
    ) -> Result<()> {
        let begun = Instant::now();
        loop {
            match self.measure(model, request, begun).await.error {
                None => return Ok(()),
                Some(reason) if begun.elapsed() >= patience => {
                    let url = self.url(&self.settings.endpoint);
                    return Err(Error::Server { url, reason });
                }
                Some(_) => tokio::time::sleep(Duration::from_secs(1)).await,
            }
        }
    }
}

async fn read(body: hyper::body::Incoming) -> std::result::Result<Bytes, String> {
    let body = Limited::new(body, MAX_PLAIN_ANSWER).collect().await;
    body.map(|body| body.to_bytes())
        .map_err(|error| format!("the answer broke off: {error}"))
}

/// The text of a chunk that stands for a token; the opening of a chat answer stands for none.
fn text_of(event: &Value) -> Option<&str> {
    let choice = event["choices"].get(0)?;
    if let Some(text) = choice.get("text") {
        return Some(text.as_str().unwrap_or_default());
    }
    let delta = choice.get("delta")?;
    let content = ["content", "reasoning_content", "reasoning"]
        .into_iter()
        .find_map(|name| delta.get(name)?.as_str())
        .unwrap_or_default();
    let is_opening = delta.get("role").is_some() && content.is_empty();
    (!is_opening).then_some(content)
}
