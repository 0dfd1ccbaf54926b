//! What the configuration files beside a vocabulary say, merged as `transformers` merges them.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use crate::class::TokenizerClass;
use crate::error::{Error, Result};
use crate::files::TokenizerFiles;

/// Special tokens that every tokenizer may name, in the order in which missing ones are added.
pub(crate) const NAMED_TOKENS: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

const EXTRA_TOKENS: &str = "extra_special_tokens";
const FORMER_EXTRA_TOKENS: &str = "additional_special_tokens";

/// The merged settings of one checkpoint.
pub(crate) struct Settings {
    /// `bos_token` and its like, in the order in which missing ones are added to the vocabulary.
    pub(crate) named_tokens: Vec<(String, AddedToken)>,
    /// Special tokens without a name.
    pub(crate) extra_tokens: Vec<AddedToken>,
    /// Added tokens with the ids they are meant to have, if the configuration lists them.
    pub(crate) added_tokens: BTreeMap<u32, AddedToken>,
    /// Whether `added_tokens` came from `added_tokens_decoder`, which then is the whole list.
    pub(crate) lists_all_added_tokens: bool,
    /// `add_bos_token` and `add_eos_token`, where given.
    pub(crate) add_bos_token: Option<bool>,
    pub(crate) add_eos_token: Option<bool>,
    pub(crate) add_prefix_space: Option<bool>,
    /// LLaMA's switch for the old treatment of spaces after special tokens.
    pub(crate) legacy: bool,
    /// Special tokens written in a text are split like ordinary text.
    pub(crate) split_special_tokens: bool,
    /// The `chat_template` entry as it stands.
    pub(crate) chat_template: Option<Value>,
    /// The parsed `config.json`, empty when there is none.
    pub(crate) model_config: Map<String, Value>,
    /// The class whose pipeline applies.
    pub(crate) class: TokenizerClass,
}

impl Settings {
    pub(crate) fn from_files(files: &TokenizerFiles<'_>) -> Result<Self> {
        let mut config = parse_object("tokenizer_config.json", files.tokenizer_config_json)?;
        let model_config = parse_object("config.json", files.config_json)?;

        let has_extra_tokens = config
            .get(EXTRA_TOKENS)
            .is_some_and(|tokens| !is_empty(tokens));
        if !has_extra_tokens && let Some(tokens) = config.remove(FORMER_EXTRA_TOKENS) {
            config.insert(EXTRA_TOKENS.to_owned(), tokens);
        }

        let lists_all_added_tokens = config.contains_key("added_tokens_decoder");
        let mut added_tokens = BTreeMap::new();
        if let Some(decoder) = config.remove("added_tokens_decoder") {
            added_tokens = parse_added_tokens_decoder(&decoder)?;
        } else {
            let map = parse_object("special_tokens_map.json", files.special_tokens_map_json)?;
            merge_special_tokens_map(&mut config, map);
        }

        let class = TokenizerClass::resolve(
            text_entry(&config, "tokenizer_class")
                .or_else(|| text_entry(&model_config, "tokenizer_class")),
            text_entry(&model_config, "model_type"),
            files.tokenizer_json,
        );
        let flag = |key: &str| config.get(key).and_then(Value::as_bool);
        let mut settings = Self {
            named_tokens: named_tokens(&config),
            extra_tokens: extra_tokens(&config),
            added_tokens,
            lists_all_added_tokens,
            add_bos_token: flag("add_bos_token"),
            add_eos_token: flag("add_eos_token"),
            add_prefix_space: flag("add_prefix_space"),
            legacy: flag("legacy").unwrap_or(false),
            split_special_tokens: flag("split_special_tokens").unwrap_or(false),
            chat_template: config
                .get("chat_template")
                .filter(|t| !t.is_null())
                .cloned(),
            model_config,
            class,
        };
        if !lists_all_added_tokens {
            let is_special = |content: &str| {
                let named = settings.named_tokens.iter().map(|(_, token)| token);
                // Special tokens under the former key of special_tokens_map.json come too late.
                let extra = settings
                    .extra_tokens
                    .iter()
                    .filter(|_| config.contains_key(EXTRA_TOKENS));
                named.chain(extra).any(|token| token.content == content)
            };
            settings.added_tokens = parse_added_tokens(files.added_tokens_json, is_special)?;
        }
        // Names that the configuration sets to null stay unset; the others take the class's default.
        for (name, content) in class.default_tokens() {
            if !config.contains_key(*name) {
                settings
                    .named_tokens
                    .push(((*name).to_owned(), AddedToken::from(*content, true)));
            }
        }
        settings.named_tokens.sort_by_key(|(name, _)| {
            NAMED_TOKENS
                .iter()
                .position(|known| known == name)
                .unwrap_or(NAMED_TOKENS.len())
        });
        Ok(settings)
    }

