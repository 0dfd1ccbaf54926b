//! Building the `tokenizers` pipeline from a checkpoint's files.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::{
    AddedToken, AddedVocabulary, DecoderWrapper, ModelWrapper, NormalizerWrapper,
    PostProcessorWrapper, PreTokenizerWrapper, Tokenizer, TokenizerImpl,
};

use crate::class::{Pipeline, TokenizerClass};
use crate::error::{Error, Result};
use crate::files::TokenizerFiles;
use crate::sentencepiece;
use crate::settings::Settings;

type BpeTokenizer = TokenizerImpl<
    BPE,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

const TOKENIZER_JSON: &str = "tokenizer.json";

/// Builds the pipeline as `transformers` builds it from the same files.
pub(crate) fn build(files: &TokenizerFiles<'_>, settings: &Settings) -> Result<Tokenizer> {
    let from_tokenizer_json = files.tokenizer_json.is_some();
    let mut backend = match (files.tokenizer_json, files.vocab_json, files.merges_txt) {
        (Some(bytes), ..) => from_tokenizer_json_bytes(bytes)?,
        (None, Some(vocab), Some(merges)) => Tokenizer::new(parse_bpe(vocab, merges)?),
        _ => match files.sentencepiece_model {
            Some(bytes) => from_sentencepiece_bytes(bytes)?,
            None => return Err(Error::MissingVocabulary),
        },
    };
    let from_bpe_files =
        !from_tokenizer_json && files.vocab_json.is_some() && files.merges_txt.is_some();
    let invalid = |error: tokenizers::Error| Error::invalid_file(TOKENIZER_JSON, error);
    backend
        .with_padding(None)
        .with_truncation(None)
        .map_err(invalid)?;

    let mut added_tokens = settings.added_tokens.clone();
    if !settings.lists_all_added_tokens {
        added_tokens.extend(backend.get_added_tokens_decoder());
    }
    // A bare vocabulary has no stored pipeline; GPT-2's is the one that comes in this form.
    let class = match settings.class {
        TokenizerClass::Stored if from_bpe_files => TokenizerClass::Gpt2,
        class => class,
    };
    if let Some(pipeline) = class.pipeline(settings)
        && let ModelWrapper::BPE(model) = backend.get_model().clone()
    {
        replace_pipeline(&mut backend, model, pipeline, settings)?;
    }
    add_missing_tokens(&mut backend, added_tokens, settings)?;
    if class == TokenizerClass::Qwen2 {
        let named = settings.named_tokens.iter().map(|(_, token)| token);
        let special = named.chain(&settings.extra_tokens);
        let plain = special.map(|token| AddedToken::from(token.content.clone(), true));
        backend
            .add_tokens(plain.collect::<Vec<_>>())
            .map_err(invalid)?;
    }
    backend.set_encode_special_tokens(settings.split_special_tokens);

    // The flags do not count beside a tokenizer.json, whose post-processor is the authority.
    let (add_bos, add_eos) = if from_tokenizer_json {
        (None, None)
    } else {
        let add_bos = settings.add_bos_token;
        (add_bos.or(class.adds_bos()), settings.add_eos_token)
    };
    let flags_given = add_bos.is_some() || add_eos.is_some();
    if flags_given || class == TokenizerClass::GptNeoX {
        let bos = settings
            .named_token("bos_token")
            .filter(|_| add_bos == Some(true));
        let eos = settings
            .named_token("eos_token")
            .filter(|_| add_eos == Some(true));
        set_bos_and_eos(&mut backend, bos, eos)?;
    }
    Ok(backend)
}

/// A malformed file may make the parser panic (merges longer than any piece do); that is an error
/// of the file, not of the program.
fn from_tokenizer_json_bytes(bytes: &[u8]) -> Result<Tokenizer> {
    let parsed = catch_unwind(AssertUnwindSafe(|| {
        // Where the kind of model is known, its vocabulary is read in one go; otherwise it is put
        // into two generic trees first. Most vocabularies are of this kind.
        match serde_json::from_slice::<BpeTokenizer>(bytes) {
            Ok(tokenizer) => Ok(tokenizer.into()),
            Err(_) => Tokenizer::from_bytes(bytes),
        }
    }));
    parsed
        .unwrap_or_else(|_| Err("vocabulary and merges do not belong together".into()))
        .map_err(|error| Error::invalid_file(TOKENIZER_JSON, error))
}

fn from_sentencepiece_bytes(bytes: &[u8]) -> Result<Tokenizer> {
    let parsed = catch_unwind(AssertUnwindSafe(|| sentencepiece::build(bytes)));
    parsed.unwrap_or_else(|_| {
        let reason = "its map of characters is damaged";
        Err(Error::invalid_file("tokenizer.model", reason))
    })
}

