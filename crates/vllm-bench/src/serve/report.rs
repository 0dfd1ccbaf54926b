//! What clients saw, in vLLM's words.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::figures::Figures;
use crate::serve::load::Load;

/// What one client saw of its request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observation {
    /// When it was sent, from the start of the run.
    pub start: Duration,
    /// Tokens of its prompt.
    pub prompt_len: usize,
    /// Tokens of its answer, as the server counts them.
    pub output_len: usize,
    /// From sending to the first token.
    pub ttft: Duration,
    /// Between chunks of the answer.
    pub itl: Vec<Duration>,
    /// From sending to the last token.
    pub latency: Duration,
    /// The answer.
    pub text: String,
    /// Why there is no whole answer.
    pub error: Option<String>,
}

impl Observation {
    /// Mean time of a token after the first one; unknown of an answer of one token.
    fn tpot(&self) -> Option<f64> {
        let others = self.output_len.checked_sub(1).filter(|count| *count > 0)?;
        Some(milliseconds(self.latency.saturating_sub(self.ttft)) / others as f64)
    }
}

/// A measured time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Time to first token.
    Ttft,
    /// Time per output token, without the first one.
    Tpot,
    /// Inter-token latency.
    Itl,
    /// End-to-end latency.
    E2el,
}

impl Metric {
    /// All metrics, in the order of reports.
    pub const ALL: [Self; 4] = [Self::Ttft, Self::Tpot, Self::Itl, Self::E2el];

    /// The name in results and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ttft => "ttft",
            Self::Tpot => "tpot",
            Self::Itl => "itl",
            Self::E2el => "e2el",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Ttft => "Time to First Token",
            Self::Tpot => "Time per Output Token (excl. 1st token)",
            Self::Itl => "Inter-token Latency",
            Self::E2el => "End-to-end Latency",
        }
    }

    /// The values of one answer, in milliseconds.
    fn values(self, observation: &Observation) -> Vec<f64> {
        match self {
            Self::Ttft => vec![milliseconds(observation.ttft)],
            Self::Tpot => observation.tpot().into_iter().collect(),
            Self::Itl => observation.itl.iter().copied().map(milliseconds).collect(),
            Self::E2el => vec![milliseconds(observation.latency)],
        }
    }
}

impl std::str::FromStr for Metric {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|metric| metric.name() == name);
        found.ok_or_else(|| format!("`{name}` is none of ttft, tpot, itl, e2el"))
    }
}

/// A time that a good answer keeps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Goal {
    /// Which time: TTFT, TPOT or E2EL, of which a request has one.
    pub metric: Metric,
    /// The most that it may take.
    pub milliseconds: f64,
}

/// What a report tells.
#[derive(Debug, Clone)]
pub struct ReportSettings {
    /// Metrics with figures.
    pub metrics: Vec<Metric>,
    /// Percentiles of each, from 0 to 100.
    pub percentiles: Vec<f64>,
    /// What a good answer keeps; none counts no good answers.
    pub goals: Vec<Goal>,
}

/// The figures of a run.
#[derive(Debug, Clone)]
pub struct ServeReport {
    settings: ReportSettings,
    seconds: f64,
    completed: usize,
    failed: usize,
    good: Option<usize>,
    input_tokens: usize,
    output_tokens: usize,
    peak_output_tokens_per_second: usize,
    peak_concurrency: usize,
    figures: Vec<(Metric, Figures)>,
}

impl ServeReport {
    /// Takes the figures of a run.
    pub fn new(load: &Load, settings: ReportSettings) -> Self {
        let answered = || load.observations.iter().filter(|o| o.error.is_none());
        let completed = answered().count();
        let is_good = |observation: &&Observation| {
            settings.goals.iter().all(|goal| {
                let values = goal.metric.values(observation);
                values.iter().all(|value| *value <= goal.milliseconds)
            })
        };
        let (peak_output_tokens_per_second, peak_concurrency) = peaks(load);
        let figures = Metric::ALL
            .into_iter()
            .filter(|metric| settings.metrics.contains(metric))
            .map(|metric| (metric, answered().flat_map(|o| metric.values(o)).collect()))
            .collect();
        Self {
            seconds: load.duration.as_secs_f64(),
            completed,
            failed: load.observations.len() - completed,
            good: (!settings.goals.is_empty()).then(|| answered().filter(is_good).count()),
            input_tokens: answered().map(|o| o.prompt_len).sum(),
            output_tokens: answered().map(|o| o.output_len).sum(),
            peak_output_tokens_per_second,
            peak_concurrency,
            figures,
            settings,
        }
    }

