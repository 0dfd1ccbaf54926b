//! The line that says every few seconds what the engine is doing.

use std::fmt::Write;
use std::time::{Duration, Instant};

use vllm_engine::{ModelInfo, Statistics};

/// Totals at the end of the last interval.
#[derive(Debug)]
pub(crate) struct PeriodicLog {
    computed_prompt_tokens: u64,
    generation_tokens: u64,
    since: Instant,
    was_active: bool,
}

impl PeriodicLog {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            computed_prompt_tokens: 0,
            generation_tokens: 0,
            since: now,
            was_active: false,
        }
    }

    /// The line for the interval that ends now; `None` when neither it nor the one before saw
    /// any activity.
    pub(crate) fn line(
        &mut self,
        now: Instant,
        statistics: &Statistics,
        info: &ModelInfo,
    ) -> Option<String> {
        let prompt = statistics.prompt_tokens.get();
        let computed = prompt.saturating_sub(statistics.prompt_tokens_cached.get());
        let generated = statistics.generation_tokens.get();
        let elapsed = now
            .saturating_duration_since(self.since)
            .max(Duration::from_millis(1));
        let rate =
            |total: u64, before: u64| total.saturating_sub(before) as f64 / elapsed.as_secs_f64();
        let prompt_rate = rate(computed, self.computed_prompt_tokens);
        let generation_rate = rate(generated, self.generation_tokens);
        let running = statistics.num_requests_running.get();
        let waiting = statistics.num_requests_waiting.get();
        *self = Self {
            computed_prompt_tokens: computed,
            generation_tokens: generated,
            since: now,
            was_active: self.was_active,
        };

        let active = prompt_rate + generation_rate + running + waiting > 0.0;
        let due = active || std::mem::replace(&mut self.was_active, active);
        self.was_active = active;
        if !due {
            return None;
        }
        let device = device_label(&info.device);
        let usage = statistics.kv_cache_usage.get() * 100.0;
        let mut line = format!(
            "Engine 000: Avg prompt throughput: {prompt_rate:.1} tokens/s, Avg generation \
             throughput: {generation_rate:.1} tokens/s, Running: {running:.0} reqs, Waiting: \
             {waiting:.0} reqs, {device} KV cache usage: {usage:.1}%"
        );
        if statistics.prefix_cache_queries.get() > 0 {
            let hit_rate = statistics.prefix_cache_hit_rate.get() * 100.0;
            // Writing to a string cannot fail.
            let _ = write!(line, ", Prefix cache hit rate: {hit_rate:.1}%");
        }
        Some(line)
    }
}

/// The device's type in capitals, as the line names it.
fn device_label(device: &str) -> String {
    match device.split(':').next() {
        Some("cuda") | None => "GPU".to_owned(),
        Some(kind) => kind.to_uppercase(),
    }
}

#[cfg(test)]
mod tests {
    use vllm_engine::EngineClient;
    use vllm_engine::mock::MockEngine;

    use super::*;

    #[test]
    fn the_line_shows_rates_of_the_interval_and_falls_silent_after_one_idle_one() {
        let engine = MockEngine::new("hello").unwrap();
        let info = engine.info();
        let statistics = Statistics::new(512);
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut log = PeriodicLog::new(begin);
        assert_eq!(log.line(at(10), &statistics, info), None);

        statistics.prompt_tokens.add(1500);
        statistics.prompt_tokens_cached.add(266);
        statistics.prefix_cache_queries.add(1500);
        statistics.prefix_cache_hit_rate.set(0.25);
        statistics.generation_tokens.add(567);
        statistics.num_requests_running.set(3.0);
        statistics.kv_cache_usage.set(0.0123);
        assert_eq!(
            log.line(at(20), &statistics, info).as_deref(),
            Some(
                "Engine 000: Avg prompt throughput: 123.4 tokens/s, Avg generation throughput: \
                 56.7 tokens/s, Running: 3 reqs, Waiting: 0 reqs, CPU KV cache usage: 1.2%, \
                 Prefix cache hit rate: 25.0%"
            )
        );
        statistics.num_requests_running.set(0.0);
        let idle = log.line(at(30), &statistics, info).unwrap();
        assert!(
            idle.contains("Avg prompt throughput: 0.0 tokens/s"),
            "{idle}"
        );
        assert_eq!(log.line(at(40), &statistics, info), None);
    }

    #[test]
    fn devices_are_named_by_type() {
        assert_eq!(device_label("cuda:1"), "GPU");
        assert_eq!(device_label("cpu"), "CPU");
    }
}
