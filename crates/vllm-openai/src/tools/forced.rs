//! Calls that the client demanded: the output is forced into the form that the server's parser
//! reads, or into plain JSON where that form cannot be forced.

use serde_json::{Value as Json, json};
use vllm_sampling::StructuredOutputs;

use super::json_calls::call_from_json;
use super::scanner::CallScanner;
use super::{CallForm, Extracted, ToolCall, ToolChoice, ToolDelta, ToolParser, ToolStream};
use crate::decode::Value;
use crate::decode::json::parse;
use crate::output::OutputParsers;

/// The constraint that makes the model write the demanded calls in the form that will be read;
/// `None` when the choice forces nothing. Without `parallel` one call ends the answer.
pub fn tool_constraint(
    choice: &ToolChoice,
    tools: &[Json],
    parsers: &OutputParsers,
    parallel: bool,
) -> Option<StructuredOutputs> {
    let functions = tools.iter().filter_map(|tool| tool.get("function"));
    let is_wanted = |function: &&Json| match choice {
        ToolChoice::Named(name) => function.get("name").is_some_and(|n| n == name),
        _ => true,
    };
    let mut wanted = functions.filter(is_wanted);
    let form = parsers.tools.as_deref().and_then(ToolParser::call_form);
    match (choice, form) {
        (ToolChoice::None | ToolChoice::Auto, _) => None,
        (_, Some(form)) => {
            let is_single = !parallel || matches!(choice, ToolChoice::Named(_));
            Some(StructuredOutputs {
                structural_tag: Some(structural_tag(&form, wanted, is_single).to_string()),
                ..StructuredOutputs::default()
            })
        }
        (ToolChoice::Named(_), None) => Some(json_constraint(&parameters(wanted.next()?))),
        (ToolChoice::Required, None) => Some(json_constraint(&list_of_calls(wanted, parallel))),
    }
}

fn json_constraint(schema: &Json) -> StructuredOutputs {
    StructuredOutputs {
        json: Some(schema.to_string()),
        ..StructuredOutputs::default()
    }
}

/// What a function's arguments must look like.
fn parameters(function: &Json) -> Json {
    match function.get("parameters") {
        Some(schema @ Json::Object(_)) => schema.clone(),
        _ => json!({"type": "object", "properties": {}}),
    }
}

/// One call or more of these functions, as the server's parser reads them.
fn structural_tag<'a>(
    form: &CallForm,
    functions: impl Iterator<Item = &'a Json>,
    is_single: bool,
) -> Json {
    let tag = |function: &Json| {
        let name = function.get("name").unwrap_or(&Json::Null);
        json!({
            "type": "tag",
            "begin": format!("{}{name}{}", form.before_name, form.before_arguments),
            "content": {"type": "json_schema", "json_schema": parameters(function)},
            "end": form.after_arguments,
        })
    };
    let calls = json!({
        "type": "tags_with_separator",
        "tags": functions.map(tag).collect::<Vec<_>>(),
        "separator": form.separator,
        "at_least_one": true,
        "stop_after_first": is_single,
    });
    let constant = |text: &str| json!({"type": "const_string", "value": text});
    let mut elements = Vec::new();
    if !form.opening.is_empty() {
        elements.push(constant(form.opening));
    }
    elements.push(calls);
    if !form.closing.is_empty() {
        elements.push(constant(form.closing));
    }
    let format = json!({"type": "sequence", "elements": elements});
    json!({"type": "structural_tag", "format": format})
}

/// The schema of what [`RequiredParser`] reads.
fn list_of_calls<'a>(functions: impl Iterator<Item = &'a Json>, parallel: bool) -> Json {
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
    let calls: Vec<Json> = functions.map(call).collect();
    let mut schema =
        json!({"type": "array", "minItems": 1, "items": {"type": "object", "anyOf": calls}});
    if !parallel {
        schema["maxItems"] = 1.into();
    }
    schema
}

/// The parser that applies to one request.
pub(crate) enum ActiveParser<'a> {
    Server(&'a dyn ToolParser),
    Required(RequiredParser),
    Named(NamedParser),
}

impl<'a> ActiveParser<'a> {
    /// `server` is the parser of the server's model. Demanded calls are read by it, too, where
    /// [`tool_constraint`] forces its form.
    pub(crate) fn new(choice: &ToolChoice, server: Option<&'a dyn ToolParser>) -> Option<Self> {
        let forced = server.filter(|parser| parser.call_form().is_some());
        match (choice, forced) {
            (ToolChoice::None, _) => None,
            (ToolChoice::Auto, _) => server.map(Self::Server),
            (_, Some(parser)) => Some(Self::Server(parser)),
            (ToolChoice::Required, None) => Some(Self::Required(RequiredParser)),
            (ToolChoice::Named(name), None) => {
                Some(Self::Named(NamedParser { name: name.clone() }))
            }
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
    use std::sync::Arc;

    use super::super::JsonCallsParser;
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

    const TOOLS: &str = r#"[
        {"function": {"name": "f", "parameters": {"type": "object"}}},
        {"function": {"name": "g"}}
    ]"#;

    #[track_caller]
    fn constraint(choice: &ToolChoice, parsers: &OutputParsers) -> StructuredOutputs {
        let tools: Vec<Json> = serde_json::from_str(TOOLS).expect("the tools are JSON");
        tool_constraint(choice, &tools, parsers, true).expect("the choice forces something")
    }

    #[test]
    fn without_a_form_of_its_own_calls_are_plain_json() {
        let json = |choice: ToolChoice| {
            let schema = constraint(&choice, &OutputParsers::default())
                .json
                .expect("a schema");
            serde_json::from_str::<Json>(&schema).expect("schemas are JSON")
        };
        assert_eq!(
            tool_constraint(&ToolChoice::Auto, &[], &OutputParsers::default(), true),
            None
        );
        assert_eq!(
            json(ToolChoice::Named("f".to_owned())),
            json!({"type": "object"})
        );
        let required = json(ToolChoice::Required);
        assert_eq!(
            required["items"]["anyOf"][0]["properties"]["name"]["enum"],
            json!(["f"])
        );
    }

    #[test]
    fn a_parser_with_a_form_gets_its_form() {
        let parsers = OutputParsers::of_tools(Arc::new(JsonCallsParser::HERMES));
        let tag = |choice: ToolChoice| {
            let tag = constraint(&choice, &parsers).structural_tag;
            serde_json::from_str::<Json>(&tag.expect("a tag")).expect("tags are JSON")
        };
        let named = tag(ToolChoice::Named("f".to_owned()));
        let calls = &named["format"]["elements"][0];
        assert_eq!(calls["stop_after_first"], true);
        assert_eq!(
            calls["tags"],
            json!([{
                "type": "tag",
                "begin": "<tool_call>\n{\"name\": \"f\", \"arguments\": ",
                "content": {"type": "json_schema", "json_schema": {"type": "object"}},
                "end": "}\n</tool_call>",
            }])
        );
        let required = tag(ToolChoice::Required);
        let calls = &required["format"]["elements"][0];
        assert_eq!(calls["tags"].as_array().map(Vec::len), Some(2));
        assert_eq!(calls["stop_after_first"], false);
    }
}
