//! Clients, a model that draws random tokens, and what must always hold.

use std::collections::BTreeMap;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use vllm_scheduler::record::StepRecorder;
use vllm_scheduler::{
    FinishCause, FinishCounts, NewRequest, PlannedSequence, Policy, RepetitionDetection, RequestId,
    Sampled, Scheduler, SchedulerConfig, SequenceUpdate, StepPlan,
};

use crate::memory::{Fingerprint, Memory, Share, extend};

/// Few enough that prompts and outputs meet by chance.
const VOCABULARY: u32 = 6;
const EOS: u32 = 0;
const STOP: u32 = 1;

/// Chances per step and request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Requests beyond which nobody arrives.
    pub(crate) max_unfinished: usize,
    /// That a step is planned again instead of being applied.
    pub(crate) lost_steps: f64,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            max_unfinished: 24,
            lost_steps: 0.0,
        }
    }
}

/// An unfinished request, as its client knows it.
struct Client {
    fingerprints: Vec<Fingerprint>,
    /// Tokens in the cache after the last applied step, if it has run without a break since.
    num_kept_tokens: usize,
    was_scheduled: bool,
    /// Last step by which it must have ended under FCFS.
    deadline: usize,
    /// Steps it may need if it makes progress in each.
    most_steps: usize,
    aborted: bool,
}

pub(crate) struct World {
    rng: SmallRng,
    config: SchedulerConfig,
    load: Load,
    scheduler: Scheduler,
    recorder: Option<StepRecorder<Vec<u8>>>,
    plan: StepPlan,
    updates: Vec<SequenceUpdate>,
    memory: Memory,
    /// In the order of arrival.
    clients: BTreeMap<RequestId, Client>,
    documents: Vec<Vec<u32>>,
    next_id: RequestId,
    last_first_scheduled: RequestId,
    num_steps: usize,
    num_accepted: u64,
    ends: FinishCounts,
}

