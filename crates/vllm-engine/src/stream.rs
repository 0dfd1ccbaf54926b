//! The stream of one request's outputs. It turns token ids into text where it is polled, so that
//! the engine thread never does.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use vllm_sampling::{CompletionOutput, FinishReason, OutputKind, SamplingParams};
use vllm_tokenizer::Tokenizer;

use crate::admission::count;
use crate::client::{GenerationRequest, RequestMetrics, RequestOutput};
use crate::error::{Error, Result};
use crate::event::{EngineEvent, SampleEvent};
use crate::sample::{Progress, SampleOutput, decode_logprobs};
use crate::statistics::Statistics;

/// Tells the engine to give up samples of a request.
pub(crate) trait Abort: Send {
    /// Stops generating these samples; their blocks are free in the next step.
    fn abort(&self, samples: &[usize]);
}

/// Outputs of one request, in order; ends after the output that says `finished`, or after an
/// error. Dropping it aborts the request.
pub struct RequestStream {
    events: Pin<Box<dyn Stream<Item = EngineEvent> + Send>>,
    aborter: Box<dyn Abort>,
    statistics: Arc<Statistics>,
    tokenizer: Arc<Tokenizer>,
    request_id: Arc<str>,
    prompt: Option<Arc<str>>,
    prompt_token_ids: Arc<[u32]>,
    params: SamplingParams,
    samples: Vec<SampleOutput>,
    prompt_logprobs: Option<Vec<Option<vllm_sampling::PositionLogprobs>>>,
    num_cached_tokens: usize,
    metrics: RequestMetrics,
    ended: bool,
}

impl RequestStream {
    pub(crate) fn new(
        request: GenerationRequest,
        events: Pin<Box<dyn Stream<Item = EngineEvent> + Send>>,
        aborter: Box<dyn Abort>,
        statistics: Arc<Statistics>,
        tokenizer: Arc<Tokenizer>,
    ) -> Self {
        let GenerationRequest {
            request_id,
            prompt_token_ids,
            prompt,
            params,
            arrival,
            ..
        } = request;
        let samples = (0..count(params.n))
            .map(|index| SampleOutput::new(index, &prompt_token_ids, &params, &tokenizer))
            .collect();
        Self {
            events,
            aborter,
            statistics,
            tokenizer,
            request_id: request_id.into(),
            prompt: prompt.map(Into::into),
            prompt_token_ids: prompt_token_ids.into(),
            params,
            samples,
            prompt_logprobs: None,
            num_cached_tokens: 0,
            metrics: RequestMetrics::new(arrival),
            ended: false,
        }
    }

    fn is_finished(&self) -> bool {
        self.samples.iter().all(SampleOutput::is_finished)
    }

    /// Takes in an event and returns an output if one is due.
    fn on_event(&mut self, event: SampleEvent) -> Option<RequestOutput> {
        let index = event.index;
        if self
            .samples
            .get(index)
            .is_none_or(SampleOutput::is_finished)
        {
            return None;
        }
        if let Some(first) = &event.first {
            self.on_first_event(&event, first);
        }
        if event.token.is_some() {
            self.record_token(&event);
        }
        let progress = self.samples[index].push(&event);
        if progress == Progress::Stopped {
            self.aborter.abort(&[index]);
        }
        if progress != Progress::Running {
            self.record_finished_sample(index);
        }
        self.due_output(index)
    }

    fn on_first_event(&mut self, event: &SampleEvent, first: &crate::event::FirstEvent) {
        if self.metrics.first_scheduled.is_none() {
            self.metrics.first_scheduled = Some(first.first_scheduled);
            self.num_cached_tokens = first.num_cached_tokens;
        }
        if let (0, Some(raw)) = (event.index, &first.prompt_logprobs) {
            let decoded = raw.iter().enumerate().map(|(i, logprobs)| {
                Some(decode_logprobs(
                    &self.tokenizer,
                    logprobs,
                    &self.prompt_token_ids[..=i],
                ))
            });
            self.prompt_logprobs = Some(std::iter::once(None).chain(decoded).collect());
        }
    }

    fn record_token(&mut self, event: &SampleEvent) {
        let statistics = &self.statistics;
        match self.metrics.last_token {
            Some(previous) if self.params.n == 1 => statistics
                .inter_token_latency
                .observe(event.time.saturating_duration_since(previous).as_secs_f64()),
            Some(_) => {}
            None => {
                let waited = event.time.saturating_duration_since(self.metrics.arrival);
                statistics.time_to_first_token.observe(waited.as_secs_f64());
                self.metrics.first_token = Some(event.time);
            }
        }
        self.metrics.last_token = Some(event.time);
        self.metrics.num_generated_tokens += 1;
    }

