//! The tensor backend: devices, dtypes and the operations a language model is made of.
//!
//! **Knows** candle's tensors, the devices they live on, and the operations of a transformer over a
//! flat ragged batch: linear, embedding, normalization, activation, paged KV cache and attention.
//! **Must never know** a model, a checkpoint file, a request or a scheduler.
//!
//! Every operation has a plain body made of candle operations that is right on any device. On the
//! CPU a fast body stands beside it; tests hold the two together.
//!
//! # Number formats
//!
//! On the CPU activations are always float32, while weights and the KV cache may be stored as
//! float32, float16 or bfloat16. On a GPU activations have the model's dtype. [`activation_dtype`]
//! is that rule.
//!
//! # Batch invariance
//!
//! The fast CPU bodies add in an order that depends only on the row being computed: the result of a
//! row is the same bit for bit, whichever rows are computed with it, on however many threads.
//!
//! ```
//! use vllm_tensor::{DType, Device, Linear, Tensor};
//!
//! # fn main() -> vllm_tensor::Result<()> {
//! let weight = Tensor::new(&[[1f32, 2.0], [3.0, 4.0], [5.0, 6.0]], &Device::Cpu)?; // [out, in]
//! let linear = Linear::new(weight, None)?;
//! let x = Tensor::new(&[[1f32, 1.0]], &Device::Cpu)?;
//! assert_eq!(linear.forward(&x)?.to_vec2::<f32>()?, [[3.0, 7.0, 11.0]]);
//! # Ok(())
//! # }
//! ```

mod activation;
mod allocator;
mod attention;
mod combine;
mod cpu;
mod device;
mod dtype;
mod embedding;
mod error;
mod kv_cache;
mod kv_cache_dtype;
mod linear;
mod linear_input;
mod metadata;
mod norm;
mod quantized;
mod rotary;
mod scaled;
#[cfg(test)]
mod test_support;
mod weight;

pub use activation::{Activation, softmax_last_dim};
pub use allocator::keep_freed_memory;
pub use attention::{
    AttentionOptions, QueryKeyValue, paged_attention, paged_attention_for, rotate_and_write_kv,
    write_kv,
};
pub use candle_core::{DType, Device, Error as CandleError, Tensor};
pub use combine::combine_rows;
pub use cpu::{
    CodeForm, Isa, RowCodes, ScaledForm, bind_this_thread, fp8_from_f32, num_threads,
    set_num_threads,
};
pub use device::{device_name, free_device_memory, select_device};
pub use dtype::{activation_dtype, dtype_name, parse_dtype, resolve_dtype};
pub use embedding::Embedding;
pub use error::{Error, Result};
pub use kv_cache::{KvCache, KvCacheSpec, LayerKvCache};
pub use kv_cache_dtype::KvCacheDType;
pub use linear::Linear;
pub use linear_input::LinearInput;
pub use metadata::{AttentionMetadata, BatchSequence};
pub use norm::{LayerNorm, RmsNorm};
pub use quantized::QuantizedMatrix;
pub use rotary::{Rotary, RotaryAngles};
pub use scaled::ScaledMatrix;
pub use weight::WeightRows;
