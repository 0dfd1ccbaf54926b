use std::collections::HashMap;

use serde_json::Value as Json;

use super::not_written;
use crate::hugging_face::{
    BYTE, CONTROL, GPT4O_WORD, LLAMA3_WORD, NORMAL, QWEN2_WORD, TEKKEN_WORD, UNKNOWN, UNUSED,
    USER_DEFINED,
};
use crate::{Result, Value};

/// What a Hugging Face checkpoint says of its tokenizer; `Null` for a file that is not there.
#[derive(Debug, Clone, Copy)]
pub struct TokenizerFiles<'a> {
    /// `tokenizer.json`.
    pub tokenizer: &'a Json,
    /// `tokenizer_config.json`.
    pub config: &'a Json,
    /// Chat templates by name; the usual one is `default`.
    pub chat_templates: &'a [(String, String)],
    /// Tokens that end a text, by id, the first one the usual one.
    pub ends: &'a [u64],
    /// Rows of the embeddings.
    pub vocab_size: usize,
}

/// The keys and values of a vocabulary.
///
/// # Errors
/// A kind of tokenizer that GGUF files are not written of, or one that does not fit the embeddings.
pub fn tokenizer_metadata(files: &TokenizerFiles<'_>) -> Result<Vec<(String, Value)>> {
    let vocabulary = Vocabulary::read(files)?;
    let mut metadata = Vec::new();
    let mut put = |key: &str, value: Value| {
        metadata.push((format!("tokenizer.{key}"), value));
    };
    let model = &files.tokenizer["model"];
    if model["byte_fallback"] == true {
        put("ggml.model", text("llama"));
        put("ggml.pre", text("default"));
        put("ggml.scores", vocabulary.scores(&merges(model)?));
        let prefixes = adds_space_prefix(files.tokenizer);
        put("ggml.add_space_prefix", Value::Bool(prefixes));
    } else {
        put("ggml.model", text("gpt2"));
        put("ggml.pre", text(word_rule(files.tokenizer)?));
        let merges = merges(model)?;
        let merges = merges.iter().map(|(left, right)| format!("{left} {right}"));
        put("ggml.merges", texts(merges));
    }
    put("ggml.tokens", texts(vocabulary.tokens.iter().cloned()));
    let kinds = vocabulary.kinds.iter().map(|kind| *kind as i64);
    put(
        "ggml.token_type",
        Value::Array(kinds.map(Value::Signed).collect()),
    );

    let (front, behind) = framing(files.tokenizer);
    put("ggml.add_bos_token", Value::Bool(front.is_some()));
    put("ggml.add_eos_token", Value::Bool(behind.is_some()));
    let named = |key: &str| {
        let token = &files.config[key];
        token.as_str().or(token["content"].as_str())
    };
    for (key, token) in [
        ("bos", front.or(named("bos_token"))),
        ("unknown", named("unk_token")),
        ("padding", named("pad_token")),
    ] {
        if let Some(id) = token.and_then(|token| vocabulary.ids.get(token)) {
            put(&format!("ggml.{key}_token_id"), Value::Unsigned(*id));
        }
    }
    let eos = behind.or(named("eos_token"));
    let eos = eos.and_then(|token| vocabulary.ids.get(token)).copied();
    let others = files.ends.iter().copied().filter(|id| Some(*id) != eos);
    let ends = eos.into_iter().chain(others);
    // More than three kinds of ends have no key; readers know the usual ones by their text.
    for (key, id) in ["eos", "eot", "eom"].into_iter().zip(ends) {
        put(&format!("ggml.{key}_token_id"), Value::Unsigned(id));
    }
    let mut names = Vec::new();
    for (name, template) in files.chat_templates {
        if name == "default" {
            put("chat_template", text(template));
        } else {
            put(&format!("chat_template.{name}"), text(template));
            names.push(name.clone());
        }
    }
    if !names.is_empty() {
        put("chat_templates", texts(names.into_iter()));
    }
    Ok(metadata)
}

struct Vocabulary<'a> {
    tokens: Vec<String>,
    kinds: Vec<u64>,
    ids: HashMap<&'a str, u64>,
}

impl<'a> Vocabulary<'a> {
    fn read(files: &TokenizerFiles<'a>) -> Result<Self> {
        let model = &files.tokenizer["model"];
        let kind = model["type"].as_str().unwrap_or("BPE");
        let vocab = model["vocab"].as_object();
        let (Some(vocab), "BPE") = (vocab, kind) else {
            return Err(not_written(format!(
                "its tokenizer is of kind {kind}; supported: BPE"
            )));
        };
        let mut tokens = vec![None; files.vocab_size];
        let mut kinds = vec![UNUSED; files.vocab_size];
        let mut ids = HashMap::new();
        let mut put = |token: &'a str, id: &Json, kind: u64| {
            let id = id.as_u64().filter(|id| *id < files.vocab_size as u64);
            let Some(id) = id else {
                return Err(not_written(format!(
                    "token '{token}' has no row among the {} of the embeddings",
                    files.vocab_size
                )));
            };
            tokens[id as usize] = Some(token.to_owned());
            kinds[id as usize] = kind;
            ids.insert(token, id);
            Ok(())
        };
        let unknown = model["unk_token"].as_str();
        let has_bytes = model["byte_fallback"] == true;
        for (token, id) in vocab {
            let kind = match token.as_str() {
                token if Some(token) == unknown => UNKNOWN,
                token if has_bytes && is_byte(token) => BYTE,
                _ => NORMAL,
            };
            put(token, id, kind)?;
        }
        for added in files.tokenizer["added_tokens"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let Some(token) = added["content"].as_str() else {
                continue;
            };
            let kind = match added["special"] == true {
                _ if Some(token) == unknown => UNKNOWN,
                true => CONTROL,
                false => USER_DEFINED,
            };
            put(token, &added["id"], kind)?;
        }
        let tokens = tokens.into_iter().enumerate();
        // Embeddings may have more rows than there are tokens.
        let named = tokens.map(|(id, token)| token.unwrap_or_else(|| format!("[PAD{id}]")));
        Ok(Self {
            tokens: named.collect(),
            kinds,
            ids,
        })
    }

    /// SentencePiece's scores by what merges say: the earlier a piece is made, the better it is.
    fn scores(&self, merges: &[(&str, &str)]) -> Value {
        let mut scores = vec![-(merges.len() as f64) - 1.0; self.tokens.len()];
        let mut piece = String::new();
        for (rank, (left, right)) in merges.iter().enumerate().rev() {
            piece.clear();
            piece.extend([*left, *right]);
            if let Some(id) = self.ids.get(piece.as_str()) {
                scores[*id as usize] = -(rank as f64);
            }
        }
        Value::Array(scores.into_iter().map(Value::Float).collect())
    }
}

