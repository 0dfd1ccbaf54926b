//! The two constructs of Python's Jinja that the engine's parser or its operators lack.
//!
//! * `{% generation %}` blocks mark the tokens an assistant wrote. Training reads the marks; a
//!   prompt does not. The block only opens a scope, exactly what `{% with %}` does, so the tag
//!   names are exchanged. That works on tokens: the same word in text, comments, raw blocks or
//!   strings stays.
//! * `"..." % arguments` becomes a filter, because the engine's `%` is for numbers. That works on
//!   the parsed tree: only an operator whose left side begins with a string literal is exchanged.

use minijinja::machinery::ast::{BinOp, BinOpKind, Expr};
use minijinja::machinery::{self, Token, Tokenizer};

use crate::environment::{TEMPLATE_NAME, syntax};
use crate::filters::PERCENT_FORMAT;
use crate::visit::{Visitor, walk};

/// Rewrites a template source for the engine.
///
/// # Errors
/// If the source is not valid Jinja.
pub(crate) fn prepare(source: &str) -> Result<String, minijinja::Error> {
    let source = replace_generation_tags(source)?;
    replace_percent_operators(&source)
}

/// A piece of the source that is exchanged for another.
struct Edit {
    start: usize,
    end: usize,
    replacement: String,
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

fn replace_generation_tags(source: &str) -> Result<String, minijinja::Error> {
    let mut edits = Vec::new();
    let mut tokenizer = Tokenizer::new(source, TEMPLATE_NAME, false, syntax());
    let mut after_block_start = false;
    while let Some((token, span)) = tokenizer.next_token()? {
        let replacement = match token {
            Token::Ident("generation") if after_block_start => Some("with"),
            Token::Ident("endgeneration") if after_block_start => Some("endwith"),
            _ => None,
        };
        after_block_start = matches!(token, Token::BlockStart);
        if let Some(replacement) = replacement {
            edits.push(Edit {
                start: span.start_offset as usize,
                end: span.end_offset as usize,
                replacement: replacement.to_owned(),
            });
        }
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
        let insert = |at: usize, text: &str| Edit {
            start: at,
            end: at,
            replacement: text.to_owned(),
        };
        edits.push(insert(found.start, "(("));
        edits.push(Edit {
            start,
            end,
            replacement: format!(")|{PERCENT_FORMAT}("),
        });
        edits.push(insert(found.end, "))"));
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
