//! What the tests of the parsers share.

use super::{Extracted, ToolCall, ToolDelta, ToolParser};

/// Feeds pieces and joins what comes out.
pub(super) fn streamed(parser: &dyn ToolParser, pieces: &[&str]) -> Extracted {
    let mut stream = parser.stream();
    let mut deltas = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        stream.push(piece, index + 1 == pieces.len(), &mut deltas);
    }
    let mut joined = Extracted::default();
    for delta in deltas {
        match delta {
            ToolDelta::Content(text) => joined.content.get_or_insert_default().push_str(&text),
            ToolDelta::Call { index, name } => {
                assert_eq!(index, joined.calls.len());
                let arguments = String::new();
                joined.calls.push(ToolCall { name, arguments });
            }
            ToolDelta::Arguments { index, text } => {
                joined.calls[index].arguments.push_str(&text);
            }
        }
    }
    joined
}

/// Checks that a stream in pieces of any one length joins to the finished answer.
#[track_caller]
pub(super) fn check_cuts(parser: &dyn ToolParser, text: &str) {
    let expected = parser.extract(text);
    let characters: Vec<String> = text.chars().map(String::from).collect();
    for size in 1..=characters.len().max(1) {
        let pieces: Vec<String> = characters
            .chunks(size)
            .map(|chunk| chunk.concat())
            .collect();
        let mut pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        pieces.push("");
        let outcome = streamed(parser, &pieces);
        assert_eq!(outcome.calls, expected.calls, "{text} in pieces of {size}");
        assert_eq!(
            outcome.content.unwrap_or_default(),
            expected.content.clone().unwrap_or_default(),
            "{text} in pieces of {size}"
        );
    }
}
