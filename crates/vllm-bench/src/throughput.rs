//! How much an engine does when it has everything to do at once.

use std::fmt;
use std::time::Instant;

use serde_json::{Value, json};
use vllm_engine::{EngineClient, RequestOutput};

use crate::error::Result;
use crate::figures::Figures;
use crate::workload::{Generation, SampleRequest};

/// What an engine did with a workload.
#[derive(Debug, Clone)]
pub struct ThroughputReport {
    /// Wall time from the first request to the last token.
    pub seconds: f64,
    /// Requests answered.
    pub num_requests: usize,
    /// Tokens of all prompts.
    pub num_prompt_tokens: usize,
    /// Tokens generated.
    pub num_output_tokens: usize,
    /// Milliseconds from the start to the first token of each request.
    pub ttft_ms: Figures,
    /// Milliseconds between the tokens of a request after its first one, one mean per request.
    pub tpot_ms: Figures,
}

/// Hands all requests to the engine at once and waits for the last one. A first request of one
/// token brings weights and caches in before the clock starts; it is not counted.
///
/// # Errors
/// The first request that the engine refuses or fails.
pub fn measure_throughput(
    engine: &dyn EngineClient,
    requests: &[SampleRequest],
    generation: &Generation,
    mut on_finished: impl FnMut(),
) -> Result<ThroughputReport> {
    if let Some(first) = requests.first() {
        let warm_up = SampleRequest {
            prompt_token_ids: first.prompt_token_ids.iter().copied().take(1).collect(),
            output_len: 1,
        };
        generation.run(engine, &[warm_up], |_| ())?;
    }
    let (mut num_output_tokens, mut ttft, mut tpot) = (0, Vec::new(), Vec::new());
    let started = Instant::now();
    generation.run(engine, requests, |output| {
        let generated = num_generated(output);
        num_output_tokens += generated;
        let metrics = &output.metrics;
        if let Some(first) = metrics.first_token {
            ttft.push(1e3 * first.saturating_duration_since(started).as_secs_f64());
        }
        // Samples of one request run side by side, so that its tokens have no single pace.
        if let (Some(seconds), 1, 2..) = (metrics.decode_seconds(), generation.n, generated) {
            tpot.push(1e3 * seconds / (generated - 1) as f64);
        }
        on_finished();
    })?;
    Ok(ThroughputReport {
        seconds: started.elapsed().as_secs_f64(),
        num_requests: requests.len(),
        num_prompt_tokens: requests.iter().map(|r| r.prompt_token_ids.len()).sum(),
        num_output_tokens,
        ttft_ms: ttft.into_iter().collect(),
        tpot_ms: tpot.into_iter().collect(),
    })
}

fn num_generated(output: &RequestOutput) -> usize {
    let samples = output.outputs.iter();
    samples.map(|sample| sample.token_ids.len()).sum()
}

impl ThroughputReport {
    fn per_second(&self, count: usize) -> f64 {
        count as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// The names of `vllm bench throughput --output-json`, then what it does not tell.
    pub fn to_json(&self) -> Value {
        let num_tokens = self.num_prompt_tokens + self.num_output_tokens;
        json!({
            "elapsed_time": self.seconds,
            "num_requests": self.num_requests,
            "total_num_tokens": num_tokens,
            "requests_per_second": self.per_second(self.num_requests),
            "tokens_per_second": self.per_second(num_tokens),
            "num_prompt_tokens": self.num_prompt_tokens,
            "num_output_tokens": self.num_output_tokens,
            "output_tokens_per_second": self.per_second(self.num_output_tokens),
            "mean_ttft_ms": self.ttft_ms.mean(),
            "median_ttft_ms": self.ttft_ms.median(),
            "p99_ttft_ms": self.ttft_ms.percentile(99.0),
            "mean_tpot_ms": self.tpot_ms.mean(),
            "median_tpot_ms": self.tpot_ms.median(),
            "p99_tpot_ms": self.tpot_ms.percentile(99.0),
        })
    }
}

impl fmt::Display for ThroughputReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Throughput: {:.2} requests/s, {:.2} total tokens/s, {:.2} output tokens/s\n\
             Total num prompt tokens:  {}\nTotal num output tokens:  {}",
            self.per_second(self.num_requests),
            self.per_second(self.num_prompt_tokens + self.num_output_tokens),
            self.per_second(self.num_output_tokens),
            self.num_prompt_tokens,
            self.num_output_tokens,
        )
    }
}

#[cfg(test)]
mod tests {
    use vllm_engine::mock::MockEngine;

    use super::*;

    #[test]
    fn counts_what_was_done() {
        let engine = MockEngine::new("a few words").unwrap();
        let request = |input_len, output_len| SampleRequest {
            prompt_token_ids: vec![5; input_len],
            output_len,
        };
        let mut finished = 0;
        let requests = [request(10, 4), request(7, 1)];
        let generation = Generation::default();
        let report = measure_throughput(&engine, &requests, &generation, || finished += 1).unwrap();
        let json = report.to_json();
        assert_eq!(finished, 2);
        assert_eq!(json["num_requests"], 2);
        assert_eq!(json["total_num_tokens"], 22);
        assert_eq!(json["num_output_tokens"], 5);
        assert!(json["tokens_per_second"].as_f64().unwrap() > 0.0);
        assert!(report.to_string().contains("Total num prompt tokens:  17"));
    }

    #[test]
    fn a_request_that_does_not_fit_ends_it() {
        let engine = MockEngine::new("a few words").unwrap();
        let long = SampleRequest {
            prompt_token_ids: vec![5; 500],
            output_len: 100,
        };
        let generation = Generation::default();
        let error = measure_throughput(&engine, &[long], &generation, || ()).unwrap_err();
        assert!(error.to_string().contains("model's 512 tokens"), "{error}");
    }
}
