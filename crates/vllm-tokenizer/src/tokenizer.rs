//! The tokenizer of a checkpoint.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

use serde_json::Value;
use tokenizers::tokenizer::PostProcessor;
use tokenizers::{AddedToken, TruncationDirection};

use crate::backend;
use crate::chat_templates::ChatTemplates;
use crate::error::{Error, Result};
use crate::files::TokenizerFiles;
use crate::placeholder;
use crate::settings::Settings;

/// Turns text into token ids and back, exactly as `transformers` does for the same checkpoint.
///
/// Shared by all requests behind an `Arc`; no method needs exclusive access.
#[derive(Debug)]
pub struct Tokenizer {
    backend: tokenizers::Tokenizer,
    added_tokens: HashMap<u32, AddedToken>,
    special_tokens: BTreeMap<String, String>,
    bos_token_id: Option<u32>,
    eos_token_id: Option<u32>,
    pad_token_id: Option<u32>,
    unk_token_id: Option<u32>,
    chat_templates: ChatTemplates,
    extent: OnceLock<VocabularyExtent>,
}

/// Which end of a text that is too long is cut off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TruncationSide {
    /// Drop the beginning and keep the end: the default for generation.
    #[default]
    Left,
    /// Drop the end and keep the beginning: the default for pooling.
    Right,
}

/// Sizes that need a pass over the whole vocabulary.
#[derive(Clone, Copy, Debug)]
struct VocabularyExtent {
    max_token_id: u32,
    max_chars_per_token: usize,
}

impl Tokenizer {
    /// Builds the tokenizer of a checkpoint.
    ///
    /// Special tokens come from `tokenizer_config.json` and, where that does not list its added
    /// tokens, `special_tokens_map.json` and `added_tokens.json`; ids in `config.json` fill in for
    /// bos, eos and pad tokens that none of them names.
    ///
    /// # Errors
    ///
    /// [`Error::MissingVocabulary`] without a usable vocabulary, [`Error::InvalidFile`] for a file
    /// that cannot be understood.
    pub fn from_files(files: &TokenizerFiles<'_>) -> Result<Self> {
        let settings = Settings::from_files(files)?;
        let backend = backend::build(files, &settings)?;
        let chat_templates = ChatTemplates::new(files, settings.chat_template.as_ref())?;
        let special_id = |name: &str| {
            let named = settings
                .named_token(name)
                .and_then(|token| backend.token_to_id(token));
            named.or_else(|| first_id(settings.model_config.get(&format!("{name}_id"))?))
        };
        Ok(Self {
            bos_token_id: special_id("bos_token"),
            eos_token_id: special_id("eos_token"),
            pad_token_id: special_id("pad_token"),
            unk_token_id: special_id("unk_token"),
            added_tokens: backend.get_added_tokens_decoder().into_iter().collect(),
            special_tokens: settings
                .named_tokens
                .into_iter()
                .map(|(name, token)| (name, token.content))
                .collect(),
            chat_templates,
            extent: OnceLock::new(),
            backend,
        })
    }

    /// A tokenizer for a model that has none, to measure its speed: `vocab_size` ids, of which the
    /// first 256 are bytes and the others made-up words.
    ///
    /// Ids of bos, eos and pad come from `config_json`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidFile`] for a `config_json` that cannot be understood.
    pub fn placeholder(vocab_size: usize, config_json: Option<&[u8]>) -> Result<Self> {
        Self::from_files(&TokenizerFiles {
            tokenizer_json: Some(&placeholder::tokenizer_json(vocab_size)),
            config_json,
            ..TokenizerFiles::default()
        })
    }

    /// The ids of `text`, with the checkpoint's bos and eos tokens if `add_special_tokens`.
    ///
    /// Special tokens written in the text become their ids either way.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let encoding = self
            .backend
            .encode_fast(text, add_special_tokens)
            .map_err(encode_error)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Like [`encode`](Self::encode), but at most `max_tokens` ids: text is cut off at `side`, the
    /// added bos and eos tokens stay.
    pub fn encode_truncated(
        &self,
        text: &str,
        add_special_tokens: bool,
        max_tokens: usize,
        side: TruncationSide,
    ) -> Result<Vec<u32>> {
        let mut encoding = self
            .backend
            .encode_fast(text, false)
            .map_err(encode_error)?;
        let num_added = match self.backend.get_post_processor() {
            Some(processor) if add_special_tokens => processor.added_tokens(false),
            _ => 0,
        };
        let direction = match side {
            TruncationSide::Left => TruncationDirection::Left,
            TruncationSide::Right => TruncationDirection::Right,
        };
        encoding.truncate(max_tokens.saturating_sub(num_added), 0, direction);
        let encoding = self
            .backend
            .post_process(encoding, None, add_special_tokens)
            .map_err(encode_error)?;
        let mut ids = encoding.get_ids().to_vec();
        ids.truncate(max_tokens);
        Ok(ids)
    }

