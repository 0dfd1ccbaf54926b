//! One step: who computes how many tokens.

use vllm_kv_cache::Admission;

use crate::requests::Slot;
use crate::{FinishCause, PlannedSequence, Policy, Scheduler, StepPlan};

impl Scheduler {
    /// Plans the next step into `plan`, whose buffers are reused.
    ///
    /// Running requests come first, in the order of their admission. When blocks run out, the
    /// latest (FCFS) or least important (priority) one is preempted: it loses its blocks, keeps
    /// its output, and waits again at its old place. Then waiting requests are admitted in order
    /// while the budget lasts, unless somebody was preempted in this step; the first one that does
    /// not fit ends the admissions. As vLLM's `Scheduler.schedule`.
    ///
    /// Each non-empty plan is to be handed to [`apply`](Self::apply) before the next call. If it
    /// was not, that step counts as never computed: its requests start over.
    pub fn schedule(&mut self, plan: &mut StepPlan) {
        self.abandon_step_in_flight();
        plan.clear();
        let chunk_limit = self.chunk_limit();
        let mut budget = self.config.max_num_batched_tokens;
        self.plan_running(plan, &mut budget, chunk_limit);
        self.advance_running();
        if plan.preempted.is_empty() {
            self.plan_waiting(plan, &mut budget, chunk_limit);
        }
        plan.total_tokens = self.config.max_num_batched_tokens - budget;
    }

    /// Most tokens of one request in this step, beside the budget.
    fn chunk_limit(&self) -> usize {
        let threshold = self.config.long_prefill_token_threshold;
        let has_company = self.running.len() + self.waiting.len() > 1;
        if threshold > 0 && has_company {
            threshold
        } else {
            usize::MAX
        }
    }

    fn plan_running(&mut self, plan: &mut StepPlan, budget: &mut usize, chunk_limit: usize) {
        let mut index = 0;
        while index < self.running.len() && *budget > 0 {
            let slot = self.running[index];
            let request = &self.requests[slot];
            let num_tokens = request.gap().min(chunk_limit).min(*budget);
            let end = request.num_computed_tokens + num_tokens;
            while !self.cache.allocate(&mut self.requests[slot].table, end) {
                let victim_index = self.victim_index();
                let victim = self.running.remove(victim_index);
                *budget += self.withdraw(victim, plan);
                plan.preempted.push(self.requests[victim].id);
                self.preempt(victim);
                if victim == slot {
                    return;
                }
                index -= usize::from(victim_index < index);
            }
            let request = &mut self.requests[slot];
            request.num_planned_tokens = num_tokens;
            plan.sequences.push(PlannedSequence {
                request_id: request.id,
                start: request.num_computed_tokens,
                num_tokens,
                samples: end == request.token_ids.len(),
                first_scheduled: false,
            });
            *budget -= num_tokens;
            index += 1;
        }
    }

    /// Who is preempted: the last admitted, or the last in order of priority and arrival.
    fn victim_index(&self) -> usize {
        let indices = 0..self.running.len();
        let victim = match self.config.policy {
            Policy::Fcfs => indices.last(),
            Policy::Priority => {
                indices.max_by_key(|&index| self.requests[self.running[index]].place)
            }
        };
        victim.unwrap_or(0)
    }

    /// Takes a request out of the plan it may be in; the tokens that become available.
    fn withdraw(&mut self, slot: Slot, plan: &mut StepPlan) -> usize {
        let request = &mut self.requests[slot];
        if request.num_planned_tokens == 0 {
            return 0;
        }
        let id = request.id;
        plan.sequences.retain(|sequence| sequence.request_id != id);
        std::mem::take(&mut request.num_planned_tokens)
    }

    /// Takes the blocks of a request that has left `running`, and lets it wait again.
    fn preempt(&mut self, slot: Slot) {
        let request = &mut self.requests[slot];
        self.cache.free(&mut request.table);
        request.num_computed_tokens = 0;
        request.is_running = false;
        self.waiting.insert(request.place, slot);
        self.counters.num_preemptions_total += 1;
    }