/// `<0x0A>`.
fn is_byte(token: &str) -> bool {
    let digits = token
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// Merges come as pairs or as text with a space between.
fn merges(model: &Json) -> Result<Vec<(&str, &str)>> {
    let list = model["merges"].as_array().map_or(&[][..], Vec::as_slice);
    let merges = list.iter().map(|merge| match merge {
        Json::String(text) => text.split_once(' '),
        merge => Some((merge[0].as_str()?, merge[1].as_str()?)),
    });
    let merges: Option<Vec<_>> = merges.collect();
    merges.ok_or_else(|| not_written("tokenizer.json holds a merge that is not two pieces".into()))
}

/// The name of the rule by which text is cut into words.
fn word_rule(tokenizer: &Json) -> Result<&'static str> {
    let cutter = &tokenizer["pre_tokenizer"];
    let steps = match cutter["pretokenizers"].as_array() {
        Some(steps) => steps.as_slice(),
        None => std::slice::from_ref(cutter),
    };
    let kind = |step: &Json| step["type"].as_str().unwrap_or_default().to_owned();
    let kinds: Vec<String> = steps.iter().map(kind).collect();
    let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
    let has_prefix = steps.iter().any(|step| step["add_prefix_space"] == true);
    let takes_whole_words = tokenizer["model"]["ignore_merges"] == true;
    let rule = match kinds[..] {
        ["ByteLevel"] if steps[0]["use_regex"] != false && !takes_whole_words => Some("gpt-2"),
        ["Digits", "ByteLevel"] if !takes_whole_words => Some("smollm"),
        ["Split", "ByteLevel"] => {
            let pattern = steps[0]["pattern"]["Regex"].as_str().unwrap_or_default();
            let composes = tokenizer["normalizer"]["type"] == "NFC";
            match (pattern, takes_whole_words, composes) {
                (LLAMA3_WORD, true, false) => Some("llama-bpe"),
                (LLAMA3_WORD, false, false) => Some("smaug-bpe"),
                (QWEN2_WORD, false, true) => Some("qwen2"),
                (QWEN2_WORD, false, false) => Some("stablelm2"),
                (TEKKEN_WORD, true, false) => Some("tekken"),
                (GPT4O_WORD, false, false) => Some("gpt-4o"),
                _ => None,
            }
        }
        _ => None,
    };
    rule.filter(|_| !has_prefix).ok_or_else(|| {
        not_written(
            "its tokenizer cuts text into words in a way that has no name in GGUF; supported: \
             those of GPT-2, SmolLM, Llama 3, Qwen 2, StableLM 2, Tekken and GPT-4o"
                .to_owned(),
        )
    })
}

/// Whether a text that does not begin with a space is taken as if it did.
fn adds_space_prefix(tokenizer: &Json) -> bool {
    let normalizer = &tokenizer["normalizer"];
    let steps = normalizer["normalizers"].as_array();
    let mut steps = steps.into_iter().flatten().chain([normalizer]);
    let cutter = &tokenizer["pre_tokenizer"];
    steps.any(|step| step["type"] == "Prepend")
        || (cutter["type"] == "Metaspace" && cutter["prepend_scheme"] != "never")
}

/// The tokens that are put before and behind a text.
fn framing(tokenizer: &Json) -> (Option<&str>, Option<&str>) {
    let processor = &tokenizer["post_processor"];
    let steps = processor["processors"].as_array();
    let mut steps = steps.into_iter().flatten().chain([processor]);
    let template = steps.find(|step| step["type"] == "TemplateProcessing");
    let pieces = template.and_then(|template| template["single"].as_array());
    let pieces = pieces.map_or(&[][..], Vec::as_slice);
    let is_text = |piece: &Json| piece["Sequence"].is_object();
    let Some(place) = pieces.iter().position(is_text) else {
        return (None, None);
    };
    let token_at = |index: Option<usize>| -> Option<&str> {
        pieces.get(index?)?["SpecialToken"]["id"].as_str()
    };
    (token_at(place.checked_sub(1)), token_at(Some(place + 1)))
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn texts(texts: impl Iterator<Item = String>) -> Value {
    Value::Array(texts.map(Value::String).collect())
}
