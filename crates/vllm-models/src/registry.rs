use vllm_tensor::{DType, Device};

use crate::loader::WeightLoader;
use crate::{Error, Model, ModelConfig, Result, WeightFiles, opt};

/// Reads one architecture's weights and makes the model.
type Build = fn(&ModelConfig, &WeightLoader<'_>) -> Result<Box<dyn Model>>;

/// How checkpoints of an architecture spell tensor names, mapped to the one spelling its file uses.
type Canonical = fn(&str) -> &str;

struct Architecture {
    name: &'static str,
    canonical_name: Canonical,
    build: Build,
}

/// Every architecture of the zoo, by its name in `architectures` of config.json.
const ARCHITECTURES: &[Architecture] = &[Architecture {
    name: "OPTForCausalLM",
    canonical_name: opt::canonical_name,
    build: opt::build,
}];

/// Loads the model that `config` describes from its weight files onto `device`.
///
/// `dtype` is how the weights are stored and, on a GPU, computed with: float32, float16 or bfloat16.
///
/// # Errors
/// An unknown architecture; a damaged file; a missing, surplus or misshapen tensor.
pub fn load_model(
    config: &ModelConfig,
    weights: WeightFiles,
    device: &Device,
    dtype: DType,
) -> Result<Box<dyn Model>> {
    let architecture = find(config)?;
    if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
        return Err(Error::UnsupportedDType(dtype));
    }
    let loader = WeightLoader::new(&weights, architecture.canonical_name, device, dtype)?;
    let model = (architecture.build)(config, &loader)?;
    loader.finish(architecture.name)?;
    Ok(model)
}

/// Refuses a config whose architectures are all unknown, before anything is read or downloaded.
///
/// # Errors
/// [`Error::UnsupportedArchitectures`].
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

/// The first registered name wins.
fn find(config: &ModelConfig) -> Result<&'static Architecture> {
    config
        .architectures
        .iter()
        .find_map(|name| {
            ARCHITECTURES
                .iter()
                .find(|architecture| architecture.name == name)
        })
        .ok_or_else(|| Error::UnsupportedArchitectures(config.architectures.clone()))
}
