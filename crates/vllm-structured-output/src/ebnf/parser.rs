//! Reading EBNF.

use std::iter::Peekable;
use std::str::Chars;

/// Deepest nesting of groups; the Lark reader takes no more.
const MAX_NESTING: usize = 24;

/// One `name ::= body`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) body: Expression,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expression {
    Literal(String),
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
    AnyChar,
    Reference(String),
    Sequence(Vec<Expression>),
    Choice(Vec<Expression>),
    Repeat {
        of: Box<Expression>,
        min: u32,
        max: Option<u32>,
    },
}

impl Expression {
    pub(super) fn for_each_reference<'a>(&'a self, visit: &mut impl FnMut(&'a str)) {
        match self {
            Self::Literal(_) | Self::Class { .. } | Self::AnyChar => {}
            Self::Reference(name) => visit(name),
            Self::Sequence(parts) | Self::Choice(parts) => {
                for part in parts {
                    part.for_each_reference(visit);
                }
            }
            Self::Repeat { of, .. } => of.for_each_reference(visit),
        }
    }
}

/// All rules, in order.
pub(super) fn parse(text: &str) -> Result<Vec<Rule>, String> {
    let mut parser = Parser {
        chars: text.chars().peekable(),
        line: 1,
        pending_name: None,
    };
    let mut rules: Vec<Rule> = Vec::new();
    parser.skip_space();
    while parser.pending_name.is_some() || parser.chars.peek().is_some() {
        let name = match parser.pending_name.take() {
            Some(name) => name,
            None => {
                let name = parser.name()?;
                parser.definition_sign()?;
                name
            }
        };
        let body = parser.choice(0)?;
        if let Some(unexpected) = parser.chars.peek().copied()
            && parser.pending_name.is_none()
        {
            return Err(parser.error(&format!("{unexpected:?} is not expected here")));
        }
        rules.push(Rule { name, body });
    }
    Ok(rules)
}

struct Parser<'a> {
    chars: Peekable<Chars<'a>>,
    line: usize,
    /// A rule begins where a name is followed by `::=`; by then the name has been read.
    pending_name: Option<String>,
}