    /// The content of the special token called `name`, such as `bos_token`.
    pub(crate) fn named_token(&self, name: &str) -> Option<&str> {
        let token = self.named_tokens.iter().find(|(known, _)| known == name);
        token.map(|(_, token)| token.content.as_str())
    }
}

fn is_empty(tokens: &Value) -> bool {
    match tokens {
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => true,
    }
}

fn text_entry<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    object.get(key).and_then(Value::as_str)
}

/// Parses a file that must hold a JSON object; a file that is not there is an empty one.
fn parse_object(file: &'static str, bytes: Option<&[u8]>) -> Result<Map<String, Value>> {
    let Some(bytes) = bytes else {
        return Ok(Map::new());
    };
    serde_json::from_slice(bytes).map_err(|error| Error::invalid_file(file, error))
}

fn parse_added_tokens_decoder(decoder: &Value) -> Result<BTreeMap<u32, AddedToken>> {
    let invalid = |reason: String| Error::invalid_file("tokenizer_config.json", reason);
    let entries = decoder
        .as_object()
        .ok_or_else(|| invalid("added_tokens_decoder must map ids to tokens".to_owned()))?;
    let mut tokens = BTreeMap::new();
    for (id, token) in entries {
        let parsed_id = id
            .parse::<u32>()
            .map_err(|_| invalid(format!("added_tokens_decoder: {id:?} is not a token id")))?;
        let parsed_token = token
            .is_object()
            .then(|| parse_token(token, false))
            .flatten()
            .ok_or_else(|| invalid(format!("added_tokens_decoder: token {id} has no content")))?;
        tokens.insert(parsed_id, parsed_token);
    }
    Ok(tokens)
}

/// `added_tokens.json` holds only contents and ids; a token is special if it is known as one.
fn parse_added_tokens(
    bytes: Option<&[u8]>,
    is_special: impl Fn(&str) -> bool,
) -> Result<BTreeMap<u32, AddedToken>> {
    const FILE: &str = "added_tokens.json";
    let mut tokens = BTreeMap::new();
    for (content, id) in parse_object(FILE, bytes)? {
        let parsed_id = id
            .as_u64()
            .and_then(|id| u32::try_from(id).ok())
            .ok_or_else(|| {
                Error::invalid_file(FILE, format!("the id of {content:?} must be a token id"))
            })?;
        let special = is_special(&content);
        tokens.insert(parsed_id, AddedToken::from(content, special));
    }
    Ok(tokens)
}

/// `special_tokens_map.json` overrides the tokenizer configuration, except that its nameless
/// tokens join those already there.
fn merge_special_tokens_map(config: &mut Map<String, Value>, map: Map<String, Value>) {
    for (name, mut value) in map {
        if let Value::Object(token) = &mut value {
            token.insert("special".to_owned(), Value::Bool(true));
        }
        if name == EXTRA_TOKENS
            && let (Some(Value::Array(known)), Value::Array(more)) =
                (config.get_mut(&name), &mut value)
        {
            more.retain(|token| !known.contains(token));
            known.append(more);
            continue;
        }
        config.insert(name, value);
    }
}

/// Every `*_token` entry that holds a token, and the entries of a named `extra_special_tokens`.
fn named_tokens(config: &Map<String, Value>) -> Vec<(String, AddedToken)> {
    let extra = config
        .get("extra_special_tokens")
        .and_then(Value::as_object);
    config
        .iter()
        .filter(|(name, _)| name.ends_with("_token"))
        .chain(extra.into_iter().flatten())
        .filter_map(|(name, value)| Some((name.clone(), parse_token(value, true)?)))
        .collect()
}

/// The nameless special tokens, under their present or, where that is missing, their former key.
fn extra_tokens(config: &Map<String, Value>) -> Vec<AddedToken> {
    let tokens = config
        .get(EXTRA_TOKENS)
        .or_else(|| config.get(FORMER_EXTRA_TOKENS));
    let tokens = tokens.and_then(Value::as_array).into_iter().flatten();
    tokens
        .filter_map(|value| parse_token(value, true))
        .collect()
}

/// A token written as a string or as an object with `content` and flags. A token that does not
/// say whether it is normalized is, unless it says that it is special.
fn parse_token(value: &Value, special_role: bool) -> Option<AddedToken> {
    if let Some(content) = value.as_str() {
        return Some(AddedToken::from(content, special_role));
    }
    let content = value.get("content")?.as_str()?;
    let flag = |key: &str| value.get(key).and_then(Value::as_bool);
    let special = flag("special").unwrap_or(false);
    Some(
        AddedToken::from(content, special || special_role)
            .single_word(flag("single_word").unwrap_or(false))
            .lstrip(flag("lstrip").unwrap_or(false))
            .rstrip(flag("rstrip").unwrap_or(false))
            .normalized(flag("normalized").unwrap_or(!special)),
    )
}
