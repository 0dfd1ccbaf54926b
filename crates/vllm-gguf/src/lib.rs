//! GGUF files: the header, the block formats, and what a file says in the terms of a Hugging Face
//! folder, and the other way round.
//!
//! **Knows** the GGUF container (versions 2 and 3), how its blocks pack numbers, and which
//! configuration, tokenizer and tensor names a Hugging Face checkpoint of the same model has.
//! **Must never know** a tensor library, a device, a model's forward pass or where files come from:
//! callers hand in bytes.
//!
//! Nothing a file claims is believed before it is checked against the bytes that are there: counts
//! before memory is taken for them, ranges before they are read, splits before they are joined.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let bytes = std::fs::read("model-Q4_K_M.gguf")?;
//! let checkpoint = vllm_gguf::Checkpoint::new(&[("model-Q4_K_M.gguf", &bytes)])?;
//! println!("{}", vllm_gguf::config_json(&checkpoint)?);
//! for weight in vllm_gguf::weights(&checkpoint)? {
//!     println!("{} {:?} {:?}", weight.name, weight.shape, weight.block_type);
//! }
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod block;
mod checkpoint;
mod error;
mod export;
mod header;
mod hugging_face;
mod metadata;
mod quantize;
mod reader;
mod writer;

pub use block::{BlockType, Unpacked};
pub use checkpoint::{Checkpoint, CheckpointTensor, is_gguf, split_names};
pub use error::{Error, Result};
pub use export::{
    Export, ExportTensor, Source, TensorKind, TokenizerFiles, export, tokenizer_metadata,
};
pub use header::{Header, TensorInfo};
pub use hugging_face::{
    RowOrder, Weight, config_json, generation_config_json, tokenizer_config_json, tokenizer_json,
    weights,
};
pub use metadata::{Metadata, Value};
pub use writer::{ALIGNMENT, TensorPlan, header};