impl Parser<'_> {
    fn error(&self, problem: &str) -> String {
        format!("Line {}: {problem}", self.line)
    }

    fn next(&mut self) -> Option<char> {
        let next = self.chars.next();
        self.line += usize::from(next == Some('\n'));
        next
    }

    fn take(&mut self, wanted: char) -> bool {
        let is_there = self.chars.peek() == Some(&wanted);
        if is_there {
            self.next();
        }
        is_there
    }

    fn skip_space(&mut self) {
        while let Some(&char) = self.chars.peek() {
            match char {
                '#' => while self.next().is_some_and(|char| char != '\n') {},
                _ if char.is_whitespace() => {
                    self.next();
                }
                _ => break,
            }
        }
    }

    fn name(&mut self) -> Result<String, String> {
        let mut name = String::new();
        while let Some(&char) = self.chars.peek()
            && (char.is_alphanumeric()
                || matches!(char, '_' | '-' | '.') && !name.is_empty()
                || char == '_')
        {
            name.push(char);
            self.next();
        }
        self.skip_space();
        match name.is_empty() {
            true => Err(self.error("expected the name of a rule")),
            false => Ok(name),
        }
    }

    fn definition_sign(&mut self) -> Result<(), String> {
        let is_there = [':', ':', '='].into_iter().all(|char| self.take(char));
        self.skip_space();
        match is_there {
            true => Ok(()),
            false => Err(self.error("expected ::= after the name of a rule")),
        }
    }

    fn choice(&mut self, nesting: usize) -> Result<Expression, String> {
        if nesting > MAX_NESTING {
            let problem = format!("groups nest at most {MAX_NESTING} levels");
            return Err(self.error(&problem));
        }
        let mut options = vec![self.sequence(nesting)?];
        while self.pending_name.is_none() && self.take('|') {
            self.skip_space();
            options.push(self.sequence(nesting)?);
        }
        Ok(single(options, Expression::Choice))
    }

    fn sequence(&mut self, nesting: usize) -> Result<Expression, String> {
        let mut parts = Vec::new();
        while let Some(part) = self.atom(nesting)? {
            self.skip_space();
            parts.push(self.repeated(part)?);
        }
        Ok(single(parts, Expression::Sequence))
    }

    fn atom(&mut self, nesting: usize) -> Result<Option<Expression>, String> {
        let Some(&char) = self.chars.peek() else {
            return Ok(None);
        };
        Ok(Some(match char {
            '"' => {
                self.next();
                Expression::Literal(self.literal()?)
            }
            '[' => {
                self.next();
                self.class()?
            }
            '.' => {
                self.next();
                Expression::AnyChar
            }
            '(' => {
                self.next();
                self.skip_space();
                let group = self.choice(nesting + 1)?;
                if self.pending_name.is_some() || !self.take(')') {
                    return Err(self.error("a group is not closed"));
                }
                group
            }
            _ if char.is_alphanumeric() || char == '_' => {
                let name = self.name()?;
                if self.chars.peek() == Some(&':') {
                    self.definition_sign()?;
                    self.pending_name = Some(name);
                    return Ok(None);
                }
                Expression::Reference(name)
            }
            _ => return Ok(None),
        }))
    }

    fn repeated(&mut self, mut part: Expression) -> Result<Expression, String> {
        let mut operators = 0;
        while let Some(&operator) = self.chars.peek() {
            let (min, max) = match operator {
                '*' => (0, None),
                '+' => (1, None),
                '?' => (0, Some(1)),
                '{' => self.counts()?,
                _ => break,
            };
            // The last character of the operator.
            self.next();
            operators += 1;
            if operators > 2 {
                return Err(self.error("more than two repetitions of the same part"));
            }
            self.skip_space();
            part = Expression::Repeat {
                of: Box::new(part),
                min,
                max,
            };
        }
        Ok(part)
    }

    /// `{m}`, `{m,}` or `{m,n}`, up to the closing brace.
    fn counts(&mut self) -> Result<(u32, Option<u32>), String> {
        self.next();
        let min = self.number()?;
        let max = match self.take(',') {
            false => min,
            true => self.number()?,
        };
        let is_closed = self.chars.peek() == Some(&'}');
        let min_count = min.or(max.map(|_| 0));
        match min_count {
            Some(min) if is_closed && max.is_none_or(|max| min <= max) => Ok((min, max)),
            _ => Err(self.error("a repetition must be {m}, {m,} or {m,n} with m at most n")),
        }
    }

    fn number(&mut self) -> Result<Option<u32>, String> {
        self.skip_space();
        let mut digits = String::new();
        while let Some(&digit) = self.chars.peek().filter(|char| char.is_ascii_digit()) {
            digits.push(digit);
            self.next();
        }
        self.skip_space();
        if digits.is_empty() {
            return Ok(None);
        }
        match digits.parse() {
            Ok(number) if number <= i32::MAX as u32 => Ok(Some(number)),
            _ => Err(self.error("a repetition count is too large")),
        }
    }

    fn literal(&mut self) -> Result<String, String> {
        let mut text = String::new();
        loop {
            match self.next() {
                Some('"') => return Ok(text),
                Some('\\') => text.push(self.escape()?),
                None | Some('\n') => return Err(self.error("a string is not closed")),
                Some(char) => text.push(char),
            }
        }
    }

    fn class(&mut self) -> Result<Expression, String> {
        let negated = self.take('^');
        let mut ranges = Vec::new();
        while !self.take(']') {
            let first = self.class_char()?;
            let mut last = first;
            if self.take('-') {
                if self.take(']') {
                    ranges.extend([(first, first), ('-', '-')]);
                    break;
                }
                last = self.class_char()?;
            }
            if last < first {
                return Err(self.error("a range of a character class runs backwards"));
            }
            ranges.push((first, last));
        }
        match ranges.is_empty() {
            true if negated => Ok(Expression::AnyChar),
            true => Err(self.error("a character class is empty")),
            false => Ok(Expression::Class { negated, ranges }),
        }
    }

    fn class_char(&mut self) -> Result<char, String> {
        match self.next() {
            Some('\\') => self.escape(),
            None | Some('\n') => Err(self.error("a character class is not closed")),
            Some(char) => Ok(char),
        }
    }

    fn escape(&mut self) -> Result<char, String> {
        let digits = match self.next() {
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('t') => return Ok('\t'),
            Some('b') => return Ok('\u{8}'),
            Some('f') => return Ok('\u{c}'),
            Some('v') => return Ok('\u{b}'),
            Some('a') => return Ok('\u{7}'),
            Some('0') => return Ok('\0'),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            Some(char) if char.is_ascii_punctuation() => return Ok(char),
            _ => return Err(self.error("unknown escape sequence")),
        };
        let code = (0..digits).try_fold(0_u32, |code, _| {
            let digit = self.next()?.to_digit(16)?;
            code.checked_mul(16)?.checked_add(digit)
        });
        code.and_then(char::from_u32)
            .ok_or_else(|| self.error("an escape sequence names no character"))
    }
}

