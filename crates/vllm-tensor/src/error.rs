use candle_core::{DType, Shape};

/// What went wrong in a tensor operation or in choosing a device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device name is none of the known ones.
    #[error("unknown device '{0}': use 'auto', 'cpu', 'cuda' or 'cuda:N'")]
    UnknownDevice(String),
    /// A CUDA device was asked of a build that has no CUDA.
    #[error(
        "device '{0}' needs the CUDA build: this binary was built for the CPU only. \
         Build with `cargo build --release --features cuda`, or use '--device cpu'"
    )]
    CudaNotBuilt(String),
    /// The CUDA device exists in no usable form.
    #[error(
        "cannot use CUDA device {index}: {source}. Check that the driver is installed and that \
         `nvidia-smi` lists the device, or use '--device cpu'"
    )]
    CudaUnavailable {
        /// Index of the device, from 0.
        index: usize,
        /// What candle reports.
        source: candle_core::Error,
    },
    /// The dtype name is none of the known ones.
    #[error("Unknown dtype: '{0}'")]
    UnknownDType(String),
    /// The dtype of a KV cache is none of the known ones.
    #[error(
        "Unknown KV cache dtype: '{0}'. Use 'auto', 'float32', 'bfloat16', 'float16', 'fp8' or \
         'int8'"
    )]
    UnknownKvCacheDType(String),
    /// A GPU has no kernels for the dtype of a KV cache.
    #[error(
        "a KV cache in {0} works on the CPU only. Use '--kv-cache-dtype auto', or '--device cpu'"
    )]
    KvCacheDTypeNeedsCpu(&'static str),
    /// An operand has the wrong shape.
    #[error("{operation}: expected {expected}, got shape {actual:?}")]
    Shape {
        /// The operation that refused.
        operation: &'static str,
        /// What it wants, in words.
        expected: String,
        /// What it got.
        actual: Shape,
    },
    /// An operand has a dtype that the operation does not take.
    #[error("{operation}: dtype {dtype:?} is not supported")]
    UnsupportedDType {
        /// The operation that refused.
        operation: &'static str,
        /// The dtype it got.
        dtype: DType,
    },
    /// The description of a batch contradicts itself or the KV cache.
    #[error("invalid batch: {0}")]
    Batch(String),
    /// The instruction-set override names nothing this processor has.
    #[error("VLLM_CPU_ISA='{0}' cannot be used: {1}")]
    Isa(String, String),
    /// The worker threads could not be started.
    #[error("cannot start the worker threads: {0}")]
    Threads(String),
    /// An environment variable asks for CPUs that threads cannot be bound to.
    #[error("{0}: {1}")]
    ThreadBinding(&'static str, String),
    /// The system gave no memory for weights or their products.
    #[error("no {0} bytes of memory: {1}. Use a smaller model, dtype or KV cache")]
    Memory(usize, #[source] std::io::Error),
    /// candle refused an operation.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// `std::result::Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
