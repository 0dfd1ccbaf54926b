//! Reasoning: the part of a text in which a model thinks before it answers.

mod constraint;
mod stream;

use serde_json::{Map, Value as Json};

pub(crate) use constraint::after_reasoning;
pub(crate) use stream::ReasoningStream;

/// Tells reasoning from the answer by the marks around it. One parser serves all requests;
/// [`ReasoningParser::for_prompt`] makes the one of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReasoningParser {
    marks: Marks,
    opening: Opening,
    switch: Switch,
    needs_special_tokens: bool,
    begin_id: Option<u32>,
    end_id: Option<u32>,
}

/// Texts around the reasoning; of several, any counts, and the first is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Marks {
    begin: &'static [&'static str],
    end: &'static [&'static str],
}

/// What a text is before any mark was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    /// Reasoning: its mark stands in the prompt, or may be left out.
    Reasoning,
    /// The answer, unless the text begins with a mark.
    Answer,
    /// The answer, whatever follows: the model was told not to think.
    AnswerOnly,
}

/// How the variables of the chat template turn reasoning on and off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Switch {
    /// Not at all.
    None,
    /// `enable_thinking` or `thinking`; on without them.
    On,
    /// The same; off without them.
    Off,
}

const THINK: Marks = Marks {
    begin: &["<think>"],
    end: &["</think>"],
};
const SEED_THINK: Marks = Marks {
    begin: &["<seed:think>"],
    end: &["</seed:think>"],
};
const BRACKETS: Marks = Marks {
    begin: &["[THINK]"],
    end: &["[/THINK]"],
};
const GRANITE: Marks = Marks {
    begin: &["Here is my thought process:", "Here's my thought process:"],
    end: &["Here is my response:", "Here's my response:"],
};

/// The names that [`reasoning_parser`] knows.
pub const REASONING_PARSER_NAMES: &[&str] = &[
    "deepseek_r1",
    "deepseek_v3",
    "glm45",
    "granite",
    "holo2",
    "mimo",
    "minimax_m2",
    "mistral",
    "nemotron_v3",
    "olmo3",
    "qwen3",
    "seed_oss",
    "step3",
];

/// The parser with this name, as given to `--reasoning-parser`.
pub fn reasoning_parser(name: &str) -> Option<ReasoningParser> {
    let (marks, opening, switch) = match name {
        "deepseek_r1" | "minimax_m2" | "olmo3" | "step3" => {
            (THINK, Opening::Reasoning, Switch::None)
        }
        "glm45" | "holo2" | "mimo" | "nemotron_v3" | "qwen3" => {
            (THINK, Opening::Reasoning, Switch::On)
        }
        "deepseek_v3" => (THINK, Opening::Reasoning, Switch::Off),
        "seed_oss" => (SEED_THINK, Opening::Reasoning, Switch::None),
        "mistral" => (BRACKETS, Opening::Answer, Switch::None),
        "granite" => (GRANITE, Opening::Answer, Switch::None),
        _ => return None,
    };
    Some(ReasoningParser {
        marks,
        opening,
        switch,
        needs_special_tokens: matches!(name, "mistral" | "seed_oss"),
        begin_id: None,
        end_id: None,
    })
}

impl ReasoningParser {
    /// Looks the marks up in a vocabulary, which is what tokens of reasoning are counted by.
    pub fn with_vocabulary(mut self, token_id: impl Fn(&str) -> Option<u32>) -> Self {
        let first = |marks: &[&str]| marks.first().and_then(|mark| token_id(mark));
        self.begin_id = first(self.marks.begin);
        self.end_id = first(self.marks.end);
        self
    }

    /// The parser of the answer to one prompt, rendered with these template variables. What the
    /// prompt ends with wins: an open mark, or a closed one where the template leaves reasoning
    /// out.
    pub fn for_prompt(mut self, prompt: &str, kwargs: &Map<String, Json>) -> Self {
        let tail = prompt.trim_end();
        let ends_with = |marks: &[&str]| marks.iter().any(|mark| tail.ends_with(mark));
        if ends_with(self.marks.end) {
            self.opening = Opening::AnswerOnly;
        } else if ends_with(self.marks.begin) {
            self.opening = Opening::Reasoning;
        } else if !self.is_switched_on(kwargs) {
            self.opening = Opening::AnswerOnly;
        }
        self
    }

    fn is_switched_on(&self, kwargs: &Map<String, Json>) -> bool {
        let mut given = ["enable_thinking", "thinking"]
            .into_iter()
            .filter_map(|name| kwargs.get(name).and_then(Json::as_bool))
            .peekable();
        match (self.switch, given.peek().is_some()) {
            (Switch::None, _) | (Switch::On, false) => true,
            (Switch::Off, false) => false,
            (Switch::On, true) => given.all(|on| on),
            (Switch::Off, true) => given.any(|on| on),
        }
    }

