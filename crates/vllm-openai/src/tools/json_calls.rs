//! Calls written as `{"name": …, "arguments": …}`, alone or in lists, behind a mark.

use super::scanner::CallScanner;
use super::{CallForm, Extracted, ToolCall, ToolDelta, ToolParser, ToolStream};
use crate::decode::Value;
use crate::decode::json::parse;
use crate::marks;

/// The families of models that write calls as objects with a name and arguments.
#[derive(Debug, Clone, Copy)]
pub struct JsonCallsParser {
    /// What stands in front of calls; any of these.
    marks: &'static [&'static str],
    /// Calls may also stand at the beginning of the text without a mark.
    may_begin_unmarked: bool,
    /// What stands around and between the calls behind one mark, besides white space.
    punctuation: &'static str,
    form: Option<CallForm>,
}

const HERMES_FORM: CallForm = CallForm {
    opening: "",
    before_name: "<tool_call>\n{\"name\": ",
    before_arguments: ", \"arguments\": ",
    after_arguments: "}\n</tool_call>",
    separator: "\n",
    closing: "",
};

impl JsonCallsParser {
    /// `<tool_call>{…}</tool_call>`, as Hermes, Qwen and Granite 4 models write calls.
    pub const HERMES: Self = Self {
        marks: &["<tool_call>"],
        may_begin_unmarked: false,
        punctuation: "",
        form: Some(HERMES_FORM),
    };
    /// The same with marks of their own.
    pub const LONGCAT: Self = Self {
        marks: &["<longcat_tool_call>"],
        form: Some(CallForm {
            before_name: "<longcat_tool_call>\n{\"name\": ",
            after_arguments: "}\n</longcat_tool_call>",
            ..HERMES_FORM
        }),
        ..Self::HERMES
    };
    /// `{"name": …, "parameters": …}; {…}`, the whole text, as Llama 3 and 4 write calls.
    pub const LLAMA: Self = Self {
        marks: &["<|python_tag|>"],
        may_begin_unmarked: true,
        punctuation: ";,",
        form: Some(CallForm {
            opening: "",
            before_name: "{\"name\": ",
            before_arguments: ", \"parameters\": ",
            after_arguments: "}",
            separator: "; ",
            closing: "",
        }),
    };
    /// A list behind `[TOOL_CALLS]`, as older Mistral models write calls.
    pub const MISTRAL: Self = Self::list(&["[TOOL_CALLS]"]);
    /// A list behind `<|tool_call|>` or `<tool_call>`.
    pub const GRANITE: Self = Self::list(&["<|tool_call|>", "<tool_call>"]);
    /// Each call behind `<function_call>`.
    pub const GRANITE_20B: Self = Self::list(&["<function_call>"]);
    /// A list between `<tool_calls>` and `</tool_calls>`.
    pub const JAMBA: Self = Self::list(&["<tool_calls>"]);
    /// A list behind `functools`.
    pub const PHI4_MINI: Self = Self::list(&["functools"]);
    /// Each call behind two marks in a row.
    pub const INTERNLM: Self = Self::list(&["<|action_start|><|plugin|>"]);

    const fn list(marks: &'static [&'static str]) -> Self {
        Self {
            marks,
            may_begin_unmarked: false,
            punctuation: "[,]",
            form: None,
        }
    }

    /// The first mark in a text: where it is and how long.
    fn find_mark(&self, text: &str) -> Option<(usize, usize)> {
        let found = self
            .marks
            .iter()
            .filter_map(|mark| Some((text.find(mark)?, mark.len())));
        found.min()
    }

    fn is_filler(&self, character: char) -> bool {
        character.is_ascii_whitespace() || self.punctuation.contains(character)
    }

    /// All calls of a text that begins behind a mark; `None` when one cannot be read.
    fn calls(&self, text: &str) -> Option<Vec<ToolCall>> {
        let mut calls = Vec::new();
        let mut rest = text;
        loop {
            rest = rest.trim_start_matches(|character| self.is_filler(character));
            if rest.starts_with('{') {
                let mut scanner = CallScanner::default();
                let used = scanner.push(rest);
                let call = parse(&rest.as_bytes()[..used]).ok()?;
                calls.push(call_from_json(&call)?);
                rest = &rest[used..];
                if !self.punctuation.is_empty() {
                    continue;
                }
            }
            // Every mark announces a call.
            match self.find_mark(rest) {
                Some((start, length)) => rest = &rest[start + length..],
                None => return Some(calls),
            }
        }
    }
}

