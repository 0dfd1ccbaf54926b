use std::collections::HashMap;

use serde_json::{Map, Value as Json, json};

use crate::metadata::metadata_error;
use crate::{Checkpoint, Error, Metadata, Result};

/// Kinds of tokens.
pub(crate) const NORMAL: u64 = 1;
pub(crate) const UNKNOWN: u64 = 2;
pub(crate) const CONTROL: u64 = 3;
pub(crate) const USER_DEFINED: u64 = 4;
pub(crate) const UNUSED: u64 = 5;
pub(crate) const BYTE: u64 = 6;

/// Words of Llama 3: contractions, words with one leading mark, up to three digits, punctuation, line
/// ends, other space.
pub(crate) const LLAMA3_WORD: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The same with single digits: Qwen 2.
pub(crate) const QWEN2_WORD: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Mistral's Tekken: words change where capitals begin, single digits.
pub(crate) const TEKKEN_WORD: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// GPT-4o and Phi-4-mini: as Tekken, with contractions and up to three digits.
pub(crate) const GPT4O_WORD: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How a byte-level vocabulary cuts text into words, by `tokenizer.ggml.pre`.
enum Words {
    Gpt2,
    Gpt2SingleDigits,
    Pattern {
        pattern: &'static str,
        composed: bool,
    },
}

/// Rules of vocabularies that take a word which they have as a whole.
const TAKES_WHOLE_WORDS: [&str; 4] = ["llama3", "llama-v3", "llama-bpe", "tekken"];

fn words(pre: &str) -> Option<Words> {
    let pattern = |pattern| {
        Some(Words::Pattern {
            pattern,
            composed: false,
        })
    };
    match pre {
        "default" | "gpt-2" | "phi-2" | "olmo" | "jina-en" | "exaone" => Some(Words::Gpt2),
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => {
            Some(Words::Gpt2SingleDigits)
        }
        "llama3" | "llama-v3" | "llama-bpe" | "falcon3" | "pixtral" | "dbrx" | "smaug-bpe"
        | "lfm2" => pattern(LLAMA3_WORD),
        "qwen2" | "deepseek-r1-qwen" | "megrez" => Some(Words::Pattern {
            pattern: QWEN2_WORD,
            composed: true,
        }),
        "stablelm2" | "hunyuan" => pattern(QWEN2_WORD),
        "tekken" => pattern(TEKKEN_WORD),
        "gpt-4o" | "llama4" => pattern(GPT4O_WORD),
        _ => None,
    }
}

/// The text of token `id`.
pub(super) fn token_text<'a>(tokens: &[&'a str], id: u64) -> Option<&'a str> {
    tokens.get(usize::try_from(id).ok()?).copied()
}

/// The vocabulary as a file holds it.
struct Vocabulary<'a> {
    metadata: &'a Metadata,
    tokens: Vec<&'a str>,
    kinds: Vec<u64>,
}

impl<'a> Vocabulary<'a> {
    fn read(metadata: &'a Metadata) -> Result<Self> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        const KINDS: &str = "tokenizer.ggml.token_type";
        let tokens = metadata.texts(TOKENS)?.ok_or_else(|| {
            Error::UnsupportedTokenizer("the GGUF file has no vocabulary".to_owned())
        })?;
        let kinds = match metadata.list(KINDS)? {
            None => vec![NORMAL; tokens.len()],
            Some(kinds) => kinds
                .iter()
                .map(crate::Value::as_u64)
                .collect::<Option<Vec<_>>>()
                .filter(|kinds| kinds.len() == tokens.len())
                .ok_or_else(|| metadata_error(KINDS, "does not list a kind for each token"))?,
        };
        Ok(Self {
            metadata,
            tokens,
            kinds,
        })
    }

    /// A special token by its key, such as `bos`.
    fn named(&self, key: &str) -> Result<Option<(u64, &'a str)>> {
        let id = self
            .metadata
            .size(&format!("tokenizer.ggml.{key}_token_id"))?;
        Ok(id.and_then(|id| Some((id, token_text(&self.tokens, id)?))))
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.metadata.flag(&format!("tokenizer.ggml.{key}"))
    }

    /// The tokens that are found in a text before anything else.
    fn added_tokens(&self) -> Vec<Json> {
        let with_kinds = self.tokens.iter().zip(&self.kinds).enumerate();
        with_kinds
            .filter(|(_, (_, kind))| matches!(**kind, UNKNOWN | CONTROL | USER_DEFINED))
            .map(|(id, (token, kind))| {
                json!({
                    "id": id,
                    "content": token,
                    "single_word": false,
                    "lstrip": false,
                    "rstrip": false,
                    "normalized": false,
                    "special": *kind != USER_DEFINED,
                })
            })
            .collect()
    }

