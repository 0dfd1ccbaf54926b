//! Calls that the client demanded: the output is forced into JSON, so no marks are looked for.

use serde_json::{Value as Json, json};
use vllm_sampling::StructuredOutputs;

use super::hermes::call_from_json;
use super::scanner::CallScanner;
use super::{Extracted, ToolCall, ToolChoice, ToolDelta, ToolParser, ToolStream};
use crate::decode::Value;
use crate::decode::json::parse;

/// The constraint that makes the model write what [`RequiredParser`] or [`NamedParser`] reads;
/// `None` when the choice forces nothing.
pub fn tool_constraint(choice: &ToolChoice, tools: &[Json]) -> Option<StructuredOutputs> {
    let functions = || tools.iter().filter_map(|tool| tool.get("function"));
    let parameters = |function: &Json| match function.get("parameters") {
        Some(schema @ Json::Object(_)) => schema.clone(),
        _ => json!({"type": "object", "properties": {}}),
    };
    let schema = match choice {
        ToolChoice::None | ToolChoice::Auto => return None,
        ToolChoice::Named(name) => {
            let is_named = |function: &&Json| function.get("name").is_some_and(|n| n == name);
            parameters(functions().find(is_named)?)
        }
        ToolChoice::Required => {
            let call = |function: &Json| {
                json!({
                    "type": "object",
                    "properties": {
                        "name": {"type": "string", "enum": [function.get("name")]},
                        "parameters": parameters(function),
                    },
                    "required": ["name", "parameters"],
                })
            };
            let calls: Vec<Json> = functions().map(call).collect();
            json!({"type": "array", "minItems": 1, "items": {"type": "object", "anyOf": calls}})
        }
    };
    Some(StructuredOutputs {
        json: Some(schema.to_string()),
        ..StructuredOutputs::default()
    })
}

/// The parser that applies to one request.
pub(crate) enum ActiveParser<'a> {
    Server(&'a dyn ToolParser),
    Required(RequiredParser),
    Named(NamedParser),
}

impl<'a> ActiveParser<'a> {
    /// `server` is the parser of the server's model, which reads calls made freely.
    pub(crate) fn new(choice: &ToolChoice, server: Option<&'a dyn ToolParser>) -> Option<Self> {
        match choice {
            ToolChoice::None => None,
            ToolChoice::Auto => server.map(Self::Server),
            ToolChoice::Required => Some(Self::Required(RequiredParser)),
            ToolChoice::Named(name) => Some(Self::Named(NamedParser { name: name.clone() })),
        }
    }
}

impl<'a> AsRef<dyn ToolParser + 'a> for ActiveParser<'a> {
    fn as_ref(&self) -> &(dyn ToolParser + 'a) {
        match self {
            Self::Server(parser) => *parser,
            Self::Required(parser) => parser,
            Self::Named(parser) => parser,
        }
    }
}

/// Reads a list of `{"name": …, "parameters": …}`.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequiredParser;

impl ToolParser for RequiredParser {
    fn extract(&self, text: &str) -> Extracted {
        let listed = parse(text.as_bytes()).ok();
        let calls = listed.as_ref().and_then(Value::as_list);
        let calls = calls.and_then(|calls| calls.iter().map(call_from_json).collect());
        match calls {
            Some(calls) => Extracted {
                content: Some(String::new()),
                calls,
            },
            None => Extracted {
                content: Some(text.to_owned()),
                calls: Vec::new(),
            },
        }
    }

    fn stream(&self) -> Box<dyn ToolStream> {
        Box::new(RequiredStream::default())
    }

    fn needs_special_tokens(&self) -> bool {
        false
    }
}

#[derive(Debug, Default)]
struct RequiredStream {
    call: Option<CallScanner>,
    is_announced: bool,
    index: usize,
}

impl ToolStream for RequiredStream {
    fn push(&mut self, text: &str, _is_last: bool, deltas: &mut Vec<ToolDelta>) {
        let mut rest = text;
        while !rest.is_empty() {
            let Some(call) = &mut self.call else {
                let Some(start) = rest.find('{') else { return };
                rest = &rest[start..];
                self.call = Some(CallScanner::default());
                continue;
            };
            let used = call.push(rest);
            rest = &rest[used..];
            if !self.is_announced
                && let Some(name) = call.name()
            {
                deltas.push(ToolDelta::Call {
                    index: self.index,
                    name: name.to_owned(),
                });
                self.is_announced = true;
            }
            if self.is_announced {
                let text = call.take_arguments();
                if !text.is_empty() {
                    deltas.push(ToolDelta::Arguments {
                        index: self.index,
                        text,
                    });
                }
            }
            if call.is_done() || call.is_broken() {
                self.index += usize::from(self.is_announced);
                self.is_announced = false;
                self.call = None;
            }
        }
    }
}

/// Takes the whole text as the arguments of one function.
#[derive(Debug, Clone)]
pub struct NamedParser {
    /// The function's name.
    pub name: String,
}

impl ToolParser for NamedParser {
    fn extract(&self, text: &str) -> Extracted {
        let call = ToolCall {
            name: self.name.clone(),
            arguments: text.to_owned(),
        };
        Extracted {
            content: Some(String::new()),
            calls: vec![call],
        }
    }

    fn stream(&self) -> Box<dyn ToolStream> {
        Box::new(NamedStream {
            name: Some(self.name.clone()),
        })
    }

    fn needs_special_tokens(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct NamedStream {
    /// The name until it was sent.
    name: Option<String>,
}

impl ToolStream for NamedStream {
    fn push(&mut self, text: &str, _is_last: bool, deltas: &mut Vec<ToolDelta>) {
        if text.is_empty() {
            return;
        }
        if let Some(name) = self.name.take() {
            deltas.push(ToolDelta::Call { index: 0, name });
        }
        deltas.push(ToolDelta::Arguments {
            index: 0,
            text: text.to_owned(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_required_list_is_read_as_it_is_written() {
        let text = r#"[{"name": "f", "parameters": {"a": [1]}}, {"name": "g", "parameters": {}}]"#;
        let mut stream = RequiredParser.stream();
        let mut deltas = Vec::new();
        for character in text.chars() {
            stream.push(&character.to_string(), false, &mut deltas);
        }
        let mut calls = vec![String::new(); 2];
        for delta in deltas {
            match delta {
                ToolDelta::Content(text) => panic!("{text}"),
                ToolDelta::Call { index, name } => calls[index].push_str(&name),
                ToolDelta::Arguments { index, text } => calls[index].push_str(&text),
            }
        }
        assert_eq!(calls, [r#"f{"a": [1]}"#, "g{}"]);
        let extracted = RequiredParser.extract(text);
        assert_eq!(extracted.content.as_deref(), Some(""));
        assert_eq!(extracted.calls[0].arguments, r#"{"a": [1]}"#);
    }

    #[test]
    fn constraints_follow_the_choice() {
        let tools = [json!({"function": {"name": "f", "parameters": {"type": "object"}}})];
        let json = |choice: ToolChoice| {
            let schema = tool_constraint(&choice, &tools)?.json?;
            serde_json::from_str::<Json>(&schema).ok()
        };
        assert_eq!(json(ToolChoice::Auto), None);
        assert_eq!(
            json(ToolChoice::Named("f".to_owned())),
            Some(json!({"type": "object"}))
        );
        let required = json(ToolChoice::Required).expect("a schema");
        assert_eq!(
            required["items"]["anyOf"][0]["properties"]["name"]["enum"],
            json!(["f"])
        );
    }
}
