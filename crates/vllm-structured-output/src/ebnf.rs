//! EBNF with `::=`, as llama.cpp and xgrammar write it, translated to Lark notation.
//!
//! A Lark lexer cuts the text into the longest tokens it can; EBNF knows no such thing and any
//! split will do. So the translation lets no token be longer than it must: a grammar that does not
//! recurse becomes one regular expression, any other is spelled out character by character.

use std::collections::HashMap;
use std::fmt::Write;

use crate::error::{Error, Result};
use crate::source::lark_string;

mod parser;

use parser::{Expression, Rule};

/// Whether `grammar` is EBNF; what it is otherwise is Lark. The marks are those vLLM looks for.
pub(crate) fn is_ebnf(grammar: &str) -> bool {
    grammar.lines().any(|line| {
        let code = line.split(['#']).next().unwrap_or_default();
        let code = code.split("//").next().unwrap_or_default();
        code.contains("::=")
    })
}

/// The same language in Lark notation; it starts at the rule `root`.
pub(crate) fn to_lark(grammar: &str) -> Result<String> {
    let rules = parser::parse(grammar)
        .map_err(|error| Error::Grammar(format!("Invalid grammar specification. {error}")))?;
    let numbers: HashMap<&str, usize> = rules
        .iter()
        .enumerate()
        .map(|(number, rule)| (rule.name.as_str(), number))
        .collect();
    let unknown = |name: &str| {
        let message = format!("Invalid grammar specification. The rule {name:?} is not defined");
        Error::Grammar(message)
    };
    let Some(&root) = numbers.get("root") else {
        return Err(unknown("root"));
    };
    let mut references = Vec::with_capacity(rules.len());
    for rule in &rules {
        let mut found = Vec::new();
        rule.body.for_each_reference(&mut |name| found.push(name));
        let found: Result<Vec<usize>> = found
            .into_iter()
            .map(|name| numbers.get(name).copied().ok_or_else(|| unknown(name)))
            .collect();
        references.push(found?);
    }
    let writer = Writer {
        numbers: &numbers,
        is_regular: !is_recursive(&references, root),
    };
    let mut lark = format!("start: {}\n", writer.rule_name(root));
    for (number, Rule { body, .. }) in rules.iter().enumerate() {
        lark.push_str(&writer.rule_name(number));
        lark.push_str(": ");
        writer.expression(body, Binding::Choice, &mut lark);
        lark.push('\n');
    }
    Ok(lark)
}

/// Whether a rule reachable from `root` leads back to itself.
fn is_recursive(references: &[Vec<usize>], root: usize) -> bool {
    #[derive(Clone, Copy, PartialEq)]
    enum Visit {
        New,
        Open,
        Done,
    }
    let mut visits = vec![Visit::New; references.len()];
    let mut path = vec![(root, 0)];
    visits[root] = Visit::Open;
    while let Some((rule, next)) = path.last_mut() {
        match references[*rule].get(*next) {
            None => {
                visits[*rule] = Visit::Done;
                path.pop();
            }
            Some(&target) => {
                *next += 1;
                match visits[target] {
                    Visit::Open => return true,
                    Visit::Done => {}
                    Visit::New => {
                        visits[target] = Visit::Open;
                        path.push((target, 0));
                    }
                }
            }
        }
    }
    false
}

struct Writer<'a> {
    numbers: &'a HashMap<&'a str, usize>,
    is_regular: bool,
}

