//! How often a tool parser found calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use vllm_openai::tools::{CallForm, Extracted, ToolDelta, ToolParser, ToolStream};

use super::text::Exposition;

const MODES: [&str; 2] = ["streaming", "non_streaming"];
const OUTCOMES: [&str; 2] = ["tool_call", "no_tool_call"];
const REQUEST_TYPES: [&str; 3] = ["chat_completions", "responses", "other"];

/// Which API asked for tool calls.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RequestType {
    /// `/v1/chat/completions`, and what is turned into it.
    ChatCompletions,
    /// `/v1/responses`.
    Responses,
}

/// Parser invocations by mode, outcome and API.
#[derive(Debug, Default)]
pub(crate) struct ToolParserMetrics {
    counts: [AtomicU64; MODES.len() * OUTCOMES.len() * REQUEST_TYPES.len()],
}

impl ToolParserMetrics {
    fn record(&self, streaming: bool, found: bool, request_type: RequestType) {
        let request_type = match request_type {
            RequestType::ChatCompletions => 0,
            RequestType::Responses => 1,
        };
        self.counts[slot(usize::from(!streaming), usize::from(!found), request_type)]
            .fetch_add(1, Relaxed);
    }

    /// Adds the family to a page.
    pub(crate) fn expose(&self, page: &mut Exposition, model_name: &str) {
        let mut rows = Vec::with_capacity(self.counts.len());
        for (mode_index, mode) in MODES.into_iter().enumerate() {
            for (outcome_index, outcome) in OUTCOMES.into_iter().enumerate() {
                for (type_index, request_type) in REQUEST_TYPES.into_iter().enumerate() {
                    let count = &self.counts[slot(mode_index, outcome_index, type_index)];
                    let labels = [
                        ("mode", mode),
                        ("model_name", model_name),
                        ("outcome", outcome),
                        ("request_type", request_type),
                    ];
                    rows.push((labels, count.load(Relaxed) as f64));
                }
            }
        }
        let samples: Vec<_> = rows
            .iter()
            .map(|(labels, count)| (&labels[..], *count))
            .collect();
        page.counter(
            "vllm:tool_call_parser_invocations",
            "Runs of the tool parser by what they found; in streams, one per delta.",
            &samples,
        );
    }
}

fn slot(mode: usize, outcome: usize, request_type: usize) -> usize {
    (mode * OUTCOMES.len() + outcome) * REQUEST_TYPES.len() + request_type
}

/// A parser whose work is counted.
pub(crate) struct CountedParser {
    parser: Arc<dyn ToolParser>,
    metrics: Arc<ToolParserMetrics>,
    request_type: RequestType,
}

impl CountedParser {
    pub(crate) fn new(
        parser: Arc<dyn ToolParser>,
        metrics: &Arc<ToolParserMetrics>,
        request_type: RequestType,
    ) -> Self {
        Self {
            parser,
            metrics: Arc::clone(metrics),
            request_type,
        }
    }
}

impl ToolParser for CountedParser {
    fn extract(&self, text: &str) -> Extracted {
        let extracted = self.parser.extract(text);
        self.metrics
            .record(false, !extracted.calls.is_empty(), self.request_type);
        extracted
    }

    fn stream(&self) -> Box<dyn ToolStream> {
        Box::new(CountedStream {
            stream: self.parser.stream(),
            metrics: Arc::clone(&self.metrics),
            request_type: self.request_type,
        })
    }

    fn call_form(&self) -> Option<CallForm> {
        self.parser.call_form()
    }

    fn new_call_id(&self) -> fn() -> String {
        self.parser.new_call_id()
    }

    fn needs_special_tokens(&self) -> bool {
        self.parser.needs_special_tokens()
    }
}

struct CountedStream {
    stream: Box<dyn ToolStream>,
    metrics: Arc<ToolParserMetrics>,
    request_type: RequestType,
}

impl ToolStream for CountedStream {
    fn push(&mut self, text: &str, is_last: bool, deltas: &mut Vec<ToolDelta>) {
        let before = deltas.len();
        self.stream.push(text, is_last, deltas);
        let new = deltas.get(before..).unwrap_or_default();
        let found = new
            .iter()
            .any(|delta| !matches!(delta, ToolDelta::Content(_)));
        self.metrics.record(true, found, self.request_type);
    }
}
