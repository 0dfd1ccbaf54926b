//! Calls written as a mark, the function's name, and its arguments as a JSON object.

use super::scanner::ObjectScanner;
use super::{Extracted, JsonCallsParser, ToolCall, ToolDelta, ToolParser, ToolStream};
use crate::decode::json::parse;
use crate::ids::{alphanumeric_id, tool_call_id};
use crate::marks;

/// The families of models that write a call's name outside its JSON.
#[derive(Debug, Clone, Copy)]
pub struct NamedCallsParser {
    /// In front of all calls, if there is such a mark, and in front of each call.
    marks: &'static [&'static str],
    /// Takes the name from what stands between the mark and the arguments.
    name: fn(&str) -> &str,
    /// The calls may also be a list of objects behind the mark.
    or_list: Option<JsonCallsParser>,
    new_id: fn() -> String,
}

impl NamedCallsParser {
    /// `[TOOL_CALLS]f{…}` or `[TOOL_CALLS]f[ARGS]{…}`, or a list behind the mark, as Mistral
    /// models write calls. Their templates take identifiers of nine letters and digits only.
    pub const MISTRAL: Self = Self {
        marks: &["[TOOL_CALLS]"],
        name: |head| before(head, "[ARGS]"),
        or_list: Some(JsonCallsParser::MISTRAL),
        new_id: || alphanumeric_id(9),
    };
    /// A kind, a separator, the name and a fenced block of JSON, as DeepSeek V3 and R1 write calls.
    pub const DEEPSEEK_V3: Self = Self {
        marks: &["<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"],
        name: |head| {
            let (_, name) = head.split_once("<｜tool▁sep｜>").unwrap_or(("", head));
            before(name, "```json")
        },
        or_list: None,
        new_id: tool_call_id,
    };
    /// The name, a separator and JSON, as DeepSeek V3.1 writes calls.
    pub const DEEPSEEK_V31: Self = Self {
        name: |head| before(head, "<｜tool▁sep｜>"),
        ..Self::DEEPSEEK_V3
    };
    /// `functions.f:0`, a mark and JSON, as Kimi K2 writes calls.
    pub const KIMI_K2: Self = Self {
        marks: &["<|tool_calls_section_begin|>", "<|tool_call_begin|>"],
        name: |head| {
            let id = before(head, "<|tool_call_argument_begin|>");
            let name = id.split(':').next().unwrap_or_default();
            name.rsplit('.').next().unwrap_or_default()
        },
        ..Self::DEEPSEEK_V3
    };

    /// The mark in front of each call.
    fn call_mark(&self) -> &'static str {
        self.marks.last().copied().unwrap_or_default()
    }

    /// The first mark of any kind in a text.
    fn find_mark(&self, text: &str) -> Option<(usize, &'static str)> {
        let found = self
            .marks
            .iter()
            .filter_map(|mark| Some((text.find(mark)?, *mark)));
        found.min()
    }

    /// Whether a list of objects stands behind a mark, as far as can be told.
    fn is_list(&self, behind_mark: &str) -> bool {
        self.or_list.is_some() && behind_mark.trim_start().starts_with(['[', '{'])
    }

    /// All calls of a text; `None` when one cannot be read.
    fn calls(&self, text: &str) -> Option<Vec<ToolCall>> {
        let mut calls = Vec::new();
        let mut rest = text;
        while let Some((_, call)) = rest.split_once(self.call_mark()) {
            let start = call.find('{')?;
            let (head, arguments) = call.split_at(start);
            let used = ObjectScanner::default().push(arguments);
            let parsed = parse(&arguments.as_bytes()[..used]).ok()?;
            calls.push(ToolCall {
                name: (self.name)(head).to_owned(),
                arguments: parsed.python_json(),
            });
            rest = &arguments[used..];
        }
        Some(calls)
    }
}

/// What stands in front of a separator, without white space around it.
fn before<'a>(text: &'a str, separator: &str) -> &'a str {
    text.split(separator).next().unwrap_or_default().trim()
}

impl ToolParser for NamedCallsParser {
    fn extract(&self, text: &str) -> Extracted {
        if let Some((start, mark)) = self.find_mark(text) {
            if let Some(list) = &self.or_list
                && self.is_list(&text[start + mark.len()..])
            {
                return list.extract(text);
            }
            let (content, calls) = text.split_at(start);
            if let Some(calls) = self.calls(calls)
                && !calls.is_empty()
            {
                let content = Some(content.to_owned()).filter(|content| !content.is_empty());
                return Extracted { content, calls };
            }
        }
        Extracted {
            content: Some(text.to_owned()),
            calls: Vec::new(),
        }
    }

    fn stream(&self) -> Box<dyn ToolStream> {
        Box::new(NamedCallsStream {
            parser: *self,
            held: String::new(),
            place: Place::Outside,
            unannounced: String::new(),
            next_index: 0,
        })
    }

    fn new_call_id(&self) -> fn() -> String {
        self.new_id
    }
}

/// Takes text apart as it comes; what might be the start of a mark is held back.
struct NamedCallsStream {
    parser: NamedCallsParser,
    /// Text not yet attributed.
    held: String,
    place: Place,
    /// Marks that no call followed yet.
    unannounced: String,
    next_index: usize,
}

