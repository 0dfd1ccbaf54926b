//! The vocabulary as byte strings: what each token adds to the text.

use std::collections::HashMap;

use llguidance::toktrie::TokTrie;
use vllm_tokenizer::Tokenizer;

/// One entry for each of the `vocab_size` ids; empty for ids that stand for nothing.
///
/// Special tokens and `stop_ids` begin with a byte that no text contains, so that no constraint on
/// text allows them.
pub(crate) fn token_bytes(
    tokenizer: &Tokenizer,
    vocab_size: usize,
    stop_ids: &[u32],
) -> Vec<Vec<u8>> {
    let notation = Notation::of(tokenizer);
    (0..vocab_size)
        .map(|id| {
            let Some((id, piece)) = u32::try_from(id)
                .ok()
                .and_then(|id| Some((id, tokenizer.id_to_token(id)?)))
            else {
                return Vec::new();
            };
            if stop_ids.contains(&id) || tokenizer.is_special(id) {
                let mut marked = vec![TokTrie::SPECIAL_TOKEN_MARKER];
                marked.extend_from_slice(piece.as_bytes());
                return marked;
            }
            notation.bytes(piece)
        })
        .collect()
}

/// How the entries of a vocabulary are written.
enum Notation {
    /// Every byte is a printable character: GPT-2 and most later models.
    ByteLevel(HashMap<char, u8>),
    /// `▁` is a space and `<0x0A>` a byte: SentencePiece models.
    SentencePiece,
}

impl Notation {
    /// A byte-level tokenizer reads `Ġ` as a space; every other leaves it as it is.
    fn of(tokenizer: &Tokenizer) -> Self {
        let is_byte_level = tokenizer
            .token_to_id("Ġ")
            .and_then(|id| tokenizer.decode(&[id], false).ok())
            .is_some_and(|text| !text.contains('Ġ'));
        match is_byte_level {
            true => Self::ByteLevel(byte_level_alphabet()),
            false => Self::SentencePiece,
        }
    }

    fn bytes(&self, piece: String) -> Vec<u8> {
        match self {
            Self::ByteLevel(alphabet) => {
                let bytes: Option<Vec<u8>> = piece
                    .chars()
                    .map(|char| alphabet.get(&char).copied())
                    .collect();
                // Added tokens are plain text.
                bytes.unwrap_or_else(|| piece.into_bytes())
            }
            Self::SentencePiece => match byte_piece(&piece) {
                Some(byte) => vec![byte],
                None => piece.replace('▁', " ").into_bytes(),
            },
        }
    }
}

/// The byte that `<0xNN>` stands for.
fn byte_piece(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    match digits.len() {
        2 => u8::from_str_radix(digits, 16).ok(),
        _ => None,
    }
}

/// The alphabet of byte-level BPE: printable Latin-1 bytes are themselves, the others are numbered
/// from U+0100.
fn byte_level_alphabet() -> HashMap<char, u8> {
    let is_itself = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let (themselves, others): (Vec<u8>, Vec<u8>) = (0..=u8::MAX).partition(is_itself);
    let numbered = ('\u{100}'..).zip(others);
    let plain = themselves.into_iter().map(|byte| (char::from(byte), byte));
    plain.chain(numbered).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_level_characters_stand_for_all_bytes() {
        let alphabet = byte_level_alphabet();
        assert_eq!(alphabet.len(), 256);
        for (char, byte) in [
            ('Ġ', b' '),
            ('Ċ', b'\n'),
            ('a', b'a'),
            ('Ń', 0xAD),
            ('ÿ', 0xFF),
        ] {
            assert_eq!(alphabet.get(&char), Some(&byte), "{char}");
        }
    }

    #[test]
    fn sentence_pieces_are_text_or_bytes() {
        let check = |piece: &str, expected: &[u8]| {
            assert_eq!(Notation::SentencePiece.bytes(piece.to_owned()), expected);
        };
        check("▁hello", b" hello");
        check("▁▁", b"  ");
        check("<0x0A>", b"\n");
        check("<0xFF>", &[0xFF]);
        check("<0x0>", b"<0x0>");
        check("<0xGG>", b"<0xGG>");
        check("é", "é".as_bytes());
    }
}
