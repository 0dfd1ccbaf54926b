//! EBNF with `::=`, as llama.cpp and xgrammar write it, translated to Lark notation.
//!
//! A Lark lexer cuts the text into the longest tokens it can; EBNF knows no such thing and any
//! split will do. A grammar that does not recurse becomes one token, a regular expression. Of any
//! other, the parts that do not recurse become tokens if no cut can be wrong; if one can, the
//! grammar is spelled out character by character, which is slower to follow.

use std::collections::HashMap;
use std::fmt::Write;

use crate::error::{Error, Result};
use crate::source::lark_string;

mod chars;
mod cutting;
mod parser;

use parser::{Expression, Rule};

/// Longest recursive grammar that is searched for tokens, to bound the time that it takes.
const MAX_ANALYZED_BYTES: usize = 32 << 10;

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
    let mut rules = parser::parse(grammar)
        .map_err(|error| Error::Grammar(format!("Invalid grammar specification. {error}")))?;
    let regular = regular_rules(&rules)?;
    let numbers = numbers(&rules);
    let is_regular = |expression: &Expression| {
        let mut is_regular = true;
        expression.for_each_reference(&mut |name| {
            is_regular &= numbers.get(name).is_some_and(|&number| regular[number]);
        });
        is_regular
    };
    let mut tokens = Vec::new();
    let bodies: Vec<Expression> = rules
        .iter()
        .map(|rule| with_tokens(&rule.body, &is_regular, &mut tokens))
        .collect();
    for (rule, body) in rules.iter_mut().zip(bodies) {
        rule.body = body;
    }
    rules.extend(tokens);

    let regular = regular_rules(&rules)?;
    let numbers = self::numbers(&rules);
    let root = numbers
        .get("root")
        .copied()
        .ok_or_else(|| undefined("root"))?;
    let number_of = |name: &str| numbers.get(name).copied().unwrap_or(root);
    let is_regular = |expression: &Expression| {
        let mut is_regular = true;
        expression.for_each_reference(&mut |name| is_regular &= regular[number_of(name)]);
        is_regular
    };
    let is_small = grammar.len() <= MAX_ANALYZED_BYTES;
    let has_tokens =
        regular[root] || is_small && cutting::is_unambiguous(&rules, &number_of, &is_regular);
    let writer = Writer {
        number_of: &number_of,
        is_regular: &regular,
        has_tokens,
    };
    Ok(writer.grammar(&rules, root))
}

fn undefined(name: &str) -> Error {
    Error::Grammar(format!(
        "Invalid grammar specification. The rule {name:?} is not defined"
    ))
}

fn numbers(rules: &[Rule]) -> HashMap<String, usize> {
    let names = rules.iter().map(|rule| rule.name.clone());
    names
        .enumerate()
        .map(|(number, name)| (name, number))
        .collect()
}

/// Which rules do not lead to a rule that leads back to itself.
fn regular_rules(rules: &[Rule]) -> Result<Vec<bool>> {
    let numbers = numbers(rules);
    let mut references = Vec::with_capacity(rules.len());
    for rule in rules {
        let mut names = Vec::new();
        rule.body.for_each_reference(&mut |name| names.push(name));
        let found: Result<Vec<usize>> = names
            .into_iter()
            .map(|name| numbers.get(name).copied().ok_or_else(|| undefined(name)))
            .collect();
        references.push(found?);
    }
    Ok(regular_of(&references))
}

/// `expression` with a reference to a new rule in place of each largest part that does not recurse.
fn with_tokens(
    expression: &Expression,
    is_regular: &dyn Fn(&Expression) -> bool,
    tokens: &mut Vec<Rule>,
) -> Expression {
    // A whole rule that does not recurse is a token already.
    with_tokens_inside(expression, is_regular, tokens, true)
}

fn with_tokens_inside(
    expression: &Expression,
    is_regular: &dyn Fn(&Expression) -> bool,
    tokens: &mut Vec<Rule>,
    is_whole_rule: bool,
) -> Expression {
    let mut all = |parts: &[Expression]| {
        let parts = parts.iter();
        parts
            .map(|part| with_tokens_inside(part, is_regular, tokens, false))
            .collect::<Vec<_>>()
    };
    match expression {
        _ if is_regular(expression) => {
            let is_compound = match expression {
                Expression::Sequence(parts) => !parts.is_empty(),
                Expression::Choice(_) | Expression::Repeat { .. } => true,
                _ => false,
            };
            if is_whole_rule || !is_compound {
                return expression.clone();
            }
            // No name of a grammar holds a space.
            let name = format!("token {}", tokens.len());
            tokens.push(Rule {
                name: name.clone(),
                body: expression.clone(),
            });
            Expression::Reference(name)
        }
        Expression::Sequence(parts) => Expression::Sequence(all(parts)),
        Expression::Choice(options) => Expression::Choice(all(options)),
        Expression::Repeat { of, min, max } => Expression::Repeat {
            of: Box::new(with_tokens_inside(of, is_regular, tokens, false)),
            min: *min,
            max: *max,
        },
        other => other.clone(),
    }
}

/// A rule is regular once all that it refers to are; what never becomes so recurses.
fn regular_of(references: &[Vec<usize>]) -> Vec<bool> {
    let mut users = vec![Vec::new(); references.len()];
    let mut missing: Vec<usize> = references.iter().map(Vec::len).collect();
    for (rule, targets) in references.iter().enumerate() {
        for &target in targets {
            users[target].push(rule);
        }
    }
    let mut regular = vec![false; references.len()];
    let mut ready: Vec<usize> = (0..references.len())
        .filter(|&rule| missing[rule] == 0)
        .collect();
    while let Some(rule) = ready.pop() {
        regular[rule] = true;
        for &user in &users[rule] {
            missing[user] -= 1;
            if missing[user] == 0 {
                ready.push(user);
            }
        }
    }
    regular
}

struct Writer<'a> {
    number_of: &'a dyn Fn(&str) -> usize,
    is_regular: &'a [bool],
    has_tokens: bool,
}

impl Writer<'_> {
    fn grammar(&self, rules: &[Rule], root: usize) -> String {
        let mut lark = format!("start: {}\n", self.rule_name(root));
        for (number, Rule { body, .. }) in rules.iter().enumerate() {
            lark.push_str(&self.rule_name(number));
            lark.push_str(": ");
            self.expression(body, Binding::Choice, &mut lark);
            lark.push('\n');
        }
        lark
    }

    /// Lark tells tokens from rules by their capitals.
    fn rule_name(&self, number: usize) -> String {
        match self.has_tokens && self.is_regular[number] {
            true => format!("R{number}"),
            false => format!("r{number}"),
        }
    }

    /// Writes `expression` so that it binds at least as tightly as `binding` asks.
    fn expression(&self, expression: &Expression, binding: Binding, lark: &mut String) {
        match expression {
            Expression::Literal(text) if self.has_tokens || text.chars().count() < 2 => {
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
                lark.push_str(&self.rule_name((self.number_of)(name)));
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
    fn parts_of_recursive_grammars_become_tokens() {
        check(
            "root ::= \"(\" ws [0-9]+ root? \")\"\nws ::= \" \"*",
            "start: r0\nr0: \"(\" R1 R2 r0? \")\"\nR1: \" \"*\n\
             R2: /[\\x{30}-\\x{39}]/+\n",
        );
    }

    #[test]
    fn ambiguous_grammars_are_spelled_out() {
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
