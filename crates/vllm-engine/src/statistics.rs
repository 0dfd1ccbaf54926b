//! Counters, gauges and histograms of one engine, updated without locks and read at any time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use vllm_sampling::FinishReason;

/// Upper bounds in seconds of the time-to-first-token histogram, as vLLM's.
pub const TIME_TO_FIRST_TOKEN_BOUNDS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];

/// Upper bounds in seconds of the per-token latency histograms, as vLLM's.
pub const TOKEN_LATENCY_BOUNDS: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];

/// Upper bounds in seconds of the request latency histograms, as vLLM's.
pub const REQUEST_LATENCY_BOUNDS: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];

/// Upper bounds of the tokens-per-step histogram, as vLLM's.
pub const ITERATION_TOKENS_BOUNDS: &[f64] = &[
    1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0,
];

/// Upper bounds of the histogram of `n`, as vLLM's.
pub const PARAMS_N_BOUNDS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];

/// Upper bounds of the preemptions-per-request histogram, as vLLM's.
pub const PREEMPTIONS_BOUNDS: &[f64] = &[1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0];

/// The 1-2-5 series up to and not above `max_model_len`: bounds of the token-count histograms.
pub fn token_count_bounds(max_model_len: usize) -> Vec<f64> {
    let mut bounds = Vec::new();
    let mut decade = 1_usize;
    loop {
        for mantissa in [1, 2, 5] {
            let bound = mantissa * decade;
            if bound > max_model_len {
                return bounds;
            }
            bounds.push(bound as f64);
        }
        decade *= 10;
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Relaxed);
    }

    /// Takes over a total that somebody else counts.
    pub fn set_total(&self, total: u64) {
        self.0.store(total, Relaxed);
    }

    /// The total so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Replaces the value.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Relaxed);
    }

    /// The value last set; 0 before.
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }
}

/// Observations counted by upper bound, with their sum: a Prometheus histogram.
#[derive(Debug)]
pub struct Histogram {
    bounds: Vec<f64>,
    /// One more than `bounds`: the last counts what lies above all of them.
    counts: Vec<AtomicU64>,
    sum: AtomicU64,
}

impl Histogram {
    /// An empty histogram with these ascending upper bounds; "infinity" is implied.
    pub fn new(bounds: &[f64]) -> Self {
        Self {
            bounds: bounds.to_vec(),
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        }
    }

    /// Counts one observation.
    pub fn observe(&self, value: f64) {
        let slot = self.bounds.partition_point(|bound| *bound < value);
        self.counts[slot].fetch_add(1, Relaxed);
        // The closure always returns Some, so the update cannot fail.
        let _ = self.sum.fetch_update(Relaxed, Relaxed, |bits| {
            Some((f64::from_bits(bits) + value).to_bits())
        });
    }

    /// The upper bounds, without infinity.
    pub fn bounds(&self) -> &[f64] {
        &self.bounds
    }

    /// Observations at or below each bound, then all of them.
    pub fn cumulative_counts(&self) -> Vec<u64> {
        self.counts
            .iter()
            .scan(0, |total, count| {
                *total += count.load(Relaxed);
                Some(*total)
            })
            .collect()
    }

    /// The sum of all observations.
    pub fn sum(&self) -> f64 {
        f64::from_bits(self.sum.load(Relaxed))
    }
}

/// Finished requests by reason.
#[derive(Debug, Default)]
pub struct FinishedRequests([Counter; 5]);

impl FinishedRequests {
    /// The reasons in the order in which vLLM lists them.
    pub const REASONS: [FinishReason; 5] = [
        FinishReason::Stop,
        FinishReason::Length,
        FinishReason::Abort,
        FinishReason::Error,
        FinishReason::Repetition,
    ];

    /// The counter of one reason.
    pub fn of(&self, reason: FinishReason) -> &Counter {
        let slot = match reason {
            FinishReason::Stop => 0,
            FinishReason::Length => 1,
            FinishReason::Abort => 2,
            FinishReason::Error => 3,
            FinishReason::Repetition => 4,
        };
        &self.0[slot]
    }
}