impl ToolParser for JsonCallsParser {
    fn extract(&self, text: &str) -> Extracted {
        let plain = || Extracted {
            content: Some(text.to_owned()),
            calls: Vec::new(),
        };
        let is_unmarked = self.may_begin_unmarked && text.trim_start().starts_with('{');
        let (content, calls) = match self.find_mark(text) {
            _ if is_unmarked => ("", text),
            Some((start, length)) => (&text[..start], &text[start + length..]),
            None => return plain(),
        };
        // One call that cannot be read makes the whole answer plain text.
        match self.calls(calls) {
            Some(calls) if !calls.is_empty() => Extracted {
                content: Some(content.to_owned()).filter(|content| !content.is_empty()),
                calls,
            },
            _ => plain(),
        }
    }

    fn stream(&self) -> Box<dyn ToolStream> {
        Box::new(JsonCallsStream {
            parser: *self,
            held: String::new(),
            place: match self.may_begin_unmarked {
                true => Place::Start,
                false => Place::Outside,
            },
            next_index: 0,
        })
    }

    fn call_form(&self) -> Option<CallForm> {
        self.form
    }
}

/// One call object; `parameters` is another word for `arguments`.
pub(super) fn call_from_json(call: &Value) -> Option<ToolCall> {
    let members = call.as_dict()?;
    let name = members.get("name")?.as_str()?.to_owned();
    let arguments = match members
        .get("arguments")
        .or_else(|| members.get("parameters"))
    {
        Some(Value::String(text)) => text.clone(),
        Some(arguments) => arguments.python_json(),
        None => "{}".to_owned(),
    };
    Some(ToolCall { name, arguments })
}

/// Takes text apart as it comes; what might be the start of a mark is held back.
#[derive(Debug)]
struct JsonCallsStream {
    parser: JsonCallsParser,
    /// Text not yet attributed.
    held: String,
    place: Place,
    next_index: usize,
}

#[derive(Debug)]
enum Place {
    /// Where a call may stand without a mark.
    Start,
    /// In text that is no call.
    Outside,
    /// Behind a mark, which is kept until a call follows, or behind a call.
    Between(String),
    Inside(OpenCall),
}

#[derive(Debug, Default)]
struct OpenCall {
    scanner: CallScanner,
    /// The call's text from its mark on, kept until the client was told of the call.
    unannounced: Option<String>,
}

impl ToolStream for JsonCallsStream {
    fn push(&mut self, text: &str, is_last: bool, deltas: &mut Vec<ToolDelta>) {
        self.held.push_str(text);
        loop {
            let place = std::mem::replace(&mut self.place, Place::Outside);
            let next = match place {
                Place::Start => self.start(is_last),
                Place::Outside => self.outside(is_last, deltas),
                Place::Between(mark) => self.between(mark, deltas),
                Place::Inside(call) => self.inside(call, deltas),
            };
            match next {
                Next::Go(place) => self.place = place,
                Next::Wait(place) => {
                    self.place = place;
                    break;
                }
            }
        }
        // A call that was cut off before its name is text.
        let raw = match &mut self.place {
            Place::Inside(call) if is_last => call.unannounced.take(),
            Place::Between(mark) if is_last => Some(std::mem::take(mark)),
            _ => None,
        };
        if let Some(raw) = raw {
            self.give_back(raw, deltas);
        }
    }
}

enum Next {
    /// On with the held text.
    Go(Place),
    /// More text is needed.
    Wait(Place),
}

impl JsonCallsStream {
    fn start(&self, is_last: bool) -> Next {
        match self.held.trim_start().chars().next() {
            None if !is_last => Next::Wait(Place::Start),
            Some('{') => Next::Go(Place::Between(String::new())),
            _ => Next::Go(Place::Outside),
        }
    }

    fn outside(&mut self, is_last: bool, deltas: &mut Vec<ToolDelta>) -> Next {
        let found = self.parser.find_mark(&self.held);
        let plain = match found {
            Some((start, _)) => start,
            None if is_last => self.held.len(),
            None => self.held.len() - marks::partial_any(&self.held, self.parser.marks),
        };
        // As in finished answers, text after the first call is not content.
        let text: String = self.held.drain(..plain).collect();
        self.give_back(text, deltas);
        match found {
            None => Next::Wait(Place::Outside),
            Some((_, length)) => Next::Go(Place::Between(self.held.drain(..length).collect())),
        }
    }

