//! Shared prefixes and what is counted of them.

use super::*;

/// The prompt of request 1 under another id.
fn same_prompt(id: RequestId, prompt_len: usize) -> NewRequest {
    NewRequest {
        id,
        ..request(1, prompt_len, 9)
    }
}

#[test]
fn equal_prompts_share_blocks_in_the_same_step() {
    let mut steps = Steps::new(config());
    steps.add(same_prompt(1, 10));
    steps.add(same_prompt(2, 10));
    assert_eq!(steps.step(), [(1, 0, 10, true), (2, 8, 2, true)]);
    assert_eq!(
        steps.scheduler.block_table(1)[..2],
        steps.scheduler.block_table(2)[..2]
    );
    assert_ne!(
        steps.scheduler.block_table(1)[2],
        steps.scheduler.block_table(2)[2]
    );
    assert_eq!(steps.scheduler.num_cached_tokens(2), 8);
}

#[test]
fn a_cached_prompt_computes_its_last_block_again() {
    let mut steps = Steps::new(config());
    steps.add(same_prompt(1, 8));
    steps.step();
    steps.add(same_prompt(2, 8));
    assert_eq!(steps.step()[1], (2, 4, 4, true));
}

#[test]
fn the_output_of_a_finished_request_is_found() {
    let mut steps = Steps::new(config());
    steps.add(NewRequest {
        max_tokens: 7,
        ..same_prompt(1, 6)
    });
    while steps.scheduler.has_unfinished() {
        steps.step();
    }
    // 6 prompt tokens, then seven times token 1, of which the last was not computed.
    let mut conversation = request(1, 6, 9).prompt_token_ids;
    conversation.extend([1; 7]);
    conversation.extend([50, 51]);
    steps.add(NewRequest::new(2, conversation, 9));
    assert_eq!(steps.step(), [(2, 12, 3, true)]);
}

#[test]
fn who_does_not_read_the_cache_still_fills_it() {
    let mut steps = Steps::new(config());
    for id in 1..=2 {
        steps.add(NewRequest {
            skip_reading_prefix_cache: true,
            ..same_prompt(id, 9)
        });
    }
    assert_eq!(steps.step(), [(1, 0, 9, true), (2, 0, 9, true)]);
    assert_eq!(steps.scheduler.stats().prefix_cache_queries_total, 0);
    steps.add(same_prompt(3, 9));
    assert_eq!(steps.step()[2], (3, 8, 1, true));
}

#[test]
fn salts_and_adapters_keep_apart() {
    let mut steps = Steps::new(config());
    let salted = |id, salt: &str| NewRequest {
        cache_salt: Some(salt.into()),
        ..same_prompt(id, 9)
    };
    steps.add(same_prompt(1, 9));
    steps.add(salted(2, "a"));
    steps.add(salted(3, "b"));
    steps.add(NewRequest {
        lora: Some("a".into()),
        ..same_prompt(4, 5)
    });
    steps.add(salted(5, "a"));
    let starts: Vec<_> = steps.step().iter().map(|planned| planned.1).collect();
    assert_eq!(starts, [0, 0, 0, 0], "the budget is used up");
    assert_eq!(steps.step()[4], (5, 8, 1, true));
}

#[test]
fn queries_and_hits_are_counted_at_first_admissions() {
    let mut steps = Steps::new(SchedulerConfig {
        num_blocks: 6,
        ..config()
    });
    steps.add(same_prompt(1, 9));
    steps.add(same_prompt(2, 9));
    steps.step();
    let stats = steps.scheduler.stats();
    assert_eq!(
        (
            stats.prefix_cache_queries_total,
            stats.prefix_cache_hits_total
        ),
        (18, 8)
    );
    assert_eq!(stats.recent_prefix_cache_hit_rate(), 8.0 / 18.0);

    while steps.plan.preempted.is_empty() {
        steps.step();
    }
    while steps.planned_ids() != [2] {
        steps.step();
    }
    let stats = steps.scheduler.stats();
    assert_eq!(
        (
            stats.prefix_cache_queries_total,
            stats.prefix_cache_hits_total
        ),
        (18, 8)
    );
    assert!(stats.preempted_prefix_cache_queries_total > 9);
    assert!(stats.preempted_prefix_cache_hits_total >= 8);
    assert_eq!(
        steps.scheduler.num_cached_tokens(2),
        8,
        "of the first admission"
    );
}

#[test]
fn a_prompt_that_waits_for_blocks_is_not_counted() {
    let mut steps = Steps::new(config());
    steps.add(request(1, 32, 9));
    steps.add(request(2, 60, 4));
    steps.step();
    steps.step();
    assert_eq!(steps.scheduler.stats().prefix_cache_queries_total, 32);
    assert_eq!(steps.scheduler.num_cached_tokens(2), 0);
}

#[test]
fn nothing_is_shared_with_caching_off() {
    let mut steps = Steps::new(SchedulerConfig {
        enable_prefix_caching: false,
        ..config()
    });
    steps.add(same_prompt(1, 9));
    steps.add(same_prompt(2, 9));
    assert_eq!(steps.step(), [(1, 0, 9, true), (2, 0, 9, true)]);
    assert_eq!(steps.scheduler.stats().prefix_cache_queries_total, 0);
}

#[test]
fn a_reset_forgets_once_nothing_runs() {
    let mut steps = Steps::new(config());
    steps.add(same_prompt(1, 9));
    steps.step();
    assert!(!steps.scheduler.reset_prefix_cache());
    steps.scheduler.abort(1);
    assert!(steps.scheduler.reset_prefix_cache());
    steps.add(same_prompt(2, 9));
    assert_eq!(steps.step(), [(2, 0, 9, true)]);
}
