//! Small rewrites of a template source, where the engine's parser or operators need help.
//!
//! * `{% generation %}` blocks mark the tokens an assistant wrote. Training reads the marks; a
//!   prompt does not. The block only opens a scope, exactly what `{% with %}` does, so the tag
//!   names are exchanged.
//! * The value of `{% set name = value %}` goes through a filter that bounds its nesting: a loop
//!   around `{% set ns.list = [ns.list] %}` would otherwise build a value that no stack can drop.
//! * `"..." % arguments` becomes a filter, because the engine's `%` is for numbers. That works on
//!   the parsed tree: only an operator whose left side begins with a string literal is exchanged.
//!
//! All of them work on tokens or nodes with their places in the source: the same characters in
//! text, comments, raw blocks or strings stay.

use minijinja::machinery::ast::{BinOp, BinOpKind, Expr};
use minijinja::machinery::{self, Token, Tokenizer};

use crate::environment::{TEMPLATE_NAME, syntax};
use crate::filters::{PERCENT_FORMAT, STORE, STORE_IN_NAMESPACE};
use crate::visit::{Visitor, walk};

/// Rewrites a template source for the engine.
///
/// # Errors
/// If the source is not valid Jinja.
pub(crate) fn prepare(source: &str) -> Result<String, minijinja::Error> {
    replace_percent_operators(&rewrite_tags(source)?)
}

/// A piece of the source that is exchanged for another.
struct Edit {
    start: usize,
    end: usize,
    replacement: String,
}

impl Edit {
    fn insert(at: usize, text: &str) -> Self {
        Self {
            start: at,
            end: at,
            replacement: text.to_owned(),
        }
    }
}

/// Applies edits that do not overlap; those at one place keep their order.
fn apply(source: &str, mut edits: Vec<Edit>) -> String {
    edits.sort_by_key(|edit| edit.start);
    let mut edited = String::with_capacity(source.len());
    let mut copied_to = 0;
    for edit in edits {
        edited.push_str(source.get(copied_to..edit.start).unwrap_or_default());
        edited.push_str(&edit.replacement);
        copied_to = edit.end;
    }
    edited.push_str(source.get(copied_to..).unwrap_or_default());
    edited
}

/// The parts of a tag that decide whether and how it is rewritten.
#[derive(Default)]
struct Tag {
    tokens: usize,
    is_set: bool,
    open_brackets: usize,
    /// Whether a `set` assigns to an attribute, that is, of a namespace.
    sets_attribute: bool,
    /// Where the assigned expression begins.
    assigned_at: Option<usize>,
    /// Whether that expression may build a container.
    may_nest: bool,
}

fn rewrite_tags(source: &str) -> Result<String, minijinja::Error> {
    let mut edits = Vec::new();
    let mut tokenizer = Tokenizer::new(source, TEMPLATE_NAME, false, syntax());
    let mut tag = Tag::default();
    while let Some((token, span)) = tokenizer.next_token()? {
        let (start, end) = (span.start_offset as usize, span.end_offset as usize);
        match token {
            Token::BlockStart => {
                tag = Tag::default();
                continue;
            }
            Token::BlockEnd => {
                if let Some(assigned_at) = tag.assigned_at
                    && (tag.sets_attribute || tag.may_nest)
                {
                    let filter = if tag.sets_attribute {
                        STORE_IN_NAMESPACE
                    } else {
                        STORE
                    };
                    edits.push(Edit::insert(assigned_at, "("));
                    edits.push(Edit::insert(start, &format!(")|{filter} ")));
                }
                // What follows is text or an expression, never a tag name.
                tag.tokens = 1;
                tag.is_set = false;
            }
            Token::Ident(name) if tag.tokens == 0 => {
                tag.is_set = name == "set";
                let replacement = match name {
                    "generation" => Some("with"),
                    "endgeneration" => Some("endwith"),
                    _ => None,
                };
                if let Some(replacement) = replacement {
                    edits.push(Edit {
                        start,
                        end,
                        replacement: replacement.to_owned(),
                    });
                }
            }
            Token::Assign if tag.is_set && tag.open_brackets == 0 && tag.assigned_at.is_none() => {
                tag.assigned_at = Some(end);
            }
            Token::Dot if tag.assigned_at.is_none() => tag.sets_attribute = true,
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => {
                tag.open_brackets += 1;
                tag.may_nest |= tag.assigned_at.is_some();
            }
            Token::ParenClose | Token::BracketClose | Token::BraceClose => {
                tag.open_brackets = tag.open_brackets.saturating_sub(1);
            }
            // Some filters, and a bare comma, build containers.
            Token::Pipe | Token::Comma => tag.may_nest |= tag.assigned_at.is_some(),
            _ => {}
        }
        tag.tokens += 1;
    }
    Ok(apply(source, edits))
}

fn replace_percent_operators(source: &str) -> Result<String, minijinja::Error> {
    let mut finder = PercentFinder::default();
    walk(
        &machinery::parse(source, TEMPLATE_NAME, syntax())?,
        &mut finder,
    );
    if finder.found.is_empty() {
        return Ok(source.to_owned());
    }
    let mut operators = Vec::new();
    let mut tokenizer = Tokenizer::new(source, TEMPLATE_NAME, false, syntax());
    while let Some((token, span)) = tokenizer.next_token()? {
        if matches!(token, Token::Mod) {
            operators.push((span.start_offset as usize, span.end_offset as usize));
        }
    }
    let mut edits = Vec::new();
    for found in finder.found {
        // Between the left operand and its operator there are only closing parentheses.
        let operator = operators.iter().find(|(start, _)| *start >= found.left_end);
        let Some(&(start, end)) = operator else {
            continue;
        };
        edits.push(Edit::insert(found.start, "(("));
        edits.push(Edit {
            start,
            end,
            replacement: format!(")|{PERCENT_FORMAT}("),
        });
        edits.push(Edit::insert(found.end, "))"));
    }
    Ok(apply(source, edits))
}

/// Where a `%` operation lies in the source.
struct PercentOperation {
    start: usize,
    left_end: usize,
    end: usize,
}

#[derive(Default)]
struct PercentFinder {
    found: Vec<PercentOperation>,
}

impl<'s> Visitor<'s> for PercentFinder {
    fn expression(&mut self, expression: &Expr<'s>) {
        if let Expr::BinOp(operation) = expression
            && matches!(operation.op, BinOpKind::Rem)
            && begins_with_string(&operation.left)
        {
            self.found.push(PercentOperation {
                start: operation.span().start_offset as usize,
                left_end: operation.left.span().end_offset as usize,
                end: operation.span().end_offset as usize,
            });
        }
    }
}

fn begins_with_string(expression: &Expr<'_>) -> bool {
    match expression {
        Expr::Const(constant) => constant.value.as_str().is_some(),
        Expr::BinOp(operation) => {
            let BinOp { left, .. } = &**operation;
            begins_with_string(left)
        }
        _ => false,
    }
}
