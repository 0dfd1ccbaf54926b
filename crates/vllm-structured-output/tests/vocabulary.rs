//! How the entries of different vocabularies count as text.

use serde_json::json;
use vllm_sampling::StructuredOutputs;
use vllm_structured_output::{Error, GrammarCompiler};
use vllm_tokenizer::{Tokenizer, TokenizerFiles};

const PIECES: [&str; 8] = [
    "</s>", "▁a", "<0x0A>", "b", "<0xC3>", "<0xA9>", "<tool>", "<s>",
];

const END: u32 = 0;

fn sentence_piece() -> Tokenizer {
    let vocab: serde_json::Map<_, _> = PIECES
        .iter()
        .enumerate()
        .map(|(id, piece)| ((*piece).to_owned(), json!(id)))
        .collect();
    let added = |id: u32, special: bool| {
        json!({"id": id, "content": PIECES[id as usize], "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": special})
    };
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [added(0, true), added(6, false), added(7, true)],
        "normalizer": null,
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "vocab": vocab, "merges": [], "byte_fallback": true},
    });
    Tokenizer::from_files(&TokenizerFiles {
        tokenizer_json: Some(tokenizer.to_string().as_bytes()),
        ..TokenizerFiles::default()
    })
    .expect("a tokenizer")
}

/// Walks along `ids`; every one of them must be allowed, and the end behind them.
fn check(regex: &str, ids: &[u32], expected: bool) {
    let compiler = GrammarCompiler::new(&sentence_piece(), 40, &[END]).expect("a compiler");
    let params = StructuredOutputs {
        regex: Some(regex.to_owned()),
        ..StructuredOutputs::default()
    };
    let mut grammar = compiler.compile(&params).expect("a grammar");
    let mut mask = Vec::new();
    let is_allowed = ids.iter().chain([&END]).all(|&id| {
        grammar.fill_mask(&mut mask).expect("a mask");
        assert_eq!(mask.len(), 2);
        let is_allowed = mask[0] >> id & 1 == 1;
        assert_eq!(grammar.accept(id).is_ok(), is_allowed, "{regex} {id}");
        is_allowed
    });
    assert_eq!(is_allowed, expected, "{regex} {ids:?}");
}

#[test]
fn sentence_pieces_and_bytes_make_text() {
    check(" ab\n", &[1, 3, 2], true);
    check(" ?ab", &[3], false);
    check("b+ ?", &[3, 1], false);
    check("é", &[4, 5], true);
    check("é", &[4], false);
    check(".", &[4, 5], true);
}

#[test]
fn added_tokens_are_text_and_special_tokens_are_not() {
    check("b<tool>", &[3, 6], true);
    check("b.*", &[3, 7], false);
}

#[test]
fn there_must_be_an_end() {
    for ids in [&[][..], &[40]] {
        let error = GrammarCompiler::new(&sentence_piece(), 40, ids).err();
        assert!(
            matches!(error, Some(Error::NoStopToken { vocab_size: 40 })),
            "{ids:?}"
        );
    }
}
