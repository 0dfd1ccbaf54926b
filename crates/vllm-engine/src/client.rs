//! The engine as its users see it: a request goes in, a stream of outputs comes out.

use std::sync::Arc;
use std::time::Instant;

use vllm_chat_template::ChatTemplate;
use vllm_sampling::{CompletionOutput, DefaultSampling, PositionLogprobs, SamplingParams};
use vllm_tokenizer::Tokenizer;

use crate::error::Result;
use crate::statistics::Statistics;
use crate::stream::RequestStream;

/// One prompt to be continued.
#[derive(Debug, Clone)]
pub struct GenerationRequest {
    /// The caller's name for the request; need not be unique.
    pub request_id: String,
    /// The prompt as token ids; must not be empty.
    pub prompt_token_ids: Vec<u32>,
    /// The prompt's text where it is known; only echoed.
    pub prompt: Option<String>,
    /// How to sample and when to stop.
    pub params: SamplingParams,
    /// Lower runs earlier; only with the priority policy.
    pub priority: i64,
    /// Separates the prefix cache of callers that must not share it.
    pub cache_salt: Option<String>,
    /// When the request arrived, for the latency statistics.
    pub arrival: Instant,
}

impl GenerationRequest {
    /// A request of default priority that arrives now.
    pub fn new(
        request_id: impl Into<String>,
        prompt_token_ids: Vec<u32>,
        params: SamplingParams,
    ) -> Self {
        Self {
            request_id: request_id.into(),
            prompt_token_ids,
            prompt: None,
            params,
            priority: 0,
            cache_salt: None,
            arrival: Instant::now(),
        }
    }
}

/// What a request has produced: everything so far, or what is new, by its
/// [`OutputKind`](vllm_sampling::OutputKind).
#[derive(Debug, Clone)]
pub struct RequestOutput {
    /// As given in the request.
    pub request_id: Arc<str>,
    /// The prompt's text where it is known.
    pub prompt: Option<Arc<str>>,
    /// The prompt's token ids.
    pub prompt_token_ids: Arc<[u32]>,
    /// One entry per prompt token, the first `None`; only when asked for, and only once.
    pub prompt_logprobs: Option<Vec<Option<PositionLogprobs>>>,
    /// One entry per sample that has something to tell, in index order.
    pub outputs: Vec<CompletionOutput>,
    /// No further output follows.
    pub finished: bool,
    /// Prompt tokens served from the prefix cache at first admission.
    pub num_cached_tokens: usize,
    /// When things happened to this request.
    pub metrics: RequestMetrics,
}

/// Points in the life of a request. Times are `None` until they are reached.
#[derive(Debug, Clone, Copy)]
pub struct RequestMetrics {
    /// The request reached the engine.
    pub arrival: Instant,
    /// Its first tokens entered a step.
    pub first_scheduled: Option<Instant>,
    /// Its first token was sampled.
    pub first_token: Option<Instant>,
    /// Its latest token was sampled.
    pub last_token: Option<Instant>,
    /// Tokens generated so far, over all samples.
    pub num_generated_tokens: usize,
}

impl RequestMetrics {
    pub(crate) fn new(arrival: Instant) -> Self {
        Self {
            arrival,
            first_scheduled: None,
            first_token: None,
            last_token: None,
            num_generated_tokens: 0,
        }
    }

    /// Seconds from arrival to the first scheduled step.
    pub fn queued_seconds(&self) -> Option<f64> {
        seconds(Some(self.arrival), self.first_scheduled)
    }

    /// Seconds from the first scheduled step to the first token.
    pub fn prefill_seconds(&self) -> Option<f64> {
        seconds(self.first_scheduled, self.first_token)
    }

    /// Seconds from the first token to the latest one.
    pub fn decode_seconds(&self) -> Option<f64> {
        seconds(self.first_token, self.last_token)
    }
}

fn seconds(from: Option<Instant>, to: Option<Instant>) -> Option<f64> {
    Some(to?.saturating_duration_since(from?).as_secs_f64())
}

/// What is fixed about a loaded model.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// The model as the user named it: a folder, a hub name, `demo`.
    pub name: String,
    /// The first entry of `architectures` in its `config.json`.
    pub architecture: String,
    /// Prompt and output tokens of one request together.
    pub max_model_len: usize,
    /// Rows of the output layer; sampled ids lie below it.
    pub vocab_size: usize,
    /// The largest accepted `logprobs`; -1 accepts any.
    pub max_logprobs: i64,
    /// Sampling defaults and extra end-of-sequence ids of `generation_config.json`.
    pub default_sampling: DefaultSampling,
    /// The data type that the model runs in, as `--dtype` spells it.
    pub dtype: String,
    /// How the KV cache is stored, as `--kv-cache-dtype` was given.
    pub kv_cache_dtype: String,
    /// The device that the model runs on, such as `cpu` or `cuda:0`.
    pub device: String,
    /// Tokens per KV-cache block.
    pub block_size: usize,
    /// KV-cache blocks, the reserved one included.
    pub num_blocks: usize,
    /// Whether prompts share cached prefixes.
    pub enable_prefix_caching: bool,
}

/// What a front end needs of an engine; [`AsyncLlm`](crate::AsyncLlm) is the real one and
/// [`MockEngine`](crate::mock::MockEngine) costs nothing.
pub trait EngineClient: Send + Sync + 'static {
    /// Queues a request. Dropping the stream aborts it.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`](crate::Error::InvalidRequest) for what the caller can mend,
    /// [`Error::Busy`](crate::Error::Busy) at the admission limits, and
    /// [`Error::Dead`](crate::Error::Dead) once the engine has stopped.
    fn generate(&self, request: GenerationRequest) -> Result<RequestStream>;

    /// What is fixed about the model.
    fn info(&self) -> &ModelInfo;

    /// The model's tokenizer.
    fn tokenizer(&self) -> &Arc<Tokenizer>;

    /// The model's own chat template, `None` where it has none. Models with several choose by
    /// whether the request has tools.
    ///
    /// # Errors
    /// A template that does not parse.
    fn chat_template(&self, has_tools: bool) -> Result<Option<Arc<ChatTemplate>>>;

    /// False once the engine thread has ended or no longer makes progress.
    fn is_alive(&self) -> bool;

    /// Live counters, gauges and histograms.
    fn statistics(&self) -> &Statistics;

    /// Forgets cached prefixes; false when requests still hold blocks.
    fn reset_prefix_cache(&self) -> bool;

    /// Ends every request with finish reason `abort` and refuses new ones.
    fn shutdown(&self);
}