    /// Behind a mark or a call: another call may follow.
    fn between(&mut self, mut mark: String, deltas: &mut Vec<ToolDelta>) -> Next {
        let parser = self.parser;
        let rest = self.held.trim_start_matches(|it| parser.is_filler(it));
        let filler = self.held.len() - rest.len();
        mark.extend(self.held.drain(..filler));
        match self.held.chars().next() {
            None => Next::Wait(Place::Between(mark)),
            Some('{') => Next::Go(Place::Inside(OpenCall {
                scanner: CallScanner::default(),
                unannounced: Some(mark),
            })),
            Some(_) => {
                self.give_back(mark, deltas);
                Next::Go(Place::Outside)
            }
        }
    }

    fn inside(&mut self, mut call: OpenCall, deltas: &mut Vec<ToolDelta>) -> Next {
        let used = call.scanner.push(&self.held);
        if let Some(raw) = &mut call.unannounced {
            raw.push_str(&self.held[..used]);
        }
        self.held.drain(..used);
        if call.unannounced.is_some()
            && let Some(name) = call.scanner.name()
        {
            deltas.push(ToolDelta::Call {
                index: self.next_index,
                name: name.to_owned(),
            });
            self.next_index += 1;
            call.unannounced = None;
        }
        if call.unannounced.is_none() {
            let text = call.scanner.take_arguments();
            if !text.is_empty() {
                deltas.push(ToolDelta::Arguments {
                    index: self.next_index - 1,
                    text,
                });
            }
        }
        if !call.scanner.is_done() && !call.scanner.is_broken() {
            return Next::Wait(Place::Inside(call));
        }
        let is_list = !self.parser.punctuation.is_empty();
        if let Some(raw) = call.unannounced {
            self.give_back(raw, deltas);
            return Next::Go(Place::Outside);
        }
        Next::Go(match is_list {
            true => Place::Between(String::new()),
            false => Place::Outside,
        })
    }

