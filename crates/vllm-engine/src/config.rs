//! How to run a model: what the user chose, with vLLM's defaults for the rest.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use vllm_models::{LoadFormat, LoadProgress};
use vllm_scheduler::Policy;

use crate::numbers::ContextLength;

/// Name of the model that is compiled into the binary.
pub use vllm_demo_model::NAME as DEMO_MODEL;

/// What the engine serves, which decides the default batch limits, as in vLLM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UsageContext {
    /// A data set is worked through: throughput counts.
    #[default]
    Offline,
    /// Clients wait for answers: latency counts.
    Server,
}

/// Told how far the loading of the weights has come, from the thread that loads them.
#[derive(Clone)]
pub struct LoadObserver(Arc<dyn Fn(LoadProgress) + Send + Sync>);

impl LoadObserver {
    /// Calls `observe` after each part of the model.
    pub fn new(observe: impl Fn(LoadProgress) + Send + Sync + 'static) -> Self {
        Self(Arc::new(observe))
    }

    pub(crate) fn tell(&self, progress: LoadProgress) {
        (self.0)(progress);
    }
}

impl fmt::Debug for LoadObserver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("LoadObserver")
    }
}

/// Settings of one engine. Start from [`EngineConfig::new`] and change what differs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EngineConfig {
    /// A folder, a hub name, or `demo` for the embedded model.
    pub model: String,
    /// Where the tokenizer is, when it is not with the model.
    pub tokenizer: Option<String>,
    /// Branch, tag or commit on the hub.
    pub revision: Option<String>,
    /// Access token for the hub.
    pub hf_token: Option<String>,
    /// Where downloads are kept, instead of the hub's usual cache.
    pub download_dir: Option<PathBuf>,
    /// Which weight files are read, or none for made-up weights.
    pub load_format: LoadFormat,
    /// Told how far the loading of the weights has come.
    pub load_observer: Option<LoadObserver>,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// `auto`, `float32`, `bfloat16`, `float16` and their aliases.
    pub dtype: String,
    /// How the KV cache is stored: `auto` as the model's weights, `float32`, `bfloat16`, `float16`,
    /// `fp8` or `int8`.
    pub kv_cache_dtype: String,
    /// What linear layers of an unquantized checkpoint become while they are loaded: `int8`, `fp8` or a
    /// GGUF type such as `q4_k`; the method of a quantized one may be named, too.
    pub quantization: Option<String>,
    /// What embeddings and the output layer become: one of these, or `none` to leave both as they are.
    /// Without it, embeddings and output layers that share them stay, and other output layers become what
    /// linear layers do.
    pub embedding_quantization: Option<String>,
    /// Prompt and output tokens of one request; `None` takes the model's own limit.
    pub max_model_len: Option<usize>,
    /// Take `max_model_len` as a wish: shorten it to what the KV cache has room for.
    pub fit_max_model_len: bool,
    /// Tokens per KV-cache block.
    pub block_size: usize,
    /// Exact size of the KV cache in bytes; `None` plans it from the free memory.
    pub kv_cache_memory_bytes: Option<u64>,
    /// Share of the memory that the engine may use when it plans for itself.
    pub gpu_memory_utilization: f64,
    /// Sequences in one step; `None` decides by context.
    pub max_num_seqs: Option<usize>,
    /// Tokens in one step; `None` decides by context.
    pub max_num_batched_tokens: Option<usize>,
    /// Share the blocks of equal prompt beginnings.
    pub enable_prefix_caching: bool,
    /// Split prompts that exceed a step's token budget.
    pub enable_chunked_prefill: bool,
    /// Prompts above this many tokens are split even if they fit; 0 never does.
    pub long_prefill_token_threshold: usize,
    /// Who is admitted first.
    pub scheduling_policy: Policy,
    /// Seed of requests that bring none.
    pub seed: u64,
    /// The largest accepted `logprobs`; -1 accepts any.
    pub max_logprobs: i64,
    /// `auto` for the model's `generation_config.json`, `vllm` for none, or a folder.
    pub generation_config: String,
    /// JSON object laid over the sampling defaults.
    pub override_generation_config: Option<serde_json::Value>,
    /// Requests refused as "busy" beyond this many waiting; `None` has no limit.
    pub max_num_queued_reqs: Option<usize>,
    /// Worker threads on a CPU; `None` takes what the machine and its limits allow.
    pub num_threads: Option<usize>,
    /// Write every scheduling decision to this file, for replays without a model.
    pub record_steps: Option<PathBuf>,
    /// Decides the default batch limits.
    pub usage_context: UsageContext,
}

impl EngineConfig {
    /// vLLM's defaults for this model.
    pub fn new(model: impl Into<String>) -> Self {
        Self {
            model: model.into(),
            tokenizer: None,
            revision: None,
            hf_token: None,
            download_dir: None,
            load_format: LoadFormat::Auto,
            load_observer: None,
            device: "auto".to_owned(),
            dtype: "auto".to_owned(),
            kv_cache_dtype: "auto".to_owned(),
            quantization: None,
            embedding_quantization: None,
            max_model_len: None,
            fit_max_model_len: false,
            block_size: 16,
            kv_cache_memory_bytes: None,
            gpu_memory_utilization: 0.92,
            max_num_seqs: None,
            max_num_batched_tokens: None,
            enable_prefix_caching: true,
            enable_chunked_prefill: true,
            long_prefill_token_threshold: 0,
            scheduling_policy: Policy::Fcfs,
            seed: 0,
            max_logprobs: 20,
            generation_config: "auto".to_owned(),
            override_generation_config: None,
            max_num_queued_reqs: None,
            num_threads: None,
            record_steps: None,
            usage_context: UsageContext::Offline,
        }
    }

    /// Takes over a `--max-model-len`; `None` where there was none.
    pub fn set_context_length(&mut self, length: Option<ContextLength>) {
        self.fit_max_model_len = length == Some(ContextLength::Auto);
        self.max_model_len = match length {
            Some(ContextLength::Tokens(tokens)) => Some(tokens),
            Some(ContextLength::Auto) | None => None,
        };
    }

    /// Sequences in one step, chosen or by context; never above the token budget.
    pub fn resolved_max_num_seqs(&self) -> usize {
        let default = match self.usage_context {
            UsageContext::Offline => 256,
            UsageContext::Server => 128,
        };
        self.max_num_seqs
            .unwrap_or_else(|| match self.max_num_batched_tokens {
                Some(tokens) => default.min(tokens),
                None => default,
            })
    }

    /// Tokens in one step, chosen or by context.
    pub fn resolved_max_num_batched_tokens(&self, max_model_len: usize) -> usize {
        let default = match self.usage_context {
            UsageContext::Offline => 4096,
            UsageContext::Server => 2048,
        };
        self.max_num_batched_tokens.unwrap_or_else(|| {
            let max_num_seqs = self.resolved_max_num_seqs();
            let useful = default.min(max_num_seqs.saturating_mul(max_model_len));
            let needed = if self.enable_chunked_prefill {
                1
            } else {
                max_model_len
            };
            useful.max(needed).max(max_num_seqs)
        })
    }
}
