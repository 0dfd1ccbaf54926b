//! The model zoo: configuration, weight names and forward passes over flat batches.
//!
//! **Knows** what a `config.json` says of a model, how checkpoint files hold its tensors, and how
//! each architecture computes logits for a flat ragged batch of tokens over a paged KV cache.
//! **Must never know** a scheduler, text, a tokenizer, HTTP or where files come from: callers hand
//! in bytes.
//!
//! A model is one short file made of shared parts; [`load_model`] picks it by the `architectures` of
//! its config.
//!
//! ```no_run
//! use std::sync::Arc;
//! use vllm_models::{
//!     Batch, BatchSequence, FileBuffer, LoadFormat, ModelConfig, WeightFiles, load_model,
//! };
//! use vllm_tensor::{DType, Device, KvCache};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = ModelConfig::from_json(&std::fs::read("model/config.json")?)?;
//! let names = ["model.safetensors".to_owned()];
//! let weights = WeightFiles::open(&names, LoadFormat::Auto, |name| {
//!     std::fs::read(format!("model/{name}")).map(|bytes| Arc::new(bytes) as FileBuffer)
//! })?;
//! let model = load_model(&config, weights, &Device::Cpu, DType::F32)?;
//!
//! let mut kv = KvCache::new(model.kv_cache_spec(), 64, 16, &Device::Cpu)?;
//! let prompt = BatchSequence { query_start: 0, query_len: 3, context_len: 0, block_table: &[1] };
//! let batch = Batch {
//!     token_ids: &[2, 100, 250],
//!     positions: &[0, 1, 2],
//!     sequences: &[prompt],
//!     logit_rows: &[2], // only the last token's logits are wanted
//! };
//! let logits = model.forward(&batch, &mut kv)?; // [1, vocab_size]
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod checked;
mod config;
mod deferred;
mod error;
mod families;
mod loader;
mod model;
mod parts;
mod registry;
mod weights;

pub use checked::{CheckedModel, LoadProgress};
pub use config::ModelConfig;
pub use error::{Error, Result};
pub use model::{Batch, Model};
pub use registry::{check_architecture, load_model, supported_architectures, supported_models};
pub use vllm_tensor::{BatchSequence, KvCacheSpec};
pub use weights::{
    FileBuffer, LoadFormat, LoadQuantization, NarrowWeight, NumberRows, Quantization, ScaledRows,
    WeightFiles, WeightRole, Weights, gguf_files, quantize_row_to_fp8, quantize_row_to_int8,
};
