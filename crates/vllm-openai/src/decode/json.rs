//! A JSON parser that accepts, refuses and complains as Python's `json.loads` does.

use super::value::{Dict, Value};

/// Containers nested deeper than this are refused, so that hostile bodies cannot exhaust a stack.
const MAX_DEPTH: usize = 256;

/// Why a body is not JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParseError {
    /// The text breaks the grammar at a character offset; the message is Python's.
    Syntax {
        /// Offset in characters (not bytes) from the start of the text.
        offset: usize,
        /// Python's wording, without position.
        message: &'static str,
    },
    /// Not UTF-8, or nested too deeply to be read at all.
    Unreadable,
}

/// Parses a whole body.
///
/// # Errors
/// [`ParseError::Unreadable`] for invalid UTF-8 and for extreme nesting, otherwise the first
/// syntax error with its character offset.
pub fn parse(body: &[u8]) -> Result<Value, ParseError> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let text = std::str::from_utf8(body).map_err(|_| ParseError::Unreadable)?;
    let mut parser = Parser {
        text,
        bytes: body,
        position: 0,
    };
    let result = parser.document();
    result.map_err(|failure| match failure {
        Failure::At(byte, message) => {
            let end = text.floor_char_boundary(byte);
            ParseError::Syntax {
                offset: text[..end].chars().count(),
                message,
            }
        }
        Failure::TooDeep => ParseError::Unreadable,
    })
}

enum Failure {
    At(usize, &'static str),
    TooDeep,
}

struct Parser<'a> {
    text: &'a str,
    bytes: &'a [u8],
    position: usize,
}

