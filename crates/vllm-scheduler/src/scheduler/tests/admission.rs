//! Budget, chunks, limits and refusals.

use super::*;

#[test]
fn a_prompt_is_computed_and_then_one_token_a_step() {
    let mut steps = Steps::new(config());
    steps.add(request(1, 6, 3));
    assert_eq!(steps.step(), [(1, 0, 6, true)]);
    assert!(steps.plan.sequences[0].first_scheduled);
    assert_eq!(steps.step(), [(1, 6, 1, true)]);
    assert!(!steps.plan.sequences[0].first_scheduled);
    assert_eq!(steps.scheduler.token_ids(1).len(), 8);
    assert_eq!(steps.scheduler.num_prompt_tokens(1), 6);
    assert_eq!(steps.step(), [(1, 7, 1, true)]);
    assert_eq!(steps.finished(), [(1, FinishCause::Length)]);
    assert!(!steps.scheduler.has_unfinished());
    assert!(steps.scheduler.token_ids(1).is_empty());
}

#[test]
fn the_budget_is_shared_and_running_requests_come_first() {
    let mut steps = Steps::new(SchedulerConfig {
        max_num_batched_tokens: 8,
        ..config()
    });
    steps.add(request(1, 6, 9));
    steps.add(request(2, 6, 9));
    steps.add(request(3, 3, 9));
    assert_eq!(steps.step(), [(1, 0, 6, true), (2, 0, 2, false)]);
    assert!(steps.updates.iter().all(|update| update.request_id == 1));
    assert_eq!(
        steps.step(),
        [(1, 6, 1, true), (2, 2, 4, true), (3, 0, 3, true)]
    );
    assert_eq!(
        steps.step(),
        [(1, 7, 1, true), (2, 6, 1, true), (3, 3, 1, true)]
    );
}

#[test]
fn a_long_prompt_leaves_room_for_others_only_when_there_are_others() {
    let limited = SchedulerConfig {
        long_prefill_token_threshold: 5,
        ..config()
    };
    let mut steps = Steps::new(limited);
    steps.add(request(1, 24, 9));
    assert_eq!(steps.schedule(), [(1, 0, 24, true)]);

    let mut steps = Steps::new(SchedulerConfig {
        long_prefill_token_threshold: 5,
        ..config()
    });
    steps.add(request(1, 13, 9));
    steps.add(request(2, 3, 9));
    assert_eq!(steps.step(), [(1, 0, 5, false), (2, 0, 3, true)]);
    assert_eq!(steps.step(), [(1, 5, 5, false), (2, 3, 1, true)]);
    assert_eq!(steps.step(), [(1, 10, 3, true), (2, 4, 1, true)]);
}

#[test]
fn without_chunks_a_prompt_waits_for_a_step_that_holds_it() {
    let whole = SchedulerConfig {
        enable_chunked_prefill: false,
        max_num_batched_tokens: 16,
        max_model_len: 16,
        ..config()
    };
    let mut steps = Steps::new(whole);
    steps.add(request(1, 10, 4));
    steps.add(request(2, 10, 4));
    steps.add(request(3, 2, 4));
    // Request 3 would fit but is behind request 2.
    assert_eq!(steps.step(), [(1, 0, 10, true)]);
    assert_eq!(
        steps.step(),
        [(1, 10, 1, true), (2, 0, 10, true), (3, 0, 2, true)]
    );
}

#[test]
fn no_more_than_max_num_seqs_run() {
    let mut steps = Steps::new(SchedulerConfig {
        max_num_seqs: 2,
        ..config()
    });
    for id in 1..=3 {
        steps.add(request(id, 3, 2));
    }
    steps.step();
    assert_eq!(steps.planned_ids(), [1, 2]);
    let stats = steps.scheduler.stats();
    assert_eq!((stats.num_running, stats.num_waiting), (2, 1));
    steps.step();
    assert_eq!(steps.finished().len(), 2);
    steps.step();
    assert_eq!(steps.planned_ids(), [3]);
}

#[test]
fn priority_orders_admissions_and_fcfs_ignores_it() {
    for (policy, expected) in [(Policy::Fcfs, [1, 2, 3]), (Policy::Priority, [2, 1, 3])] {
        let mut steps = Steps::new(SchedulerConfig { policy, ..config() });
        for (id, priority) in [(1, 0), (2, -5), (3, 0)] {
            steps.add(NewRequest {
                priority,
                ..request(id, 3, 2)
            });
        }
        steps.step();
        assert_eq!(steps.planned_ids(), expected, "{policy:?}");
    }
}

