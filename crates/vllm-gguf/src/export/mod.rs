//! A Hugging Face checkpoint in the terms of GGUF: the reverse of [`crate::hugging_face`].

mod config;
mod tensors;
mod tokenizer;

use serde_json::Value as Json;

use crate::hugging_face::{Family, RowOrder};
use crate::{Error, Result, Value};

pub use tokenizer::{TokenizerFiles, tokenizer_metadata};

/// What a GGUF file holds of a model, but for its vocabulary.
#[derive(Debug, Clone, PartialEq)]
pub struct Export {
    /// Keys and values.
    pub metadata: Vec<(String, Value)>,
    /// The tensors.
    pub tensors: Vec<ExportTensor>,
}

/// A tensor of a GGUF file and what it is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportTensor {
    /// Name in the file.
    pub name: String,
    /// Shape in the file, the last dimension fastest.
    pub shape: Vec<usize>,
    /// Where its numbers come from.
    pub source: Source,
    /// What it is for.
    pub kind: TensorKind,
}

/// Where the numbers of a tensor come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// Tensors of the checkpoint, one after the other.
    Tensors {
        /// Their names.
        names: Vec<String>,
        /// In which order the file holds the rows of each.
        rows: RowOrder,
        /// What the checkpoint's numbers have on top of those in the file.
        offset: f32,
    },
    /// The configuration.
    Numbers(Vec<f32>),
}

/// What a tensor is for, which decides how narrow it may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorKind {
    /// Norms, biases and factors, always float32.
    Vector,
    /// What chooses among experts: float32 as well.
    Router,
    /// The weight of a linear layer.
    Linear,
    /// The embeddings.
    Embedding,
    /// The output layer.
    Head,
}

/// What a GGUF file holds of the model with this `config.json` and these tensors, given as name and shape.
///
/// # Errors
/// A family that GGUF files are not written of, a setting that they cannot tell, or a tensor that the
/// family does not have.
pub fn export(config: &Json, tensors: &[(String, Vec<usize>)]) -> Result<Export> {
    let model_type = config["model_type"].as_str().unwrap_or_default();
    let family = Family::from_model_type(model_type)?;
    let (metadata, factors) = config::metadata(config, family)?;
    let mut exported = tensors::tensors(config, family, tensors)?;
    exported.extend(factors);
    Ok(Export {
        metadata,
        tensors: exported,
    })
}

fn not_written(problem: String) -> Error {
    Error::NotWritten(problem)
}
