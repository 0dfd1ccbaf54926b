//! Incremental detokenization: the awkward situations, and the law that nothing is lost.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use std::sync::{Arc, OnceLock};

use proptest::prelude::*;
use support::{FOLDERS, tokenizer};
use vllm_tokenizer::{IncrementalDetokenizer, OutputText, Tokenizer, decode_logprob_token};

const REPLACEMENT: char = '\u{FFFD}';

fn stream(
    tokenizer: &Arc<Tokenizer>,
    prompt: &[u32],
    output: &[u32],
    skip_special_tokens: bool,
    spaces_between_special_tokens: bool,
) -> Vec<String> {
    let mut detokenizer = IncrementalDetokenizer::new(
        tokenizer.clone(),
        prompt,
        skip_special_tokens,
        spaces_between_special_tokens,
    );
    output.iter().map(|&id| detokenizer.push(id)).collect()
}

/// Ids of vocabulary entries, those of byte-level tokenizers written in the byte alphabet.
fn pieces(tokenizer: &Tokenizer, pieces: &[&str]) -> Vec<u32> {
    pieces
        .iter()
        .map(|piece| {
            tokenizer
                .token_to_id(piece)
                .unwrap_or_else(|| panic!("no piece {piece:?}"))
        })
        .collect()
}

/// Streams vocabulary entries of a recorded tokenizer, special tokens skipped.
#[track_caller]
fn check(name: &str, prompt: &[&str], output: &[&str], expected: &[&str]) {
    let tokenizer = tokenizer(name);
    let prompt = pieces(&tokenizer, prompt);
    let output = pieces(&tokenizer, output);
    assert_eq!(stream(&tokenizer, &prompt, &output, true, true), expected);
}

#[test]
fn text_comes_out_as_it_is_spread_over_ids() {
    check("demo", &["The"], &["Ġcapital", "Ġof"], &[" capital", " of"]);
}

#[test]
fn an_incomplete_character_waits_for_its_last_byte() {
    // é is C3 A9, written "Ã" and "©" in the byte alphabet.
    check("demo", &["a"], &["Ã", "©", "b"], &["", "é", "b"]);
    check(
        "llama",
        &["▁a"],
        &["<0xE2>", "<0x82>", "<0xAC>", "b"],
        &["", "", "€", "b"],
    );
}

#[test]
fn a_broken_byte_comes_out_with_the_text_behind_it() {
    check("demo", &["a"], &["©", "A", "B"], &["", "\u{FFFD}A", "B"]);
    check("llama", &["▁a"], &["<0xAC>", "b"], &["", "\u{FFFD}b"]);
}

#[test]
fn bytes_at_the_end_that_never_become_a_character_stay_unseen() {
    check("demo", &["a"], &["b", "Ã"], &["b", ""]);
}

#[test]
fn a_prompt_that_ends_inside_a_character_comes_out_with_it() {
    check("demo", &["a", "b", "c", "Ã"], &["©", "d"], &["abcé", "d"]);
}

#[test]
fn skipped_special_tokens_give_nothing() {
    check(
        "demo",
        &["a"],
        &["</s>", "b", "<|im_end|>", "c"],
        &["", "b", "", "c"],
    );
    check("demo", &["</s>"], &["a"], &["a"]);
}

#[test]
fn unknown_ids_give_nothing() {
    let tokenizer = tokenizer("demo");
    let [a, b] = [0, 1].map(|index| pieces(&tokenizer, &["a", "b"])[index]);
    assert_eq!(
        stream(&tokenizer, &[a], &[u32::MAX, b, 5000], true, true),
        ["", "b", ""]
    );
}

#[test]
fn text_that_changes_under_an_emission_starts_anew() {
    // A run of byte pieces decodes as a whole: "A" turns into U+FFFD when FF joins it.
    check(
        "llama",
        &[],
        &["<0x41>", "<0xFF>", "b", "c"],
        &["A", "", "b", "c"],
    );
}

#[test]
fn a_space_is_kept_that_a_decoder_drops_at_the_start() {
    check("llama", &["<s>"], &["▁a", "▁", "b"], &["a", " ", "b"]);
    check("llama", &["▁a"], &["▁a", "▁", "b"], &[" a", " ", "b"]);
}