#[test]
fn the_whole_sequence_must_fit_before_its_first_chunk_runs() {
    let mut steps = Steps::new(SchedulerConfig {
        max_num_batched_tokens: 8,
        ..config()
    });
    steps.add(request(1, 8, 9));
    steps.step();
    // 14 of 16 blocks are free: 57 tokens need 15, though a first chunk of 7 would fit. The
    // small request behind it has to wait as well.
    steps.add(request(2, 57, 7));
    steps.add(request(3, 2, 9));
    steps.step();
    assert_eq!(steps.planned_ids(), [1]);
    steps.scheduler.abort(1);
    assert_eq!(steps.schedule(), [(2, 0, 8, false)]);
}

#[test]
fn the_watermark_holds_back_admissions_while_others_run() {
    // A quarter of 17 blocks: 4.
    let mut steps = Steps::new(SchedulerConfig {
        watermark: 0.25,
        ..config()
    });
    steps.add(request(1, 60, 4));
    steps.step();
    steps.step();
    assert_eq!(
        steps.planned_ids(),
        [1],
        "nothing else runs: the watermark does not count"
    );

    // After its first token request 1 holds 3 blocks: 13 are free, of which 4 must stay.
    for (prompt_len, planned_ids) in [(37, vec![1]), (36, vec![1, 2])] {
        let mut steps = Steps::new(SchedulerConfig {
            watermark: 0.25,
            ..config()
        });
        steps.add(request(1, 8, 9));
        steps.step();
        steps.add(request(2, prompt_len, 9));
        steps.step();
        assert_eq!(steps.planned_ids(), planned_ids);
    }
}

#[track_caller]
fn check_refused(request: NewRequest, expected: &str) {
    // 11 usable blocks of 4 tokens for sequences of up to 64.
    let mut scheduler = Scheduler::new(SchedulerConfig {
        num_blocks: 12,
        ..config()
    })
    .expect("valid config");
    let message = scheduler
        .add_request(request)
        .err()
        .map(|error| error.to_string());
    assert_eq!(message.as_deref(), Some(expected));
    let stats = scheduler.stats();
    assert_eq!((stats.num_refused_total, stats.num_requests_total), (1, 0));
    assert!(!scheduler.has_unfinished());
}

#[test]
fn refuses_what_can_never_run() {
    check_refused(request(1, 0, 4), "The decoder prompt cannot be empty");
    check_refused(
        request(1, 65, 4),
        "The decoder prompt (length 65) is longer than the maximum model length of 64. Shorten \
         the prompt or raise `max_model_len`.",
    );
    check_refused(
        request(1, 64, 4),
        "The decoder prompt (length 64) plus the number of requested output tokens (at least 1) \
         is longer than the maximum model length of 64. Shorten the prompt or raise \
         `max_model_len`.",
    );
    check_refused(
        request(1, 40, 6),
        "The request can never run: 40 prompt tokens and up to 6 output tokens need 12 KV-cache \
         blocks of 4 tokens, and the whole cache has 11 (44 tokens). Shorten the prompt, lower \
         `max_tokens`, or give the KV cache more memory.",
    );
    check_refused(request(1, 4, 0), "max_tokens must be at least 1, got 0.");
    check_refused(
        NewRequest {
            min_tokens: 5,
            ..request(1, 4, 4)
        },
        "min_tokens must be less than or equal to max_tokens=4, got 5.",
    );
}

#[test]
fn a_sequence_as_large_as_the_cache_runs_to_its_end() {
    // 40 + 5 tokens; the last one needs no place.
    let mut steps = Steps::new(SchedulerConfig {
        num_blocks: 12,
        ..config()
    });
    steps.add(request(1, 40, 5));
    while steps.scheduler.has_unfinished() {
        steps.step();
    }
    assert_eq!(steps.finished(), [(1, FinishCause::Length)]);
    assert_eq!(steps.scheduler.stats().num_preemptions_total, 0);
}

#[test]
fn an_id_is_free_again_after_the_end() {
    let mut steps = Steps::new(config());
    steps.add(request(1, 3, 1));
    let message = steps
        .scheduler
        .add_request(request(1, 3, 1))
        .err()
        .map(|e| e.to_string());
    assert!(message.is_some_and(|message| message.starts_with("request 1 is still unfinished")));
    steps.step();
    steps.add(request(1, 3, 1));
}