    /// Text that turned out to be no call; after the first call it is dropped.
    fn give_back(&self, text: String, deltas: &mut Vec<ToolDelta>) {
        if !text.is_empty() && self.next_index == 0 {
            deltas.push(ToolDelta::Content(text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, check_cuts};
    use super::*;
    use proptest::prelude::*;

    fn call(name: &str, arguments: &str) -> ToolCall {
        ToolCall {
            name: name.to_owned(),
            arguments: arguments.to_owned(),
        }
    }

    #[track_caller]
    fn check_finished(text: &str, content: Option<&str>, calls: &[ToolCall]) {
        let expected = Extracted {
            content: content.map(str::to_owned),
            calls: calls.to_vec(),
        };
        assert_eq!(JsonCallsParser::HERMES.extract(text), expected);
    }

    #[test]
    fn finished_texts_are_taken_apart() {
        check_finished("Hello", Some("Hello"), &[]);
        check_finished("", Some(""), &[]);
        let rome = "<tool_call>\n{\"name\": \"w\", \"arguments\": {\"c\":\"Rome\"}}\n</tool_call>";
        check_finished(rome, None, &[call("w", r#"{"c": "Rome"}"#)]);
        check_finished(
            &format!("Sure.{rome}\n{rome} bye"),
            Some("Sure."),
            &[call("w", r#"{"c": "Rome"}"#), call("w", r#"{"c": "Rome"}"#)],
        );
        let cut = "a<tool_call>{\"name\": \"w\", \"argum";
        check_finished(cut, Some(cut), &[]);
        check_finished(
            "<tool_call>{\"name\":\"w\",\"arguments\":{\"é\":[1.0,1e-7,123456789012345678901,null]}}",
            None,
            &[call(
                "w",
                r#"{"é": [1.0, 1e-07, 123456789012345678901, null]}"#,
            )],
        );
    }

    fn streamed(pieces: &[&str]) -> Extracted {
        testing::streamed(&JsonCallsParser::HERMES, pieces)
    }

    #[test]
    fn a_stream_names_the_call_before_its_arguments() {
        let mut stream = JsonCallsParser::HERMES.stream();
        let mut deltas = Vec::new();
        for piece in [
            "<tool",
            "_call>\n{\"",
            "name\": \"w\", \"arguments\": {\"",
            "c",
            "\": 1",
            "}}\n",
            "</tool_call>",
        ] {
            stream.push(piece, false, &mut deltas);
        }
        stream.push("", true, &mut deltas);
        let arguments = |text: &str| ToolDelta::Arguments {
            index: 0,
            text: text.to_owned(),
        };
        assert_eq!(
            deltas,
            [
                ToolDelta::Call {
                    index: 0,
                    name: "w".to_owned()
                },
                arguments("{\""),
                arguments("c"),
                arguments("\": 1"),
                arguments("}"),
            ]
        );
    }

    #[test]
    fn a_stream_that_never_becomes_a_call_is_text() {
        assert_eq!(streamed(&["a <", "b"]).content.as_deref(), Some("a <b"));
        assert_eq!(
            streamed(&["a <tool", "_ca"]).content.as_deref(),
            Some("a <tool_ca")
        );
        let cut = "<tool_call>{\"nam";
        assert_eq!(streamed(&[cut]).content.as_deref(), Some(cut));
    }

    #[test]
    fn families_write_calls_in_their_own_ways() {
        use JsonCallsParser as Parser;
        let (f, g) = (call("f", "{\"a\": 1}"), call("g", "{}"));
        let check = |parser: &Parser, text: &str, content: Option<&str>, calls: &[ToolCall]| {
            let expected = Extracted {
                content: content.map(str::to_owned),
                calls: calls.to_vec(),
            };
            assert_eq!(parser.extract(text), expected, "{text}");
            check_cuts(parser, text);
        };
        let both = [f.clone(), g];
        const LIST: &str =
            r#"[{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]"#;
        let llama = r#"{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}"#;
        check(&Parser::LLAMA, llama, None, &both);
        check(
            &Parser::LLAMA,
            &format!("<|python_tag|>{llama}"),
            None,
            &both,
        );
        check(&Parser::LLAMA, "Hi {}", Some("Hi {}"), &[]);
        check(&Parser::LLAMA, r#"{"a": 1}"#, Some(r#"{"a": 1}"#), &[]);
        check(
            &Parser::MISTRAL,
            &format!("[TOOL_CALLS] {LIST}"),
            None,
            &both,
        );
        check(
            &Parser::MISTRAL,
            &format!("Well[TOOL_CALLS]{LIST}"),
            Some("Well"),
            &both,
        );
        check(
            &Parser::GRANITE,
            &format!("<|tool_call|>{LIST}"),
            None,
            &both,
        );
        check(
            &Parser::JAMBA,
            &format!("<tool_calls>{LIST}</tool_calls>"),
            None,
            &both,
        );
        check(&Parser::PHI4_MINI, &format!("functools{LIST}"), None, &both);
        let each = "<function_call> {\"name\": \"f\", \"arguments\": {\"a\": 1}}";
        check(
            &Parser::GRANITE_20B,
            &format!("{each}\n{each}"),
            None,
            &[f.clone(), f.clone()],
        );
        let plugin = "<|action_start|><|plugin|>\n{\"name\": \"f\", \"parameters\": {\"a\": 1}}\
                      <|action_end|>";
        check(&Parser::INTERNLM, plugin, None, std::slice::from_ref(&f));
        let cut = "[TOOL_CALLS][{\"na";
        check(&Parser::MISTRAL, cut, Some(cut), &[]);
    }

    proptest! {
        #[test]
        fn however_a_text_is_cut_the_outcome_is_the_same(
            cuts in prop::collection::vec(0usize..120, 0..12),
        ) {
            let text = "Hé <b> <tool_call>\n{\"arguments\": {\"s\": \"}\\\"</tool_call>\"}, \"name\": \
                        \"f\"}\n</tool_call>\n<tool_call>{\"name\": \"g\", \"arguments\": {}}</tool_call>";
            let mut cuts: Vec<usize> =
                cuts.into_iter().map(|cut| text.floor_char_boundary(cut)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            let outcome = streamed(&pieces);
            prop_assert_eq!(outcome.content.as_deref(), Some("Hé <b> "));
            prop_assert_eq!(
                outcome.calls,
                [call("f", r#"{"s": "}\"</tool_call>"}"#), call("g", "{}")]
            );
        }

        #[test]
        fn plain_text_passes_through(text in "[a-c<>/_{}\" tol]{0,40}") {
            prop_assume!(!text.contains("<tool_call>"));
            let (left, right) = text.split_at(text.len() / 2);
            prop_assert_eq!(streamed(&[left, right]).content.unwrap_or_default(), text);
        }
    }
}
