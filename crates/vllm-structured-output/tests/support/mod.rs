//! The demo model's tokenizer, and walks through constraints with it.

#![allow(
    dead_code,
    reason = "each test program uses the part of this module that it needs"
)]

use std::sync::OnceLock;

use vllm_sampling::StructuredOutputs;
use vllm_structured_output::{Error, Grammar, GrammarCompiler};
use vllm_tokenizer::{Tokenizer, TokenizerFiles};

/// Width of the demo model's logits, more than its tokenizer has entries.
pub(crate) const VOCAB_SIZE: usize = 2048;

/// `</s>` and `<|im_end|>`.
pub(crate) const STOP_IDS: [u32; 2] = [2, 5];

pub(crate) fn tokenizer() -> &'static Tokenizer {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| {
        let file = |name: &str| {
            let files = vllm_demo_model::FILES.iter();
            files
                .clone()
                .find(|(known, _)| *known == name)
                .map(|(_, bytes)| *bytes)
        };
        Tokenizer::from_files(&TokenizerFiles {
            tokenizer_json: file("tokenizer.json"),
            tokenizer_config_json: file("tokenizer_config.json"),
            ..TokenizerFiles::default()
        })
        .expect("the demo model has a tokenizer")
    })
}

pub(crate) fn compiler() -> &'static GrammarCompiler {
    static COMPILER: OnceLock<GrammarCompiler> = OnceLock::new();
    COMPILER.get_or_init(|| {
        GrammarCompiler::new(tokenizer(), VOCAB_SIZE, &STOP_IDS).expect("a compiler")
    })
}

pub(crate) fn compile(params: &StructuredOutputs) -> Grammar {
    compiler()
        .compile(params)
        .unwrap_or_else(|error| panic!("{params:?}: {error}"))
}

pub(crate) fn json(schema: &str) -> StructuredOutputs {
    StructuredOutputs {
        json: Some(schema.to_owned()),
        ..StructuredOutputs::default()
    }
}

pub(crate) fn regex(pattern: &str) -> StructuredOutputs {
    StructuredOutputs {
        regex: Some(pattern.to_owned()),
        ..StructuredOutputs::default()
    }
}

pub(crate) fn choice(texts: &[&str]) -> StructuredOutputs {
    StructuredOutputs {
        choice: Some(texts.iter().map(|&text| text.to_owned()).collect()),
        ..StructuredOutputs::default()
    }
}

pub(crate) fn grammar(text: &str) -> StructuredOutputs {
    StructuredOutputs {
        grammar: Some(text.to_owned()),
        ..StructuredOutputs::default()
    }
}

pub(crate) fn structural_tag(text: &str) -> StructuredOutputs {
    StructuredOutputs {
        structural_tag: Some(text.to_owned()),
        ..StructuredOutputs::default()
    }
}

/// The ids that the mask allows.
pub(crate) fn allowed(grammar: &mut Grammar) -> Result<Vec<u32>, Error> {
    let mut mask = Vec::new();
    grammar.fill_mask(&mut mask)?;
    assert_eq!(mask.len(), VOCAB_SIZE.div_ceil(32));
    Ok((0..VOCAB_SIZE as u32)
        .filter(|id| mask[*id as usize / 32] >> (id % 32) & 1 == 1)
        .collect())
}

/// Whether the text as the tokenizer cuts it is allowed token by token, and a stop id behind it.
pub(crate) fn accepts(params: &StructuredOutputs, text: &str) -> bool {
    let mut grammar = compile(params);
    for id in tokenizer().encode(text, false).expect("text") {
        if !allowed(&mut grammar).expect("a mask").contains(&id) {
            assert!(matches!(
                grammar.accept(id),
                Err(Error::Rejected { token_id }) if token_id == id
            ));
            return false;
        }
        grammar.accept(id).expect("the mask allows it");
    }
    assert!(!grammar.is_finished());
    let allowed = allowed(&mut grammar).expect("a mask");
    let may_stop = STOP_IDS.map(|id| allowed.contains(&id));
    assert_eq!(may_stop[0], may_stop[1]);
    assert_eq!(grammar.accept(STOP_IDS[1]).is_ok(), may_stop[0]);
    assert_eq!(grammar.is_finished(), may_stop[0]);
    may_stop[0]
}

/// The text of a walk over random allowed tokens, to its end. After some tokens the walk takes
/// the first way out.
pub(crate) fn walk(params: &StructuredOutputs, mut seed: u64) -> String {
    let mut grammar = compile(params);
    let mut ids = Vec::new();
    let closers: Vec<u32> = ["\"", "}", "]", ")", "\"}", ">"]
        .into_iter()
        .filter_map(|text| tokenizer().token_to_id(text))
        .collect();
    loop {
        let allowed = allowed(&mut grammar).expect("a mask");
        assert!(!allowed.is_empty(), "{params:?} has no way on");
        let is_hurried = ids.len() > 24;
        let way_out = |ids: &[u32]| ids.iter().copied().find(|id| allowed.contains(id));
        let random = allowed[(next_random(&mut seed) % allowed.len() as u64) as usize];
        let exit = way_out(&STOP_IDS).or_else(|| way_out(&closers));
        let id = exit.filter(|_| is_hurried).unwrap_or(random);
        grammar.accept(id).expect("the mask allows it");
        if grammar.is_finished() {
            assert!(STOP_IDS.contains(&id));
            break;
        }
        ids.push(id);
        assert!(
            ids.len() < 2000,
            "{params:?} does not end: {:?}",
            tokenizer().decode(&ids, false)
        );
    }
    assert_eq!(
        self::allowed(&mut grammar).expect("a mask"),
        STOP_IDS,
        "nothing follows the end"
    );
    tokenizer().decode(&ids, false).expect("text")
}

/// xorshift64.
fn next_random(seed: &mut u64) -> u64 {
    *seed |= 1;
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed >> 16
}