    fn record_finished_sample(&self, index: usize) {
        let statistics = &self.statistics;
        let sample = &self.samples[index];
        if let Some(reason) = sample.finish_reason() {
            statistics.finished_requests.of(reason).add(1);
        }
        statistics
            .request_generation_tokens
            .observe(sample.num_tokens() as f64);
        statistics
            .request_prompt_tokens
            .observe(self.prompt_token_ids.len() as f64);
        if let Some(max_tokens) = self.params.max_tokens {
            statistics
                .request_params_max_tokens
                .observe(max_tokens as f64);
        }
        let computed = self
            .prompt_token_ids
            .len()
            .saturating_sub(self.num_cached_tokens);
        statistics
            .request_prefill_kv_computed_tokens
            .observe(computed as f64);
        self.record_latencies(sample.num_tokens());
        if self.is_finished() {
            let longest = self
                .samples
                .iter()
                .map(SampleOutput::num_tokens)
                .max()
                .unwrap_or(0);
            statistics
                .request_max_num_generation_tokens
                .observe(longest as f64);
            statistics.request_params_n.observe(self.params.n as f64);
        }
    }

    fn record_latencies(&self, num_tokens: usize) {
        let statistics = &self.statistics;
        let metrics = &self.metrics;
        let observe = |histogram: &crate::statistics::Histogram, seconds: Option<f64>| {
            if let Some(seconds) = seconds {
                histogram.observe(seconds);
            }
        };
        observe(&statistics.request_queue_time, metrics.queued_seconds());
        observe(&statistics.request_prefill_time, metrics.prefill_seconds());
        observe(&statistics.request_decode_time, metrics.decode_seconds());
        let inference = metrics.prefill_seconds().zip(metrics.decode_seconds());
        observe(
            &statistics.request_inference_time,
            inference.map(|(prefill, decode)| prefill + decode),
        );
        let end_to_end = metrics.last_token.map(|last| {
            last.saturating_duration_since(metrics.arrival)
                .as_secs_f64()
        });
        observe(&statistics.e2e_request_latency, end_to_end);
        if num_tokens > 1 {
            let per_token = metrics
                .decode_seconds()
                .map(|s| s / (num_tokens - 1) as f64);
            observe(&statistics.time_per_output_token, per_token);
        }
    }

    /// The output that the request's kind and stream interval ask for after news of `index`.
    fn due_output(&mut self, index: usize) -> Option<RequestOutput> {
        if self.params.output_kind == OutputKind::FinalOnly {
            if !self.is_finished() {
                return None;
            }
            let outputs = self.samples.iter_mut().map(SampleOutput::take).collect();
            return Some(self.output(outputs));
        }
        let sample = &mut self.samples[index];
        let interval = self.params.stream_interval.map_or(1, count);
        let due = sample.is_finished() || !sample.has_emitted() || sample.num_pending() >= interval;
        if !due {
            return None;
        }
        let output = sample.take();
        Some(self.output(vec![output]))
    }

    fn output(&mut self, outputs: Vec<CompletionOutput>) -> RequestOutput {
        RequestOutput {
            request_id: Arc::clone(&self.request_id),
            prompt: self.prompt.clone(),
            prompt_token_ids: Arc::clone(&self.prompt_token_ids),
            prompt_logprobs: self.prompt_logprobs.take(),
            outputs,
            finished: self.is_finished(),
            num_cached_tokens: self.num_cached_tokens,
            metrics: self.metrics,
        }
    }

    /// The engine has gone without ending this request: what there is ends with `abort`.
    fn on_engine_gone(&mut self) -> RequestOutput {
        for sample in &mut self.samples {
            sample.abort();
        }
        let outputs = self.samples.iter_mut().map(SampleOutput::take).collect();
        self.output(outputs)
    }

    fn fail(&mut self, error: Error) -> Error {
        self.ended = true;
        if !matches!(error, Error::InvalidRequest { .. }) {
            let open = self
                .samples
                .iter()
                .filter(|sample| !sample.is_finished())
                .count();
            self.statistics
                .finished_requests
                .of(FinishReason::Error)
                .add(open as u64);
        }
        error
    }
}

impl Stream for RequestStream {
    type Item = Result<RequestOutput>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while !self.ended {
            let output = match self.events.as_mut().poll_next(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(EngineEvent::Sample(event))) => self.on_event(event),
                Poll::Ready(Some(EngineEvent::Failed(error))) => {
                    return Poll::Ready(Some(Err(self.fail(error))));
                }
                Poll::Ready(None) => Some(self.on_engine_gone()),
            };
            if let Some(output) = output {
                self.ended = output.finished;
                return Poll::Ready(Some(Ok(output)));
            }
        }
        Poll::Ready(None)
    }
}

impl Drop for RequestStream {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let open: Vec<usize> = (0..self.samples.len())
            .filter(|i| !self.samples[*i].is_finished())
            .collect();
        self.statistics
            .finished_requests
            .of(FinishReason::Abort)
            .add(open.len() as u64);
        self.aborter.abort(&open);
    }
}
