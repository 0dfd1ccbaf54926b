//! Calls written as tags: `<function=f><parameter=a>1</parameter></function>`.

use std::sync::Arc;

use serde_json::Value as Json;

use super::{Extracted, ToolCall, ToolDelta, ToolParser, ToolStream};
use crate::decode::Value;
use crate::decode::json::parse;
use crate::marks;

/// The families of models that write each argument between tags. The text of an argument says
/// nothing of its type, so that the functions' schemas must.
#[derive(Debug, Clone)]
pub struct TaggedParser {
    tags: Tags,
    functions: Vec<Json>,
}

#[derive(Debug, Clone, Copy)]
struct Tags {
    /// In front of a call and of a whole group of calls.
    begin: &'static [&'static str],
    /// In front of the name, up to `name_end`.
    function: &'static str,
    /// In front of an argument's name, up to `name_end`.
    parameter: &'static str,
    name_end: &'static str,
    parameter_end: &'static str,
    function_end: &'static str,
}

const QWEN: Tags = Tags {
    begin: &["<tool_call>", "<function="],
    function: "<function=",
    parameter: "<parameter=",
    name_end: ">",
    parameter_end: "</parameter>",
    function_end: "</function>",
};

impl TaggedParser {
    /// As Qwen 3 Coder writes calls.
    pub fn qwen3() -> Self {
        Self::new(QWEN)
    }

    /// The same in a group of another name.
    pub fn seed_oss() -> Self {
        Self::new(Tags {
            begin: &["<seed:tool_call>", "<function="],
            ..QWEN
        })
    }

    /// `<invoke name="f"><parameter name="a">1</parameter></invoke>`, as MiniMax M2 writes calls.
    pub fn minimax_m2() -> Self {
        Self::new(Tags {
            begin: &["<minimax:tool_call>", "<invoke name=\""],
            function: "<invoke name=\"",
            parameter: "<parameter name=\"",
            name_end: "\">",
            function_end: "</invoke>",
            ..QWEN
        })
    }

    fn new(tags: Tags) -> Self {
        Self {
            tags,
            functions: Vec::new(),
        }
    }

    /// An argument's text as JSON.
    fn argument(&self, function: &str, parameter: &str, text: &str) -> String {
        if text.eq_ignore_ascii_case("null") {
            return "null".to_owned();
        }
        let function = self
            .functions
            .iter()
            .find(|it| it["name"].as_str() == Some(function));
        let schema = function.map_or(&Json::Null, |it| &it["parameters"]["properties"][parameter]);
        let as_text = || Value::String(text.to_owned());
        let value = match is_text(schema) {
            true => as_text(),
            false => match text {
                "True" => Value::Bool(true),
                "False" => Value::Bool(false),
                "None" => Value::Null,
                text => parse(text.trim().as_bytes()).unwrap_or_else(|_| as_text()),
            },
        };
        value.python_json()
    }
}

/// Whether a schema asks for text, or for nothing that can be told.
fn is_text(schema: &Json) -> bool {
    match &schema["type"] {
        Json::String(kind) => kind == "string",
        Json::Array(kinds) => kinds.iter().any(|kind| kind == "string"),
        _ => match schema["anyOf"].as_array() {
            Some(options) => options.iter().any(is_text),
            None => true,
        },
    }
}

impl ToolParser for TaggedParser {
    fn extract(&self, text: &str) -> Extracted {
        let mut deltas = Vec::new();
        self.stream().push(text, true, &mut deltas);
        let mut extracted = Extracted::default();
        for delta in deltas {
            match delta {
                ToolDelta::Content(text) => {
                    extracted.content.get_or_insert_default().push_str(&text);
                }
                ToolDelta::Call { name, .. } => extracted.calls.push(ToolCall {
                    name,
                    arguments: String::new(),
                }),
                ToolDelta::Arguments { index, text } => {
                    extracted.calls[index].arguments.push_str(&text);
                }
            }
        }
        // A call that was cut off is none.
        if extracted
            .calls
            .pop_if(|it| parse(it.arguments.as_bytes()).is_err())
            .is_some()
            && extracted.calls.is_empty()
        {
            extracted.content = Some(text.to_owned());
        }
        extracted
    }

