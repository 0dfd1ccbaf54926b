//! The scheduler: the life of a request from its arrival to its end.

mod outcome;
mod planning;
#[cfg(test)]
mod tests;

use vllm_kv_cache::{BlockId, KvCacheConfig, KvCacheManager};

use crate::queue::WaitingQueue;
use crate::request::Request;
use crate::requests::{Requests, Slot};
use crate::stats::RecentLookups;
use crate::{FinishCause, NewRequest, RequestId, Result, SchedulerConfig, SchedulerStats};

/// Decides step by step which tokens of which request are computed.
///
/// A caller repeats [`schedule`](Self::schedule), computes the plan, and hands the sampled tokens
/// to [`apply`](Self::apply). Between `schedule` and `apply` the step is *in flight*: requests may
/// be added and aborted, and everything the plan names stays readable.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    cache: KvCacheManager,
    requests: Requests,
    /// In the order of admission, which is the order of planning.
    running: Vec<Slot>,
    waiting: WaitingQueue,
    /// Blocks that the watermark keeps from admissions.
    num_watermark_blocks: usize,
    /// Only the counters; what is a state is filled in by `stats`.
    counters: SchedulerStats,
    recent_lookups: RecentLookups,
}

impl Scheduler {
    /// A scheduler over an empty cache.
    ///
    /// # Errors
    /// When the configuration contradicts itself; the message names the values.
    pub fn new(config: SchedulerConfig) -> Result<Self> {
        config.validate()?;
        let cache = KvCacheManager::new(KvCacheConfig {
            num_blocks: config.num_blocks,
            block_size: config.block_size,
            enable_prefix_caching: config.enable_prefix_caching,
        })?;
        Ok(Self {
            num_watermark_blocks: (config.watermark * config.num_blocks as f64) as usize,
            running: Vec::with_capacity(config.max_num_seqs),
            config,
            cache,
            requests: Requests::default(),
            waiting: WaitingQueue::default(),
            counters: SchedulerStats::default(),
            recent_lookups: RecentLookups::new(),
        })
    }

    /// Puts a request into the waiting queue.
    ///
    /// # Errors
    /// When the prompt is empty, too long for the model, or the sequence could outgrow the whole
    /// cache; when a limit makes no sense; when the id is in use. Nothing is queued then.
    pub fn add_request(&mut self, request: NewRequest) -> Result<()> {
        let accepted = self.validate(&request);
        if accepted.is_err() {
            self.counters.num_refused_total += 1;
            return accepted;
        }
        let arrival = self.counters.num_requests_total;
        self.counters.num_requests_total += 1;
        let request = Request::new(request, arrival, self.config.policy);
        let place = request.place;
        let slot = self.requests.insert(request);
        self.waiting.insert(place, slot);
        Ok(())
    }

    fn validate(&self, request: &NewRequest) -> Result<()> {
        if self.requests.slot(request.id).is_some() {
            return Err(crate::Error::DuplicateRequest(request.id));
        }
        request.validate(&self.config, self.cache.num_usable_blocks())
    }

    /// Ends a request at any point; `false` if it has ended before or was never there.
    ///
    /// Its blocks are free for the next `schedule`. A request in the step in flight stays readable
    /// until `apply`, which drops its token; no update tells of an abort.
    pub fn abort(&mut self, id: RequestId) -> bool {
        let Some(slot) = self.requests.slot(id) else {
            return false;
        };
        let request = &mut self.requests[slot];
        if request.abort_requested {
            return false;
        }
        if request.num_planned_tokens > 0 {
            // The step writes into its blocks: nobody else may have them before it is over.
            request.abort_requested = true;
            return true;
        }
        if request.is_running {
            self.running.retain(|&other| other != slot);
        } else {
            self.waiting.remove(request.place);
        }
        self.finish(slot, FinishCause::Abort);
        true
    }

    /// Counts the outcome, frees the blocks and forgets the request. The caller takes it out of
    /// `running` or `waiting`.
    fn finish(&mut self, slot: Slot, cause: FinishCause) {
        self.counters.finished.count(cause);
        let table = &mut self.requests[slot].table;
        if cause == FinishCause::Error {
            self.cache.free_and_forget(table);
        } else {
            self.cache.free(table);
        }
        self.requests.remove(slot);
    }

    /// Prompt and output of an unfinished request; empty for any other id.
    pub fn token_ids(&self, id: RequestId) -> &[u32] {
        self.requests
            .get(id)
            .map_or(&[], |request| &request.token_ids)
    }

    /// Prompt tokens of an unfinished request; 0 for any other id.
    pub fn num_prompt_tokens(&self, id: RequestId) -> usize {
        self.requests
            .get(id)
            .map_or(0, |request| request.num_prompt_tokens)
    }

    /// Blocks of an unfinished request, in the order of its tokens; empty while it waits.
    pub fn block_table(&self, id: RequestId) -> &[BlockId] {
        self.requests
            .get(id)
            .map_or(&[], |request| request.table.blocks())
    }

    /// Prompt tokens that the first admission found in the prefix cache; 0 before it.
    pub fn num_cached_tokens(&self, id: RequestId) -> usize {
        self.requests
            .get(id)
            .and_then(|request| request.num_cached_tokens)
            .unwrap_or(0)
    }

    /// Whether any request waits or runs, or an aborted one is still in flight.
    pub fn has_unfinished(&self) -> bool {
        !self.requests.is_empty()
    }

    /// Forgets all cached prefixes. Refused (`false`) while any request holds blocks.
    pub fn reset_prefix_cache(&mut self) -> bool {
        self.cache.reset_prefix_cache()
    }

    /// The configuration it was made with.
    pub fn config(&self) -> &SchedulerConfig {
        &self.config
    }

    /// State and counters now.
    pub fn stats(&self) -> SchedulerStats {
        SchedulerStats {
            num_running: self.running.len(),
            num_waiting: self.waiting.len(),
            num_blocks_total: self.cache.num_usable_blocks(),
            num_blocks_free: self.cache.num_free_blocks(),
            recent_prefix_cache_queries: self.recent_lookups.queries(),
            recent_prefix_cache_hits: self.recent_lookups.hits(),
            ..self.counters
        }
    }
}
