/// What is wrong with a GGUF file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The first bytes are not those of a GGUF file.
    #[error("not a GGUF file: it does not begin with 'GGUF'")]
    NotGguf,
    /// A version of the container that is not read.
    #[error("GGUF version {0} is not supported; supported: 2 and 3, little-endian")]
    UnsupportedVersion(u32),
    /// The file contradicts itself or ends too early.
    #[error("damaged GGUF file: {0}; fetch it again")]
    Damaged(String),
    /// The files of a split model do not belong together.
    #[error("split GGUF model: {0}")]
    Split(String),
    /// A tensor is packed in a way that is not read.
    #[error(
        "tensor '{tensor}' has GGML type {type_name}, which is not supported; supported: {}",
        crate::BlockType::names()
    )]
    UnsupportedType {
        /// Name of the tensor.
        tensor: String,
        /// The type's name, or its number where even that is unknown.
        type_name: String,
    },
    /// The metadata lacks a value, or has one that makes no sense.
    #[error("GGUF metadata '{key}' {problem}")]
    Metadata {
        /// The key.
        key: String,
        /// What is wrong with its value.
        problem: String,
    },
    /// A model family that is not read.
    #[error("GGUF architecture '{architecture}' is not supported; supported: {supported}")]
    UnsupportedArchitecture {
        /// `general.architecture`.
        architecture: String,
        /// What is supported.
        supported: String,
    },
    /// A model that cannot be written as a GGUF file.
    #[error("cannot be written as GGUF: {0}")]
    NotWritten(String),
    /// A vocabulary that is not read.
    #[error("{0}; put a tokenizer.json beside the file or name a tokenizer of the model's own")]
    UnsupportedTokenizer(String),
}

/// `std::result::Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
