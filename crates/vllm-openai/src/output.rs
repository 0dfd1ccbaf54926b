//! Taking apart the text of one choice as its request asks: reasoning first, then tool calls.

use std::sync::Arc;

use vllm_sampling::StructuredOutputs;

use crate::ids::tool_call_id;
use crate::reasoning::{ReasoningCounter, ReasoningParser, ReasoningStream, after_reasoning};
use crate::tools::{ActiveParser, ToolCall, ToolChoice, ToolDelta, ToolParser, ToolStream};

/// What the server knows about the texts of its model.
#[derive(Clone, Default)]
pub struct OutputParsers {
    /// Finds tool calls; without one the text is never searched for calls made freely.
    pub tools: Option<Arc<dyn ToolParser>>,
    /// Tells reasoning from the answer, as it applies to the prompt at hand; without one all text
    /// is the answer.
    pub reasoning: Option<ReasoningParser>,
}

impl OutputParsers {
    /// Parsers that find calls, but no reasoning.
    pub fn of_tools(parser: Arc<dyn ToolParser>) -> Self {
        Self {
            tools: Some(parser),
            reasoning: None,
        }
    }

    /// Makes the identifiers of calls.
    pub(crate) fn new_call_id(&self) -> fn() -> String {
        match &self.tools {
            Some(parser) => parser.new_call_id(),
            None => tool_call_id,
        }
    }

    /// Whether there is any.
    pub(crate) fn exist(&self) -> bool {
        self.tools.is_some() || self.reasoning.is_some()
    }

    /// Whether the text goes through a parser to which special tokens are marks.
    pub(crate) fn need_special_tokens(&self, choice: &ToolChoice) -> bool {
        let tools = ActiveParser::new(choice, self.tools.as_deref());
        let reasoning = self.reasoning.as_ref();
        tools.is_some_and(|parser| parser.as_ref().needs_special_tokens())
            || reasoning.is_some_and(ReasoningParser::needs_special_tokens)
    }

    /// A constraint that leaves room for reasoning.
    pub(crate) fn around(&self, constraint: StructuredOutputs) -> StructuredOutputs {
        match &self.reasoning {
            Some(parser) => after_reasoning(parser, constraint),
            None => constraint,
        }
    }

    /// Starts counting the tokens of reasoning, where there may be any.
    pub(crate) fn reasoning_counter(&self) -> Option<ReasoningCounter> {
        self.reasoning.as_ref().map(ReasoningParser::counter)
    }

    /// How many tokens of finished texts were reasoning; `None` without a reasoning parser.
    pub(crate) fn count_reasoning<'a>(
        &self,
        texts: impl Iterator<Item = &'a [u32]>,
    ) -> Option<usize> {
        let parser = self.reasoning.as_ref()?;
        let counts = texts.map(|token_ids| {
            let mut counter = parser.counter();
            counter.push(token_ids);
            counter.tokens()
        });
        Some(counts.sum())
    }
}

/// A finished text taken apart.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    /// What the model thought; `None` when it did not.
    pub(crate) reasoning: Option<String>,
    /// Text outside reasoning and calls; `None` when there is none.
    pub(crate) content: Option<String>,
    /// The calls, in order.
    pub(crate) calls: Vec<ToolCall>,
}

/// Takes a finished text apart. Without `parallel` only the first call counts.
pub(crate) fn extract(
    parsers: &OutputParsers,
    choice: &ToolChoice,
    parallel: bool,
    text: &str,
) -> Parsed {
    let (reasoning, answer) = match &parsers.reasoning {
        Some(parser) => parser.extract(text),
        None => (None, Some(text.to_owned())),
    };
    let Some(parser) = ActiveParser::new(choice, parsers.tools.as_deref()) else {
        return Parsed {
            reasoning,
            content: answer,
            calls: Vec::new(),
        };
    };
    let extracted = match &answer {
        Some(answer) => parser.as_ref().extract(answer),
        None => Default::default(),
    };
    let mut parsed = Parsed {
        reasoning,
        content: extracted.content,
        calls: extracted.calls,
    };
    if !parallel {
        parsed.calls.truncate(1);
    }
    // Where nothing but calls was allowed there is no text, which is shown as an empty one.
    if matches!(choice, ToolChoice::Required | ToolChoice::Named(_)) {
        parsed.content.get_or_insert_default();
    }
    parsed
}

/// A piece of a stream taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OutputDelta {
    /// More of what the model thinks.
    Reasoning(String),
    /// More of the answer or its calls.
    Answer(ToolDelta),
}

/// Takes a stream apart, also one with nothing to find.
pub(crate) struct DeltaSplitter {
    /// `None` when all text is the answer.
    reasoning: Option<ReasoningStream>,
    /// `None` when all of the answer is content.
    tools: Option<Box<dyn ToolStream>>,
    parallel: bool,
}

impl DeltaSplitter {
    /// The arguments are those of [`extract`].
    pub(crate) fn new(parsers: &OutputParsers, choice: &ToolChoice, parallel: bool) -> Self {
        let tools = ActiveParser::new(choice, parsers.tools.as_deref());
        Self {
            reasoning: parsers.reasoning.as_ref().map(ReasoningParser::stream),
            tools: tools.map(|parser| parser.as_ref().stream()),
            parallel,
        }
    }

    /// What is certain after the next piece of text; `is_last` says that no text will follow.
    pub(crate) fn push(&mut self, text: &str, is_last: bool) -> Vec<OutputDelta> {
        let (mut thought, mut answer) = (String::new(), String::new());
        let answer = match &mut self.reasoning {
            None => text,
            Some(reasoning) => {
                reasoning.push(text, is_last, &mut thought, &mut answer);
                &answer
            }
        };
        let mut parts = Vec::new();
        match &mut self.tools {
            Some(tools) if self.reasoning.is_none() || is_last || !answer.is_empty() => {
                tools.push(answer, is_last, &mut parts);
            }
            Some(_) => {}
            None => parts.push(ToolDelta::Content(answer.to_owned())),
        }
        let parallel = self.parallel;
        let parts = parts
            .into_iter()
            .filter(|part| !part.is_empty() && (parallel || part.is_of_first_call()));
        let thought = Some(thought).filter(|thought| !thought.is_empty());
        thought
            .map(OutputDelta::Reasoning)
            .into_iter()
            .chain(parts.map(OutputDelta::Answer))
            .collect()
    }
}
