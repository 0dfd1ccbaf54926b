//! Vocabularies as SentencePiece writes them: `tokenizer.model`, a protocol buffer.
//!
//! Only what encoding and decoding need is read: the pieces, the kind of model and how text is
//! normalized.

mod proto;

use std::collections::HashMap;

use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::{Precompiled, Sequence};
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer};

use crate::error::{Error, Result};
use proto::{ModelProto, ModelType, Piece, PieceType};

const FILE: &str = "tokenizer.model";

/// Builds the pipeline that SentencePiece itself would run.
pub(crate) fn build(bytes: &[u8]) -> Result<Tokenizer> {
    let proto = ModelProto::parse(bytes).map_err(invalid)?;
    let byte_fallback = proto.byte_fallback;
    let unknown = proto
        .pieces
        .iter()
        .position(|piece| piece.kind == PieceType::Unknown);
    let mut tokenizer = match proto.model_type {
        ModelType::Bpe => {
            let mut model = BPE::builder()
                .vocab_and_merges(vocab(&proto.pieces)?, merges(&proto.pieces))
                .fuse_unk(true)
                .byte_fallback(byte_fallback);
            if let Some(unknown) = unknown.filter(|_| !byte_fallback) {
                model = model.unk_token(proto.pieces[unknown].text.clone());
            }
            Tokenizer::new(model.build().map_err(invalid)?)
        }
        ModelType::Unigram => {
            let scores = proto.pieces.iter();
            let scores = scores.map(|piece| (piece.text.clone(), f64::from(piece.score)));
            let model = Unigram::from(scores.collect(), unknown, byte_fallback);
            Tokenizer::new(model.map_err(invalid)?)
        }
        ModelType::Other(number) => {
            return Err(invalid(format!(
                "its model type {number} is not supported: only unigram (1) and BPE (2) are"
            )));
        }
    };
    tokenizer
        .with_normalizer(normalizer(&proto)?)
        .map_err(invalid)?
        .with_pre_tokenizer(Some(pre_tokenizer(&proto)?))
        .with_decoder(Some(decoder(&proto)?));
    let added = proto.pieces.iter().filter_map(|piece| match piece.kind {
        PieceType::Unknown | PieceType::Control => Some(AddedToken::from(&*piece.text, true)),
        PieceType::UserDefined => Some(AddedToken::from(&*piece.text, false)),
        _ => None,
    });
    let added = added.map(|token| token.normalized(false));
    tokenizer
        .add_tokens(added.collect::<Vec<_>>())
        .map_err(invalid)?;
    Ok(tokenizer)
}

fn invalid(reason: impl std::fmt::Display) -> Error {
    Error::invalid_file(FILE, reason)
}

fn vocab(pieces: &[Piece]) -> Result<Vocab> {
    let mut vocab = Vocab::default();
    for (id, piece) in (0..).zip(pieces) {
        if vocab.insert(piece.text.clone(), id).is_some() {
            return Err(invalid(format!(
                "the piece {:?} is there twice",
                piece.text
            )));
        }
    }
    Ok(vocab)
}

/// SentencePiece joins the neighbours whose joint piece has the best score, which is one list of
/// merges: all ways to cut a piece in two pieces, the best piece first.
fn merges(pieces: &[Piece]) -> Vec<(String, String)> {
    let ids: HashMap<&str, usize> = (0..)
        .zip(pieces)
        .map(|(id, piece)| (piece.text.as_str(), id))
        .collect();
    let mut merges: Vec<(f32, &str, &str)> = Vec::new();
    for piece in pieces.iter().filter(|piece| piece.can_be_merged()) {
        let cuts = piece.text.char_indices().skip(1);
        let parts = cuts.map(|(cut, _)| piece.text.split_at(cut));
        let mut known: Vec<_> = parts
            .filter_map(|(left, right)| Some((ids.get(left)?, ids.get(right)?, left, right)))
            .collect();
        known.sort_unstable();
        let known = known.into_iter();
        merges.extend(known.map(|(_, _, left, right)| (piece.score, left, right)));
    }
    // Of the ways to make the same piece transformers puts the one with the longest left part first.
    let lengths =
        |(_, left, right): &(f32, &str, &str)| (left.chars().count(), right.chars().count());
    merges.sort_by(|a, b| {
        let by_score = b.0.total_cmp(&a.0);
        by_score.then_with(|| lengths(b).cmp(&lengths(a)))
    });
    merges
        .into_iter()
        .map(|(_, left, right)| (left.to_owned(), right.to_owned()))
        .collect()
}

fn normalizer(proto: &ModelProto) -> Result<Option<NormalizerWrapper>> {
    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    if !proto.precompiled_charsmap.is_empty() {
        let map = Precompiled::from(&proto.precompiled_charsmap);
        steps.push(map.map_err(|e| invalid(format!("{e:?}")))?.into());
    }
    if proto.remove_extra_whitespaces {
        steps.push(part(
            json!({"type": "Strip", "strip_left": true, "strip_right": true}),
        )?);
        steps.push(part(
            json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}),
        )?);
    }
    Ok((!steps.is_empty()).then(|| Sequence::new(steps).into()))
}

fn pre_tokenizer(proto: &ModelProto) -> Result<PreTokenizerWrapper> {
    part(metaspace(proto))
}

fn decoder(proto: &ModelProto) -> Result<DecoderWrapper> {
    let mut decoders = Vec::new();
    if proto.byte_fallback {
        decoders.push(json!({"type": "ByteFallback"}));
    }
    decoders.push(metaspace(proto));
    part(json!({"type": "Sequence", "decoders": decoders}))
}

/// Pieces do not cross spaces in a unigram model; in a BPE model the merges decide.
fn metaspace(proto: &ModelProto) -> Value {
    let prepend_scheme = match proto.add_dummy_prefix {
        true => "always",
        false => "never",
    };
    json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": prepend_scheme,
        "split": proto.model_type == ModelType::Unigram})
}

fn part<T: serde::de::DeserializeOwned>(notation: Value) -> Result<T> {
    serde_json::from_value(notation).map_err(invalid)
}
