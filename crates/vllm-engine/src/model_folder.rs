//! The small files of a model, whether they lie in its folder or are part of a GGUF file.

use vllm_gguf::Checkpoint;
use vllm_hub::{FileBytes, ModelFiles};

use crate::error::{Error, Result};

/// A model's files. A GGUF file stands in for the small files that do not lie beside it.
pub(crate) struct ModelFolder {
    files: ModelFiles,
    gguf: Option<Checkpoint>,
}

impl ModelFolder {
    pub(crate) fn new(files: ModelFiles) -> Result<Self> {
        let gguf = read_gguf(&files)?;
        Ok(Self { files, gguf })
    }

    pub(crate) fn files(&self) -> &ModelFiles {
        &self.files
    }

    /// Whether the weights are in GGUF files.
    pub(crate) fn is_gguf(&self) -> bool {
        self.gguf.is_some()
    }

    pub(crate) fn name(&self) -> &str {
        self.files.name()
    }

    /// The contents of a small file, or `None` where the model has nothing of the kind.
    pub(crate) fn read(&self, name: &str) -> Result<Option<FileBytes>> {
        if let Some(bytes) = self.files.read(name).map_err(Error::setup)? {
            return Ok(Some(bytes));
        }
        let Some(gguf) = &self.gguf else {
            return Ok(None);
        };
        // Files of one purpose come from one place: beside the main one no other is made up.
        let (main_files, make): (&[&str], fn(&Checkpoint) -> _) = match name {
            "config.json" => (&[], vllm_gguf::config_json),
            "generation_config.json" => (&["config.json"], vllm_gguf::generation_config_json),
            "tokenizer.json" => (&["vocab.json"], vllm_gguf::tokenizer_json),
            "tokenizer_config.json" => {
                let main_files = &["tokenizer.json", "vocab.json"];
                (main_files, vllm_gguf::tokenizer_config_json)
            }
            _ => return Ok(None),
        };
        for file in main_files {
            if self.files.read(file).map_err(Error::setup)?.is_some() {
                return Ok(None);
            }
        }
        let json = make(gguf).map_err(|error| self.error(&error))?;
        Ok(Some(FileBytes::Owned(json.to_string().into_bytes())))
    }

    fn error(&self, error: &vllm_gguf::Error) -> Error {
        Error::Setup(format!("{}: {error}", self.name()))
    }
}

/// The header of the model's GGUF files, if those are its weights.
fn read_gguf(files: &ModelFiles) -> Result<Option<Checkpoint>> {
    let error = |message: String| Error::Setup(format!("{}: {message}", files.name()));
    let names = vllm_models::gguf_files(files.list()).map_err(|e| error(e.to_string()))?;
    if names.is_empty() {
        return Ok(None);
    }
    let opened = names
        .iter()
        .map(|name| files.open(name).map_err(Error::setup))
        .collect::<Result<Vec<_>>>()?;
    let named: Vec<(&str, &[u8])> = names
        .iter()
        .zip(&opened)
        .map(|(name, bytes)| (name.as_str(), &bytes[..]))
        .collect();
    let checkpoint = Checkpoint::new(&named).map_err(|e| error(e.to_string()))?;
    Ok(Some(checkpoint))
}