/// A list of one is that one.
fn single(mut parts: Vec<Expression>, list: fn(Vec<Expression>) -> Expression) -> Expression {
    match parts.len() {
        1 => parts.remove(0),
        _ => list(parts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_error(text: &str, expected: &str) {
        assert_eq!(parse(text), Err(expected.to_owned()), "{text}");
    }

    #[test]
    fn rules_run_over_lines_until_the_next_name() {
        let rules = parse("a ::= b\n | \"x\" # no\nb-1 ::=\n").expect("a valid grammar");
        let names: Vec<&str> = rules.iter().map(|rule| rule.name.as_str()).collect();
        assert_eq!(names, ["a", "b-1"]);
        assert_eq!(rules[1].body, Expression::Sequence(vec![]));
        assert_eq!(
            rules[0].body,
            Expression::Choice(vec![
                Expression::Reference("b".to_owned()),
                Expression::Literal("x".to_owned()),
            ])
        );
    }

    #[test]
    fn escapes_are_characters() {
        let rules = parse(r#"a ::= "\n\"\\\x41\u00e9\U0001F600" [\]\-a-]"#).expect("valid");
        let Expression::Sequence(parts) = &rules[0].body else {
            panic!("{rules:?}");
        };
        assert_eq!(parts[0], Expression::Literal("\n\"\\Aé😀".to_owned()));
        let ranges = vec![(']', ']'), ('-', '-'), ('a', 'a'), ('-', '-')];
        let negated = false;
        assert_eq!(parts[1], Expression::Class { negated, ranges });
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        check_error("a ::= \"x\n", "Line 2: a string is not closed");
        check_error("\na ::= (\"x\"", "Line 2: a group is not closed");
        check_error("a ::= )", "Line 1: ')' is not expected here");
        check_error("a = b", "Line 1: expected ::= after the name of a rule");
        check_error("a ::= [", "Line 1: a character class is not closed");
        check_error("a ::= []", "Line 1: a character class is empty");
        check_error(
            "a ::= [z-a]",
            "Line 1: a range of a character class runs backwards",
        );
        check_error(
            "a ::= \"\\ud800\"",
            "Line 1: an escape sequence names no character",
        );
        check_error(
            "a ::= b{3,2}",
            "Line 1: a repetition must be {m}, {m,} or {m,n} with m at most n",
        );
        let nested = format!("a ::= {}", "(".repeat(100_000));
        check_error(&nested, "Line 1: groups nest at most 24 levels");
    }
}
