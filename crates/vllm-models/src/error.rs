use vllm_tensor::DType;

/// What went wrong in reading or running a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `config.json` is no JSON object or lacks what the model needs.
    #[error("config.json: {0}")]
    Config(String),
    /// No model of the zoo answers to these architectures.
    #[error(
        "Model architectures {} are not supported for now. Supported architectures: ['{}']",
        quoted(.0),
        crate::supported_architectures().join("', '")
    )]
    UnsupportedArchitectures(Vec<String>),
    /// The checkpoint's weights are packed in a way that no model of the zoo reads.
    #[error(
        "the checkpoint is quantized with '{0}', which is not supported; supported: gptq, awq, \
         compressed-tensors, fp8, bitsandbytes and GGUF files"
    )]
    UnsupportedQuantization(String),
    /// No way to quantize weights has this name.
    #[error(
        "quantization '{0}' is not supported while loading; supported: int8, fp8, q4_0, q4_1, q5_0, \
         q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k"
    )]
    UnknownQuantization(String),
    /// The folder holds no weight file of the wanted form.
    #[error(
        "no weights found: load format '{format}' expects {expected} (single or sharded with an \
         index), got {}",
        quoted(files)
    )]
    NoWeights {
        /// The load format.
        format: &'static str,
        /// The files that it reads.
        expected: &'static str,
        /// The files that are there.
        files: Vec<String>,
    },
    /// A weight file cannot be opened.
    #[error("{file}: {source}")]
    Open {
        /// Name of the file within the model folder.
        file: String,
        /// Why, as whoever opens files says it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A weight file is damaged or has a form that is not read.
    #[error("{file}: {message}")]
    File {
        /// Name of the file within the model folder.
        file: String,
        /// What is wrong with it.
        message: String,
    },
    /// The checkpoint lacks a tensor of the model.
    #[error(
        "tensor '{tensor}' is missing from the checkpoint ({files}); expected shape {expected:?}"
    )]
    MissingTensor {
        /// Name of the tensor.
        tensor: String,
        /// The files that were looked through.
        files: String,
        /// The shape the model wants.
        expected: Vec<usize>,
    },
    /// A tensor does not have the shape that the config implies.
    #[error("{file}: tensor '{tensor}' has shape {actual:?}, expected {expected:?} by config.json")]
    WrongShape {
        /// The file that holds it.
        file: String,
        /// Name of the tensor.
        tensor: String,
        /// The shape the model wants.
        expected: Vec<usize>,
        /// The shape in the file.
        actual: Vec<usize>,
    },
    /// A tensor's elements are not floating-point numbers.
    #[error("{file}: tensor '{tensor}' has dtype {actual}, expected float32, float16 or bfloat16")]
    WrongDType {
        /// The file that holds it.
        file: String,
        /// Name of the tensor.
        tensor: String,
        /// The dtype in the file.
        actual: String,
    },
    /// The checkpoint holds tensors that the model has no place for.
    #[error("the checkpoint holds tensors that {architecture} does not have: {}", quoted(.tensors))]
    SurplusTensors {
        /// The model's architecture.
        architecture: String,
        /// Names of the tensors.
        tensors: Vec<String>,
    },
    /// The model cannot run in this dtype.
    #[error("dtype {0:?} is not supported: use float32, float16 or bfloat16")]
    UnsupportedDType(DType),
    /// The family's activations overflow in float16.
    #[error(
        "The model type '{0}' does not support float16. Reason: Numerical instability. Please use \
         bfloat16 or float32 instead."
    )]
    UnstableDType(String),
    /// A part of the model was used, or loaded again, after reading its weights failed.
    #[error("the weights of a part of the model could not be read before")]
    NotLoaded,
    /// Whoever watched the loading broke it off.
    #[error("loading the weights was stopped")]
    Stopped,
    /// A batch that the model cannot run.
    #[error("invalid batch: {0}")]
    Batch(String),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] vllm_tensor::Error),
}

impl From<vllm_tensor::CandleError> for Error {
    fn from(error: vllm_tensor::CandleError) -> Self {
        Self::Tensor(error.into())
    }
}

/// `std::result::Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// `['a', 'b']`, cut after a handful.
fn quoted(names: &[impl AsRef<str>]) -> String {
    const SHOWN: usize = 8;
    let mut list: Vec<_> = names
        .iter()
        .take(SHOWN)
        .map(|name| format!("'{}'", name.as_ref()))
        .collect();
    if names.len() > SHOWN {
        list.push(format!("and {} more", names.len() - SHOWN));
    }
    format!("[{}]", list.join(", "))
}
