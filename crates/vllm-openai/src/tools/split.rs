//! Taking apart the text of one choice as its request asks.

use super::{ActiveParser, Extracted, ToolChoice, ToolDelta, ToolParser, ToolStream};

/// Takes a finished text apart. `server` is the server's tool parser, if it has one; without
/// `parallel` only the first call counts.
pub(crate) fn extract(
    choice: &ToolChoice,
    server: Option<&dyn ToolParser>,
    parallel: bool,
    text: &str,
) -> Extracted {
    let Some(parser) = ActiveParser::new(choice, server) else {
        return Extracted {
            content: Some(text.to_owned()),
            calls: Vec::new(),
        };
    };
    let mut extracted = parser.as_ref().extract(text);
    if !parallel {
        extracted.calls.truncate(1);
    }
    // Where nothing but calls was allowed there is no text, which is shown as an empty one.
    if matches!(choice, ToolChoice::Required | ToolChoice::Named(_)) {
        extracted.content.get_or_insert_default();
    }
    extracted
}

/// Takes a stream apart, also one without calls.
pub(crate) struct DeltaSplitter {
    /// `None` when all text is content.
    tools: Option<Box<dyn ToolStream>>,
    parallel: bool,
}

impl DeltaSplitter {
    /// The arguments are those of [`extract`].
    pub(crate) fn new(
        choice: &ToolChoice,
        server: Option<&dyn ToolParser>,
        parallel: bool,
    ) -> Self {
        Self {
            tools: ActiveParser::new(choice, server).map(|parser| parser.as_ref().stream()),
            parallel,
        }
    }

    /// What is certain after the next piece of text; `is_last` says that no text will follow.
    pub(crate) fn push(
        &mut self,
        text: &str,
        is_last: bool,
    ) -> impl Iterator<Item = ToolDelta> + use<> {
        let mut deltas = Vec::new();
        match &mut self.tools {
            Some(tools) => tools.push(text, is_last, &mut deltas),
            None => deltas.push(ToolDelta::Content(text.to_owned())),
        }
        let parallel = self.parallel;
        let deltas = deltas.into_iter();
        deltas.filter(move |delta| !delta.is_empty() && (parallel || delta.is_of_first_call()))
    }
}
