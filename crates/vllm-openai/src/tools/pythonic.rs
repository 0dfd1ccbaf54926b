//! Calls written as Python writes them: `[f(a=1, b='x'), g()]`.

use super::literal::{Stop, call};
use super::{Extracted, ToolCall, ToolDelta, ToolParser, ToolStream};
use crate::marks;

/// The families of models that write calls in Python.
#[derive(Debug, Clone, Copy)]
pub struct PythonicParser {
    /// In front of the calls; without it they begin the text.
    begin: Option<&'static str>,
    /// A mark in front of the text that may be left out.
    optional: &'static str,
    /// Calls stand in a list; otherwise each on a line.
    is_list: bool,
}

impl PythonicParser {
    /// A list that is the whole text.
    pub const PLAIN: Self = Self {
        begin: None,
        optional: "",
        is_list: true,
    };
    /// The same between `<|python_start|>` and `<|python_end|>`, which may be left out.
    pub const LLAMA4: Self = Self {
        optional: "<|python_start|>",
        ..Self::PLAIN
    };
    /// A list behind `<|tool_call_start|>`.
    pub const LFM2: Self = Self {
        begin: Some("<|tool_call_start|>"),
        ..Self::PLAIN
    };
    /// Lines behind `<function_calls>`.
    pub const OLMO3: Self = Self {
        begin: Some("<function_calls>"),
        optional: "",
        is_list: false,
    };

    /// Where the calls begin: how much text stands in front of the mark, and how much the mark
    /// takes.
    fn begin(&self, text: &str) -> Begin {
        if let Some(mark) = self.begin {
            return match text.find(mark) {
                Some(start) => Begin::At(start, mark.len()),
                None => Begin::Unknown(text.len() - marks::partial(text, mark)),
            };
        }
        let trimmed = text.trim_start();
        let rest = trimmed.strip_prefix(self.optional).unwrap_or(trimmed);
        let rest = rest.trim_start();
        match rest.chars().next() {
            Some('[') => Begin::At(0, text.len() - rest.len()),
            None => Begin::Unknown(0),
            Some(_) if self.optional.starts_with(trimmed) => Begin::Unknown(0),
            Some(_) => Begin::Never,
        }
    }

    fn is_filler(&self, character: char) -> bool {
        character.is_ascii_whitespace() || self.is_list && matches!(character, '[' | ',')
    }

    fn is_end(&self, text: &str) -> bool {
        text.starts_with(if self.is_list { ']' } else { '<' })
    }
}

enum Begin {
    At(usize, usize),
    /// Not yet seen; so much of the text stands in front of it in any case.
    Unknown(usize),
    /// The text has no calls.
    Never,
}

impl ToolParser for PythonicParser {
    fn extract(&self, text: &str) -> Extracted {
        let plain = || Extracted {
            content: Some(text.to_owned()),
            calls: Vec::new(),
        };
        let Begin::At(start, length) = self.begin(text) else {
            return plain();
        };
        let mut calls = Vec::new();
        let mut rest = &text[start + length..];
        loop {
            rest = rest.trim_start_matches(|it| self.is_filler(it));
            if rest.is_empty() || self.is_end(rest) {
                break;
            }
            match call(rest) {
                Ok((call, used)) => {
                    calls.push(call);
                    rest = &rest[used..];
                }
                Err(_) => return plain(),
            }
        }
        if calls.is_empty() {
            return plain();
        }
        let content = Some(text[..start].to_owned()).filter(|content| !content.is_empty());
        Extracted { content, calls }
    }

    fn stream(&self) -> Box<dyn ToolStream> {
        Box::new(PythonicStream {
            parser: *self,
            held: String::new(),
            mark: String::new(),
            place: Place::Text,
            next_index: 0,
        })
    }
}

