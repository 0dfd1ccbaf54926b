//! One line per answered request, in the form that uvicorn made common.

use std::collections::BTreeSet;

use axum::extract::Request;
use http::StatusCode;

use crate::config::LogConfig;

/// The target of access lines; a subscriber prints them as they are, without a prefix.
pub const ACCESS_TARGET: &str = "vllm_server::access";

/// Which requests get a line.
#[derive(Debug)]
pub(crate) struct AccessLog {
    enabled: bool,
    excluded: BTreeSet<String>,
}

impl AccessLog {
    pub(crate) fn new(config: &LogConfig) -> Self {
        Self {
            enabled: config.access,
            excluded: config.access_excluded.clone(),
        }
    }

    /// The first half of the line, kept until the status is known; `None` if there is to be none.
    pub(crate) fn begin(&self, request: &Request, peer: &str) -> Option<String> {
        let uri = request.uri();
        if !self.enabled || self.excluded.contains(uri.path()) {
            return None;
        }
        let target = uri
            .path_and_query()
            .map_or_else(|| uri.path(), |target| target.as_str());
        let (method, version) = (request.method(), request.version());
        Some(format!("{peer} - \"{method} {target} {version:?}\""))
    }

    pub(crate) fn end(line: Option<String>, status: StatusCode) {
        if let Some(line) = line {
            let reason = status.canonical_reason().unwrap_or("");
            tracing::info!(target: ACCESS_TARGET, "{line} {} {reason}", status.as_u16());
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn a_line_names_peer_request_and_protocol() {
        let excluded = BTreeSet::from(["/health".to_owned()]);
        let log = AccessLog::new(&LogConfig {
            access_excluded: excluded,
            ..LogConfig::default()
        });
        let check = |target: &str, expected: Option<&str>| {
            let request = Request::builder().uri(target).body(Body::empty()).unwrap();
            assert_eq!(log.begin(&request, "127.0.0.1:5").as_deref(), expected);
        };
        check(
            "/v1/models?a=b",
            Some("127.0.0.1:5 - \"GET /v1/models?a=b HTTP/1.1\""),
        );
        check("/health", None);
    }
}
