use std::ops::ControlFlow;

use vllm_tensor::{DType, Device};

use crate::checked::CheckedModel;
use crate::families::{
    gemma, gpt_neox, gpt2, granite, llama, mixtral, olmo2, opt, phi3, qwen, qwen_moe, smollm3,
    stablelm,
};
use crate::loader::WeightLoader;
use crate::weights::{Weights, check_quantization};
use crate::{Error, Model, ModelConfig, Result};

/// Reads one architecture's weights and makes the model.
type Build = fn(&ModelConfig, &WeightLoader) -> Result<Box<dyn Model>>;

/// How checkpoints of an architecture spell tensor names, mapped to the one spelling its file uses.
type Canonical = fn(&str) -> &str;

struct Architecture {
    name: &'static str,
    /// The published models, for the documentation.
    models: &'static str,
    canonical_name: Canonical,
    build: Build,
}

/// Every architecture of the zoo, by its name in `architectures` of config.json.
const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: "Gemma2ForCausalLM",
        models: "Gemma 2",
        canonical_name: as_it_is,
        build: gemma::build_gemma2,
    },
    Architecture {
        name: "Gemma3ForCausalLM",
        models: "Gemma 3 (text)",
        canonical_name: as_it_is,
        build: gemma::build_gemma3,
    },
    Architecture {
        name: "GPT2LMHeadModel",
        models: "GPT-2",
        canonical_name: gpt2::canonical_name,
        build: gpt2::build,
    },
    Architecture {
        name: "GPTNeoXForCausalLM",
        models: "GPT-NeoX, Pythia",
        canonical_name: gpt_neox::canonical_name,
        build: gpt_neox::build,
    },
    Architecture {
        name: "GraniteForCausalLM",
        models: "Granite 3",
        canonical_name: as_it_is,
        build: granite::build,
    },
    Architecture {
        name: "LlamaForCausalLM",
        models: "Llama 1, 2, 3, 3.1, 3.2 and what shares their architecture",
        canonical_name: as_it_is,
        build: llama::build,
    },
    Architecture {
        name: "MistralForCausalLM",
        models: "Mistral",
        canonical_name: as_it_is,
        build: llama::build,
    },
    Architecture {
        name: "MixtralForCausalLM",
        models: "Mixtral",
        canonical_name: as_it_is,
        build: mixtral::build,
    },
    Architecture {
        name: "Olmo2ForCausalLM",
        models: "OLMo 2",
        canonical_name: as_it_is,
        build: olmo2::build,
    },
    Architecture {
        name: "OPTForCausalLM",
        models: "OPT",
        canonical_name: opt::canonical_name,
        build: opt::build,
    },
    Architecture {
        name: "Phi3ForCausalLM",
        models: "Phi-3, Phi-3.5, Phi-4",
        canonical_name: as_it_is,
        build: phi3::build,
    },
    Architecture {
        name: "Qwen2ForCausalLM",
        models: "Qwen 2, Qwen 2.5",
        canonical_name: as_it_is,
        build: qwen::build_qwen2,
    },
    Architecture {
        name: "Qwen2MoeForCausalLM",
        models: "Qwen 1.5 MoE, Qwen 2 MoE",
        canonical_name: as_it_is,
        build: qwen_moe::build_qwen2,
    },
    Architecture {
        name: "Qwen3ForCausalLM",
        models: "Qwen 3",
        canonical_name: as_it_is,
        build: qwen::build_qwen3,
    },
    Architecture {
        name: "Qwen3MoeForCausalLM",
        models: "Qwen 3 MoE",
        canonical_name: as_it_is,
        build: qwen_moe::build_qwen3,
    },
    Architecture {
        name: "SmolLM3ForCausalLM",
        models: "SmolLM 3",
        canonical_name: as_it_is,
        build: smollm3::build,
    },
    Architecture {
        name: "StableLmForCausalLM",
        models: "StableLM 2, StableLM 3B",
        canonical_name: as_it_is,
        build: stablelm::build,
    },
];

/// Most checkpoints spell names in one way only.
fn as_it_is(name: &str) -> &str {
    name
}

/// Loads the model that `config` describes onto `device`: [`CheckedModel::new`], then
/// [`CheckedModel::load`].
///
/// # Errors
/// As both of them.
pub fn load_model(
    config: &ModelConfig,
    weights: impl Into<Weights>,
    device: &Device,
    dtype: DType,
) -> Result<Box<dyn Model>> {
    CheckedModel::new(config, weights, device, dtype)?.load(&mut |_| ControlFlow::Continue(()))
}

impl CheckedModel {
    /// Puts together the model that `config` describes, for `device`, without reading its weights.
    ///
    /// `dtype` is how the weights are stored and, on a GPU, computed with: float32, float16 or
    /// bfloat16.
    ///
    /// # Errors
    /// An unknown architecture or quantization; a missing, surplus or misshapen tensor; a dtype that
    /// the architecture or this crate does not compute with.
    pub fn new(
        config: &ModelConfig,
        weights: impl Into<Weights>,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        let architecture = find(config)?;
        if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Err(Error::UnsupportedDType(dtype));
        }
        let weights = weights.into().unpack(&config.quantization_config)?;
        let loader = WeightLoader::new(weights, architecture.canonical_name, device, dtype)?;
        let model = (architecture.build)(config, &loader)?;
        let (loads, roles) = loader.finish(architecture.name)?;
        Ok(Self::from_parts(model, loads, roles))
    }
}

/// Refuses a config that no model can be made of, before any weight is read or downloaded.
///
/// # Errors
/// [`Error::UnsupportedArchitectures`] and [`Error::UnsupportedQuantization`].
pub fn check_architecture(config: &ModelConfig) -> Result<()> {
    find(config).map(|_| ())
}

/// The names that `architectures` of a config.json may have.
pub fn supported_architectures() -> Vec<&'static str> {
    ARCHITECTURES
        .iter()
        .map(|architecture| architecture.name)
        .collect()
}

/// The architectures with the published models they stand for, as `docs/supported-models.md` lists
/// them.
pub fn supported_models() -> impl Iterator<Item = (&'static str, &'static str)> {
    ARCHITECTURES
        .iter()
        .map(|architecture| (architecture.name, architecture.models))
}

/// The first registered name wins.
fn find(config: &ModelConfig) -> Result<&'static Architecture> {
    let architecture = config
        .architectures
        .iter()
        .find_map(|name| {
            ARCHITECTURES
                .iter()
                .find(|architecture| architecture.name == name)
        })
        .ok_or_else(|| Error::UnsupportedArchitectures(config.architectures.clone()))?;
    if !config.quantization_config.is_null() {
        check_quantization(&config.quantization_config)?;
    }
    Ok(architecture)
}
