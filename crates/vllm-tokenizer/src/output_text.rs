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

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes pieces one token each until a stop string ends the text.
    fn run(output: &mut OutputText, pieces: &[&str]) -> Option<String> {
        pieces
            .iter()
            .enumerate()
            .find_map(|(index, piece)| output.push(piece, index + 1))
            .map(|found| found.stop)
    }

    fn output(stop: &[&str], include_stop_str: bool, min_tokens: usize) -> OutputText {
        let stop: Vec<String> = stop.iter().map(|&stop| stop.to_owned()).collect();
        OutputText::new(&stop, include_stop_str, min_tokens)
    }

    /// The text and the stop string found, in exclude mode.
    #[track_caller]
    fn check(stop: &[&str], pieces: &[&str], text: &str, found: Option<&str>) {
        let mut output = output(stop, false, 0);
        assert_eq!(run(&mut output, pieces).as_deref(), found);
        assert_eq!(output.text(), text);
    }

    /// What each piece shows, and what the end shows.
    #[track_caller]
    fn check_deltas(mut output: OutputText, pieces: &[&str], deltas: &[&str], last: &str) {
        for (index, (piece, delta)) in pieces.iter().zip(deltas).enumerate() {
            let finished = output.push(piece, index + 1).is_some();
            assert_eq!(&output.take_delta(finished), delta, "piece {index}");
        }
        assert_eq!(output.take_delta(true), last);
    }

    #[test]
    fn the_text_ends_before_the_stop_string() {
        check(&["."], &["One", ". Two"], "One", Some("."));
        check(&["stop"], &["a s", "t", "op b"], "a ", Some("stop"));
        check(&["stop"], &["sto", "st", "o"], "stosto", None);
        check(&[], &["a", "b"], "ab", None);
        check(&[""], &["a"], "a", None);
    }

    #[test]
    fn the_stop_string_that_ends_first_wins() {
        check(&["bcd", "bc"], &["abcd"], "a", Some("bc"));
        check(&["cd", "b"], &["abcd"], "a", Some("b"));
        // "long" begins first but ends last.
        check(&["abcd", "c"], &["abcd"], "ab", Some("c"));
    }

    #[test]
    fn equal_ends_go_by_list_order() {
        check(&["bc", "abc"], &["xabc"], "xa", Some("bc"));
        check(&["abc", "bc"], &["xabc"], "x", Some("abc"));
    }

    #[test]
    fn the_first_occurrence_counts() {
        check(&["ab"], &["xabab"], "x", Some("ab"));
    }

    #[test]
    fn lengths_are_characters() {
        check(&["é€😀"], &["xé", "€", "😀y"], "x", Some("é€😀"));
        check_deltas(
            output(&["é€😀"], false, 0),
            &["aé", "€b"],
            &["", "aé"],
            "€b",
        );
    }

    #[test]
    fn include_mode_keeps_the_stop_string_and_drops_the_rest() {
        let mut output = output(&["END"], true, 0);
        assert_eq!(run(&mut output, &["a E", "ND b"]).as_deref(), Some("END"));
        assert_eq!(output.text(), "a END");
        assert_eq!(output.take_delta(true), "a END");
    }

    #[test]
    fn stop_strings_count_only_after_min_tokens() {
        let mut text = output(&["b"], false, 2);
        assert_eq!(run(&mut text, &["b", "b", "a", "b"]).as_deref(), Some("b"));
        assert_eq!(text.text(), "bba");
        // The match may begin in the text of the first tokens, if a later one completes it.
        let mut text = output(&["ab"], false, 1);
        assert_eq!(run(&mut text, &["xa", "b"]).as_deref(), Some("ab"));
        assert_eq!(text.text(), "x");
    }

    #[test]
    fn a_token_without_text_is_no_reason_to_search() {
        let mut text = output(&["b"], false, 1);
        assert_eq!(run(&mut text, &["b", "", ""]), None);
        assert_eq!(text.text(), "b");
    }

    #[test]
    fn the_longest_stop_string_less_one_is_held_back() {
        check_deltas(
            output(&["wxyz", "q"], false, 0),
            &["ab", "cd", "e"],
            &["", "a", "b"],
            "cde",
        );
        check_deltas(
            output(&["wxyz"], false, 0),
            &["aw", "xy", "zb"],
            &["", "a", ""],
            "",
        );
    }

    #[test]
    fn nothing_is_held_back_in_include_mode_or_without_stop_strings() {
        check_deltas(output(&["wxyz"], true, 0), &["ab", "c"], &["ab", "c"], "");
        check_deltas(output(&[], false, 0), &["ab", "c"], &["ab", "c"], "");
    }

    #[test]
    fn the_visible_text_is_all_that_deltas_showed() {
        let mut text = output(&["xyz"], false, 0);
        text.push("hello", 1);
        assert_eq!(text.visible(false), "hel");
        assert_eq!(text.take_delta(false), "hel");
        assert_eq!(text.visible(true), "hello");
        assert_eq!(text.text(), "hello");
    }
}