/// Everything that an engine counts. Names follow vLLM's metrics without their `vllm:` prefix.
#[derive(Debug)]
pub struct Statistics {
    /// Sequences in the running batch.
    pub num_requests_running: Gauge,
    /// Sequences waiting for admission.
    pub num_requests_waiting: Gauge,
    /// Used share of the KV cache, 0 to 1.
    pub kv_cache_usage: Gauge,
    /// Share of looked-up tokens found in the prefix cache over the latest requests, 0 to 1.
    pub prefix_cache_hit_rate: Gauge,
    /// Tokens looked up in the prefix cache.
    pub prefix_cache_queries: Counter,
    /// Tokens found there.
    pub prefix_cache_hits: Counter,
    /// Sequences put back to waiting because blocks ran out.
    pub num_preemptions: Counter,
    /// Prompt tokens of admitted requests, cached ones included.
    pub prompt_tokens: Counter,
    /// Prompt tokens that were not computed again.
    pub prompt_tokens_cached: Counter,
    /// Tokens sampled.
    pub generation_tokens: Counter,
    /// Steps that ran the model.
    pub steps: Counter,
    /// Requests by the way they ended.
    pub finished_requests: FinishedRequests,
    /// Refused for a full queue.
    pub admission_rejections: Counter,
    /// Tokens per step.
    pub iteration_tokens: Histogram,
    /// Seconds from arrival to first token.
    pub time_to_first_token: Histogram,
    /// Seconds between a request's tokens.
    pub inter_token_latency: Histogram,
    /// Decode seconds over generated tokens less one.
    pub time_per_output_token: Histogram,
    /// Seconds from arrival to last token.
    pub e2e_request_latency: Histogram,
    /// Seconds from arrival to the first scheduled step.
    pub request_queue_time: Histogram,
    /// Seconds from the first scheduled step to the last token.
    pub request_inference_time: Histogram,
    /// Seconds from the first scheduled step to the first token.
    pub request_prefill_time: Histogram,
    /// Seconds from the first token to the last.
    pub request_decode_time: Histogram,
    /// Prompt tokens per request.
    pub request_prompt_tokens: Histogram,
    /// Generated tokens per request.
    pub request_generation_tokens: Histogram,
    /// Generated tokens of the longest sample per request.
    pub request_max_num_generation_tokens: Histogram,
    /// Effective `max_tokens` per request.
    pub request_params_max_tokens: Histogram,
    /// `n` per request.
    pub request_params_n: Histogram,
    /// Computed (not cached) prompt tokens per request.
    pub request_prefill_kv_computed_tokens: Histogram,
    /// Preemptions per request.
    pub request_num_preemptions: Histogram,
}

impl Statistics {
    /// All zero, with token-count buckets up to `max_model_len`.
    pub fn new(max_model_len: usize) -> Self {
        let token_counts = token_count_bounds(max_model_len);
        let tokens = || Histogram::new(&token_counts);
        let latency = || Histogram::new(REQUEST_LATENCY_BOUNDS);
        Self {
            num_requests_running: Gauge::default(),
            num_requests_waiting: Gauge::default(),
            kv_cache_usage: Gauge::default(),
            prefix_cache_hit_rate: Gauge::default(),
            prefix_cache_queries: Counter::default(),
            prefix_cache_hits: Counter::default(),
            num_preemptions: Counter::default(),
            prompt_tokens: Counter::default(),
            prompt_tokens_cached: Counter::default(),
            generation_tokens: Counter::default(),
            steps: Counter::default(),
            finished_requests: FinishedRequests::default(),
            admission_rejections: Counter::default(),
            iteration_tokens: Histogram::new(ITERATION_TOKENS_BOUNDS),
            time_to_first_token: Histogram::new(TIME_TO_FIRST_TOKEN_BOUNDS),
            inter_token_latency: Histogram::new(TOKEN_LATENCY_BOUNDS),
            time_per_output_token: Histogram::new(TOKEN_LATENCY_BOUNDS),
            e2e_request_latency: latency(),
            request_queue_time: latency(),
            request_inference_time: latency(),
            request_prefill_time: latency(),
            request_decode_time: latency(),
            request_prompt_tokens: tokens(),
            request_generation_tokens: tokens(),
            request_max_num_generation_tokens: tokens(),
            request_params_max_tokens: tokens(),
            request_params_n: Histogram::new(PARAMS_N_BOUNDS),
            request_prefill_kv_computed_tokens: tokens(),
            request_num_preemptions: Histogram::new(PREEMPTIONS_BOUNDS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_counts_cumulatively_and_bounds_are_inclusive() {
        let histogram = Histogram::new(&[1.0, 2.0]);
        for value in [0.5, 1.0, 1.5, 9.0] {
            histogram.observe(value);
        }
        assert_eq!(histogram.cumulative_counts(), [2, 3, 4]);
        assert_eq!(histogram.sum(), 12.0);
    }

    #[test]
    fn token_bounds_follow_the_series_and_stop_at_the_context() {
        assert_eq!(
            token_count_bounds(512),
            [1., 2., 5., 10., 20., 50., 100., 200., 500.]
        );
        assert_eq!(token_count_bounds(1), [1.0]);
    }
}