    /// Tokens with their ids. Those that fill up the embeddings stand for no text.
    fn ids(&self) -> Json {
        let with_kinds = self.tokens.iter().zip(&self.kinds).enumerate();
        let ids: Map<String, Json> = with_kinds
            .filter(|(_, (_, kind))| **kind != UNUSED)
            .map(|(id, (token, _))| ((*token).to_owned(), json!(id)))
            .collect();
        Json::Object(ids)
    }
}

/// The `tokenizer.json` of a Hugging Face checkpoint of the same model.
///
/// # Errors
/// No vocabulary, one of a kind that is not read, or metadata that makes no sense.
pub fn tokenizer_json(checkpoint: &Checkpoint) -> Result<Json> {
    let vocabulary = Vocabulary::read(checkpoint.metadata())?;
    let kind = checkpoint
        .metadata()
        .text("tokenizer.ggml.model")?
        .unwrap_or_default();
    let mut tokenizer = match kind {
        "gpt2" => byte_level(&vocabulary)?,
        "llama" => sentence_pieces(&vocabulary)?,
        other => {
            return Err(Error::UnsupportedTokenizer(format!(
                "the GGUF file's vocabulary is of kind '{other}', which is not supported; \
                 supported: gpt2, llama"
            )));
        }
    };
    tokenizer["version"] = json!("1.0");
    tokenizer["truncation"] = Json::Null;
    tokenizer["padding"] = Json::Null;
    tokenizer["added_tokens"] = json!(vocabulary.added_tokens());
    tokenizer["post_processor"] = post_processor(&vocabulary, kind)?;
    Ok(tokenizer)
}

/// Which tokens stand around a text.
fn post_processor(vocabulary: &Vocabulary<'_>, kind: &str) -> Result<Json> {
    // Sentence pieces, Llama 3 and Tekken begin with a token where nothing is said.
    let pre = vocabulary
        .metadata
        .text("tokenizer.ggml.pre")?
        .unwrap_or_default();
    let begins = kind == "llama" || TAKES_WHOLE_WORDS.contains(&pre);
    let add_bos = vocabulary.flag("add_bos_token")?.unwrap_or(begins);
    let add_eos = vocabulary.flag("add_eos_token")?.unwrap_or(false);
    let bos = vocabulary.named("bos")?.filter(|_| add_bos);
    let eos = vocabulary.named("eos")?.filter(|_| add_eos);
    if bos.is_none() && eos.is_none() {
        let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false,
            "use_regex": false});
        return Ok(if kind == "gpt2" {
            byte_level
        } else {
            Json::Null
        });
    }
    let special = |(_, token): (u64, &str)| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let framed = |sequence: &str| -> Vec<Json> {
        let text = json!({"Sequence": {"id": sequence, "type_id": 0}});
        let front = bos.map(special).into_iter();
        front.chain([text]).chain(eos.map(special)).collect()
    };
    let pair = [framed("A"), framed("B")].concat();
    let mut special_tokens = Map::new();
    for (id, token) in bos.into_iter().chain(eos) {
        let entry = json!({"id": token, "ids": [id], "tokens": [token]});
        special_tokens.insert(token.to_owned(), entry);
    }
    Ok(json!({
        "type": "TemplateProcessing",
        "single": framed("A"),
        "pair": pair,
        "special_tokens": special_tokens,
    }))
}

/// Byte-level BPE with merges.
fn byte_level(vocabulary: &Vocabulary<'_>) -> Result<Json> {
    const MERGES: &str = "tokenizer.ggml.merges";
    let merges = vocabulary
        .metadata
        .texts(MERGES)?
        .ok_or_else(|| metadata_error(MERGES, "is missing"))?;
    let pairs = merges.iter().map(|merge| {
        // A piece may hold spaces only where it begins with one.
        let cut = merge
            .char_indices()
            .skip(1)
            .find(|(_, char)| *char == ' ')?
            .0;
        Some([&merge[..cut], &merge[cut + 1..]])
    });
    let pairs: Vec<_> = pairs
        .collect::<Option<_>>()
        .ok_or_else(|| metadata_error(MERGES, "holds a merge that is not two pieces"))?;
    let pre = vocabulary
        .metadata
        .text("tokenizer.ggml.pre")?
        .unwrap_or("default");
    let words = words(pre).ok_or_else(|| {
        Error::UnsupportedTokenizer(format!(
            "the GGUF file cuts text into words by rule '{pre}', which is not known"
        ))
    })?;
    let bytes = |use_regex: bool| {
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false,
            "use_regex": use_regex})
    };
    let (normalizer, pre_tokenizer) = match words {
        Words::Gpt2 => (Json::Null, bytes(true)),
        Words::Gpt2SingleDigits => {
            let digits = json!({"type": "Digits", "individual_digits": true});
            (
                Json::Null,
                json!({"type": "Sequence", "pretokenizers": [digits, bytes(true)]}),
            )
        }
        Words::Pattern { pattern, composed } => {
            let split = json!({"type": "Split", "pattern": {"Regex": pattern},
                "behavior": "Isolated", "invert": false});
            let normalizer = if composed {
                json!({"type": "NFC"})
            } else {
                Json::Null
            };
            (
                normalizer,
                json!({"type": "Sequence", "pretokenizers": [split, bytes(false)]}),
            )
        }
    };
    Ok(json!({
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "decoder": bytes(true),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": TAKES_WHOLE_WORDS.contains(&pre),
            "vocab": vocabulary.ids(),
            "merges": pairs,
        },
    }))
}

