use crate::{Checkpoint, Error, Result};

/// A model family, by its name in GGUF files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Llama,
    Mixtral,
    Qwen2,
    Qwen2Moe,
    Qwen3,
    Qwen3Moe,
    Gemma2,
    Gemma3,
    Phi3,
}

/// `general.architecture`, family, `model_type`, class. Mixtral is a Llama with experts to GGUF.
const FAMILIES: &[(&str, Family, &str, &str)] = &[
    ("llama", Family::Llama, "llama", "LlamaForCausalLM"),
    ("llama", Family::Mixtral, "mixtral", "MixtralForCausalLM"),
    ("qwen2", Family::Qwen2, "qwen2", "Qwen2ForCausalLM"),
    (
        "qwen2moe",
        Family::Qwen2Moe,
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
    ),
    ("qwen3", Family::Qwen3, "qwen3", "Qwen3ForCausalLM"),
    (
        "qwen3moe",
        Family::Qwen3Moe,
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
    ),
    ("gemma2", Family::Gemma2, "gemma2", "Gemma2ForCausalLM"),
    ("gemma3", Family::Gemma3, "gemma3_text", "Gemma3ForCausalLM"),
    ("phi3", Family::Phi3, "phi3", "Phi3ForCausalLM"),
];

impl Family {
    /// Every so many layers of Gemma one has no window; GGUF files do not say it.
    pub(crate) fn full_attention_every(self) -> Option<u64> {
        match self {
            Self::Gemma2 => Some(2),
            Self::Gemma3 => Some(6),
            _ => None,
        }
    }

    pub(crate) fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let architecture = architecture(checkpoint)?;
        let experts = checkpoint
            .metadata()
            .size(&format!("{architecture}.expert_count"))?;
        let named: Vec<Self> = FAMILIES
            .iter()
            .filter(|(name, ..)| *name == architecture)
            .map(|(_, family, ..)| *family)
            .collect();
        match named[..] {
            [family] => Ok(family),
            [_, family] if experts.unwrap_or(0) > 0 => Ok(family),
            [family, _] => Ok(family),
            _ => {
                let mut supported: Vec<_> = FAMILIES.iter().map(|(name, ..)| *name).collect();
                supported.dedup();
                Err(Error::UnsupportedArchitecture {
                    architecture: architecture.to_owned(),
                    supported: supported.join(", "),
                })
            }
        }
    }

    /// By the `model_type` of a Hugging Face checkpoint.
    pub(crate) fn from_model_type(model_type: &str) -> Result<Self> {
        // Mistral is a Llama with a window.
        let wanted = match model_type {
            "mistral" => "llama",
            other => other,
        };
        let known = FAMILIES.iter().find(|(_, _, known, _)| *known == wanted);
        known.map(|(_, family, ..)| *family).ok_or_else(|| {
            let supported: Vec<_> = FAMILIES.iter().map(|(_, _, known, _)| *known).collect();
            Error::NotWritten(format!(
                "models of type '{model_type}' have no layout there; supported: mistral, {}",
                supported.join(", ")
            ))
        })
    }

    /// `general.architecture`.
    pub(crate) fn architecture(self) -> &'static str {
        let known = FAMILIES.iter().find(|(_, family, ..)| *family == self);
        known.map_or("", |(architecture, ..)| *architecture)
    }

    /// `model_type` and class of a Hugging Face checkpoint.
    pub(crate) fn names(self) -> (&'static str, &'static str) {
        let known = FAMILIES.iter().find(|(_, family, ..)| *family == self);
        known.map_or(("", ""), |(_, _, model_type, class)| (*model_type, *class))
    }

    pub(crate) fn is_gemma(self) -> bool {
        matches!(self, Self::Gemma2 | Self::Gemma3)
    }
}

/// The family's name in the file.
pub(crate) fn architecture(checkpoint: &Checkpoint) -> Result<&str> {
    const KEY: &str = "general.architecture";
    checkpoint
        .metadata()
        .text(KEY)?
        .ok_or_else(|| crate::metadata::metadata_error(KEY, "is missing"))
}
