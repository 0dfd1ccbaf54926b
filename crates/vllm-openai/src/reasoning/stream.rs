//! Telling reasoning from the answer while both are being written.

use super::{Opening, ReasoningParser};

/// Takes text apart as it comes; what might be the start of a mark is held back.
#[derive(Debug)]
pub(crate) struct ReasoningStream {
    parser: ReasoningParser,
    part: Part,
    /// Text not yet attributed.
    held: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Start,
    Reasoning,
    Answer,
}

impl ReasoningStream {
    pub(super) fn new(parser: ReasoningParser) -> Self {
        Self {
            part: match parser.opening {
                Opening::AnswerOnly => Part::Answer,
                Opening::Answer | Opening::Reasoning => Part::Start,
            },
            parser,
            held: String::new(),
        }
    }

    /// Appends what is certain after the next piece of text to `reasoning` and `answer`. `is_last`
    /// says that no text will follow.
    pub(crate) fn push(
        &mut self,
        text: &str,
        is_last: bool,
        reasoning: &mut String,
        answer: &mut String,
    ) {
        if self.part == Part::Answer {
            answer.push_str(text);
            return;
        }
        self.held.push_str(text);
        if self.part == Part::Start && !self.begin(is_last) {
            return;
        }
        if self.part == Part::Reasoning {
            self.reason(is_last, reasoning);
        }
        if self.part == Part::Answer {
            answer.push_str(&std::mem::take(&mut self.held));
        }
    }

    /// Looks for a mark at the beginning; false while there may still come one.
    fn begin(&mut self, is_last: bool) -> bool {
        let marks = self.parser.marks.begin;
        let start = self.held.trim_start();
        if let Some(mark) = marks.iter().find(|mark| start.starts_with(**mark)) {
            let consumed = self.held.len() - start.len() + mark.len();
            self.held.drain(..consumed);
            self.part = Part::Reasoning;
            return true;
        }
        if !is_last && marks.iter().any(|mark| mark.starts_with(start)) {
            return false;
        }
        self.part = match self.parser.opening {
            Opening::Reasoning => Part::Reasoning,
            Opening::Answer | Opening::AnswerOnly => Part::Answer,
        };
        true
    }

    /// Moves reasoning out of the held text, up to the mark that ends it.
    fn reason(&mut self, is_last: bool, reasoning: &mut String) {
        let ends = self.parser.marks.end;
        let found = ends
            .iter()
            .filter_map(|mark| Some((self.held.find(mark)?, mark.len())))
            .min();
        if let Some((start, length)) = found {
            reasoning.push_str(&self.held[..start]);
            self.held.drain(..start + length);
            self.part = Part::Answer;
            return;
        }
        let tail = match is_last {
            true => 0,
            false => crate::marks::partial_any(&self.held, ends),
        };
        let certain = self.held.len() - tail;
        reasoning.push_str(&self.held[..certain]);
        self.held.drain(..certain);
    }
}

#[cfg(test)]
mod tests {
    use super::super::reasoning_parser;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn however_a_text_is_cut_the_outcome_is_the_same(
            name in prop::sample::select(super::super::REASONING_PARSER_NAMES),
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "<think>", "</think>", "<", "/th", "ink>", "é", " a", "\n", "[THINK]", "[/",
                    "THINK]", "Here", " is my", " response:", "Here is my thought process:",
                    "<seed:think>", "</seed:", "think>",
                ]),
                0..10,
            ),
        ) {
            let parser = reasoning_parser(name).expect("the parser is known");
            let (mut reasoning, mut answer) = (String::new(), String::new());
            let mut stream = parser.stream();
            for piece in &pieces {
                stream.push(piece, false, &mut reasoning, &mut answer);
            }
            stream.push("", true, &mut reasoning, &mut answer);
            let (whole_reasoning, whole_answer) = parser.extract(&pieces.concat());
            prop_assert_eq!(reasoning, whole_reasoning.unwrap_or_default());
            prop_assert_eq!(answer, whole_answer.unwrap_or_default());
        }
    }

    #[test]
    fn marks_are_never_shown_in_parts() {
        let parser = reasoning_parser("qwen3").expect("the parser is known");
        let mut stream = parser.stream();
        let mut seen = Vec::new();
        for piece in ["<th", "ink>", "a <", "b", "</th", "ink", ">", "c"] {
            let (mut reasoning, mut answer) = (String::new(), String::new());
            stream.push(piece, false, &mut reasoning, &mut answer);
            seen.push((reasoning, answer));
        }
        let expected = [
            ("", ""),
            ("", ""),
            ("a ", ""),
            ("<b", ""),
            ("", ""),
            ("", ""),
            ("", ""),
            ("", "c"),
        ];
        let seen: Vec<(&str, &str)> = seen
            .iter()
            .map(|(reasoning, answer)| (&**reasoning, &**answer))
            .collect();
        assert_eq!(seen, expected);
    }
}