enum Place {
    Outside,
    /// Between a call's mark and its arguments.
    Head,
    Arguments(ObjectScanner),
    /// The calls turned out to be a list.
    List(Box<dyn ToolStream>),
}

impl ToolStream for NamedCallsStream {
    fn push(&mut self, text: &str, is_last: bool, deltas: &mut Vec<ToolDelta>) {
        self.held.push_str(text);
        let mut goes_on = true;
        while goes_on {
            goes_on = match &mut self.place {
                Place::Outside => self.outside(is_last, deltas),
                Place::Head => self.head(deltas),
                Place::Arguments(scanner) => {
                    let used = scanner.push(&self.held);
                    let is_done = scanner.is_done();
                    let text: String = self.held.drain(..used).collect();
                    let index = self.next_index - 1;
                    if !text.is_empty() {
                        deltas.push(ToolDelta::Arguments { index, text });
                    }
                    if is_done {
                        self.place = Place::Outside;
                    }
                    is_done
                }
                Place::List(list) => {
                    list.push(&std::mem::take(&mut self.held), is_last, deltas);
                    false
                }
            };
        }
        if is_last && self.next_index == 0 && !matches!(self.place, Place::List(_)) {
            let rest = std::mem::take(&mut self.unannounced) + &std::mem::take(&mut self.held);
            give(rest, deltas);
        }
    }
}

impl NamedCallsStream {
    /// True when there is more to do with the held text.
    fn outside(&mut self, is_last: bool, deltas: &mut Vec<ToolDelta>) -> bool {
        let found = self.parser.find_mark(&self.held);
        let plain = match found {
            Some((start, _)) => start,
            None if is_last => self.held.len(),
            None => self.held.len() - marks::partial_any(&self.held, self.parser.marks),
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
        self.unannounced.extend(self.held.drain(..mark.len()));
        if mark == self.parser.call_mark() {
            self.place = Place::Head;
        }
        true
    }

    fn head(&mut self, deltas: &mut Vec<ToolDelta>) -> bool {
        if self.next_index == 0
            && let Some(list) = &self.parser.or_list
            && self.parser.is_list(&self.held)
        {
            self.held
                .insert_str(0, &std::mem::take(&mut self.unannounced));
            self.place = Place::List(list.stream());
            return true;
        }
        let Some(start) = self.held.find('{') else {
            return false;
        };
        let head: String = self.held.drain(..start).collect();
        deltas.push(ToolDelta::Call {
            index: self.next_index,
            name: (self.parser.name)(&head).to_owned(),
        });
        self.next_index += 1;
        self.unannounced.clear();
        self.place = Place::Arguments(ObjectScanner::default());
        true
    }
}

fn give(text: String, deltas: &mut Vec<ToolDelta>) {
    if !text.is_empty() {
        deltas.push(ToolDelta::Content(text));
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::check_cuts;
    use super::*;

    #[track_caller]
    fn check(parser: &NamedCallsParser, text: &str, content: Option<&str>, calls: &[(&str, &str)]) {
        let extracted = parser.extract(text);
        assert_eq!(extracted.content.as_deref(), content, "{text}");
        let found: Vec<(&str, &str)> = extracted
            .calls
            .iter()
            .map(|call| (&*call.name, &*call.arguments))
            .collect();
        assert_eq!(found, calls, "{text}");
        check_cuts(parser, text);
    }

    #[test]
    fn families_write_calls_in_their_own_ways() {
        let both = [("f", r#"{"a": "}é"}"#), ("g", "{}")];
        let mistral = &NamedCallsParser::MISTRAL;
        check(
            mistral,
            r#"[TOOL_CALLS]f{"a": "}é"}[TOOL_CALLS]g{}"#,
            None,
            &both,
        );
        check(
            mistral,
            r#"Well[TOOL_CALLS]f[ARGS]{"a": "}é"}[TOOL_CALLS]g[ARGS]{}"#,
            Some("Well"),
            &both,
        );
        check(
            mistral,
            r#"[TOOL_CALLS] [{"name": "f", "arguments": {"a": "}é"}}, {"name": "g", "arguments": {}}]"#,
            None,
            &both,
        );
        check(mistral, "plain [TOOL", Some("plain [TOOL"), &[]);
        check(mistral, "[TOOL_CALLS]f", Some("[TOOL_CALLS]f"), &[]);
        check(
            &NamedCallsParser::DEEPSEEK_V3,
            "So:<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\": \
             \"}é\"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n```json\n\
             {}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            Some("So:"),
            &both,
        );
        check(
            &NamedCallsParser::DEEPSEEK_V31,
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": \"}é\"}<｜tool▁call▁end｜>\
             <｜tool▁call▁begin｜>g<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            None,
            &both,
        );
        check(
            &NamedCallsParser::KIMI_K2,
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>\
             {\"a\": \"}é\"}<|tool_call_end|><|tool_call_begin|>functions.g:1\
             <|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
            None,
            &both,
        );
    }

    #[test]
    fn mistral_identifiers_have_nine_letters_and_digits() {
        let id = NamedCallsParser::MISTRAL.new_call_id()();
        assert_eq!(id.len(), 9);
        assert!(
            id.chars()
                .all(|character| character.is_ascii_alphanumeric()),
            "{id}"
        );
    }
}