impl Parser<'_> {
    fn document(&mut self) -> Result<Value, Failure> {
        self.skip_whitespace();
        let value = self.value(0)?;
        self.skip_whitespace();
        if self.position < self.bytes.len() {
            return Err(Failure::At(self.position, "Extra data"));
        }
        Ok(value)
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.position).copied()
    }

    fn skip_whitespace(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.position += 1;
        }
    }

    fn take_literal(&mut self, literal: &str) -> bool {
        let found = self.bytes[self.position..].starts_with(literal.as_bytes());
        if found {
            self.position += literal.len();
        }
        found
    }

    fn value(&mut self, depth: usize) -> Result<Value, Failure> {
        if depth > MAX_DEPTH {
            return Err(Failure::TooDeep);
        }
        match self.peek() {
            Some(b'"') => self.string().map(Value::String),
            Some(b'{') => self.dict(depth),
            Some(b'[') => self.list(depth),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => {
                let literals = [
                    ("null", Value::Null),
                    ("true", Value::Bool(true)),
                    ("false", Value::Bool(false)),
                    ("NaN", Value::Float(f64::NAN)),
                    ("Infinity", Value::Float(f64::INFINITY)),
                ];
                for (literal, value) in literals {
                    if self.take_literal(literal) {
                        return Ok(value);
                    }
                }
                Err(Failure::At(self.position, "Expecting value"))
            }
        }
    }

    fn dict(&mut self, depth: usize) -> Result<Value, Failure> {
        const KEY_EXPECTED: &str = "Expecting property name enclosed in double quotes";
        let mut members = Dict::new();
        self.position += 1;
        self.skip_whitespace();
        if self.peek() == Some(b'}') {
            self.position += 1;
            return Ok(Value::Dict(members));
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(Failure::At(self.position, KEY_EXPECTED));
            }
            let key = self.string()?;
            self.skip_whitespace();
            if self.peek() != Some(b':') {
                return Err(Failure::At(self.position, "Expecting ':' delimiter"));
            }
            self.position += 1;
            self.skip_whitespace();
            let value = self.value(depth + 1)?;
            members.insert(key, value);
            self.skip_whitespace();
            match self.peek() {
                Some(b',') => self.position += 1,
                Some(b'}') => {
                    self.position += 1;
                    return Ok(Value::Dict(members));
                }
                _ => return Err(Failure::At(self.position, "Expecting ',' delimiter")),
            }
            self.skip_whitespace();
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, Failure> {
        let mut items = Vec::new();
        self.position += 1;
        self.skip_whitespace();
        if self.peek() == Some(b']') {
            self.position += 1;
            return Ok(Value::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.skip_whitespace();
            match self.peek() {
                Some(b',') => self.position += 1,
                Some(b']') => {
                    self.position += 1;
                    return Ok(Value::List(items));
                }
                _ => return Err(Failure::At(self.position, "Expecting ',' delimiter")),
            }
            self.skip_whitespace();
        }
    }

    fn digits(&mut self) -> usize {
        let start = self.position;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.position += 1;
        }
        self.position - start
    }

    fn number(&mut self) -> Result<Value, Failure> {
        let start = self.position;
        if self.peek() == Some(b'-') {
            self.position += 1;
            if self.take_literal("Infinity") {
                return Ok(Value::Float(f64::NEG_INFINITY));
            }
        }
        if self.peek() == Some(b'0') {
            self.position += 1;
        } else if self.digits() == 0 {
            self.position = start;
            return Err(Failure::At(start, "Expecting value"));
        }
        // A fraction or exponent without digits is not part of the number.
        let integer_end = self.position;
        let mut end = integer_end;
        if self.peek() == Some(b'.') {
            self.position += 1;
            if self.digits() > 0 {
                end = self.position;
            }
        }
        self.position = end;
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.position += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.position += 1;
            }
            if self.digits() > 0 {
                end = self.position;
            }
        }
        self.position = end;
        let literal = &self.text[start..end];
        if end > integer_end {
            return Ok(Value::Float(literal.parse().unwrap_or(f64::NAN)));
        }
        Ok(match literal.parse::<i64>() {
            Ok(value) => Value::Int(value),
            Err(_) => Value::BigInt(literal.to_owned()),
        })
    }

    fn string(&mut self) -> Result<String, Failure> {
        let quote = self.position;
        let unterminated = Failure::At(quote, "Unterminated string starting at");
        self.position += 1;
        let mut out = String::new();
        loop {
            let run = self.position;
            while let Some(byte) = self.peek() {
                if byte == b'"' || byte == b'\\' || byte < 0x20 {
                    break;
                }
                self.position += 1;
            }
            out.push_str(&self.text[run..self.position]);
            match self.peek() {
                None => return Err(unterminated),
                Some(b'"') => {
                    self.position += 1;
                    return Ok(out);
                }
                Some(b'\\') => match self.escape()? {
                    Some(character) => out.push(character),
                    None => return Err(unterminated),
                },
                Some(_) => {
                    return Err(Failure::At(self.position, "Invalid control character at"));
                }
            }
        }
    }

    /// Reads one escape; `None` when the text ends inside it.
    fn escape(&mut self) -> Result<Option<char>, Failure> {
        let backslash = self.position;
        let Some(kind) = self.bytes.get(backslash + 1).copied() else {
            return Ok(None);
        };
        self.position += 2;
        let character = match kind {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode_escape().map(Some),
            _ => return Err(Failure::At(backslash, "Invalid \\escape")),
        };
        Ok(Some(character))
    }

    fn unicode_escape(&mut self) -> Result<char, Failure> {
        let first = self.hex4()?;
        if !(0xd800..0xdc00).contains(&first) {
            return Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        let after_first = self.position;
        if self.take_literal("\\u") {
            let second = self.hex4()?;
            if (0xdc00..0xe000).contains(&second) {
                let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.position = after_first;
        }
        Ok(char::REPLACEMENT_CHARACTER)
    }

    fn hex4(&mut self) -> Result<u32, Failure> {
        let start = self.position;
        let digits = self.bytes.get(start..start + 4).unwrap_or_default();
        if digits.len() < 4 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(Failure::At(start - 1, "Invalid \\uXXXX escape"));
        }
        self.position += 4;
        Ok(u32::from_str_radix(&self.text[start..start + 4], 16).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check_error(text: &str, message: &str, offset: usize) {
        match parse(text.as_bytes()) {
            Err(ParseError::Syntax {
                offset: at,
                message: ours,
            }) => {
                assert_eq!((ours, at), (message, offset), "{text}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn complaints_are_those_of_python() {
        check_error(r#"{"a": "\x"}"#, "Invalid \\escape", 7);
        check_error("{\"a\": \"\n\"}", "Invalid control character at", 7);
        check_error(r#"{"a": "x"#, "Unterminated string starting at", 6);
        check_error(r#"{"a" 1}"#, "Expecting ':' delimiter", 5);
        check_error(r#"{"a":1 "b":2}"#, "Expecting ',' delimiter", 7);
        check_error(
            r#"{"a":1,}"#,
            "Expecting property name enclosed in double quotes",
            7,
        );
        check_error("[1,]", "Expecting value", 3);
        check_error("[1 2]", "Expecting ',' delimiter", 3);
        check_error(r#"{"a":1} x"#, "Extra data", 8);
        check_error("01", "Extra data", 1);
        check_error("1.", "Extra data", 1);
        check_error("1e", "Extra data", 1);
        check_error(r#""\u12""#, "Invalid \\uXXXX escape", 2);
        check_error(r#""\u12zz""#, "Invalid \\uXXXX escape", 2);
        check_error("  ", "Expecting value", 2);
        check_error("\"abc\\", "Unterminated string starting at", 0);
        check_error("-Infinit", "Expecting value", 0);
        check_error(
            "{'a':1}",
            "Expecting property name enclosed in double quotes",
            1,
        );
        check_error(
            r#"{"é": "😀", x}"#,
            "Expecting property name enclosed in double quotes",
            11,
        );
        check_error(r#"{"a":.5}"#, "Expecting value", 5);
    }

    #[test]
    fn python_extensions_are_accepted() {
        let parsed =
            parse(b"[-Infinity, 1e400, 123456789012345678901234567890, \"\\ud83d\\ude00\"]");
        assert_eq!(
            parsed,
            Ok(Value::List(vec![
                Value::Float(f64::NEG_INFINITY),
                Value::Float(f64::INFINITY),
                Value::BigInt("123456789012345678901234567890".to_owned()),
                Value::String("😀".to_owned()),
            ]))
        );
        assert!(matches!(parse(b"NaN"), Ok(Value::Float(value)) if value.is_nan()));
        assert_eq!(
            parse(b"\"\\ud800\""),
            Ok(Value::String("\u{fffd}".to_owned()))
        );
    }

    #[test]
    fn a_repeated_key_keeps_its_last_value() {
        let parsed = parse(br#"{"a":1,"b":2,"a":3}"#).map(|value| value.to_json().to_string());
        assert_eq!(parsed.as_deref(), Ok(r#"{"a":3,"b":2}"#));
    }

    #[test]
    fn bad_utf8_and_extreme_nesting_are_unreadable() {
        assert_eq!(parse(b"\"\xff\""), Err(ParseError::Unreadable));
        assert_eq!(
            parse("[".repeat(100_000).as_bytes()),
            Err(ParseError::Unreadable)
        );
    }

    proptest! {
        #[test]
        fn never_panics_and_agrees_with_serde(text in r#"[\[\]{}:,"\\0-9eE.+\-a-ntu é]{0,24}"#) {
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            let ours = parse(text.as_bytes());
            if let Ok(theirs) = theirs {
                prop_assert_eq!(ours.map(|value| value.to_json()), Ok(theirs));
            }
        }

        #[test]
        fn strings_survive_a_round_trip(text in any::<String>()) {
            let literal = serde_json::to_string(&text).expect("strings serialize");
            prop_assert_eq!(parse(literal.as_bytes()), Ok(Value::String(text)));
        }
    }
}
