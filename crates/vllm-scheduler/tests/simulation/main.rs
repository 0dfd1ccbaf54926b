//! A scheduler under random load for a hundred thousand steps, without a model.
//!
//! The simulation keeps a shadow of the KV cache in which each position holds a fingerprint of
//! all tokens up to it. Computing a plan means writing fingerprints where the block tables say, and
//! attention means reading them back: whatever goes wrong with blocks shows up as a wrong
//! fingerprint. See [`memory`] for what is tested of blocks and [`world`] for what is tested of
//! requests.

mod memory;
mod world;

use vllm_scheduler::record::replay;
use vllm_scheduler::{Policy, SchedulerConfig};

use crate::world::{Load, World};

/// A cache that holds about three of the longest sequences at once.
fn tiny() -> SchedulerConfig {
    SchedulerConfig {
        max_num_batched_tokens: 16,
        max_num_seqs: 6,
        max_model_len: 48,
        enable_chunked_prefill: true,
        long_prefill_token_threshold: 0,
        policy: Policy::Fcfs,
        num_blocks: 31,
        block_size: 4,
        enable_prefix_caching: true,
        watermark: 0.0,
    }
}

/// Runs the steps, then lets everything end and tests that nothing is left.
fn check(seed: u64, num_steps: usize, config: SchedulerConfig, load: Load) {
    let mut world = World::new(seed, config, load);
    for _ in 0..num_steps {
        world.step();
    }
    world.drain();
}

#[test]
fn first_come_first_served() {
    check(1, 100_000, tiny(), Load::default());
}

#[test]
fn by_priority() {
    check(
        2,
        100_000,
        SchedulerConfig {
            policy: Policy::Priority,
            ..tiny()
        },
        Load::default(),
    );
}

/// Short chunks let others be admitted behind an unfinished prompt, which may then be preempted
/// in a step that has planned it already.
#[test]
fn by_priority_with_short_chunks() {
    let config = SchedulerConfig {
        policy: Policy::Priority,
        long_prefill_token_threshold: 3,
        block_size: 2,
        num_blocks: 40,
        ..tiny()
    };
    check(10, 20_000, config, Load::default());
}

#[test]
fn whole_prompts_only() {
    let config = SchedulerConfig {
        enable_chunked_prefill: false,
        max_num_batched_tokens: 48,
        ..tiny()
    };
    check(3, 20_000, config, Load::default());
}

#[test]
fn without_prefix_cache() {
    check(
        4,
        20_000,
        SchedulerConfig {
            enable_prefix_caching: false,
            ..tiny()
        },
        Load::default(),
    );
}

#[test]
fn one_token_blocks_short_chunks_and_a_watermark() {
    let config = SchedulerConfig {
        block_size: 1,
        num_blocks: 97,
        long_prefill_token_threshold: 5,
        watermark: 0.1,
        ..tiny()
    };
    check(5, 20_000, config, Load::default());
}

#[test]
fn a_cache_of_one_sequence() {
    check(
        6,
        20_000,
        SchedulerConfig {
            num_blocks: 13,
            ..tiny()
        },
        Load::default(),
    );
}

#[test]
fn steps_that_are_never_applied() {
    let load = Load {
        lost_steps: 0.05,
        ..Load::default()
    };
    check(7, 20_000, tiny(), load);
    check(
        8,
        20_000,
        SchedulerConfig {
            policy: Policy::Priority,
            ..tiny()
        },
        load,
    );
}

#[test]
fn a_recording_of_it_replays() {
    let mut world = World::new(9, tiny(), Load::default());
    world.record();
    for _ in 0..2_000 {
        world.step();
    }
    let recording = world.into_recording();
    let replay = replay(recording.as_slice()).expect("readable");
    assert_eq!(replay.difference, None);
    assert!(replay.num_events > 4_000);
}
