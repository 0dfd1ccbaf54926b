//! What one id looks like in log probabilities.

use crate::error::Result;
use crate::tokenizer::Tokenizer;

const REPLACEMENT: char = '\u{FFFD}';

/// How many preceding ids may be needed to complete a character.
const MAX_CONTEXT: usize = 4;

/// The space mark of Metaspace-style tokenizers, whose decoders drop it at the start of a text.
const METASPACE: char = '▁';

/// The text of `id` as a log-probability entry shows it.
///
/// The id is decoded alone, with its leading space. If it only holds the last bytes of a
/// character, the character is shown here, found with the help of the ids before it (`previous`,
/// oldest first); if it holds the first bytes of one, the text is empty.
pub fn decode_logprob_token(tokenizer: &Tokenizer, id: u32, previous: &[u32]) -> String {
    let alone = tokenizer.decode(&[id], false).unwrap_or_default();
    if alone.ends_with(REPLACEMENT) {
        let context = &previous[previous.len().saturating_sub(MAX_CONTEXT)..];
        return complete_with(tokenizer, id, context)
            .ok()
            .flatten()
            .unwrap_or_default();
    }
    let has_space_mark = tokenizer.added_token(id).is_none()
        && tokenizer
            .id_to_token(id)
            .is_some_and(|piece| piece.starts_with(METASPACE));
    if has_space_mark && !alone.starts_with(' ') {
        format!(" {alone}")
    } else {
        alone
    }
}

/// Decodes `id` behind more and more of `context` until the text ends in a whole character, and
/// removes the text of those context ids that are whole by themselves.
fn complete_with(tokenizer: &Tokenizer, id: u32, context: &[u32]) -> Result<Option<String>> {
    for start in (0..context.len()).rev() {
        let used = &context[start..];
        let mut text = tokenizer.decode(&[used, &[id]].concat(), false)?;
        if text.ends_with(REPLACEMENT) {
            continue;
        }
        let mut whole = used;
        while let Some((last, rest)) = whole.split_last()
            && tokenizer.decode(&[*last], false)?.ends_with(REPLACEMENT)
        {
            whole = rest;
        }
        let known = tokenizer.decode(whole, false)?;
        if text.starts_with(&known) {
            text.drain(..known.len());
        }
        return Ok(Some(text));
    }
    Ok(None)
}
