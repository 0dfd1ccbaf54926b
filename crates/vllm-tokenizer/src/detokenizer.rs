//! Ids to text, one id at a time.

use std::sync::Arc;

use crate::error::Result;
use crate::tokenizer::Tokenizer;

/// Stands for bytes that are not (yet) a character.
const REPLACEMENT: char = '\u{FFFD}';

/// More undecodable ids in a row than any character needs; from here on work is saved.
const LONG_PENDING: usize = 32;

/// Ids that hold the whole last character of a text, whatever precedes them.
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

/// Ids still needed for decoding; the first `prefix_len` of them decode to `prefix`, already
/// emitted.
#[derive(Clone, Debug, Default)]
struct Window {
    ids: Vec<u32>,
    prefix_len: usize,
    prefix: String,
    /// While the window is shorter than this, a complete-looking tail is not worth a decode.
    retry_len: usize,
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
        let prompt = prompt_ids
            .iter()
            .copied()
            .filter(|&id| detokenizer.gives_text(id))
            .collect();
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
        if !self.gives_text(id) {
            return String::new();
        }
        self.window.ids.push(id);
        self.emit().unwrap_or_default()
    }

    fn emit(&mut self) -> Result<String> {
        let window = &self.window;
        if window.ids.len() - window.prefix_len > LONG_PENDING && !self.may_be_complete()? {
            return Ok(String::new());
        }
        let text = self
            .tokenizer
            .decode(&window.ids, self.skip_special_tokens)?;
        if text.len() <= window.prefix.len() || text.ends_with(REPLACEMENT) {
            self.window.retry_len = self.window.ids.len() + self.window.ids.len() / 2;
            return Ok(String::new());
        }
        let Some(new_text) = text.strip_prefix(&window.prefix) else {
            return self.restart();
        };
        let new_text = new_text.to_owned();
        let ids = self.window.ids.split_off(self.window.prefix_len);
        self.window = Window {
            prefix: self.tokenizer.decode(&ids, self.skip_special_tokens)?,
            prefix_len: ids.len(),
            ids,
            retry_len: 0,
        };
        Ok(new_text)
    }

    /// The text changed under what was emitted, which only broken bytes can bring about: forget
    /// the past and decode the new id alone.
    fn restart(&mut self) -> Result<String> {
        let ids = self
            .window
            .ids
            .split_off(self.window.ids.len().saturating_sub(1));
        let text = self.tokenizer.decode(&ids, self.skip_special_tokens)?;
        self.window = self.primed(ids);
        if self.window.prefix_len == 0 {
            Ok(String::new())
        } else {
            Ok(text)
        }
    }

    /// A window whose text counts as emitted, unless it ends inside a character.
    fn primed(&self, ids: Vec<u32>) -> Window {
        match self.tokenizer.decode(&ids, self.skip_special_tokens) {
            Ok(prefix) if !prefix.ends_with(REPLACEMENT) => Window {
                prefix_len: ids.len(),
                ids,
                prefix,
                retry_len: 0,
            },
            _ => Window {
                ids,
                ..Window::default()
            },
        }
    }

    /// A cheap look at the tail of a long window. If the tail looks complete while the whole was
    /// not (a broken run of byte pieces), the whole is decoded again only after it has grown.
    fn may_be_complete(&self) -> Result<bool> {
        let ids = &self.window.ids;
        if ids.len() < self.window.retry_len && self.is_byte_piece(ids[ids.len() - 1]) {
            return Ok(false);
        }
        let tail = &ids[ids.len().saturating_sub(TAIL)..];
        let text = self.tokenizer.decode(tail, self.skip_special_tokens)?;
        Ok(!text.ends_with(REPLACEMENT))
    }

    /// Whether `id` is a piece like `<0xE2>`.
    fn is_byte_piece(&self, id: u32) -> bool {
        self.tokenizer.id_to_token(id).is_some_and(|piece| {
            piece.len() == "<0xE2>".len() && piece.starts_with("<0x") && piece.ends_with('>')
        })
    }

    fn gives_text(&self, id: u32) -> bool {
        !(self.skip_special_tokens && self.tokenizer.is_special(id))
            && self.tokenizer.id_to_token(id).is_some()
    }
}