    fn stream(&self) -> Box<dyn ToolStream> {
        Box::new(TaggedStream {
            parser: self.clone(),
            held: String::new(),
            place: Place::Outside,
            unannounced: String::new(),
            function: String::new(),
            num_arguments: 0,
            next_index: 0,
        })
    }

    fn for_tools(&self, tools: &[Json]) -> Option<Arc<dyn ToolParser>> {
        let functions = tools.iter().filter_map(|tool| tool.get("function"));
        Some(Arc::new(Self {
            tags: self.tags,
            functions: functions.cloned().collect(),
        }))
    }
}

struct TaggedStream {
    parser: TaggedParser,
    /// Text not yet attributed.
    held: String,
    place: Place,
    /// Marks that no call followed yet.
    unannounced: String,
    function: String,
    num_arguments: usize,
    next_index: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Outside,
    /// Behind a function's name.
    Function,
}

impl ToolStream for TaggedStream {
    fn push(&mut self, text: &str, is_last: bool, deltas: &mut Vec<ToolDelta>) {
        self.held.push_str(text);
        let mut goes_on = true;
        while goes_on {
            goes_on = match self.place {
                Place::Outside => self.outside(is_last, deltas),
                Place::Function => self.function(deltas),
            };
        }
        if is_last && self.next_index == 0 {
            let rest = std::mem::take(&mut self.unannounced) + &std::mem::take(&mut self.held);
            give(rest, deltas);
        }
    }
}

impl TaggedStream {
    /// True when there is more to do with the held text.
    fn outside(&mut self, is_last: bool, deltas: &mut Vec<ToolDelta>) -> bool {
        let tags = self.parser.tags;
        let found = tags
            .begin
            .iter()
            .filter_map(|mark| Some((self.held.find(mark)?, *mark)))
            .min();
        let plain = match found {
            Some((start, _)) => start,
            None if is_last => self.held.len(),
            None => self.held.len() - marks::partial_any(&self.held, tags.begin),
        };
        let text: String = self.held.drain(..plain).collect();
        // Text behind a mark or a call is no content.
        match (self.next_index, self.unannounced.is_empty()) {
            (0, true) => give(text, deltas),
            (0, false) => self.unannounced.push_str(&text),
            _ => {}
        }
        let Some((_, mark)) = found else {
            return false;
        };
        if mark != tags.function {
            self.unannounced.extend(self.held.drain(..mark.len()));
            return true;
        }
        let Some((name, length)) = name_behind(&self.held, tags.function, tags.name_end) else {
            return false;
        };
        self.function = name.to_owned();
        self.held.drain(..length);
        deltas.push(ToolDelta::Call {
            index: self.next_index,
            name: self.function.clone(),
        });
        self.next_index += 1;
        self.num_arguments = 0;
        self.unannounced.clear();
        self.place = Place::Function;
        true
    }

    /// Behind a function's name: an argument or the end.
    fn function(&mut self, deltas: &mut Vec<ToolDelta>) -> bool {
        let tags = self.parser.tags;
        let parameter = self.held.find(tags.parameter);
        let end = self.held.find(tags.function_end);
        let text = match (parameter, end) {
            (Some(start), end) if end.is_none_or(|end| start < end) => {
                let tag = &self.held[start..];
                let Some((name, length)) = name_behind(tag, tags.parameter, tags.name_end) else {
                    return false;
                };
                let Some((text, end)) = tag[length..].split_once(tags.parameter_end) else {
                    return false;
                };
                let text = text.strip_prefix('\n').unwrap_or(text);
                let text = text.strip_suffix('\n').unwrap_or(text);
                let value = self.parser.argument(&self.function, name, text);
                let key = Json::from(name);
                let opening = if self.num_arguments == 0 { "{" } else { ", " };
                let json = format!("{opening}{key}: {value}");
                let used = self.held.len() - end.len();
                self.num_arguments += 1;
                self.held.drain(..used);
                json
            }
            (_, Some(end)) => {
                self.held.drain(..end + tags.function_end.len());
                self.place = Place::Outside;
                let end = if self.num_arguments == 0 { "{}" } else { "}" };
                end.to_owned()
            }
            (_, None) => return false,
        };
        deltas.push(ToolDelta::Arguments {
            index: self.next_index - 1,
            text,
        });
        true
    }
}