    /// Counts the planned tokens of the running requests as computed, and offers their full blocks
    /// to the requests that are admitted next. Not done while planning: who is preempted in this
    /// step will not compute what was planned for it.
    fn advance_running(&mut self) {
        for &slot in &self.running {
            let request = &mut self.requests[slot];
            if request.num_planned_tokens == 0 {
                continue;
            }
            request.num_computed_tokens += request.num_planned_tokens;
            let num_computed_tokens = request.num_computed_tokens;
            let (table, token_ids, extra_keys) = request.split_for_hashing();
            self.cache.update_hashes(table, token_ids, &extra_keys);
            self.cache.register_full_blocks(table, num_computed_tokens);
        }
    }

    fn plan_waiting(&mut self, plan: &mut StepPlan, budget: &mut usize, chunk_limit: usize) {
        while *budget > 0 && self.running.len() < self.config.max_num_seqs {
            let Some(slot) = self.waiting.first() else {
                return;
            };
            let Some(sequence) = self.admit(slot, *budget, chunk_limit) else {
                return;
            };
            *budget -= sequence.num_tokens;
            plan.sequences.push(sequence);
        }
    }

    /// Starts a waiting request, or leaves it if it does not fit into the budget or the cache.
    fn admit(&mut self, slot: Slot, budget: usize, chunk_limit: usize) -> Option<PlannedSequence> {
        let request = &mut self.requests[slot];
        let num_sequence_tokens = request.token_ids.len();
        let reads_prefix_cache =
            self.config.enable_prefix_caching && !request.skip_reading_prefix_cache;
        let (table, token_ids, extra_keys) = request.split_for_hashing();
        self.cache.update_hashes(table, token_ids, &extra_keys);
        let num_cached_blocks = if reads_prefix_cache {
            self.cache.find_cached_prefix(table, num_sequence_tokens)
        } else {
            0
        };
        let start = num_cached_blocks * self.config.block_size;
        let mut num_tokens = (num_sequence_tokens - start).min(chunk_limit);
        if num_tokens > budget {
            if !self.config.enable_chunked_prefill {
                return None;
            }
            num_tokens = budget;
        }
        let end = start + num_tokens;
        let admission = Admission {
            num_cached_blocks,
            num_tokens: end,
            num_sequence_tokens,
            num_reserved_blocks: if self.running.is_empty() {
                0
            } else {
                self.num_watermark_blocks
            },
        };
        if !self.cache.admit(table, &admission) {
            return None;
        }
        self.cache.register_full_blocks(table, end);

        let first_scheduled = request.num_cached_tokens.is_none();
        request.num_cached_tokens.get_or_insert(start);
        request.num_computed_tokens = end;
        request.num_planned_tokens = num_tokens;
        request.is_running = true;
        let sequence = PlannedSequence {
            request_id: request.id,
            start,
            num_tokens,
            samples: end == num_sequence_tokens,
            first_scheduled,
        };
        self.waiting.remove(request.place);
        self.running.push(slot);
        if reads_prefix_cache {
            self.count_lookup(num_sequence_tokens as u64, start as u64, first_scheduled);
        }
        Some(sequence)
    }

    fn count_lookup(&mut self, queries: u64, hits: u64, first_scheduled: bool) {
        let counters = &mut self.counters;
        if first_scheduled {
            counters.prefix_cache_queries_total += queries;
            counters.prefix_cache_hits_total += hits;
            self.recent_lookups.push(queries, hits);
        } else {
            counters.preempted_prefix_cache_queries_total += queries;
            counters.preempted_prefix_cache_hits_total += hits;
        }
    }

    /// Undoes a step that was planned and never applied. Its blocks may be registered without
    /// having been written, so they must not be found any more.
    fn abandon_step_in_flight(&mut self) {
        let mut index = 0;
        while index < self.running.len() {
            let slot = self.running[index];
            let request = &mut self.requests[slot];
            if std::mem::take(&mut request.num_planned_tokens) == 0 {
                index += 1;
                continue;
            }
            request.sampled = None;
            self.running.remove(index);
            let abort_requested = request.abort_requested;
            self.cache.free_and_forget(&mut request.table);
            if abort_requested {
                self.finish(slot, FinishCause::Abort);
            } else {
                self.preempt(slot);
            }
        }
    }
}