/// Pieces of SentencePiece's BPE: merges follow from the scores, spaces are `▁`, and bytes are the last
/// resort.
fn sentence_pieces(vocabulary: &Vocabulary<'_>) -> Result<Json> {
    const SCORES: &str = "tokenizer.ggml.scores";
    let scores: Vec<f64> = vocabulary
        .metadata
        .list(SCORES)?
        .and_then(|scores| {
            scores
                .iter()
                .map(crate::Value::as_f64)
                .collect::<Option<_>>()
        })
        .filter(|scores: &Vec<f64>| scores.len() == vocabulary.tokens.len())
        .ok_or_else(|| metadata_error(SCORES, "does not list a number for each token"))?;
    let add_prefix = vocabulary.flag("add_space_prefix")?.unwrap_or(true);
    let mut normalizers = Vec::new();
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if add_prefix {
        normalizers.push(json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    normalizers.push(json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}));
    let unknown = vocabulary.kinds.iter().position(|kind| *kind == UNKNOWN);
    Ok(json!({
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": unknown.map(|id| vocabulary.tokens[id]),
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": true,
            "ignore_merges": false,
            "vocab": vocabulary.ids(),
            "merges": merges_by_score(vocabulary, &scores),
        },
    }))
}

/// The longest piece, in bytes, that is looked at for merges; published ones stay far below.
const MAX_PIECE: usize = 256;

/// Every way to make a piece of two others, the best piece first; of one piece, by the ids of its parts.
fn merges_by_score<'a>(vocabulary: &Vocabulary<'a>, scores: &[f64]) -> Vec<[&'a str; 2]> {
    let is_piece = |id: usize| !matches!(vocabulary.kinds[id], CONTROL | UNKNOWN);
    let ids: HashMap<&str, usize> = vocabulary
        .tokens
        .iter()
        .enumerate()
        .filter(|(id, _)| is_piece(*id))
        .map(|(id, token)| (*token, id))
        .collect();
    let mut merges = Vec::new();
    for (id, piece) in vocabulary.tokens.iter().enumerate() {
        if !is_piece(id) || piece.len() > MAX_PIECE || ids.get(piece) != Some(&id) {
            continue;
        }
        for (cut, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(cut);
            if let (Some(left_id), Some(right_id)) = (ids.get(left), ids.get(right)) {
                merges.push((id, *left_id, *right_id, [left, right]));
            }
        }
    }
    merges.sort_by(
        |(id, left, right, _), (other_id, other_left, other_right, _)| {
            scores[*other_id]
                .total_cmp(&scores[*id])
                .then_with(|| (id, left, right).cmp(&(other_id, other_left, other_right)))
        },
    );
    merges.into_iter().map(|(.., parts)| parts).collect()
}

/// The `tokenizer_config.json`: special tokens and chat templates.
///
/// # Errors
/// Metadata that makes no sense.
pub fn tokenizer_config_json(checkpoint: &Checkpoint) -> Result<Json> {
    let metadata = checkpoint.metadata();
    let vocabulary = Vocabulary::read(metadata)?;
    let mut config = Map::new();
    // The pipeline is the one of tokenizer.json, not one that goes with a model's type.
    config.insert(
        "tokenizer_class".to_owned(),
        json!("PreTrainedTokenizerFast"),
    );
    for (key, names) in [
        ("bos_token", &["bos"][..]),
        ("eos_token", &["eos"]),
        ("unk_token", &["unknown"]),
        ("pad_token", &["padding"]),
    ] {
        let mut token = Json::Null;
        for name in names {
            if let Some((_, text)) = vocabulary.named(name)? {
                token = json!(text);
            }
        }
        config.insert(key.to_owned(), token);
    }
    let mut templates = Vec::new();
    if let Some(template) = metadata.text("tokenizer.chat_template")? {
        templates.push(json!({"name": "default", "template": template}));
    }
    for name in metadata
        .texts("tokenizer.chat_templates")?
        .unwrap_or_default()
    {
        if let Some(template) = metadata.text(&format!("tokenizer.chat_template.{name}"))? {
            templates.push(json!({"name": name, "template": template}));
        }
    }
    match &templates[..] {
        [] => {}
        [only] if only["name"] == "default" => {
            config.insert("chat_template".to_owned(), only["template"].clone());
        }
        _ => {
            config.insert("chat_template".to_owned(), Json::Array(templates));
        }
    }
    Ok(Json::Object(config))
}