/// The name in a tag at the beginning of `text`, and the tag's length.
fn name_behind<'a>(text: &'a str, begin: &str, end: &str) -> Option<(&'a str, usize)> {
    let (name, _) = text.strip_prefix(begin)?.split_once(end)?;
    Some((name.trim(), begin.len() + name.len() + end.len()))
}

fn give(text: String, deltas: &mut Vec<ToolDelta>) {
    if !text.is_empty() {
        deltas.push(ToolDelta::Content(text));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::check_cuts;
    use super::*;

    fn tools() -> Vec<Json> {
        let properties = json!({
            "n": {"type": "integer"},
            "s": {"type": "string"},
            "o": {"anyOf": [{"type": "object"}, {"type": "null"}]},
            "b": {"type": "boolean"},
        });
        let parameters = json!({"type": "object", "properties": properties});
        vec![json!({"type": "function", "function": {"name": "f", "parameters": parameters}})]
    }

    #[track_caller]
    fn check(parser: &TaggedParser, text: &str, content: Option<&str>, calls: &[(&str, &str)]) {
        let parser = parser.for_tools(&tools()).expect("it depends on the tools");
        let extracted = parser.extract(text);
        assert_eq!(extracted.content.as_deref(), content, "{text}");
        let found: Vec<(&str, &str)> = extracted
            .calls
            .iter()
            .map(|call| (&*call.name, &*call.arguments))
            .collect();
        assert_eq!(found, calls, "{text}");
        check_cuts(&*parser, text);
    }

    #[test]
    fn arguments_have_the_types_of_the_schema() {
        let text = "Ok.<tool_call>\n<function=f>\n<parameter=n>\n1\n</parameter>\n<parameter=s>\n1\n2\n\
                    </parameter>\n<parameter=o>\n{\"k\": [1]}\n</parameter>\n<parameter=b>\nTrue\n\
                    </parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=g>\n</function>\n\
                    </tool_call>";
        let first = r#"{"n": 1, "s": "1\n2", "o": {"k": [1]}, "b": true}"#;
        let parser = TaggedParser::qwen3();
        check(&parser, text, Some("Ok."), &[("f", first), ("g", "{}")]);
        check(&parser, "a <tool", Some("a <tool"), &[]);
        check(&parser, "<tool_call>x", Some("<tool_call>x"), &[]);
        let bare = "<function=f><parameter=n>null</parameter></function>";
        check(&parser, bare, None, &[("f", r#"{"n": null}"#)]);
    }

    #[test]
    fn families_have_tags_of_their_own() {
        let text = "<minimax:tool_call>\n<invoke name=\"f\">\n<parameter name=\"n\">1</parameter>\n\
                    </invoke>\n</minimax:tool_call>";
        check(
            &TaggedParser::minimax_m2(),
            text,
            None,
            &[("f", r#"{"n": 1}"#)],
        );
        let text = "<seed:tool_call><function=f><parameter=s>x</parameter></function>\
                    </seed:tool_call>";
        check(
            &TaggedParser::seed_oss(),
            text,
            None,
            &[("f", r#"{"s": "x"}"#)],
        );
    }

    #[test]
    fn a_call_that_was_cut_off_is_text() {
        let cut = "<tool_call><function=f><parameter=s>x";
        let extracted = TaggedParser::qwen3().extract(cut);
        assert_eq!(extracted.content.as_deref(), Some(cut));
        assert!(extracted.calls.is_empty());
    }
}