impl World {
    pub(crate) fn new(seed: u64, config: SchedulerConfig, load: Load) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let token = |rng: &mut SmallRng| rng.random_range(0..VOCABULARY);
        let documents = (0..4)
            .map(|_| (0..40).map(|_| token(&mut rng)).collect())
            .collect();
        Self {
            rng,
            scheduler: Scheduler::new(config.clone()).expect("valid config"),
            memory: Memory::new(config.num_blocks, config.block_size),
            config,
            load,
            recorder: None,
            plan: StepPlan::default(),
            updates: Vec::new(),
            clients: BTreeMap::new(),
            documents,
            next_id: 1,
            last_first_scheduled: 0,
            num_steps: 0,
            num_accepted: 0,
            ends: FinishCounts::default(),
        }
    }

    /// Records all that follows; to be called before the first step.
    pub(crate) fn record(&mut self) {
        let recorder = StepRecorder::new(Vec::new(), &self.config).expect("writes to memory");
        self.recorder = Some(recorder);
    }

    pub(crate) fn into_recording(self) -> Vec<u8> {
        self.recorder
            .expect("recording")
            .into_inner()
            .expect("writes to memory")
    }

    /// One step with arrivals and aborts before it and while it is in flight.
    pub(crate) fn step(&mut self) {
        self.arrivals_and_aborts();
        self.plan_compute_apply(true);
    }

    /// Lets all requests end, and tests that nothing is left of them.
    pub(crate) fn drain(&mut self) {
        let last_step = self.num_steps + self.clients.values().map(|c| c.most_steps).sum::<usize>();
        while self.scheduler.has_unfinished() {
            assert!(self.num_steps <= last_step, "requests do not end");
            self.plan_compute_apply(false);
        }
        assert!(self.clients.is_empty());
        let stats = self.scheduler.stats();
        assert_eq!((stats.num_running, stats.num_waiting), (0, 0));
        assert_eq!(
            stats.num_blocks_free, stats.num_blocks_total,
            "blocks leaked"
        );
        assert_eq!(stats.finished.total(), self.num_accepted);
        assert!(self.scheduler.reset_prefix_cache());

        // The load was worth its name.
        let FinishCounts {
            eos,
            stop_token,
            length,
            repetition,
            abort,
            error,
        } = stats.finished;
        for count in [eos, stop_token, length, repetition, abort, error] {
            assert!(count > 10, "{:?}", stats.finished);
        }
        assert!(stats.num_refused_total > 10);
        assert!(stats.num_preemptions_total > 10, "{stats:?}");
        assert_eq!(
            stats.prefix_cache_hits_total > 100,
            self.config.enable_prefix_caching
        );
    }

    fn arrivals_and_aborts(&mut self) {
        while self.clients.len() < self.load.max_unfinished && self.rng.random_bool(0.3) {
            self.arrive();
        }
        if self.rng.random_bool(0.03) {
            let ids: Vec<_> = self.clients.keys().copied().collect();
            if let Some(&id) = ids.choose(&mut self.rng) {
                self.abort(id);
            }
        }
        if self.rng.random_bool(0.001) {
            let done = self.scheduler.reset_prefix_cache();
            if let Some(recorder) = &mut self.recorder {
                recorder.reset_prefix_cache(done).expect("writes to memory");
            }
        }
    }

    /// A new request: often the beginning of a known document, then tokens of its own.
    fn arrive(&mut self) {
        let rng = &mut self.rng;
        let mut prompt_token_ids = Vec::new();
        if let Some(document) = self.documents.choose(rng) {
            let num_shared = rng.random_range(0..=document.len());
            prompt_token_ids.extend_from_slice(&document[..num_shared]);
        }
        let num_own = rng.random_range(0..=12);
        prompt_token_ids.extend((0..num_own).map(|_| rng.random_range(0..VOCABULARY)));
        let max_tokens = rng.random_range(1..=24);
        let detection = RepetitionDetection {
            max_pattern_size: 2,
            min_pattern_size: 1,
            min_count: 4,
        };
        let request = NewRequest {
            min_tokens: rng.random_range(0..=max_tokens),
            eos_token_id: rng.random_bool(0.3).then_some(EOS),
            stop_token_ids: if rng.random_bool(0.3) {
                vec![STOP]
            } else {
                Vec::new()
            },
            repetition_detection: rng.random_bool(0.5).then_some(detection),
            priority: rng.random_range(-2..=2),
            cache_salt: rng.random_bool(0.2).then(|| "tenant".to_owned()),
            lora: rng.random_bool(0.2).then(|| "adapter".to_owned()),
            skip_reading_prefix_cache: rng.random_bool(0.1),
            ..NewRequest::new(self.next_id, prompt_token_ids, max_tokens)
        };
        self.next_id += 1;
        let result = self.scheduler.add_request(request.clone());
        if let Some(recorder) = &mut self.recorder {
            recorder.add(&request, &result).expect("writes to memory");
        }
        if result.is_ok() {
            self.num_accepted += 1;
            self.clients.insert(request.id, self.client(&request));
        }
    }

    fn client(&self, request: &NewRequest) -> Client {
        let owner = u64::from(request.cache_salt.is_some()) * 2 + u64::from(request.lora.is_some());
        let mut fingerprint = owner + 1;
        let fingerprints = request.prompt_token_ids.iter().map(|&token_id| {
            fingerprint = extend(fingerprint, token_id);
            fingerprint
        });
        // At worst a step computes one token of the oldest request and nothing else.
        let most_steps = request.prompt_token_ids.len() + request.max_tokens;
        let steps_before: usize = self.clients.values().map(|client| client.most_steps).sum();
        Client {
            fingerprints: fingerprints.collect(),
            num_kept_tokens: 0,
            was_scheduled: false,
            deadline: self.num_steps + steps_before + most_steps + 1,
            most_steps,
            aborted: false,
        }
    }

    fn abort(&mut self, id: RequestId) {
        let known = self.scheduler.abort(id);
        if let Some(recorder) = &mut self.recorder {
            recorder.abort(id, known).expect("writes to memory");
        }
        let is_planned = self
            .plan
            .sequences
            .iter()
            .any(|sequence| sequence.request_id == id);
        if let Some(client) = self.clients.get_mut(&id) {
            assert_eq!(known, !client.aborted, "an abort counts once");
            client.aborted = true;
        }
        self.ends.abort += u64::from(known);
        if !is_planned {
            self.clients.remove(&id);
        }
        assert_eq!(self.scheduler.token_ids(id).is_empty(), !is_planned);
    }

    fn plan_compute_apply(&mut self, with_news_in_flight: bool) {
        self.num_steps += 1;
        self.schedule();
        if with_news_in_flight {
            self.arrivals_and_aborts();
            if self.load.lost_steps > 0.0 && self.rng.random_bool(self.load.lost_steps) {
                self.lose_step();
                return;
            }
        }
        self.compute();
        self.apply();
        self.check_blocks();
        self.check_counts();
    }

    fn schedule(&mut self) {
        self.scheduler.schedule(&mut self.plan);
        if let Some(recorder) = &mut self.recorder {
            recorder.schedule(&self.plan).expect("writes to memory");
        }
        for id in &self.plan.preempted {
            if let Some(client) = self.clients.get_mut(id) {
                client.num_kept_tokens = 0;
            }
        }
        self.check_plan();
        self.check_blocks();
    }

    fn check_plan(&mut self) {
        let Self {
            plan,
            config,
            clients,
            ..
        } = self;
        let total_tokens: usize = plan
            .sequences
            .iter()
            .map(|sequence| sequence.num_tokens)
            .sum();
        assert_eq!(plan.total_tokens, total_tokens);
        assert!(total_tokens <= config.max_num_batched_tokens);
        assert!(plan.sequences.len() <= config.max_num_seqs);
        for sequence in &plan.sequences {
            let client = clients
                .get_mut(&sequence.request_id)
                .expect("only unfinished requests");
            let end = sequence.start + sequence.num_tokens;
            assert!(sequence.num_tokens > 0 && end <= client.fingerprints.len());
            assert_eq!(sequence.samples, end == client.fingerprints.len());
            assert_eq!(sequence.first_scheduled, !client.was_scheduled);
            assert!(!client.aborted);
            client.was_scheduled = true;
            if sequence.first_scheduled && config.policy == Policy::Fcfs {
                assert!(
                    self.last_first_scheduled < sequence.request_id,
                    "out of turn"
                );
                self.last_first_scheduled = sequence.request_id;
            }
        }
        if config.policy == Policy::Fcfs
            && let Some(oldest) = clients.keys().next()
        {
            let mut planned = plan.sequences.iter().map(|sequence| sequence.request_id);
            assert!(
                planned.any(|id| id == *oldest),
                "the oldest request {oldest} stands still"
            );
        }
    }

    fn compute(&mut self) {
        let share = |&planned: &PlannedSequence| {
            let client = &self.clients[&planned.request_id];
            Share {
                planned,
                fingerprints: &client.fingerprints,
                num_kept_tokens: client.num_kept_tokens,
            }
        };
        let shares: Vec<_> = self.plan.sequences.iter().map(share).collect();
        self.memory.compute(&self.scheduler, &shares);
    }

    fn apply(&mut self) {
        let mut sampled = Vec::new();
        for sequence in &self.plan.sequences {
            let fails = self.rng.random_bool(0.002);
            if fails && self.rng.random_bool(0.5) {
                sampled.push((sequence.request_id, Sampled::Failed));
            } else if sequence.samples && !fails {
                let token_id = self.rng.random_range(0..VOCABULARY);
                sampled.push((sequence.request_id, Sampled::Token(token_id)));
            }
        }
        self.scheduler
            .apply(&self.plan, &sampled, &mut self.updates);
        if let Some(recorder) = &mut self.recorder {
            recorder
                .apply(&sampled, &self.updates)
                .expect("writes to memory");
        }
        for sequence in &self.plan.sequences {
            let id = sequence.request_id;
            let client = self.clients.get_mut(&id).expect("only unfinished requests");
            client.num_kept_tokens = sequence.start + sequence.num_tokens;
            if client.aborted {
                self.clients.remove(&id);
            }
        }
        for update in std::mem::take(&mut self.updates) {
            self.take_update(update);
        }
        self.plan = StepPlan::default();
    }

    fn take_update(&mut self, update: SequenceUpdate) {
        let id = update.request_id;
        let client = self
            .clients
            .get_mut(&id)
            .expect("no news of ended or aborted requests");
        if let Some(token_id) = update.token_id {
            let newest = client.fingerprints.last().copied().unwrap_or_default();
            client.fingerprints.push(extend(newest, token_id));
        }
        let Some(cause) = update.finished else {
            assert_eq!(
                self.scheduler.token_ids(id).len(),
                client.fingerprints.len()
            );
            return;
        };
        if self.config.policy == Policy::Fcfs && self.load.lost_steps == 0.0 {
            assert!(
                self.num_steps <= client.deadline,
                "request {id} waited too long"
            );
        }
        *match cause {
            FinishCause::Eos => &mut self.ends.eos,
            FinishCause::StopToken(_) => &mut self.ends.stop_token,
            FinishCause::Length => &mut self.ends.length,
            FinishCause::Repetition => &mut self.ends.repetition,
            FinishCause::Abort => &mut self.ends.abort,
            FinishCause::Error => &mut self.ends.error,
        } += 1;
        self.clients.remove(&id);
        assert!(
            self.scheduler.token_ids(id).is_empty(),
            "an ended request is gone"
        );
    }

    /// The next `schedule` comes without `apply`: all that was in flight starts over.
    fn lose_step(&mut self) {
        for sequence in &self.plan.sequences {
            let id = sequence.request_id;
            let client = self.clients.get_mut(&id).expect("only unfinished requests");
            client.num_kept_tokens = 0;
            if client.aborted {
                self.clients.remove(&id);
            }
        }
        self.plan = StepPlan::default();
        self.schedule();
        self.compute();
        self.apply();
    }

    /// Every block is either free or in the table of a request, and no table names one twice.
    fn check_blocks(&self) {
        let mut holder = vec![0; self.config.num_blocks];
        for &id in self.clients.keys() {
            for &block in self.scheduler.block_table(id) {
                assert_ne!(block, vllm_kv_cache::NULL_BLOCK);
                assert_ne!(holder[block as usize], id, "a block twice in one table");
                holder[block as usize] = id;
            }
        }
        let num_held = holder.iter().filter(|&&id| id > 0).count();
        let stats = self.scheduler.stats();
        assert_eq!(num_held + stats.num_blocks_free, stats.num_blocks_total);
    }

    /// Every accepted request is waiting, running, or has ended once.
    fn check_counts(&self) {
        let stats = self.scheduler.stats();
        assert_eq!(stats.finished, self.ends);
        assert_eq!(stats.num_requests_total, self.num_accepted);
        assert_eq!(stats.num_running + stats.num_waiting, self.clients.len());
        let num_unfinished = self.clients.len() as u64;
        assert_eq!(stats.finished.total() + num_unfinished, self.num_accepted);
    }
}