impl Writer<'_> {
    /// Lark tells regular expressions from rules by their capitals.
    fn rule_name(&self, number: usize) -> String {
        match self.is_regular {
            true => format!("R{number}"),
            false => format!("r{number}"),
        }
    }

    /// Writes `expression` so that it binds at least as tightly as `binding` asks.
    fn expression(&self, expression: &Expression, binding: Binding, lark: &mut String) {
        match expression {
            Expression::Literal(text) if self.is_regular || text.chars().count() < 2 => {
                lark.push_str(&lark_string(text));
            }
            Expression::Literal(text) => grouped(binding, Binding::Sequence, lark, |lark| {
                let chars: Vec<String> = text
                    .chars()
                    .map(|char| lark_string(char.encode_utf8(&mut [0; 4])))
                    .collect();
                lark.push_str(&chars.join(" "));
            }),
            Expression::Class { negated, ranges } => {
                lark.push_str(if *negated { "/[^" } else { "/[" });
                for (first, last) in ranges {
                    let (first, last) = (u32::from(*first), u32::from(*last));
                    let _ = write!(lark, "\\x{{{first:x}}}-\\x{{{last:x}}}");
                }
                lark.push_str("]/");
            }
            Expression::AnyChar => lark.push_str("/(?s:.)/"),
            Expression::Reference(name) => {
                let number = self.numbers.get(name.as_str()).copied();
                lark.push_str(&self.rule_name(number.unwrap_or_default()));
            }
            Expression::Sequence(parts) if parts.is_empty() => lark.push_str("\"\""),
            Expression::Sequence(parts) => grouped(binding, Binding::Sequence, lark, |lark| {
                self.joined(parts, " ", Binding::Sequence, lark);
            }),
            Expression::Choice(options) => grouped(binding, Binding::Choice, lark, |lark| {
                self.joined(options, " | ", Binding::Choice, lark);
            }),
            Expression::Repeat { of, min, max } => {
                grouped(binding, Binding::Repetition, lark, |lark| {
                    self.expression(of, Binding::Atom, lark);
                    let _ = match (min, max) {
                        (0, None) => write!(lark, "*"),
                        (1, None) => write!(lark, "+"),
                        (0, Some(1)) => write!(lark, "?"),
                        (min, None) => write!(lark, "{{{min},}}"),
                        (min, Some(max)) => write!(lark, "{{{min},{max}}}"),
                    };
                });
            }
        }
    }

    fn joined(&self, parts: &[Expression], separator: &str, binding: Binding, lark: &mut String) {
        for (index, part) in parts.iter().enumerate() {
            if index > 0 {
                lark.push_str(separator);
            }
            self.expression(part, binding, lark);
        }
    }
}

/// How tightly the parts of an expression hold together, loosest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Binding {
    Choice,
    Sequence,
    Repetition,
    Atom,
}

/// The Lark reader limits nesting, so groups are written only where they are needed.
fn grouped(wanted: Binding, actual: Binding, lark: &mut String, write: impl FnOnce(&mut String)) {
    let needs_group = actual < wanted;
    if needs_group {
        lark.push('(');
    }
    write(lark);
    if needs_group {
        lark.push(')');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ebnf: &str, expected: &str) {
        let lark = to_lark(ebnf).map_err(|error| error.to_string());
        assert_eq!(lark.unwrap_or_else(|error| error), expected, "{ebnf}");
    }

    #[test]
    fn the_notation_is_told_by_its_definition_sign() {
        assert!(is_ebnf("# comment\nroot ::= \"a\""));
        assert!(!is_ebnf("start: \"a\" // ::="));
        assert!(!is_ebnf("start: \"a\" # ::="));
    }

    #[test]
    fn grammars_without_recursion_become_one_regular_expression() {
        check(
            "root ::= \"yes\" | \"no\"",
            "start: R0\nR0: \"yes\" | \"no\"\n",
        );
        check(
            "root ::= item{2,3} [a-c\\n]*\nitem ::= \"\" | \"x\"?",
            "start: R0\nR0: R1{2,3} /[\\x{61}-\\x{63}\\x{a}-\\x{a}]/*\n\
             R1: \"\" | \"x\"?\n",
        );
    }

    #[test]
    fn recursive_grammars_are_spelled_out() {
        check(
            "root ::= \"ab\" root | .",
            "start: r0\nr0: \"a\" \"b\" r0 | /(?s:.)/\n",
        );
    }

    #[test]
    fn undefined_rules_are_named() {
        check(
            "root ::= item",
            "Grammar error: Invalid grammar specification. The rule \"item\" is not defined",
        );
        check(
            "item ::= \"a\"",
            "Grammar error: Invalid grammar specification. The rule \"root\" is not defined",
        );
    }
}