#[test]
fn added_tokens_are_joined_when_asked() {
    // In the old LLaMA pipeline nothing comes between; the raw content is used all the same.
    let tokenizer = tokenizer("mistral");
    let output = pieces(&tokenizer, &["[INST]", "[/INST]", "▁a", "[INST]"]);
    for spaces in [true, false] {
        let expected = ["[INST]", "[/INST]", " a", "[INST]"];
        assert_eq!(stream(&tokenizer, &[], &output, false, spaces), expected);
    }
}

#[test]
fn without_a_decoder_added_tokens_are_joined_without_their_space() {
    let mut fixture = support::Fixture::read("demo");
    fixture.edit("tokenizer.json", |json| {
        json["decoder"] = serde_json::Value::Null
    });
    let tokenizer = Arc::new(fixture.load().unwrap());
    let output = pieces(&tokenizer, &["a", "<|im_start|>", "<|im_end|>", "b"]);
    let expected = ["a", " <|im_start|>", " <|im_end|>", " b"];
    assert_eq!(stream(&tokenizer, &[], &output, false, true), expected);
    let joined = ["a", " <|im_start|>", "<|im_end|>", " b"];
    assert_eq!(stream(&tokenizer, &[], &output, false, false), joined);
    // Skipped special tokens leave nothing to join.
    assert_eq!(
        stream(&tokenizer, &[], &output, true, false),
        ["a", "", "", " b"]
    );
}

#[test]
fn long_runs_of_broken_bytes_end_with_the_first_good_text() {
    for (name, broken, good) in [("demo", "©", "A"), ("llama", "<0xAC>", "a")] {
        let tokenizer = tokenizer(name);
        let broken = vec![pieces(&tokenizer, &[broken])[0]; 5000];
        let output = [broken, pieces(&tokenizer, &[good])].concat();
        let streamed = stream(
            &tokenizer,
            &pieces(&tokenizer, &[good]),
            &output,
            true,
            true,
        );
        let expected = format!("{}{good}", "\u{FFFD}".repeat(5000));
        assert_eq!(streamed.concat(), expected, "{name}");
        assert_eq!(streamed[5000], expected, "{name}");
    }
}

#[test]
fn single_ids_look_like_their_text() {
    #[track_caller]
    fn check(name: &str, previous: &[&str], id: &str, expected: &str) {
        let tokenizer = tokenizer(name);
        let previous = pieces(&tokenizer, previous);
        let id = pieces(&tokenizer, &[id])[0];
        assert_eq!(decode_logprob_token(&tokenizer, id, &previous), expected);
    }
    check("demo", &[], "Ġcapital", " capital");
    check("demo", &[], "</s>", "</s>");
    check("llama", &[], "▁a", " a");
    check("llama", &[], "▁", " ");
    check("llama", &[], "<0x41>", "A");
    // The first bytes of a character show nothing, the last show it whole.
    check("demo", &["a"], "Ã", "");
    check("demo", &["a", "Ã"], "©", "é");
    check("demo", &["a", "b", "c", "d", "Ã"], "©", "é");
    check(
        "llama",
        &["▁a", "<0xF0>", "<0x9F>", "<0x98>"],
        "<0x8A>",
        "😊",
    );
    check("llama", &["<0x9F>", "<0x98>"], "<0x8A>", "");
    check("demo", &[], "©", "");
    assert_eq!(decode_logprob_token(&tokenizer("demo"), u32::MAX, &[]), "");
}

