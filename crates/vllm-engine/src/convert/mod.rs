//! Checkpoints written anew: whatever can be loaded, in a form that others read.

mod gguf;
mod output;
mod safetensors;
mod tensor;

use std::ops::ControlFlow;
use std::path::Path;

use serde_json::Value;
use vllm_gguf::BlockType;
use vllm_models::{
    CheckedModel, LoadProgress, LoadQuantization, ModelConfig, Quantization, WeightFiles, Weights,
    check_architecture,
};
use vllm_tensor::{DType, Device};

use crate::config::EngineConfig;
use crate::error::{Error, Result};
use crate::load;
use crate::model_folder::ModelFolder;

use output::PartialOutput;

/// What kind of checkpoint is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFormat {
    /// One GGUF file.
    Gguf,
    /// A folder as Hugging Face has it, with weights in safetensors.
    Safetensors,
}

/// What is to be written.
struct Source {
    folder: ModelFolder,
    config: ModelConfig,
    weights: WeightFiles,
    /// The same checkpoint, put together as a model.
    model: CheckedModel,
    /// What numbers that are not quantized become.
    dtype: DType,
    quantization: LoadQuantization,
}

/// Writes the checkpoint that `config` names to `output` with its numbers in `config`'s dtype and
/// quantization. Weights that are stored quantized become numbers first.
///
/// The output appears when it is complete, or not at all. `progress` is told of the bytes written, and may
/// break off; then the result says so, too.
///
/// # Errors
/// What cannot be loaded or cannot be said in the format; an output that is there already; a full disk.
pub fn convert(
    config: &EngineConfig,
    output: &Path,
    format: OutputFormat,
    progress: &mut dyn FnMut(LoadProgress) -> ControlFlow<()>,
) -> Result<ControlFlow<()>> {
    let mut output = PartialOutput::new(output)?;
    let source = open(config)?;
    let flow = match format {
        OutputFormat::Gguf => gguf::write(&source, &mut output, progress)?,
        OutputFormat::Safetensors => safetensors::write(&source, &mut output, progress)?,
    };
    if flow.is_continue() {
        output.finish()?;
    }
    Ok(flow)
}

fn open(config: &EngineConfig) -> Result<Source> {
    let folder = load::open_folder(config)?;
    let model_config = load::read_model_config(&folder)?;
    check_architecture(&model_config).map_err(Error::setup)?;
    let files = || -> Result<(WeightFiles, Option<DType>)> {
        match load::open_weights(folder.files(), config.load_format)? {
            (Weights::Files(files), dtype) => Ok((files, dtype)),
            (Weights::Dummy, _) => Err(Error::Setup(
                "made-up weights are not worth writing: --load-format dummy does not go with it"
                    .to_owned(),
            )),
        }
    };
    let (weights, weights_dtype) = files()?;
    let requested = vllm_tensor::parse_dtype(&config.dtype).map_err(Error::setup)?;
    let dtype = model_config
        .resolve_dtype(requested, weights_dtype, &Device::Cpu)
        .map_err(Error::setup)?;
    // Finds everything that loading would find wrong.
    let model = CheckedModel::new(&model_config, weights, &Device::Cpu, dtype);
    let model = model.map_err(Error::setup)?;
    let (weights, _) = files()?;
    let weights = weights.unpack(&model_config.quantization_config);
    let layers = config.quantization.as_deref();
    let layers = layers.filter(|name| *name != "none");
    let layers = layers.map(Quantization::from_name).transpose();
    Ok(Source {
        weights: weights.map_err(Error::setup)?,
        model,
        dtype,
        quantization: load::with_embeddings(layers.map_err(Error::setup)?, config)?,
        config: model_config,
        folder,
    })
}

impl Source {
    /// A small file of the model, as JSON; `Null` where there is none.
    fn json(&self, name: &str) -> Result<Value> {
        let Some(bytes) = self.folder.read(name)? else {
            return Ok(Value::Null);
        };
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::Setup(format!("{}: {name}: {error}", self.folder.name())))
    }

    /// The block type of plain numbers.
    fn plain_type(&self) -> BlockType {
        match self.dtype {
            DType::F16 => BlockType::F16,
            DType::BF16 => BlockType::BF16,
            _ => BlockType::F32,
        }
    }

    /// Names and shapes of all tensors, but for an output layer that is the embeddings once more.
    fn tensors(&self) -> Result<Vec<(String, Vec<usize>)>> {
        const TABLE: &str = "model.embed_tokens.weight";
        const HEAD: &str = "lm_head.weight";
        let is_tied = self.config.tie_word_embeddings && self.weights.are_equal(HEAD, TABLE);
        let names = self.weights.tensor_names();
        let tensors = names
            .filter(|name| !(is_tied && *name == HEAD))
            .map(|name| {
                let numbers = self.weights.numbers(name)?;
                Ok((name.to_owned(), numbers.shape().to_vec()))
            });
        tensors
            .collect::<vllm_models::Result<_>>()
            .map_err(Error::setup)
    }
}
