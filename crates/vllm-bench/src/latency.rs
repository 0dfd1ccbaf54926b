//! How long an engine takes over one batch.

use std::fmt;
use std::time::Instant;

use serde_json::{Map, Value, json};
use vllm_engine::EngineClient;

use crate::error::{Error, Result};
use crate::figures::Figures;
use crate::workload::{Generation, SampleRequest};

/// The percentiles that `vllm bench latency` tells.
const PERCENTILES: [f64; 6] = [10.0, 25.0, 50.0, 75.0, 90.0, 99.0];

/// How often a batch runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatencySettings {
    /// Runs before the clock starts.
    pub num_warmup_iterations: usize,
    /// Runs that count; at least 1.
    pub num_iterations: usize,
}

/// How long each run took.
#[derive(Debug, Clone)]
pub struct LatencyReport {
    /// Seconds of each run, in order.
    pub seconds: Vec<f64>,
}

/// Runs one batch several times, each from its requests to its last token. The engine should keep
/// no prefix cache, because every run has the same prompts.
///
/// # Errors
/// No run is asked for, or the first request that the engine refuses or fails.
pub fn measure_latency(
    engine: &dyn EngineClient,
    batch: &[SampleRequest],
    generation: &Generation,
    settings: LatencySettings,
    mut on_iteration: impl FnMut(),
) -> Result<LatencyReport> {
    if settings.num_iterations == 0 {
        return Err(Error::Workload("at least one run must count".to_owned()));
    }
    let mut seconds = Vec::with_capacity(settings.num_iterations);
    for iteration in 0..settings.num_warmup_iterations + settings.num_iterations {
        let started = Instant::now();
        generation.run(engine, batch, |_| ())?;
        if iteration >= settings.num_warmup_iterations {
            seconds.push(started.elapsed().as_secs_f64());
        }
        on_iteration();
    }
    Ok(LatencyReport { seconds })
}

impl LatencyReport {
    fn figures(&self) -> Figures {
        self.seconds.iter().copied().collect()
    }

    /// The names of `vllm bench latency --output-json`.
    pub fn to_json(&self) -> Value {
        let figures = self.figures();
        let percentiles: Map<String, Value> = PERCENTILES
            .into_iter()
            .map(|percent| (percent.to_string(), figures.percentile(percent).into()))
            .collect();
        json!({
            "avg_latency": figures.mean(),
            "latencies": self.seconds,
            "percentiles": percentiles,
        })
    }
}

impl fmt::Display for LatencyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = self.figures();
        write!(f, "Avg latency: {} seconds", figures.mean())?;
        PERCENTILES.into_iter().try_for_each(|percent| {
            let seconds = figures.percentile(percent);
            write!(f, "\n{percent}% percentile latency: {seconds} seconds")
        })
    }
}

#[cfg(test)]
mod tests {
    use vllm_engine::mock::MockEngine;

    use super::*;

    fn measure(num_iterations: usize) -> Result<(LatencyReport, usize)> {
        let engine = MockEngine::new("a few words").unwrap();
        let request = SampleRequest {
            prompt_token_ids: vec![5; 10],
            output_len: 4,
        };
        let settings = LatencySettings {
            num_warmup_iterations: 2,
            num_iterations,
        };
        let mut runs = 0;
        let batch = [request.clone(), request];
        let generation = Generation::default();
        measure_latency(&engine, &batch, &generation, settings, || runs += 1)
            .map(|report| (report, runs))
    }

    #[test]
    fn only_runs_after_the_warm_up_count() {
        let (report, runs) = measure(3).unwrap();
        assert_eq!((report.seconds.len(), runs), (3, 5));
        let json = report.to_json();
        assert_eq!(json["latencies"].as_array().unwrap().len(), 3);
        assert!(json["percentiles"]["99"].as_f64() >= json["percentiles"]["50"].as_f64());
        assert!(report.to_string().contains("\n90% percentile latency: "));
    }

    #[test]
    fn no_run_is_refused() {
        assert!(measure(0).is_err());
    }
}
