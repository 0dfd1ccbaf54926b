//! The engine's load in a header of an answer, for balancers that follow the ORCA convention.

use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::body::header_text;
use crate::state::AppState;

const WANTED: HeaderName = HeaderName::from_static("endpoint-load-metrics-format");
const REPORT: HeaderName = HeaderName::from_static("endpoint-load-metrics");

/// How a client wants to be told the load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LoadReport {
    Text,
    Json,
}

impl LoadReport {
    /// What the headers of a request ask for.
    pub(super) fn wanted(headers: &HeaderMap) -> Option<Self> {
        let format = header_text(headers, WANTED)?;
        match format.to_ascii_uppercase().as_str() {
            "TEXT" => Some(Self::Text),
            "JSON" => Some(Self::Json),
            _ => None,
        }
    }

    /// Adds the header to a successful answer that is no stream.
    pub(super) fn add(wanted: Option<Self>, state: &AppState, mut answer: Response) -> Response {
        let Some(report) = wanted else {
            return answer;
        };
        let is_json = answer.headers().get(header::CONTENT_TYPE)
            == Some(&HeaderValue::from_static("application/json"));
        if answer.status() == StatusCode::OK && is_json {
            let statistics = state.engine.statistics();
            let metrics = [
                ("kv_cache_usage_perc", statistics.kv_cache_usage.get()),
                (
                    "num_requests_waiting",
                    statistics.num_requests_waiting.get(),
                ),
            ];
            if let Ok(value) = HeaderValue::try_from(report.write(&metrics)) {
                answer.headers_mut().insert(REPORT, value);
            }
        }
        answer
    }

    fn write(self, metrics: &[(&str, f64)]) -> String {
        let join = |prefix: &str, quote: &str, separator: &str| {
            let written = metrics
                .iter()
                .map(|(name, value)| format!("{quote}{prefix}{name}{quote}{separator}{value:?}"));
            written.collect::<Vec<_>>().join(", ")
        };
        match self {
            Self::Text => format!("TEXT {}", join("named_metrics.", "", "=")),
            Self::Json => format!(r#"JSON {{"named_metrics": {{{}}}}}"#, join("", "\"", ": ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_is_written_in_both_formats() {
        let metrics = [("a", 0.5), ("b", 2.0)];
        let check = |report: LoadReport, expected: &str| {
            assert_eq!(report.write(&metrics), expected);
        };
        check(
            LoadReport::Text,
            "TEXT named_metrics.a=0.5, named_metrics.b=2.0",
        );
        check(
            LoadReport::Json,
            r#"JSON {"named_metrics": {"a": 0.5, "b": 2.0}}"#,
        );
    }
}
