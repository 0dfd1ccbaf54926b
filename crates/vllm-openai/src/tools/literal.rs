//! Python calls whose arguments are literals.

use super::ToolCall;
use crate::decode::json::parse;
use crate::decode::{Dict, Value};

/// Deepest nesting of an argument.
const MAX_DEPTH: usize = 64;

/// Why there is no call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// The text ended too early.
    Incomplete,
    /// The text is something else.
    Invalid,
}

type Outcome<T> = Result<T, Stop>;

/// Reads a call at the beginning of `text`; also tells how many bytes it took.
pub(super) fn call(text: &str) -> Outcome<(ToolCall, usize)> {
    let mut reader = Reader { rest: text };
    let name = reader.name()?.to_owned();
    reader.expect('(')?;
    let mut arguments = Dict::new();
    while !reader.take_end(')')? {
        let argument = reader.name()?.to_owned();
        reader.expect('=')?;
        arguments.insert(argument, reader.value(0)?);
        reader.take_comma(')')?;
    }
    let used = text.len() - reader.rest.len();
    let arguments = Value::Dict(arguments).python_json();
    Ok((ToolCall { name, arguments }, used))
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    /// The next character that is no blank.
    fn peek(&mut self) -> Outcome<char> {
        self.rest = self.rest.trim_start();
        self.rest.chars().next().ok_or(Stop::Incomplete)
    }

    fn expect(&mut self, wanted: char) -> Outcome<()> {
        match self.peek()? == wanted {
            true => {
                self.rest = &self.rest[wanted.len_utf8()..];
                Ok(())
            }
            false => Err(Stop::Invalid),
        }
    }

    fn take_end(&mut self, end: char) -> Outcome<bool> {
        let is_end = self.peek()? == end;
        if is_end {
            self.expect(end)?;
        }
        Ok(is_end)
    }

    /// Takes a comma, unless the end follows.
    fn take_comma(&mut self, end: char) -> Outcome<()> {
        match self.peek()? == end {
            true => Ok(()),
            false => self.expect(','),
        }
    }

    /// An identifier, possibly with dots; something must follow it.
    fn name(&mut self) -> Outcome<&'a str> {
        let first = self.peek()?;
        if !first.is_alphabetic() && first != '_' {
            return Err(Stop::Invalid);
        }
        let is_part = |it: char| it.is_alphanumeric() || matches!(it, '_' | '.' | '-');
        let length = self.rest.find(|it| !is_part(it)).ok_or(Stop::Incomplete)?;
        let (name, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(name)
    }

    fn value(&mut self, depth: usize) -> Outcome<Value> {
        if depth > MAX_DEPTH {
            return Err(Stop::Invalid);
        }
        match self.peek()? {
            '\'' | '"' => self.string().map(Value::String),
            '[' => self.items('[', ']', depth).map(Value::List),
            '(' => self.items('(', ')', depth).map(Value::List),
            '{' => self.members(depth).map(Value::Dict),
            _ => self.word(),
        }
    }

    fn items(&mut self, begin: char, end: char, depth: usize) -> Outcome<Vec<Value>> {
        self.expect(begin)?;
        let mut items = Vec::new();
        while !self.take_end(end)? {
            items.push(self.value(depth + 1)?);
            self.take_comma(end)?;
        }
        Ok(items)
    }

    fn members(&mut self, depth: usize) -> Outcome<Dict> {
        self.expect('{')?;
        let mut members = Dict::new();
        while !self.take_end('}')? {
            let key = match self.value(depth + 1)? {
                Value::String(key) => key,
                other => other.python_json(),
            };
            self.expect(':')?;
            members.insert(key, self.value(depth + 1)?);
            self.take_comma('}')?;
        }
        Ok(members)
    }

    /// A number or a constant; something must follow it.
    fn word(&mut self) -> Outcome<Value> {
        let is_part = |it: char| it.is_ascii_alphanumeric() || matches!(it, '+' | '-' | '.' | '_');
        let length = self.rest.find(|it| !is_part(it)).ok_or(Stop::Incomplete)?;
        let (word, rest) = self.rest.split_at(length);
        self.rest = rest;
        match word {
            "None" | "null" => Ok(Value::Null),
            "True" | "true" => Ok(Value::Bool(true)),
            "False" | "false" => Ok(Value::Bool(false)),
            number => match parse(number.as_bytes()) {
                Ok(number @ (Value::Int(_) | Value::BigInt(_) | Value::Float(_))) => Ok(number),
                _ => number
                    .parse()
                    .ok()
                    .filter(|float: &f64| float.is_finite())
                    .map(Value::Float)
                    .ok_or(Stop::Invalid),
            },
        }
    }

    fn string(&mut self) -> Outcome<String> {
        let quote = self.peek()?;
        let mut characters = self.rest.char_indices().skip(1);
        let mut text = String::new();
        while let Some((position, character)) = characters.next() {
            match character {
                _ if character == quote => {
                    self.rest = &self.rest[position + 1..];
                    return Ok(text);
                }
                '\\' => {
                    let (_, escaped) = characters.next().ok_or(Stop::Incomplete)?;
                    let mut code = |digits: usize| {
                        let digits: String =
                            characters.by_ref().take(digits).map(|(_, it)| it).collect();
                        u32::from_str_radix(&digits, 16)
                            .ok()
                            .and_then(char::from_u32)
                            .unwrap_or(char::REPLACEMENT_CHARACTER)
                    };
                    match escaped {
                        'n' => text.push('\n'),
                        't' => text.push('\t'),
                        'r' => text.push('\r'),
                        '\n' => {}
                        'x' => text.push(code(2)),
                        'u' => text.push(code(4)),
                        '\\' | '\'' | '"' => text.push(escaped),
                        other => text.extend(['\\', other]),
                    }
                }
                other => text.push(other),
            }
        }
        Err(Stop::Incomplete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn literals_become_json() {
        let check = |arguments: &str, expected: &str| {
            let text = format!("f({arguments}) rest");
            let (call, used) = call(&text).expect("the call is complete");
            assert_eq!(call.name, "f");
            assert_eq!(call.arguments, expected);
            assert_eq!(&text[used..], " rest");
        };
        check("", "{}");
        check("a=1, b = -2.5,", r#"{"a": 1, "b": -2.5}"#);
        check(
            "a=True, b=None, c=false",
            r#"{"a": true, "b": null, "c": false}"#,
        );
        check(
            r#"a='it\'s', b="\n\x41\u00e9\d""#,
            r#"{"a": "it's", "b": "\nAé\\d"}"#,
        );
        check("a=[1, 'x', []], b=(1,)", r#"{"a": [1, "x", []], "b": [1]}"#);
        check("a={'k': {1: 2}}", r#"{"a": {"k": {"1": 2}}}"#);
    }

    #[test]
    fn other_texts_are_none() {
        for (text, expected) in [
            ("f", Stop::Incomplete),
            ("f(a='x", Stop::Incomplete),
            ("f(a=1", Stop::Incomplete),
            ("1(", Stop::Invalid),
            ("f(1)", Stop::Invalid),
            ("f(a=b)", Stop::Invalid),
            ("f(a=1 b=2)", Stop::Invalid),
        ] {
            assert_eq!(call(text).err(), Some(expected), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_no_danger(text in "[fg]?\\(?[a-c=,'\"\\\\(\\[{1-9\\]})é :]{0,40}") {
            let _ = call(&text);
        }
    }
}