    /// Whether special tokens must stay in the text because the marks are special.
    pub(crate) fn needs_special_tokens(&self) -> bool {
        self.needs_special_tokens
    }

    /// Starts taking the text of one choice apart.
    pub(crate) fn stream(&self) -> ReasoningStream {
        ReasoningStream::new(*self)
    }

    /// Reasoning and answer of a finished text; `None` for what it has nothing of.
    pub(crate) fn extract(&self, text: &str) -> (Option<String>, Option<String>) {
        let (mut reasoning, mut answer) = (String::new(), String::new());
        self.stream().push(text, true, &mut reasoning, &mut answer);
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        (given(reasoning), given(answer))
    }

    /// Starts counting the tokens of one choice.
    pub(crate) fn counter(&self) -> ReasoningCounter {
        ReasoningCounter {
            is_inside: self.opening == Opening::Reasoning && self.end_id.is_some(),
            is_over: self.opening == Opening::AnswerOnly,
            parser: *self,
            tokens: 0,
        }
    }
}

/// Counts the tokens of reasoning, marks left out; none where the marks are not single tokens.
#[derive(Debug)]
pub(crate) struct ReasoningCounter {
    parser: ReasoningParser,
    is_inside: bool,
    is_over: bool,
    tokens: usize,
}

impl ReasoningCounter {
    pub(crate) fn push(&mut self, token_ids: &[u32]) {
        for id in token_ids {
            if self.is_over {
                return;
            }
            if Some(*id) == self.parser.begin_id {
                self.is_inside = true;
            } else if Some(*id) == self.parser.end_id {
                self.is_over = true;
            } else if self.is_inside {
                self.tokens += 1;
            }
        }
    }

    /// How many there were so far.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn parser(name: &str, prompt: &str, kwargs: Json) -> ReasoningParser {
        let parser = reasoning_parser(name).expect("the parser is known");
        parser.for_prompt(prompt, kwargs.as_object().expect("an object"))
    }

    #[test]
    fn all_names_are_known() {
        for name in REASONING_PARSER_NAMES {
            assert!(reasoning_parser(name).is_some(), "{name}");
        }
        assert_eq!(reasoning_parser("frog"), None);
    }

    #[test]
    fn finished_texts_are_taken_apart() {
        let check = |name, prompt, kwargs, text, reasoning: &str, answer: &str| {
            let (found, rest) = parser(name, prompt, kwargs).extract(text);
            let message = format!("{name}: {text}");
            assert_eq!(found.unwrap_or_default(), reasoning, "{message}");
            assert_eq!(rest.unwrap_or_default(), answer, "{message}");
        };
        let none = || json!({});
        check("deepseek_r1", "", none(), "a</think>b", "a", "b");
        check(
            "deepseek_r1",
            "",
            none(),
            "<think>\na\n</think>\n\nb",
            "\na\n",
            "\n\nb",
        );
        check("deepseek_r1", "", none(), "cut off", "cut off", "");
        let off = || json!({"enable_thinking": false});
        check("deepseek_r1", "", off(), "a</think>b", "a", "b");
        check("qwen3", "", none(), "a</think>b", "a", "b");
        check("qwen3", "", off(), "b", "", "b");
        check("qwen3", "<think>\n\n</think>\n\n", none(), "b", "", "b");
        check("deepseek_v3", "", none(), "b", "", "b");
        check("deepseek_v3", "<think>", none(), "a</think>b", "a", "b");
        let on = json!({"thinking": true});
        check("deepseek_v3", "", on, "a</think>b", "a", "b");
        check("mistral", "", none(), "b", "", "b");
        check("mistral", "", none(), "[THINK]a[/THINK]b", "a", "b");
        let text = "Here's my thought process: a Here is my response: b";
        check("granite", "", none(), text, " a ", " b");
        check("granite", "", none(), "Here is b", "", "Here is b");
        check(
            "seed_oss",
            "",
            none(),
            "<seed:think>a</seed:think>b",
            "a",
            "b",
        );
    }

    #[test]
    fn tokens_of_reasoning_are_counted_between_the_marks() {
        let check = |opening: &str, ids: &[u32], expected: usize| {
            let parser = parser("qwen3", opening, json!({}));
            let parser = parser.with_vocabulary(|mark| match mark {
                "<think>" => Some(1),
                "</think>" => Some(2),
                _ => None,
            });
            let mut counter = parser.counter();
            for id in ids {
                counter.push(&[*id]);
            }
            assert_eq!(counter.tokens(), expected, "{ids:?}");
        };
        check("", &[1, 7, 8, 2, 9], 2);
        check("", &[7, 8, 2, 9, 1, 7], 2);
        check("</think>", &[7, 8, 9], 0);
        check("", &[7, 8], 2);
    }
}
