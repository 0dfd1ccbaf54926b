//! `{% generation %}` blocks, which mark the tokens an assistant wrote.
//!
//! Training code reads these marks; a prompt does not. The block only opens a scope, exactly what
//! `{% with %}` does, and the engine does not know custom tags, so the tag *names* are exchanged
//! before parsing. The exchange works on tokens: the same word in text, comments, raw blocks or
//! strings stays.

use std::borrow::Cow;

use minijinja::machinery::{Token, Tokenizer};
use minijinja::syntax::SyntaxConfig;

/// Exchanges the tag names of `{% generation %}` and `{% endgeneration %}`.
///
/// A source that cannot be tokenized comes back unchanged: parsing it reports the error.
pub(crate) fn replace_generation_tags(source: &str, syntax: SyntaxConfig) -> Cow<'_, str> {
    if !source.contains("generation") {
        return Cow::Borrowed(source);
    }
    let mut tokenizer = Tokenizer::new(source, "<chat template>", false, syntax);
    let mut replaced = String::with_capacity(source.len());
    let mut copied_to = 0;
    let mut after_block_start = false;
    loop {
        let (token, span) = match tokenizer.next_token() {
            Ok(Some(token)) => token,
            Ok(None) => break,
            Err(_) => return Cow::Borrowed(source),
        };
        let name = match token {
            Token::Ident("generation") if after_block_start => Some("with"),
            Token::Ident("endgeneration") if after_block_start => Some("endwith"),
            _ => None,
        };
        after_block_start = matches!(token, Token::BlockStart);
        let (start, end) = (span.start_offset as usize, span.end_offset as usize);
        if let Some(name) = name
            && let Some(before) = source.get(copied_to..start)
        {
            replaced.push_str(before);
            replaced.push_str(name);
            copied_to = end;
        }
    }
    if copied_to == 0 {
        return Cow::Borrowed(source);
    }
    replaced.push_str(source.get(copied_to..).unwrap_or_default());
    Cow::Owned(replaced)
}
