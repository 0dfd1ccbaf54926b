//! Calls written as `<tool_call>{"name": …, "arguments": …}</tool_call>`.

use super::scanner::CallScanner;
use super::{CallForm, Extracted, ToolCall, ToolDelta, ToolParser, ToolStream};
use crate::decode::Value;
use crate::decode::json::parse;

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// The form that Hermes and Qwen models write.
#[derive(Debug, Clone, Copy, Default)]
pub struct HermesParser;

impl ToolParser for HermesParser {
    fn extract(&self, text: &str) -> Extracted {
        let Some(start) = text.find(OPEN) else {
            return Extracted {
                content: Some(text.to_owned()),
                calls: Vec::new(),
            };
        };
        match calls_in(&text[start..]) {
            Some(calls) => {
                let content = (start > 0).then(|| text[..start].to_owned());
                Extracted { content, calls }
            }
            // One call that cannot be read makes the whole answer plain text.
            None => Extracted {
                content: Some(text.to_owned()),
                calls: Vec::new(),
            },
        }
    }

    fn stream(&self) -> Box<dyn ToolStream> {
        Box::new(HermesStream::default())
    }

    fn call_form(&self) -> Option<CallForm> {
        Some(CallForm {
            before_name: "<tool_call>\n{\"name\": ",
            before_arguments: ", \"arguments\": ",
            after_arguments: "}\n</tool_call>",
            separator: "\n",
            ..CallForm::default()
        })
    }
}

/// All calls from the first mark on; `None` when one of them is not complete JSON.
fn calls_in(text: &str) -> Option<Vec<ToolCall>> {
    let mut calls = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(OPEN) {
        let inside = &rest[start + OPEN.len()..];
        let (call, after) = match inside.find(CLOSE) {
            Some(end) => (&inside[..end], &inside[end + CLOSE.len()..]),
            None => (inside, ""),
        };
        calls.push(parse_call(call)?);
        rest = after;
    }
    Some(calls)
}

/// One call object.
fn parse_call(text: &str) -> Option<ToolCall> {
    parse(text.as_bytes())
        .ok()
        .and_then(|call| call_from_json(&call))
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
#[derive(Debug, Default)]
struct HermesStream {
    /// Text not yet attributed.
    held: String,
    call: Option<OpenCall>,
    next_index: usize,
}

#[derive(Debug, Default)]
struct OpenCall {
    scanner: CallScanner,
    /// The call's text from its mark on, kept until the client was told of the call.
    unannounced: Option<String>,
}

impl ToolStream for HermesStream {
    fn push(&mut self, text: &str, is_last: bool, deltas: &mut Vec<ToolDelta>) {
        self.held.push_str(text);
        while !self.held.is_empty() {
            let progressed = match self.call.take() {
                Some(call) => self.inside(call, deltas),
                None => self.outside(is_last, deltas),
            };
            if !progressed {
                break;
            }
        }
        if is_last
            && let Some(call) = self.call.take()
            && let Some(raw) = call.unannounced
            && self.next_index == 0
        {
            deltas.push(ToolDelta::Content(raw + &std::mem::take(&mut self.held)));
        }
    }
}

impl HermesStream {
    /// Outside a call; true when the held text got shorter.
    fn outside(&mut self, is_last: bool, deltas: &mut Vec<ToolDelta>) -> bool {
        let (plain, consumed) = match self.held.find(OPEN) {
            Some(start) => (start, start + OPEN.len()),
            None => {
                let tail = if is_last {
                    0
                } else {
                    partial_mark(&self.held, OPEN)
                };
                let plain = self.held.len() - tail;
                (plain, plain)
            }
        };
        // As in finished answers, text after the first call is not content.
        if plain > 0 && self.next_index == 0 {
            deltas.push(ToolDelta::Content(self.held[..plain].to_owned()));
        }
        if consumed > plain {
            let raw = (self.next_index == 0).then(|| OPEN.to_owned());
            self.call = Some(OpenCall {
                scanner: CallScanner::default(),
                unannounced: Some(raw.unwrap_or_default()),
            });
        }
        self.held.drain(..consumed);
        consumed > 0
    }

    /// Inside a call; true when the call ended or was given up.
    fn inside(&mut self, mut call: OpenCall, deltas: &mut Vec<ToolDelta>) -> bool {
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
        if call.scanner.is_done() || call.scanner.is_broken() {
            if let Some(raw) = call.unannounced
                && self.next_index == 0
            {
                deltas.push(ToolDelta::Content(raw));
            }
            return true;
        }
        self.call = Some(call);
        false
    }
}

/// How many bytes at the end of `text` could be the start of `mark`.
fn partial_mark(text: &str, mark: &str) -> usize {
    (1..mark.len())
        .rev()
        .find(|length| text.ends_with(&mark[..*length]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
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
        assert_eq!(HermesParser.extract(text), expected);
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

    /// Feeds pieces and joins what comes out.
    fn streamed(pieces: &[&str]) -> Extracted {
        let mut stream = HermesParser.stream();
        let mut deltas = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            stream.push(piece, index + 1 == pieces.len(), &mut deltas);
        }
        let mut joined = Extracted::default();
        for delta in deltas {
            match delta {
                ToolDelta::Content(text) => {
                    joined.content.get_or_insert_default().push_str(&text);
                }
                ToolDelta::Call { index, name } => {
                    assert_eq!(index, joined.calls.len());
                    joined.calls.push(call(&name, ""));
                }
                ToolDelta::Arguments { index, text } => {
                    joined.calls[index].arguments.push_str(&text);
                }
            }
        }
        joined
    }

    #[test]
    fn a_stream_names_the_call_before_its_arguments() {
        let mut stream = HermesParser.stream();
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
            prop_assume!(!text.contains(OPEN));
            let (left, right) = text.split_at(text.len() / 2);
            prop_assert_eq!(streamed(&[left, right]).content.unwrap_or_default(), text);
        }
    }
}