    /// Requests that got no whole answer.
    pub fn failed(&self) -> usize {
        self.failed
    }

    fn per_second(&self, count: usize) -> f64 {
        count as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// The names of `vllm bench serve --save-result`.
    pub fn to_json(&self) -> Map<String, Value> {
        let mut json = Map::new();
        let mut add = |name: &str, value: Value| json.insert(name.to_owned(), value);
        add("duration", self.seconds.into());
        add("completed", self.completed.into());
        add("failed", self.failed.into());
        add("total_input_tokens", self.input_tokens.into());
        add("total_output_tokens", self.output_tokens.into());
        add("request_throughput", self.per_second(self.completed).into());
        let goodput = self.good.map(|good| self.per_second(good));
        add("request_goodput", goodput.into());
        add(
            "output_throughput",
            self.per_second(self.output_tokens).into(),
        );
        let total = self.per_second(self.input_tokens + self.output_tokens);
        add("total_token_throughput", total.into());
        let peak = self.peak_output_tokens_per_second;
        add("max_output_tokens_per_s", peak.into());
        add("max_concurrent_requests", self.peak_concurrency.into());
        for (metric, figures) in &self.figures {
            let name = metric.name();
            add(&format!("mean_{name}_ms"), figures.mean().into());
            add(&format!("median_{name}_ms"), figures.median().into());
            add(&format!("std_{name}_ms"), figures.std().into());
            for percent in &self.settings.percentiles {
                let value = figures.percentile(*percent);
                add(&format!("p{percent}_{name}_ms"), value.into());
            }
        }
        json
    }

    /// What each client saw, for `--save-detailed`.
    pub fn details(load: &Load) -> Map<String, Value> {
        let each = |value: fn(&Observation) -> Value| -> Value {
            load.observations.iter().map(value).collect()
        };
        let seconds =
            |times: &[Duration]| -> Value { times.iter().map(Duration::as_secs_f64).collect() };
        let details = json!({
            "input_lens": each(|o| o.prompt_len.into()),
            "output_lens": each(|o| o.output_len.into()),
            "start_times": each(|o| o.start.as_secs_f64().into()),
            "ttfts": each(|o| o.ttft.as_secs_f64().into()),
            "itls": load.observations.iter().map(|o| seconds(&o.itl)).collect::<Value>(),
            "generated_texts": each(|o| o.text.as_str().into()),
            "errors": each(|o| o.error.as_deref().unwrap_or_default().into()),
        });
        match details {
            Value::Object(details) => details,
            _ => Map::new(),
        }
    }
}

impl fmt::Display for ServeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut count = |label: &str, count: usize| writeln!(f, "{label:<40} {count:<10}");
        count("Successful requests:", self.completed)?;
        count("Failed requests:", self.failed)?;
        let rate = |f: &mut fmt::Formatter<'_>, label: &str, value: f64| {
            writeln!(f, "{label:<40} {value:<10.2}")
        };
        rate(f, "Benchmark duration (s):", self.seconds)?;
        let mut count = |label: &str, count: usize| writeln!(f, "{label:<40} {count:<10}");
        count("Total input tokens:", self.input_tokens)?;
        count("Total generated tokens:", self.output_tokens)?;
        rate(
            f,
            "Request throughput (req/s):",
            self.per_second(self.completed),
        )?;
        if let Some(good) = self.good {
            rate(f, "Request goodput (req/s):", self.per_second(good))?;
        }
        let output = self.per_second(self.output_tokens);
        rate(f, "Output token throughput (tok/s):", output)?;
        let peak = self.peak_output_tokens_per_second as f64;
        rate(f, "Peak output token throughput (tok/s):", peak)?;
        rate(f, "Peak concurrent requests:", self.peak_concurrency as f64)?;
        let total = self.per_second(self.input_tokens + self.output_tokens);
        rate(f, "Total token throughput (tok/s):", total)?;
        for (metric, figures) in &self.figures {
            let name = metric.name().to_uppercase();
            writeln!(f, "{:-^50}", metric.title())?;
            rate(f, &format!("Mean {name} (ms):"), figures.mean())?;
            rate(f, &format!("Median {name} (ms):"), figures.median())?;
            for percent in &self.settings.percentiles {
                let value = figures.percentile(*percent);
                rate(f, &format!("P{percent} {name} (ms):"), value)?;
            }
        }
        write!(f, "{:=^50}", "")
    }
}

