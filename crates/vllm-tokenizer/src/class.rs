//! Tokenizer classes whose pipeline is fixed by the class instead of by `tokenizer.json`.
//!
//! `transformers` takes only vocabulary, merges and post-processor from the `tokenizer.json` of
//! such a class and builds normalizer, pre-tokenizer and decoder itself. Everything else runs
//! exactly as `tokenizer.json` says.

use serde_json::{Value, json};

use crate::settings::Settings;

/// Which pipeline turns text into pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenizerClass {
    /// The pipeline stored in `tokenizer.json`.
    Stored,
    /// GPT-2 and OPT: byte-level BPE.
    Gpt2,
    /// GPT-NeoX and OLMo: byte-level BPE over composed Unicode.
    GptNeoX,
    /// Qwen 2 and later: byte-level BPE with its own splitting rule.
    Qwen2,
    /// LLaMA 1 and 2: BPE with `▁` for spaces and bytes as a last resort.
    Llama,
    /// Gemma: as LLaMA, without a space in front.
    Gemma,
}

/// The parts of a pipeline, in the notation of `tokenizer.json`.
pub(crate) struct Pipeline {
    pub(crate) normalizer: Option<Value>,
    pub(crate) pre_tokenizer: Value,
    pub(crate) decoder: Value,
    /// Characters outside the vocabulary become `<0xNN>` pieces, and unknown pieces are fused.
    pub(crate) byte_fallback: bool,
}

/// Text-generation model types with a tokenizer class of their own: model type, class, and
/// whether checkpoints are known to name a wrong one. `Stored` overrides what a checkpoint names.
const MODEL_TYPES: &[(&str, TokenizerClass, bool)] = &[
    ("gemma", TokenizerClass::Gemma, false),
    ("gemma2", TokenizerClass::Gemma, false),
    ("gemma3", TokenizerClass::Gemma, false),
    ("gemma3_text", TokenizerClass::Gemma, false),
    ("gpt2", TokenizerClass::Gpt2, false),
    ("gpt_neox", TokenizerClass::GptNeoX, false),
    ("granite", TokenizerClass::Stored, false),
    ("granitemoe", TokenizerClass::Stored, false),
    ("internlm2", TokenizerClass::Stored, true),
    ("internlm3", TokenizerClass::Stored, true),
    ("jamba", TokenizerClass::Stored, true),
    ("minicpm3", TokenizerClass::Stored, true),
    ("mistral", TokenizerClass::Stored, false),
    ("mixtral", TokenizerClass::Stored, false),
    ("nemotron", TokenizerClass::Stored, true),
    ("olmo", TokenizerClass::GptNeoX, false),
    ("olmo2", TokenizerClass::Stored, false),
    ("opt", TokenizerClass::Gpt2, false),
    ("phi", TokenizerClass::Gpt2, false),
    ("phi3", TokenizerClass::Stored, true),
    ("phimoe", TokenizerClass::Stored, true),
    ("qwen2", TokenizerClass::Qwen2, true),
    ("qwen2_moe", TokenizerClass::Qwen2, false),
    ("qwen3", TokenizerClass::Qwen2, false),
    ("qwen3_moe", TokenizerClass::Qwen2, false),
    ("stablelm", TokenizerClass::Stored, false),
    ("starcoder2", TokenizerClass::Gpt2, false),
];

impl TokenizerClass {
    /// The rule of `transformers`' `AutoTokenizer`: the class that the checkpoint names, unless
    /// its model type is known to name a wrong one or to need none.
    pub(crate) fn resolve(
        named: Option<&str>,
        model_type: Option<&str>,
        tokenizer_json: Option<&[u8]>,
    ) -> Self {
        let registered = MODEL_TYPES
            .iter()
            .find(|(name, ..)| Some(*name) == model_type);
        let names_wrong_class = registered.is_some_and(|(_, _, wrong)| *wrong);
        let Some(named) = named.map(Self::from_name) else {
            return registered.map_or(Self::Stored, |(_, class, _)| *class);
        };
        // LLaMA 3 checkpoints name LLaMA's class although they are byte-level.
        if named == Self::Llama
            && !names_wrong_class
            && tokenizer_json.is_some_and(mentions_byte_level)
        {
            return Self::Stored;
        }
        match registered {
            Some((_, Self::Stored, _)) => Self::Stored,
            Some((_, class, true)) => *class,
            _ => named,
        }
    }

