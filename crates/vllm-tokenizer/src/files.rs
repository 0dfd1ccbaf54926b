//! The files a tokenizer is made of, as bytes.

/// The contents of a checkpoint's tokenizer files; `None` where a checkpoint lacks one.
///
/// One of these is needed: `tokenizer_json`, both `vocab_json` and `merges_txt`, or
/// `sentencepiece_model`; the first one that is there counts.
#[derive(Clone, Debug, Default)]
pub struct TokenizerFiles<'a> {
    /// `tokenizer.json`: vocabulary and the whole pipeline.
    pub tokenizer_json: Option<&'a [u8]>,
    /// `vocab.json`: piece to id, used when there is no `tokenizer.json`.
    pub vocab_json: Option<&'a [u8]>,
    /// `merges.txt`: one BPE merge a line, best first; belongs to `vocab.json`.
    pub merges_txt: Option<&'a [u8]>,
    /// `tokenizer.model`: a vocabulary of SentencePiece.
    pub sentencepiece_model: Option<&'a [u8]>,
    /// `tokenizer_config.json`: class, special tokens, flags and chat templates.
    pub tokenizer_config_json: Option<&'a [u8]>,
    /// `special_tokens_map.json`: special tokens of older checkpoints.
    pub special_tokens_map_json: Option<&'a [u8]>,
    /// `added_tokens.json`: token to id, of older checkpoints.
    pub added_tokens_json: Option<&'a [u8]>,
    /// `chat_template.jinja`: wins over the templates in `tokenizer_config.json`.
    pub chat_template_jinja: Option<&'a [u8]>,
    /// `additional_chat_templates/NAME.jinja`, as (NAME, contents).
    pub additional_chat_templates: Vec<(String, Vec<u8>)>,
    /// The model's `config.json`: model type, and ids of bos, eos and pad where the tokenizer's
    /// own files name none.
    pub config_json: Option<&'a [u8]>,
}