/// Parses `vocab.json` and `merges.txt`.
fn parse_bpe(vocab_json: &[u8], merges_txt: &[u8]) -> Result<BPE> {
    const MERGES: &str = "merges.txt";
    let vocab: Vocab = serde_json::from_slice(vocab_json)
        .map_err(|error| Error::invalid_file("vocab.json", error))?;
    let text =
        std::str::from_utf8(merges_txt).map_err(|error| Error::invalid_file(MERGES, error))?;
    let mut merges = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.starts_with("#version") {
            continue;
        }
        let number = index + 1;
        let (left, right) = line
            .split_once(' ')
            .filter(|(_, right)| !right.contains(' '))
            .ok_or_else(|| {
                let reason = format!("line {number} must be two pieces with one space between");
                Error::invalid_file(MERGES, reason)
            })?;
        if !vocab.contains_key(&format!("{left}{right}")) {
            let reason = format!("line {number}: {left}{right} is not in vocab.json");
            return Err(Error::invalid_file(MERGES, reason));
        }
        merges.push((left.to_owned(), right.to_owned()));
    }
    BPE::builder()
        .vocab_and_merges(vocab, merges)
        .build()
        .map_err(|error| Error::invalid_file(MERGES, error))
}

/// Puts the class's pipeline in place of the stored one and forgets the added tokens.
fn replace_pipeline(
    backend: &mut Tokenizer,
    mut model: BPE,
    pipeline: Pipeline,
    settings: &Settings,
) -> Result<()> {
    model.dropout = None;
    model.ignore_merges = false;
    model.byte_fallback = pipeline.byte_fallback;
    model.fuse_unk = pipeline.byte_fallback;
    model.unk_token = (settings.class == TokenizerClass::Gemma)
        .then(|| settings.named_token("unk_token").map(str::to_owned))
        .flatten();
    backend
        .with_model(model)
        .with_added_vocabulary(AddedVocabulary::new());
    let normalizer = pipeline
        .normalizer
        .map(part::<NormalizerWrapper>)
        .transpose()?;
    backend
        .with_normalizer(normalizer)
        .map_err(|error| Error::invalid_file(TOKENIZER_JSON, error))?
        .with_pre_tokenizer(Some(part::<PreTokenizerWrapper>(pipeline.pre_tokenizer)?))
        .with_decoder(Some(part::<DecoderWrapper>(pipeline.decoder)?));
    Ok(())
}

fn part<T: DeserializeOwned>(notation: Value) -> Result<T> {
    serde_json::from_value(notation).map_err(|error| Error::invalid_file(TOKENIZER_JSON, error))
}

/// Adds, in this order: added tokens that are new or differ, by id; named special tokens; nameless
/// special tokens. Contents outside the vocabulary get the next free ids.
fn add_missing_tokens(
    backend: &mut Tokenizer,
    added_tokens: BTreeMap<u32, AddedToken>,
    settings: &Settings,
) -> Result<()> {
    let existing = backend.get_added_tokens_decoder();
    let known: Vec<&AddedToken> = existing.values().collect();
    let mut missing: Vec<AddedToken> = added_tokens
        .into_values()
        .filter(|token| !known.contains(&token))
        .collect();
    let named = settings.named_tokens.iter().map(|(_, token)| token);
    for token in named.clone().chain(&settings.extra_tokens) {
        let content = &token.content;
        let is_known = known.iter().any(|known| known.content == *content)
            || missing.iter().any(|added| added.content == *content);
        if !is_known {
            missing.push(token.clone());
        }
    }
    for token in &mut missing {
        token.special |= named.clone().any(|named| named.content == token.content);
    }
    backend
        .add_tokens(missing)
        .map(drop)
        .map_err(|error| Error::invalid_file("tokenizer_config.json", error))
}

/// Replaces the post-processor by one that puts `bos` in front and `eos` behind.
fn set_bos_and_eos(backend: &mut Tokenizer, bos: Option<&str>, eos: Option<&str>) -> Result<()> {
    let special = |token: &str| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let sequence = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let framed = |id| -> Vec<Value> {
        let front = bos.map(special);
        front
            .into_iter()
            .chain([sequence(id)])
            .chain(eos.map(special))
            .collect()
    };
    let pair = [framed("A"), framed("B")].concat();
    let mut special_tokens = serde_json::Map::new();
    for token in [bos, eos].into_iter().flatten() {
        let id = backend.token_to_id(token);
        special_tokens.insert(
            token.to_owned(),
            json!({"id": token, "ids": [id], "tokens": [token]}),
        );
    }
    let processor = part::<PostProcessorWrapper>(json!({
        "type": "TemplateProcessing",
        "single": framed("A"),
        "pair": pair,
        "special_tokens": special_tokens,
    }))?;
    backend.with_post_processor(Some(processor));
    Ok(())
}