    fn from_name(name: &str) -> Self {
        match name.strip_suffix("Fast").unwrap_or(name) {
            "GPT2Tokenizer" => Self::Gpt2,
            "GPTNeoXTokenizer" => Self::GptNeoX,
            "Qwen2Tokenizer" => Self::Qwen2,
            "LlamaTokenizer" => Self::Llama,
            "GemmaTokenizer" => Self::Gemma,
            _ => Self::Stored,
        }
    }

    /// Special tokens of the class where a configuration does not mention them.
    pub(crate) fn default_tokens(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Stored => &[],
            Self::Gpt2 => &[
                ("bos_token", "<|endoftext|>"),
                ("eos_token", "<|endoftext|>"),
                ("unk_token", "<|endoftext|>"),
            ],
            Self::GptNeoX => &[
                ("bos_token", "<|endoftext|>"),
                ("eos_token", "<|endoftext|>"),
                ("unk_token", "<|endoftext|>"),
                ("pad_token", "<|padding|>"),
            ],
            Self::Qwen2 => &[
                ("eos_token", "<|endoftext|>"),
                ("unk_token", "<|endoftext|>"),
                ("pad_token", "<|endoftext|>"),
            ],
            Self::Llama => &[
                ("bos_token", "<s>"),
                ("eos_token", "</s>"),
                ("unk_token", "<unk>"),
            ],
            Self::Gemma => &[
                ("bos_token", "<bos>"),
                ("eos_token", "<eos>"),
                ("unk_token", "<unk>"),
                ("pad_token", "<pad>"),
                ("mask_token", "<mask>"),
            ],
        }
    }

    /// Whether a text begins with the bos token where no configuration says so; `None` leaves it to
    /// the files.
    pub(crate) fn adds_bos(self) -> Option<bool> {
        matches!(self, Self::Llama | Self::Gemma).then_some(true)
    }

    /// The pipeline of the class; `None` if the one in `tokenizer.json` applies.
    pub(crate) fn pipeline(self, settings: &Settings) -> Option<Pipeline> {
        let add_prefix_space = settings.add_prefix_space.unwrap_or(false);
        match self {
            Self::Stored => None,
            Self::Gpt2 => Some(Pipeline {
                normalizer: None,
                pre_tokenizer: byte_level(add_prefix_space, true),
                decoder: byte_level(true, true),
                byte_fallback: false,
            }),
            Self::GptNeoX => Some(Pipeline {
                normalizer: Some(json!({"type": "NFC"})),
                pre_tokenizer: byte_level(add_prefix_space, true),
                decoder: byte_level(true, true),
                byte_fallback: false,
            }),
            Self::Qwen2 => Some(Pipeline {
                normalizer: Some(json!({"type": "NFC"})),
                pre_tokenizer: json!({"type": "Sequence", "pretokenizers": [
                    {"type": "Split", "pattern": {"Regex": QWEN2_WORD}, "behavior": "Isolated",
                     "invert": false},
                    byte_level(add_prefix_space, false),
                ]}),
                decoder: byte_level(true, true),
                byte_fallback: false,
            }),
            Self::Llama => Some(llama_pipeline(settings)),
            Self::Gemma => Some(Pipeline {
                normalizer: Some(
                    json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"}),
                ),
                pre_tokenizer: json!({"type": "Split", "pattern": {"String": " "},
                    "behavior": "MergedWithPrevious", "invert": false}),
                decoder: json!({"type": "Sequence", "decoders": metaspace_decoders()}),
                byte_fallback: true,
            }),
        }
    }
}

/// How Qwen 2 cuts text into words: contractions, words with one leading mark, single digits,
/// punctuation, line ends, other space.
const QWEN2_WORD: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn byte_level(add_prefix_space: bool, use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true,
        "use_regex": use_regex})
}

/// LLaMA puts a space in front of a text unless told not to; formerly also after special tokens.
fn llama_pipeline(settings: &Settings) -> Pipeline {
    let add_prefix_space = settings.add_prefix_space.unwrap_or(true);
    let prepend_scheme = match (add_prefix_space, settings.legacy) {
        (true, true) => "always",
        (true, false) => "first",
        (false, _) => "never",
    };
    let mut decoders = metaspace_decoders();
    if add_prefix_space {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Pipeline {
        normalizer: None,
        pre_tokenizer: json!({"type": "Metaspace", "replacement": "▁",
            "prepend_scheme": prepend_scheme, "split": false}),
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        byte_fallback: true,
    }
}

fn metaspace_decoders() -> Vec<Value> {
    vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ]
}

fn mentions_byte_level(tokenizer_json: &[u8]) -> bool {
    std::str::from_utf8(tokenizer_json).is_ok_and(|json| json.contains("\"ByteLevel\""))
}
