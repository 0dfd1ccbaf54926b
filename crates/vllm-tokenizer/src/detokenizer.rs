//! Ids to text, one id at a time.

use std::sync::Arc;

use crate::error::Result;
use crate::tokenizer::Tokenizer;

/// Stands for bytes that are not (yet) a character.
const REPLACEMENT: char = '\u{FFFD}';

/// More ids than any character is spread over. If so many have not completed one, the bytes are
/// broken, and the tail of the window is looked at before the whole is decoded again.
const LONG_PENDING: usize = 32;

/// So many ids hold the whole last character of a text, if one does.
const TAIL: usize = 8;

/// Decodes one generated sequence as it grows.
///
/// What an id adds to a text depends on its neighbours: characters are spread over ids, and some
/// decoders drop or add spaces. So every step decodes the ids of the last emission together with
/// the new ones and emits the difference; nothing is emitted while the text ends in an incomplete
/// character. The cost of a step does not depend on the length of the text.
///
/// - Bytes that never become a character come out as U+FFFD with the text that follows them, and
///   never at the end of the output.
/// - If the prompt ends inside a character, the first emission starts with the prompt's text.
#[derive(Clone, Debug)]
pub struct IncrementalDetokenizer {
    tokenizer: Arc<Tokenizer>,
    skip_special_tokens: bool,
    window: Window,
    /// `Some` if consecutive added tokens are joined without a space: whether the last was one.
    join_added_tokens: Option<bool>,
}

/// The ids of the last emission and those behind it.
#[derive(Clone, Debug, Default)]
struct Window {
    ids: Vec<u32>,
    /// The first `prefix_len` ids decode to `prefix` and are emitted.
    prefix_len: usize,
    prefix: String,
    /// How many ids were pushed since the last emission.
    num_pending: usize,
    /// How many of the last ids are pieces like `<0xE2>`, which only decode as a whole run.
    num_byte_pieces: usize,
}

impl IncrementalDetokenizer {
    /// Starts behind the given prompt.
    ///
    /// With `skip_special_tokens`, special tokens give no text. Without it,
    /// `spaces_between_special_tokens` decides whether an added token that follows another may be
    /// set off by the space that some decoders put there.
    pub fn new(
        tokenizer: Arc<Tokenizer>,
        prompt_ids: &[u32],
        skip_special_tokens: bool,
        spaces_between_special_tokens: bool,
    ) -> Self {
        let join_added_tokens =
            (!skip_special_tokens && !spaces_between_special_tokens).then_some(false);
        let mut detokenizer = Self {
            tokenizer,
            skip_special_tokens,
            window: Window::default(),
            join_added_tokens,
        };
        let gives_text = |id: &u32| detokenizer.piece(*id).is_some();
        let prompt = prompt_ids.iter().copied().filter(gives_text).collect();
        detokenizer.window = detokenizer.primed(prompt);
        detokenizer
    }

    /// The text that becomes certain with the next id; empty while a character is incomplete.
    pub fn push(&mut self, id: u32) -> String {
        let text = self.step(id);
        let Some(last_was_added) = self.join_added_tokens else {
            return text;
        };
        let added = self.tokenizer.added_token(id);
        self.join_added_tokens = Some(added.is_some());
        match added {
            Some(content) if last_was_added => content.to_owned(),
            _ => text,
        }
    }

    fn step(&mut self, id: u32) -> String {
        // Ids without text change nothing, and a run of them must not fill the window.
        let Some(piece) = self.piece(id) else {
            return String::new();
        };
        let window = &mut self.window;
        window.ids.push(id);
        window.num_pending += 1;
        window.num_byte_pieces = if is_byte_piece(&piece) {
            window.num_byte_pieces + 1
        } else {
            0
        };
        self.emit().unwrap_or_default()
    }

    fn emit(&mut self) -> Result<String> {
        let window = &self.window;
        if window.num_pending > LONG_PENDING && !self.tail_is_complete()? {
            return Ok(String::new());
        }
        let text = self.decode(&window.ids)?;
        if text.len() <= window.prefix.len() || text.ends_with(REPLACEMENT) {
            return Ok(String::new());
        }
        let Some(new_text) = text.strip_prefix(&window.prefix) else {
            return self.restart();
        };
        let new_text = new_text.to_owned();
        let ids = self.window.ids.split_off(self.window.prefix_len);
        self.window = Window {
            prefix: self.decode(&ids)?,
            prefix_len: ids.len(),
            ids,
            num_pending: 0,
            num_byte_pieces: self.window.num_byte_pieces,
        };
        Ok(new_text)
    }

    /// The text changed under what was emitted, which only broken bytes can bring about: forget
    /// the past and decode the new id alone.
    fn restart(&mut self) -> Result<String> {
        let last = self.window.ids.len().saturating_sub(1);
        let ids = self.window.ids.split_off(last);
        let text = self.decode(&ids)?;
        self.window = self.primed(ids);
        Ok(if text.ends_with(REPLACEMENT) {
            String::new()
        } else {
            text
        })
    }

    /// A window whose text counts as emitted, unless it ends inside a character.
    fn primed(&self, ids: Vec<u32>) -> Window {
        let byte_piece = |&id: &u32| self.piece(id).filter(|piece| is_byte_piece(piece));
        let num_byte_pieces = ids.iter().rev().map_while(byte_piece).count();
        match self.decode(&ids) {
            Ok(prefix) if !prefix.ends_with(REPLACEMENT) => Window {
                prefix_len: ids.len(),
                ids,
                prefix,
                num_pending: 0,
                num_byte_pieces,
            },
            _ => Window {
                ids,
                num_byte_pieces,
                ..Window::default()
            },
        }
    }

    /// Whether the text of a long window ends in a whole character, without decoding all of it.
    fn tail_is_complete(&self) -> Result<bool> {
        let Window {
            ids,
            num_byte_pieces,
            ..
        } = &self.window;
        // A sound run of byte pieces would have given a character at least every four ids.
        if *num_byte_pieces > LONG_PENDING {
            return Ok(false);
        }
        let start = ids.len().saturating_sub(TAIL.max(*num_byte_pieces));
        Ok(!self.decode(&ids[start..])?.ends_with(REPLACEMENT))
    }

    fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.decode(ids, self.skip_special_tokens)
    }

    /// The vocabulary entry of an id that gives text: neither unknown nor skipped.
    fn piece(&self, id: u32) -> Option<String> {
        let is_skipped = self.skip_special_tokens && self.tokenizer.is_special(id);
        if is_skipped {
            None
        } else {
            self.tokenizer.id_to_token(id)
        }
    }
}

/// Whether a vocabulary entry stands for one byte, such as `<0xE2>`.
fn is_byte_piece(piece: &str) -> bool {
    piece.len() == "<0xE2>".len() && piece.starts_with("<0x") && piece.ends_with('>')
}