    /// The text of `ids`. Ids outside the vocabulary give nothing; bytes that are not UTF-8 give
    /// U+FFFD. Special tokens are left out if `skip_special_tokens`.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> Result<String> {
        self.backend
            .decode(ids, skip_special_tokens)
            .map_err(|error| Error::Decode(error.to_string()))
    }

    /// The vocabulary entry of `id`, as stored (`Ġhello`, `▁hello`, `<0x0A>`).
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.backend.id_to_token(id)
    }

    /// The id of a vocabulary entry, as stored.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.backend.token_to_id(token)
    }

    /// Whether decoding can leave out `id` as a special token.
    pub fn is_special(&self, id: u32) -> bool {
        let vocabulary = self.backend.get_added_vocabulary();
        self.added_tokens.contains_key(&id)
            && self
                .backend
                .id_to_token(id)
                .is_some_and(|token| vocabulary.is_special_token(&token))
    }

    /// The content of `id` if it is an added token, special or not.
    pub(crate) fn added_token(&self, id: u32) -> Option<&str> {
        self.added_tokens
            .get(&id)
            .map(|token| token.content.as_str())
    }

    /// Id of the token that ends a text.
    pub fn eos_token_id(&self) -> Option<u32> {
        self.eos_token_id
    }

    /// Id of the token that begins a text.
    pub fn bos_token_id(&self) -> Option<u32> {
        self.bos_token_id
    }

    /// Id of the token that fills up a batch.
    pub fn pad_token_id(&self) -> Option<u32> {
        self.pad_token_id
    }

    /// Id of the token that stands for unknown text.
    pub fn unk_token_id(&self) -> Option<u32> {
        self.unk_token_id
    }

    /// Special tokens by name (`bos_token`, `eos_token`, …), as chat templates see them.
    pub fn special_tokens(&self) -> &BTreeMap<String, String> {
        &self.special_tokens
    }

    /// Number of vocabulary entries, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.backend.get_vocab_size(true)
    }

    /// Number of entries of the vocabulary proper, which every model of this tokenizer knows. Tokens
    /// that were added later do not count: a checkpoint may have some that its model never sees.
    pub fn base_vocab_size(&self) -> usize {
        self.backend.get_vocab_size(false)
    }

    /// Largest id of the vocabulary, added tokens included. Ids need not be contiguous.
    pub fn max_token_id(&self) -> u32 {
        self.extent().max_token_id
    }

    /// Length of the longest vocabulary entry in characters: no text of more than `n` times this
    /// many characters fits into `n` tokens.
    pub fn max_chars_per_token(&self) -> usize {
        self.extent().max_chars_per_token
    }

    /// The chat template called `name`; without a name, the one named `tool_use` for a request
    /// with tools if there is one, else `default`. `None` if the checkpoint has no template.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownChatTemplate`], [`Error::NoDefaultChatTemplate`].
    pub fn chat_template(&self, name: Option<&str>, has_tools: bool) -> Result<Option<&str>> {
        self.chat_templates.choose(name, has_tools)
    }

    /// Computed when first asked for: it costs a copy of the vocabulary, which would be felt at
    /// start-up.
    fn extent(&self) -> VocabularyExtent {
        *self.extent.get_or_init(|| {
            let vocabulary = self.backend.get_vocab(true);
            VocabularyExtent {
                max_token_id: vocabulary.values().copied().max().unwrap_or(0),
                max_chars_per_token: vocabulary
                    .keys()
                    .map(|token| token.chars().count())
                    .max()
                    .unwrap_or(0),
            }
        })
    }
}

fn encode_error(error: tokenizers::Error) -> Error {
    Error::Encode(error.to_string())
}

/// An id in `config.json`: a number, or a list of which the first counts.
fn first_id(value: &Value) -> Option<u32> {
    let id = value.as_array().map_or(Some(value), |ids| ids.first())?;
    u32::try_from(id.as_u64()?).ok()
}
