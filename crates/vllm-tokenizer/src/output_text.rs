//! The text of one output: stop strings, and how much of it may be shown.

/// The growing text of one generated sequence.
///
/// Pieces go in as they are decoded. When a stop string is complete, the text is cut there and the
/// match reported. Until the sequence is finished, the last characters are held back, so that no
/// delta ever shows the beginning of a stop string that a later piece completes.
///
/// ```
/// use vllm_tokenizer::OutputText;
///
/// let mut output = OutputText::new(&["END".to_owned()], false, 0);
/// assert!(output.push("one E", 1).is_none());
/// assert_eq!(output.take_delta(false), "one");
/// assert_eq!(output.push("ND two", 2).map(|found| found.stop), Some("END".to_owned()));
/// assert_eq!(output.take_delta(true), " ");
/// assert_eq!(output.text(), "one ");
/// ```
#[derive(Clone, Debug)]
pub struct OutputText {
    text: String,
    stop: Vec<StopString>,
    include_stop_str: bool,
    min_tokens: usize,
    /// Characters withheld while unfinished.
    num_held_back: usize,
    /// Bytes of `text` that `take_delta` has handed out.
    num_sent: usize,
}

/// A stop string that ended a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopMatch {
    /// The stop string as it was given.
    pub stop: String,
}

#[derive(Clone, Debug)]
struct StopString {
    text: String,
    num_chars: usize,
}

impl OutputText {
    /// An empty text that ends at any of the `stop` strings (empty ones are ignored).
    ///
    /// The match itself is kept if `include_stop_str`. Stop strings count only once more than
    /// `min_tokens` tokens have been generated.
    pub fn new(stop: &[String], include_stop_str: bool, min_tokens: usize) -> Self {
        let stop: Vec<StopString> = stop
            .iter()
            .filter(|text| !text.is_empty())
            .map(|text| StopString {
                text: text.clone(),
                num_chars: text.chars().count(),
            })
            .collect();
        let longest = stop.iter().map(|stop| stop.num_chars).max().unwrap_or(0);
        let num_held_back = if include_stop_str {
            0
        } else {
            longest.saturating_sub(1)
        };
        Self {
            text: String::new(),
            stop,
            include_stop_str,
            min_tokens,
            num_held_back,
            num_sent: 0,
        }
    }

    /// Appends the text of one token, the `num_output_tokens`-th of the output, and looks for a
    /// stop string that it completes.
    ///
    /// Of several, the one that ends first wins, then the one listed first. The text is cut before
    /// the match, or behind it in include mode.
    pub fn push(&mut self, piece: &str, num_output_tokens: usize) -> Option<StopMatch> {
        let old_len = self.text.len();
        self.text.push_str(piece);
        if piece.is_empty() || num_output_tokens <= self.min_tokens {
            return None;
        }
        let (start, stop) = self
            .stop
            .iter()
            .filter_map(|stop| {
                // A match may begin in older text but must end in the new piece.
                let window = chars_back(&self.text, old_len, stop.num_chars - 1);
                let start = window + self.text[window..].find(&stop.text)?;
                Some((start, stop))
            })
            .min_by_key(|(start, stop)| start + stop.text.len())?;
        let cut = if self.include_stop_str {
            start + stop.text.len()
        } else {
            start
        };
        let found = StopMatch {
            stop: stop.text.clone(),
        };
        self.text.truncate(cut);
        Some(found)
    }

    /// The whole text so far, including what is held back.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text that may be shown: all of it once `finished`, else without what is held back.
    pub fn visible(&self, finished: bool) -> &str {
        let num_held_back = if finished { 0 } else { self.num_held_back };
        &self.text[..chars_back(&self.text, self.text.len(), num_held_back)]
    }

    /// The visible text that earlier calls have not returned. Deltas joined give the final text.
    pub fn take_delta(&mut self, finished: bool) -> String {
        let end = self.visible(finished).len();
        let start = self.num_sent.min(end);
        self.num_sent = self.num_sent.max(end);
        self.text[start..end].to_owned()
    }
}

/// The byte position `count` characters before `end`, or 0 if there are fewer.
fn chars_back(text: &str, end: usize, count: usize) -> usize {
    let Some(skipped) = count.checked_sub(1) else {
        return end;
    };
    text[..end]
        .char_indices()
        .rev()
        .nth(skipped)
        .map_or(0, |(position, _)| position)
}
