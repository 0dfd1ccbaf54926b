//! Tool calls: which the client allows, and how they are found in generated text.

mod choice;
mod forced;
mod hermes;
mod scanner;
mod split;

use std::sync::Arc;

pub use choice::ToolChoice;
pub(crate) use choice::check_tool_fields;
pub(crate) use forced::ActiveParser;
pub use forced::{NamedParser, RequiredParser, tool_constraint};
pub use hermes::HermesParser;
pub(crate) use split::{DeltaSplitter, extract};

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
pub const TOOL_PARSER_NAMES: &[&str] = &["hermes"];

/// The parser with this name, as given to `--tool-call-parser`.
pub fn tool_parser(name: &str) -> Option<Arc<dyn ToolParser>> {
    match name {
        "hermes" => Some(Arc::new(HermesParser)),
        _ => None,
    }
}
