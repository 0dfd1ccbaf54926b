//! Isolation: what goes wrong for one request must not touch another. The model is a fake whose
//! logits misbehave on command.

use futures::StreamExt;
use futures::channel::mpsc::{UnboundedReceiver, unbounded};
use vllm_models::{Batch, Model};
use vllm_sampling::{SamplerContext, SamplingParams};
use vllm_scheduler::{FinishCause, NewRequest, SchedulerConfig};
use vllm_tensor::{Device, KvCache, KvCacheDType, KvCacheSpec, Tensor};

use super::*;
use crate::submission::SequenceSubmission;

const VOCAB_SIZE: usize = 8;
/// After this token the logits are not numbers.
const POISON: u32 = 6;
/// A step with this token fails as a whole.
const BREAKS_THE_STEP: u32 = 7;

/// Always continues with the next id; see the constants for how it misbehaves.
struct FakeModel;

impl Model for FakeModel {
    fn forward(&self, batch: &Batch<'_>, _kv: &mut KvCache) -> vllm_models::Result<Tensor> {
        if batch.token_ids.contains(&BREAKS_THE_STEP) {
            return Err(vllm_models::Error::Batch("broken on purpose".to_owned()));
        }
        let mut logits = vec![0_f32; batch.logit_rows.len() * VOCAB_SIZE];
        for (row, index) in logits.chunks_exact_mut(VOCAB_SIZE).zip(batch.logit_rows) {
            match batch.token_ids[*index as usize] {
                POISON => row.fill(f32::NAN),
                token => row[(token as usize + 1) % 5] = 1.0,
            }
        }
        let shape = (batch.logit_rows.len(), VOCAB_SIZE);
        Ok(Tensor::from_vec(logits, shape, &Device::Cpu)?)
    }

    fn kv_cache_spec(&self) -> KvCacheSpec {
        KvCacheSpec {
            num_layers: 1,
            num_kv_heads: 1,
            head_dim: 4,
            dtype: KvCacheDType::F32,
        }
    }
}

fn core() -> EngineCore {
    let config = SchedulerConfig {
        max_num_batched_tokens: 64,
        max_num_seqs: 8,
        max_model_len: 32,
        enable_chunked_prefill: true,
        long_prefill_token_threshold: 0,
        policy: Default::default(),
        num_blocks: 64,
        block_size: 4,
        enable_prefix_caching: true,
        watermark: 0.0,
    };
    let kv_cache = KvCache::new(FakeModel.kv_cache_spec(), 64, 4, &Device::Cpu).unwrap();
    EngineCore::new(
        Scheduler::new(config.clone()).unwrap(),
        ModelRunner::new(Box::new(FakeModel), kv_cache, VOCAB_SIZE),
        Arc::new(Statistics::new(32)),
        Recorder::open(None, &config).unwrap(),
    )
}

fn submit(core: &mut EngineCore, id: RequestId, prompt: &[u32]) -> UnboundedReceiver<EngineEvent> {
    let (events, receiver) = unbounded();
    let params = SamplingParams {
        temperature: 0.0,
        ..SamplingParams::default()
    };
    let context = SamplerContext {
        vocab_size: VOCAB_SIZE,
        prompt_token_ids: prompt,
        stop_token_ids_for_min_tokens: &[],
        bad_words_token_ids: Vec::new(),
        fallback_seed: 0,
        sample_index: 0,
    };
    let sequence = SequenceSubmission {
        request: NewRequest::new(id, prompt.to_vec(), 4),
        sampler: SequenceSampler::new(&params, context),
        grammar: None,
        prompt_logprobs: None,
    };
    core.add(Submission {
        sequences: vec![sequence],
        events,
    });
    receiver
}

/// Tokens until the end, and how it ended.
fn outcome(receiver: UnboundedReceiver<EngineEvent>) -> (Vec<u32>, Result<FinishCause, Error>) {
    let mut tokens = Vec::new();
    let events: Vec<EngineEvent> = futures::executor::block_on(receiver.collect());
    for event in events {
        match event {
            EngineEvent::Failed(error) => return (tokens, Err(error)),
            EngineEvent::Sample(event) => {
                tokens.extend(event.token.map(|token| token.token_id));
                if let Some(cause) = event.finished {
                    return (tokens, Ok(cause));
                }
            }
        }
    }
    panic!("the request ended without an outcome after {tokens:?}");
}

fn run_to_the_end(core: &mut EngineCore) {
    for _ in 0..100 {
        core.step();
    }
    assert!(!core.has_unfinished() && core.sequences.is_empty());
    assert_eq!(
        core.scheduler.stats().kv_cache_usage(),
        0.0,
        "blocks have leaked"
    );
}

#[test]
fn logits_that_are_not_numbers_end_their_request_alone() {
    let mut core = core();
    let healthy = submit(&mut core, 1, &[0]);
    let poisoned = submit(&mut core, 2, &[1, 2, POISON]);
    let other = submit(&mut core, 3, &[2]);
    run_to_the_end(&mut core);
    assert!(
        matches!(outcome(healthy), (tokens, Ok(FinishCause::Length)) if tokens == [1, 2, 3, 4])
    );
    assert!(matches!(outcome(poisoned), (tokens, Ok(FinishCause::Error)) if tokens.is_empty()));
    assert!(matches!(outcome(other), (tokens, Ok(FinishCause::Length)) if tokens == [3, 4, 0, 1]));
}

#[test]
fn a_step_that_fails_ends_its_requests_and_the_next_ones_run() {
    let mut core = core();
    let broken = submit(&mut core, 1, &[BREAKS_THE_STEP]);
    core.step();
    let later = submit(&mut core, 2, &[0]);
    run_to_the_end(&mut core);
    let (_, result) = outcome(broken);
    assert!(
        result
            .unwrap_err()
            .to_string()
            .contains("broken on purpose")
    );
    assert!(matches!(outcome(later), (_, Ok(FinishCause::Length))));
}

#[test]
fn a_request_whose_listener_has_gone_is_given_up_within_a_step() {
    let mut core = core();
    drop(submit(&mut core, 1, &[0]));
    core.step();
    assert!(core.sequences.is_empty() && !core.has_unfinished());
    core.step();
    assert_eq!(core.scheduler.stats().kv_cache_usage(), 0.0);
}

#[test]
fn a_refused_sample_takes_its_siblings_along() {
    let mut core = core();
    let receiver = submit(&mut core, 1, &[]);
    assert!(matches!(
        outcome(receiver),
        (_, Err(Error::InvalidRequest { .. }))
    ));
    run_to_the_end(&mut core);
}
