//! `/metrics` and the periodic log line.

mod engine;
pub(crate) mod http;
pub(crate) mod log;
mod process;
mod text;
mod tools;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use vllm_engine::EngineClient;

use self::http::HttpMetrics;
use self::text::Exposition;
pub(crate) use self::tools::{CountedParser, RequestType, ToolParserMetrics};

/// The content type of the page.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=1.0.0; charset=utf-8";

/// All that the service itself counts.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) http: Arc<HttpMetrics>,
    pub(crate) tools: Arc<ToolParserMetrics>,
    created: f64,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let created = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            http: Arc::new(HttpMetrics::new()),
            tools: Arc::default(),
            created: created.as_secs_f64(),
        }
    }

    /// The whole page. `engine` is left out when its statistics are switched off, and tool calls
    /// where there is no parser.
    pub(crate) fn page(
        &self,
        engine: Option<&dyn EngineClient>,
        has_tool_parser: bool,
        model_name: &str,
    ) -> String {
        let mut page = Exposition::new(self.created);
        process::expose(&mut page);
        self.http.expose(&mut page);
        if let Some(engine) = engine {
            engine::expose(&mut page, engine.statistics(), engine.info(), model_name);
            if has_tool_parser {
                self.tools.expose(&mut page, model_name);
            }
        }
        page.finish()
    }
}
