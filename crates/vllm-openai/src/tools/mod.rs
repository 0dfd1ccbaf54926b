//! Tool calls: which the client allows, and how they are found in generated text.

mod choice;
mod forced;
mod json_calls;
mod literal;
mod named_calls;
mod pythonic;
mod scanner;
mod tagged;
#[cfg(test)]
mod testing;

use std::sync::Arc;

use serde_json::Value as Json;

use crate::ids::tool_call_id;

pub use choice::ToolChoice;
pub(crate) use choice::check_tool_fields;
pub(crate) use forced::ActiveParser;
pub use forced::{NamedParser, RequiredParser, tool_constraint};
pub use json_calls::JsonCallsParser;
pub use named_calls::NamedCallsParser;
pub use pythonic::PythonicParser;
pub use tagged::TaggedParser;

/// One call found in a finished text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// The function's name.
    pub name: String,
    /// Its arguments as JSON text.
    pub arguments: String,
}

/// A finished text taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extracted {
    /// Text outside the calls; `None` when there is none.
    pub content: Option<String>,
    /// The calls, in order.
    pub calls: Vec<ToolCall>,
}

/// A piece of a stream taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolDelta {
    /// Text outside the calls.
    Content(String),
    /// A call begins.
    Call {
        /// Its place among the calls of this choice.
        index: usize,
        /// The function's name.
        name: String,
    },
    /// More of a call's arguments.
    Arguments {
        /// The call that they belong to.
        index: usize,
        /// JSON text that continues what was sent before.
        text: String,
    },
}

impl ToolDelta {
    /// Whether it has nothing to tell.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            ToolDelta::Content(text) | ToolDelta::Arguments { text, .. } => text.is_empty(),
            ToolDelta::Call { .. } => false,
        }
    }

    /// Whether it remains when only one call is wanted.
    pub(crate) fn is_of_first_call(&self) -> bool {
        match self {
            ToolDelta::Content(_) => true,
            ToolDelta::Call { index, .. } | ToolDelta::Arguments { index, .. } => *index == 0,
        }
    }
}

/// The texts around calls whose name and arguments are JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CallForm {
    /// In front of the first call.
    pub opening: &'static str,
    /// In front of the name, a JSON string.
    pub before_name: &'static str,
    /// Between the name and the arguments, a JSON object.
    pub before_arguments: &'static str,
    /// Behind the arguments.
    pub after_arguments: &'static str,
    /// Between two calls.
    pub separator: &'static str,
    /// Behind the last call.
    pub closing: &'static str,
}

/// Finds the calls in what one family of models writes. One parser serves all requests.
pub trait ToolParser: Send + Sync {
    /// Takes a finished text apart.
    fn extract(&self, text: &str) -> Extracted;

    /// Starts taking a stream apart.
    fn stream(&self) -> Box<dyn ToolStream>;

    /// How calls are written, if they can be forced by that; otherwise demanded calls are forced
    /// into plain JSON, which the parser does not get to see.
    fn call_form(&self) -> Option<CallForm> {
        None
    }

    /// The parser for requests with these tools, where it depends on them.
    fn for_tools(&self, _tools: &[Json]) -> Option<Arc<dyn ToolParser>> {
        None
    }

    /// Makes identifiers of calls in the form that the model's templates take.
    fn new_call_id(&self) -> fn() -> String {
        tool_call_id
    }

    /// Whether special tokens must stay in the text because the marks of calls are special.
    fn needs_special_tokens(&self) -> bool {
        true
    }
}

/// The state of taking one choice of a stream apart.
pub trait ToolStream: Send {
    /// Takes the next piece of text; appends what is certain to `deltas`. `is_last` says that no
    /// text will follow, so that nothing may be held back.
    fn push(&mut self, text: &str, is_last: bool, deltas: &mut Vec<ToolDelta>);
}

/// The names that [`tool_parser`] knows.
pub const TOOL_PARSER_NAMES: &[&str] = &[
    "deepseek_v3",
    "deepseek_v31",
    "granite",
    "granite-20b-fc",
    "granite4",
    "hermes",
    "internlm",
    "jamba",
    "kimi_k2",
    "lfm2",
    "llama3_json",
    "llama4_json",
    "llama4_pythonic",
    "longcat",
    "mimo",
    "minimax_m2",
    "mistral",
    "olmo3",
    "phi4_mini_json",
    "pythonic",
    "qwen3_coder",
    "qwen3_xml",
    "seed_oss",
];

/// The parser with this name, as given to `--tool-call-parser`.
pub fn tool_parser(name: &str) -> Option<Arc<dyn ToolParser>> {
    let parser: Arc<dyn ToolParser> = match name {
        "hermes" | "granite4" => Arc::new(JsonCallsParser::HERMES),
        "longcat" => Arc::new(JsonCallsParser::LONGCAT),
        "llama3_json" | "llama4_json" => Arc::new(JsonCallsParser::LLAMA),
        "granite" => Arc::new(JsonCallsParser::GRANITE),
        "granite-20b-fc" => Arc::new(JsonCallsParser::GRANITE_20B),
        "internlm" => Arc::new(JsonCallsParser::INTERNLM),
        "jamba" => Arc::new(JsonCallsParser::JAMBA),
        "phi4_mini_json" => Arc::new(JsonCallsParser::PHI4_MINI),
        "mistral" => Arc::new(NamedCallsParser::MISTRAL),
        "deepseek_v3" => Arc::new(NamedCallsParser::DEEPSEEK_V3),
        "deepseek_v31" => Arc::new(NamedCallsParser::DEEPSEEK_V31),
        "kimi_k2" => Arc::new(NamedCallsParser::KIMI_K2),
        "pythonic" => Arc::new(PythonicParser::PLAIN),
        "llama4_pythonic" => Arc::new(PythonicParser::LLAMA4),
        "lfm2" => Arc::new(PythonicParser::LFM2),
        "olmo3" => Arc::new(PythonicParser::OLMO3),
        "qwen3_coder" | "qwen3_xml" | "mimo" => Arc::new(TaggedParser::qwen3()),
        "seed_oss" => Arc::new(TaggedParser::seed_oss()),
        "minimax_m2" => Arc::new(TaggedParser::minimax_m2()),
        _ => return None,
    };
    Some(parser)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_names_are_known() {
        for name in TOOL_PARSER_NAMES {
            assert!(tool_parser(name).is_some(), "{name}");
        }
        assert!(tool_parser("frog").is_none());
    }
}