fn tokenizers() -> &'static [(&'static str, Arc<Tokenizer>)] {
    static TOKENIZERS: OnceLock<Vec<(&'static str, Arc<Tokenizer>)>> = OnceLock::new();
    TOKENIZERS.get_or_init(|| FOLDERS.map(|name| (name, tokenizer(name))).into())
}

/// The tokenizers whose text never changes by what follows it.
const BYTE_LEVEL: [&str; 7] = ["demo", "opt", "gpt2", "qwen", "llama3", "neox", "split"];

/// The definition of a stream, without the shortcuts of the detokenizer.
fn reference_stream(
    tokenizer: &Tokenizer,
    prompt: &[u32],
    output: &[u32],
    skip: bool,
) -> Vec<String> {
    let decode = |ids: &[u32]| tokenizer.decode(ids, skip).unwrap();
    let (mut ids, mut prefix, mut prefix_len) = (prompt.to_vec(), String::new(), 0);
    let mut pieces = Vec::new();
    for &id in output {
        for is_retry in [false, true] {
            if prefix.is_empty() && !decode(&ids).ends_with(REPLACEMENT) {
                prefix = decode(&ids);
                prefix_len = ids.len();
            }
            ids.push(id);
            let text = decode(&ids);
            if text.len() <= prefix.len() || text.ends_with(REPLACEMENT) {
                pieces.push(String::new());
                break;
            }
            if let Some(piece) = text.strip_prefix(&prefix) {
                pieces.push(piece.to_owned());
                ids.drain(..prefix_len);
                prefix = decode(&ids);
                prefix_len = ids.len();
                break;
            }
            assert!(!is_retry, "an empty stream has no prefix");
            (ids, prefix, prefix_len) = (Vec::new(), String::new(), 0);
        }
    }
    pieces
}

/// Ids of all kinds, and long runs of single bytes, whole and broken.
fn some_ids() -> impl Strategy<Value = Vec<u32>> {
    let mixed = prop::collection::vec(prop_oneof![0..300_u32, 0..1400_u32], 0..60);
    let bytes = prop::collection::vec(prop_oneof![20 => 130..260_u32, 1 => 0..1400_u32], 0..150);
    prop_oneof![mixed, bytes]
}

proptest! {
    #[test]
    fn shortcuts_change_nothing(
        index in 0..FOLDERS.len(),
        prompt in some_ids(),
        output in some_ids(),
        skip in any::<bool>(),
    ) {
        let (_, tokenizer) = &tokenizers()[index];
        let expected = reference_stream(tokenizer, &prompt, &output, skip);
        prop_assert_eq!(stream(tokenizer, &prompt, &output, skip, true), expected);
    }

    #[test]
    fn pieces_joined_are_the_decoded_text(
        name in prop::sample::select(BYTE_LEVEL.as_slice()),
        output in some_ids(),
        skip in any::<bool>(),
    ) {
        let (_, tokenizer) = tokenizers().iter().find(|(known, _)| *known == name).unwrap();
        let streamed = stream(tokenizer, &[], &output, skip, true).concat();
        let full = tokenizer.decode(&output, skip).unwrap();
        let pending = full.strip_prefix(&streamed);
        // What is missing ends in an incomplete character.
        let is_explained = pending.is_some_and(|tail| tail.is_empty() || tail.ends_with(REPLACEMENT));
        prop_assert!(is_explained, "{streamed:?} of {full:?}");
    }

    #[test]
    fn text_comes_back_whole_from_every_tokenizer(
        index in 0..FOLDERS.len(),
        prompt in "(?s).{0,20}",
        text in "(?s)[a-zé€😀 \n]{0,20}.{0,20}",
    ) {
        let (_, tokenizer) = &tokenizers()[index];
        let prompt_ids = tokenizer.encode(&prompt, true).unwrap();
        let output = tokenizer.encode(&text, false).unwrap();
        let streamed = stream(tokenizer, &prompt_ids, &output, false, true).concat();
        let before = tokenizer.decode(&prompt_ids, false).unwrap();
        let all = tokenizer.decode(&[prompt_ids, output].concat(), false).unwrap();
        prop_assume!(!before.ends_with(REPLACEMENT) && !all.ends_with(REPLACEMENT));
        prop_assert_eq!(before + &streamed, all);
    }

    #[test]
    fn deltas_never_show_more_than_the_final_text(
        output in prop::collection::vec(prop_oneof![6..300_u32, 6..1385_u32], 1..60),
        stop in prop::collection::vec("[a-e ]{1,3}", 0..3),
        include in any::<bool>(),
        min_tokens in 0..20_usize,
    ) {
        let (_, tokenizer) = &tokenizers()[0];
        let mut text = OutputText::new(&stop, include, min_tokens);
        let mut shown = String::new();
        let mut found = None;
        for (index, piece) in stream(tokenizer, &[], &output, true, true).iter().enumerate() {
            found = text.push(piece, index + 1);
            shown += &text.take_delta(found.is_some());
            prop_assert!(text.text().starts_with(&shown));
            if found.is_some() {
                break;
            }
        }
        shown += &text.take_delta(true);
        prop_assert_eq!(&shown, text.text());
        match found {
            Some(found) if include => prop_assert!(shown.ends_with(&found.stop)),
            _ if min_tokens == 0 && !include => {
                prop_assert!(!stop.iter().any(|stop| shown.contains(stop.as_str())));
            }
            _ => {}
        }
    }
}
