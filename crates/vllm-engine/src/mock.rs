//! An engine without a model: it answers every request with a fixed script, at no cost. For tests
//! and benchmarks of what lies above the engine.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Instant;

use futures::Stream;
use vllm_chat_template::ChatTemplate;
use vllm_sampling::{DefaultSampling, SampledToken};
use vllm_scheduler::FinishCause;
use vllm_tokenizer::{Tokenizer, TokenizerFiles};

use crate::admission::{Admission, admit, count, effective_stop_ids};
use crate::client::{EngineClient, GenerationRequest, ModelInfo};
use crate::error::{Error, Result};
use crate::event::{EngineEvent, FirstEvent, SampleEvent};
use crate::load::ChatTemplates;
use crate::statistics::Statistics;
use crate::stream::{Abort, RequestStream};

/// Answers with the tokens of a text, one per poll, over and over up to `max_tokens`; with
/// [`MockEngine::stalling`] it never answers at all.
pub struct MockEngine {
    info: ModelInfo,
    tokenizer: Arc<Tokenizer>,
    templates: ChatTemplates,
    statistics: Arc<Statistics>,
    script: Arc<[u32]>,
    stalls: bool,
    alive: AtomicBool,
    aborted: Arc<AtomicUsize>,
}

impl MockEngine {
    /// An engine with the demo model's tokenizer whose every answer is `text`.
    ///
    /// # Errors
    /// The embedded tokenizer does not load, or `text` is empty.
    pub fn new(text: &str) -> Result<Self> {
        let file = |name: &str| {
            vllm_demo_model::FILES
                .iter()
                .find(|(found, _)| *found == name)
                .map(|(_, bytes)| *bytes)
        };
        let tokenizer = Tokenizer::from_files(&TokenizerFiles {
            tokenizer_json: file("tokenizer.json"),
            tokenizer_config_json: file("tokenizer_config.json"),
            chat_template_jinja: file("chat_template.jinja"),
            config_json: file("config.json"),
            ..TokenizerFiles::default()
        })
        .map_err(Error::setup)?;
        let tokenizer = Arc::new(tokenizer);
        let script = tokenizer.encode(text, false).map_err(Error::setup)?;
        if script.is_empty() {
            return Err(Error::Setup(
                "a mock engine needs a text to answer with".to_owned(),
            ));
        }
        let info = ModelInfo {
            name: "mock".to_owned(),
            architecture: "MockForCausalLM".to_owned(),
            max_model_len: 512,
            vocab_size: 2048,
            max_logprobs: 20,
            default_sampling: DefaultSampling::default(),
            dtype: "float32".to_owned(),
            kv_cache_dtype: "auto".to_owned(),
            device: "cpu".to_owned(),
            block_size: 16,
            num_blocks: 1024,
            enable_prefix_caching: true,
        };
        Ok(Self {
            statistics: Arc::new(Statistics::new(info.max_model_len)),
            templates: ChatTemplates::new(Arc::clone(&tokenizer)),
            info,
            tokenizer,
            script: script.into(),
            stalls: false,
            alive: AtomicBool::new(true),
            aborted: Arc::default(),
        })
    }

    /// Requests are accepted and never answered.
    #[must_use]
    pub fn stalling(mut self) -> Self {
        self.stalls = true;
        self
    }

    /// Samples that were aborted by dropping their stream or by a stop string.
    pub fn num_aborted(&self) -> usize {
        self.aborted.load(Relaxed)
    }

    /// Makes the engine look dead.
    pub fn kill(&self) {
        self.alive.store(false, Relaxed);
    }
}

impl EngineClient for MockEngine {
    fn generate(&self, mut request: GenerationRequest) -> Result<RequestStream> {
        if !self.is_alive() {
            return Err(Error::Dead("it was killed".to_owned()));
        }
        let stop_ids = effective_stop_ids(&request.params, &self.info, &self.tokenizer);
        let admission = Admission {
            info: &self.info,
            tokenizer: &self.tokenizer,
            stop_ids: &stop_ids,
            first_id: 0,
            engine_seed: 0,
        };
        let sequences = admit(&mut request, &admission, |_| {
            Err(Error::invalid(
                "a mock engine cannot follow structured outputs",
            ))
        })?;
        let max_tokens = request.params.max_tokens.map_or(1, count);
        let events: Pin<Box<dyn Stream<Item = EngineEvent> + Send>> = if self.stalls {
            Box::pin(futures::stream::pending())
        } else {
            Box::pin(Script {
                tokens: Arc::clone(&self.script),
                num_samples: sequences.len(),
                max_tokens,
                next: 0,
                ready: true,
            })
        };
        Ok(RequestStream::new(
            request,
            events,
            Box::new(CountAborts(Arc::clone(&self.aborted))),
            Arc::clone(&self.statistics),
            Arc::clone(&self.tokenizer),
        ))
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    fn chat_template(&self, has_tools: bool) -> Result<Option<Arc<ChatTemplate>>> {
        self.templates.get(has_tools)
    }

    fn is_alive(&self) -> bool {
        self.alive.load(Relaxed)
    }

    fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    fn reset_prefix_cache(&self) -> bool {
        true
    }

    fn shutdown(&self) {
        self.kill();
    }
}

struct CountAborts(Arc<AtomicUsize>);

impl Abort for CountAborts {
    fn abort(&self, samples: &[usize]) {
        self.0.fetch_add(samples.len(), Relaxed);
    }
}

/// Yields one event, then lets others run, as a real engine would.
struct Script {
    tokens: Arc<[u32]>,
    num_samples: usize,
    max_tokens: usize,
    /// Events so far: token by token, sample by sample.
    next: usize,
    ready: bool,
}

impl Stream for Script {
    type Item = EngineEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if !std::mem::replace(&mut self.ready, false) {
            self.ready = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let position = self.next / self.num_samples;
        let index = self.next % self.num_samples;
        if position >= self.max_tokens {
            return Poll::Ready(None);
        }
        self.next += 1;
        let now = Instant::now();
        let ends_script = position + 1 == self.tokens.len();
        let finished = match (position + 1 == self.max_tokens, ends_script) {
            (true, _) => Some(FinishCause::Length),
            (false, true) => Some(FinishCause::Eos),
            (false, false) => None,
        };
        Poll::Ready(Some(EngineEvent::Sample(SampleEvent {
            index,
            token: Some(SampledToken {
                token_id: self.tokens[position % self.tokens.len()],
                logprobs: None,
            }),
            finished,
            time: now,
            first: (position == 0).then(|| {
                Box::new(FirstEvent {
                    first_scheduled: now,
                    num_cached_tokens: 0,
                    prompt_logprobs: None,
                })
            }),
        })))
    }
}
