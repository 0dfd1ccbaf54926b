//! Marks in text that comes in pieces.

/// How many bytes at the end of `text` could be the start of `mark`.
pub(crate) fn partial(text: &str, mark: &str) -> usize {
    (1..mark.len())
        .rev()
        .filter(|length| mark.is_char_boundary(*length))
        .find(|length| text.ends_with(&mark[..*length]))
        .unwrap_or(0)
}

/// How many bytes at the end of `text` could be the start of any of `marks`.
pub(crate) fn partial_any(text: &str, marks: &[&str]) -> usize {
    marks
        .iter()
        .map(|mark| partial(text, mark))
        .max()
        .unwrap_or(0)
}
