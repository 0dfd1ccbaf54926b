//! Counters.

use std::collections::VecDeque;

use crate::FinishCause;

/// State and counters of the scheduler at one moment. Totals count since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SchedulerStats {
    /// Admitted requests.
    pub num_running: usize,
    /// Requests that wait for admission, preempted ones included.
    pub num_waiting: usize,
    /// Blocks that requests can use.
    pub num_blocks_total: usize,
    /// Blocks that no request holds; cached content in them can still be found.
    pub num_blocks_free: usize,
    /// Requests accepted by `add_request`: running, waiting and finished ones.
    pub num_requests_total: u64,
    /// Requests refused by `add_request`.
    pub num_refused_total: u64,
    /// Accepted requests that have ended.
    pub finished: FinishCounts,
    /// Times a request lost its blocks.
    pub num_preemptions_total: u64,
    /// Tokens looked up in the prefix cache at first admissions.
    pub prefix_cache_queries_total: u64,
    /// Tokens found then.
    pub prefix_cache_hits_total: u64,
    /// Tokens looked up at admissions after a preemption.
    pub preempted_prefix_cache_queries_total: u64,
    /// Tokens found then.
    pub preempted_prefix_cache_hits_total: u64,
    /// As `prefix_cache_queries_total`, over the last 1000 requests.
    pub recent_prefix_cache_queries: u64,
    /// As `prefix_cache_hits_total`, over the last 1000 requests.
    pub recent_prefix_cache_hits: u64,
}

impl SchedulerStats {
    /// Share of the blocks that requests hold, 0 to 1.
    pub fn kv_cache_usage(&self) -> f64 {
        1.0 - ratio(self.num_blocks_free as u64, self.num_blocks_total as u64)
    }

    /// Share of the looked-up tokens that was found, over the last 1000 requests; 0 to 1.
    pub fn recent_prefix_cache_hit_rate(&self) -> f64 {
        ratio(
            self.recent_prefix_cache_hits,
            self.recent_prefix_cache_queries,
        )
    }
}

/// Ended requests by cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FinishCounts {
    /// [`FinishCause::Eos`].
    pub eos: u64,
    /// [`FinishCause::StopToken`], any of them.
    pub stop_token: u64,
    /// [`FinishCause::Length`].
    pub length: u64,
    /// [`FinishCause::Repetition`].
    pub repetition: u64,
    /// [`FinishCause::Abort`].
    pub abort: u64,
    /// [`FinishCause::Error`].
    pub error: u64,
}

impl FinishCounts {
    /// All ended requests.
    pub fn total(&self) -> u64 {
        self.eos + self.stop_token + self.length + self.repetition + self.abort + self.error
    }

    pub(crate) fn count(&mut self, cause: FinishCause) {
        let counter = match cause {
            FinishCause::Eos => &mut self.eos,
            FinishCause::StopToken(_) => &mut self.stop_token,
            FinishCause::Length => &mut self.length,
            FinishCause::Repetition => &mut self.repetition,
            FinishCause::Abort => &mut self.abort,
            FinishCause::Error => &mut self.error,
        };
        *counter += 1;
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

/// Tokens looked up and found for each of the last requests.
#[derive(Debug)]
pub(crate) struct RecentLookups {
    lookups: VecDeque<(u64, u64)>,
    queries: u64,
    hits: u64,
}

impl RecentLookups {
    const NUM_REQUESTS: usize = 1000;

    pub(crate) fn new() -> Self {
        Self {
            lookups: VecDeque::with_capacity(Self::NUM_REQUESTS),
            queries: 0,
            hits: 0,
        }
    }

    pub(crate) fn push(&mut self, queries: u64, hits: u64) {
        if self.lookups.len() == Self::NUM_REQUESTS
            && let Some((old_queries, old_hits)) = self.lookups.pop_front()
        {
            self.queries -= old_queries;
            self.hits -= old_hits;
        }
        self.lookups.push_back((queries, hits));
        self.queries += queries;
        self.hits += hits;
    }

    pub(crate) fn queries(&self) -> u64 {
        self.queries
    }

    pub(crate) fn hits(&self) -> u64 {
        self.hits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_thousand_lookups_count() {
        let mut recent = RecentLookups::new();
        for _ in 0..10 {
            recent.push(100, 100);
        }
        for _ in 0..995 {
            recent.push(10, 4);
        }
        assert_eq!(
            (recent.queries(), recent.hits()),
            (5 * 100 + 995 * 10, 5 * 100 + 995 * 4)
        );
    }

    #[test]
    fn rates_of_nothing_are_zero() {
        let stats = SchedulerStats::default();
        assert_eq!(stats.recent_prefix_cache_hit_rate(), 0.0);
    }

    #[test]
    fn rates_are_shares() {
        let stats = SchedulerStats {
            num_blocks_total: 8,
            num_blocks_free: 6,
            recent_prefix_cache_queries: 40,
            recent_prefix_cache_hits: 10,
            ..SchedulerStats::default()
        };
        assert_eq!(stats.kv_cache_usage(), 0.25);
        assert_eq!(stats.recent_prefix_cache_hit_rate(), 0.25);
    }
}
