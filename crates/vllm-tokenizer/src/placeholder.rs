//! A vocabulary out of nothing.

use serde_json::{Map, Value, json};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// A byte-level `tokenizer.json` of `vocab_size` ids: all bytes, then ` x256`, ` x257` and so on.
pub(crate) fn tokenizer_json(vocab_size: usize) -> Vec<u8> {
    let mut bytes: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    bytes.sort_unstable();
    let words = (bytes.len()..vocab_size).map(|id| format!("Ġx{id}"));
    let pieces = bytes.iter().map(char::to_string).chain(words);
    let vocab: Map<String, Value> = pieces
        .take(vocab_size)
        .enumerate()
        .map(|(id, piece)| (piece, id.into()))
        .collect();
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false,
        "trim_offsets": true, "use_regex": true});
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "post_processor": null,
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    tokenizer.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use crate::Tokenizer;

    #[test]
    fn every_text_has_ids_and_every_id_has_text() {
        let config = br#"{"eos_token_id": 2}"#;
        let tokenizer = Tokenizer::placeholder(300, Some(config)).unwrap();
        assert_eq!(
            (tokenizer.vocab_size(), tokenizer.max_token_id()),
            (300, 299)
        );
        assert_eq!(tokenizer.eos_token_id(), Some(2));
        let text = "Größe 🎉\n\0";
        let ids = tokenizer.encode(text, true).unwrap();
        assert_eq!(ids.len(), text.len());
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
        assert_eq!(tokenizer.decode(&[299, 256], true).unwrap(), " x299 x256");
        assert_eq!(Tokenizer::placeholder(10, None).unwrap().vocab_size(), 10);
    }
}