/// The most chunks in any second of the run, and the most answers under way in any second.
fn peaks(load: &Load) -> (usize, usize) {
    let num_seconds = load.duration.as_secs() as usize + 1;
    let mut chunks = vec![0; num_seconds];
    let mut running = vec![0; num_seconds];
    for observation in load.observations.iter().filter(|o| o.error.is_none()) {
        let second = |time: Duration| (time.as_secs() as usize).min(num_seconds - 1);
        let mut time = observation.start + observation.ttft;
        chunks[second(time)] += 1;
        for gap in &observation.itl {
            time += *gap;
            chunks[second(time)] += 1;
        }
        let ended = second(observation.start + observation.latency);
        for count in &mut running[second(observation.start)..=ended] {
            *count += 1;
        }
    }
    let most = |counts: Vec<usize>| counts.into_iter().max().unwrap_or(0);
    (most(chunks), most(running))
}

fn milliseconds(duration: Duration) -> f64 {
    1e3 * duration.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observation(start: u64, itl: &[u64]) -> Observation {
        let itl: Vec<_> = itl.iter().copied().map(Duration::from_millis).collect();
        let ttft = Duration::from_millis(100);
        Observation {
            start: Duration::from_millis(start),
            prompt_len: 10,
            output_len: itl.len() + 1,
            ttft,
            latency: ttft + itl.iter().sum::<Duration>(),
            itl,
            ..Observation::default()
        }
    }

    fn report(goals: Vec<Goal>) -> ServeReport {
        let failed = Observation {
            error: Some("503".to_owned()),
            ..Observation::default()
        };
        let load = Load {
            duration: Duration::from_secs(2),
            observations: vec![observation(0, &[20, 40]), observation(900, &[200]), failed],
        };
        let settings = ReportSettings {
            metrics: Metric::ALL.to_vec(),
            percentiles: vec![50.0, 99.9],
            goals,
        };
        ServeReport::new(&load, settings)
    }

    #[test]
    fn figures_are_of_the_answers_that_came() {
        let json = report(Vec::new()).to_json();
        let number = |name: &str| json[name].as_f64().unwrap();
        assert_eq!((number("completed"), number("failed")), (2.0, 1.0));
        assert_eq!(number("request_throughput"), 1.0);
        assert_eq!(number("output_throughput"), 2.5);
        assert_eq!(number("total_token_throughput"), 12.5);
        assert!((number("mean_ttft_ms") - 100.0).abs() < 1e-9);
        assert!((number("mean_tpot_ms") - (30.0 + 200.0) / 2.0).abs() < 1e-9);
        assert!((number("median_itl_ms") - 40.0).abs() < 1e-9);
        assert!((number("p50_e2el_ms") - 230.0).abs() < 1e-9);
        assert!(number("p99.9_itl_ms") > 199.0);
        // Tokens at 0.1, 0.12, 0.16, then 1.0 and 1.2 s; the second request is sent at 0.9 s.
        assert_eq!(number("max_output_tokens_per_s"), 3.0);
        assert_eq!(number("max_concurrent_requests"), 2.0);
        assert_eq!(json["request_goodput"], Value::Null);
    }

    #[test]
    fn good_answers_keep_all_goals() {
        let goal = |metric, milliseconds| Goal {
            metric,
            milliseconds,
        };
        let good = |goals| report(goals).to_json()["request_goodput"].as_f64();
        assert_eq!(good(vec![goal(Metric::Ttft, 100.5)]), Some(1.0));
        let both = vec![goal(Metric::Ttft, 100.5), goal(Metric::Tpot, 50.0)];
        assert_eq!(good(both), Some(0.5));
    }

    #[test]
    fn the_text_has_vllms_labels() {
        let text = report(vec![Goal {
            metric: Metric::E2el,
            milliseconds: 200.0,
        }])
        .to_string();
        for label in [
            "Successful requests:                     2",
            "Request goodput (req/s):                 0.50",
            "---------------Time to First Token----------------",
            "P99.9 ITL (ms):",
        ] {
            assert!(text.contains(label), "{text}");
        }
    }
}