/// Tells of each call when it is complete, since its arguments must be translated.
#[derive(Debug)]
struct PythonicStream {
    parser: PythonicParser,
    /// Text not yet attributed.
    held: String,
    /// What was taken in front of the first call.
    mark: String,
    place: Place,
    next_index: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Where calls may begin.
    Text,
    Calls,
    /// There are none.
    PlainText,
    /// Behind the calls.
    End,
}

impl ToolStream for PythonicStream {
    fn push(&mut self, text: &str, is_last: bool, deltas: &mut Vec<ToolDelta>) {
        self.held.push_str(text);
        if self.place == Place::Text {
            let plain = match self.parser.begin(&self.held) {
                Begin::At(start, length) => {
                    self.place = Place::Calls;
                    self.mark = self.held[start..start + length].to_owned();
                    start
                }
                Begin::Unknown(_) if is_last => self.held.len(),
                Begin::Unknown(plain) => plain,
                Begin::Never => {
                    self.place = Place::PlainText;
                    0
                }
            };
            give(self.held.drain(..plain).collect(), deltas);
            self.held.drain(..self.mark.len());
        }
        while self.place == Place::Calls && self.call(is_last, deltas) {}
        match self.place {
            Place::PlainText => give(std::mem::take(&mut self.held), deltas),
            Place::End => self.held.clear(),
            Place::Text | Place::Calls => {}
        }
    }
}

impl PythonicStream {
    /// Takes the next call from the held text; false when there is none yet.
    fn call(&mut self, is_last: bool, deltas: &mut Vec<ToolDelta>) -> bool {
        let parser = self.parser;
        let rest = self.held.trim_start_matches(|it| parser.is_filler(it));
        let filler = self.held.len() - rest.len();
        self.mark.extend(self.held.drain(..filler));
        let outcome = match self.held.as_str() {
            "" => Err(Stop::Incomplete),
            rest if parser.is_end(rest) => Err(Stop::Invalid),
            rest => call(rest),
        };
        match outcome {
            Ok((ToolCall { name, arguments }, used)) => {
                let index = self.next_index;
                deltas.push(ToolDelta::Call { index, name });
                deltas.push(ToolDelta::Arguments {
                    index,
                    text: arguments,
                });
                self.next_index += 1;
                self.held.drain(..used);
                true
            }
            Err(Stop::Incomplete) if !is_last => false,
            Err(_) if self.next_index > 0 => {
                self.place = Place::End;
                false
            }
            Err(_) => {
                self.held.insert_str(0, &std::mem::take(&mut self.mark));
                self.place = Place::PlainText;
                false
            }
        }
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
    fn check(parser: &PythonicParser, text: &str, content: Option<&str>, calls: &[(&str, &str)]) {
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
        let both = [("f", r#"{"a": 1, "b": "x'é]"}"#), ("g", "{}")];
        let list = r#"[f(a=1, b='x\'é]'), g()]"#;
        check(&PythonicParser::PLAIN, list, None, &both);
        check(&PythonicParser::PLAIN, "[1, 2]", Some("[1, 2]"), &[]);
        check(&PythonicParser::PLAIN, "[f(a=1", Some("[f(a=1"), &[]);
        check(
            &PythonicParser::PLAIN,
            "Hello [f()]",
            Some("Hello [f()]"),
            &[],
        );
        check(&PythonicParser::PLAIN, "", Some(""), &[]);
        let marked = format!("<|python_start|>{list}<|python_end|>");
        check(&PythonicParser::LLAMA4, &marked, None, &both);
        check(&PythonicParser::LLAMA4, list, None, &both);
        let marked = format!("Well.<|tool_call_start|>{list}<|tool_call_end|> bye");
        check(&PythonicParser::LFM2, &marked, Some("Well."), &both);
        check(&PythonicParser::LFM2, "a <|tool", Some("a <|tool"), &[]);
        let lines = "<function_calls>\nf(a=1, b=\"x'é]\")\ng()\n</function_calls>";
        check(&PythonicParser::OLMO3, lines, None, &both);
    }
}
