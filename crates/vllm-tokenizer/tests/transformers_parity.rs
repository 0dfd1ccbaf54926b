//! Ids, texts and streamed pieces equal those that `transformers` gave for the same files.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use std::collections::BTreeMap;

use serde_json::Value;
use support::{FOLDERS, Fixture, fixtures, ids, tokenizer};
use vllm_tokenizer::{IncrementalDetokenizer, TruncationSide};

fn corpus() -> Vec<String> {
    serde_json::from_slice(&std::fs::read(fixtures().join("corpus.json")).unwrap()).unwrap()
}

fn entries(expected: &Value, key: &str) -> Vec<Value> {
    let entries = expected[key].as_array().unwrap().clone();
    assert!(!entries.is_empty(), "{key}");
    entries
}

#[test]
fn texts_get_the_same_ids_and_come_back_the_same() {
    let corpus = corpus();
    for name in FOLDERS {
        let expected = Fixture::read(name).expected;
        let tokenizer = tokenizer(name);
        for entry in entries(&expected, "texts") {
            let text = &corpus[entry["text"].as_u64().unwrap() as usize];
            let plain_ids = ids(&entry["plain_ids"]);
            assert_eq!(
                tokenizer.encode(text, false).unwrap(),
                plain_ids,
                "{name}: {text:?}"
            );
            let all_ids = [ids(&entry["prefix"]), plain_ids.clone()].concat();
            assert_eq!(
                tokenizer.encode(text, true).unwrap(),
                all_ids,
                "{name}: {text:?}"
            );
            for (key, skip) in [("decoded", false), ("decoded_without_special", true)] {
                let decoded = entry[key].as_str().unwrap_or(text);
                assert_eq!(
                    tokenizer.decode(&plain_ids, skip).unwrap(),
                    decoded,
                    "{name}: {text:?}"
                );
            }
        }
    }
}

#[test]
fn any_ids_decode_to_the_same_text() {
    for name in FOLDERS {
        let expected = Fixture::read(name).expected;
        let tokenizer = tokenizer(name);
        for entry in entries(&expected, "decodes") {
            let ids = ids(&entry["ids"]);
            for (key, skip) in [("decoded", false), ("decoded_without_special", true)] {
                assert_eq!(
                    tokenizer.decode(&ids, skip).unwrap(),
                    entry[key],
                    "{name}: {ids:?}"
                );
            }
        }
    }
}

#[test]
fn streams_give_the_same_pieces() {
    for name in FOLDERS {
        let expected = Fixture::read(name).expected;
        let tokenizer = tokenizer(name);
        for entry in entries(&expected, "streams") {
            let skip = entry["skip_special_tokens"].as_bool().unwrap();
            let prompt = ids(&entry["prompt"]);
            let mut detokenizer =
                IncrementalDetokenizer::new(tokenizer.clone(), &prompt, skip, true);
            let pieces: Vec<String> = ids(&entry["output"])
                .into_iter()
                .map(|id| detokenizer.push(id))
                .collect();
            assert_eq!(
                serde_json::json!(pieces),
                entry["pieces"],
                "{name}: {entry}"
            );
        }
    }
}

#[test]
fn truncation_keeps_the_same_ids() {
    for name in FOLDERS {
        let expected = Fixture::read(name).expected;
        let tokenizer = tokenizer(name);
        for entry in entries(&expected, "truncations") {
            let side = match entry["side"].as_str().unwrap() {
                "left" => TruncationSide::Left,
                _ => TruncationSide::Right,
            };
            let max_tokens = entry["max_tokens"].as_u64().unwrap() as usize;
            let text = entry["text"].as_str().unwrap();
            let truncated = tokenizer
                .encode_truncated(text, true, max_tokens, side)
                .unwrap();
            assert_eq!(
                truncated,
                ids(&entry["ids"]),
                "{name}: {max_tokens} {side:?}"
            );
        }
    }
}

#[test]
fn special_tokens_and_sizes_are_the_same() {
    for name in FOLDERS {
        let expected = Fixture::read(name).expected;
        let tokenizer = tokenizer(name);
        let special_tokens: BTreeMap<String, String> =
            serde_json::from_value(expected["special_tokens"].clone()).unwrap();
        assert_eq!(tokenizer.special_tokens(), &special_tokens, "{name}");
        let actual = serde_json::json!({
            "bos_token": tokenizer.bos_token_id(),
            "eos_token": tokenizer.eos_token_id(),
            "pad_token": tokenizer.pad_token_id(),
            "unk_token": tokenizer.unk_token_id(),
        });
        assert_eq!(actual, expected["special_token_ids"], "{name}");
        assert_eq!(tokenizer.vocab_size(), expected["vocab_size"], "{name}");
        assert_eq!(
            tokenizer.max_token_id() as usize + 1,
            tokenizer.vocab_size(),
            "{name}"
        );
    }
}

/// What SentencePiece itself makes of a unigram model. Two things are left out: it never looks for
/// special tokens or bytes in a text, and it composes more than two characters into one.
#[test]
fn unigram_models_give_the_ids_of_sentencepiece() {
    let corpus = corpus();
    let fixture = Fixture::read("unigram");
    let tokenizer = fixture.load().unwrap();
    for entry in entries(&fixture.expected, "texts") {
        let text = &corpus[entry["text"].as_u64().unwrap() as usize];
        if text.contains('<') || text.contains('\u{304}') {
            continue;
        }
        let encoded = tokenizer.encode(text, false).unwrap();
        assert_eq!(encoded, ids(&entry["ids"]), "{text:?}");
    }
}
