//! When blocks run out.

use super::*;

#[test]
fn the_last_admitted_loses_its_blocks_keeps_its_output_and_continues() {
    let mut steps = Steps::new(SchedulerConfig {
        num_blocks: 5,
        ..config()
    });
    steps.add(request(1, 7, 6));
    steps.add(request(2, 7, 6));
    steps.step();
    steps.step();
    let output_before = steps.scheduler.token_ids(2)[7..].to_vec();
    assert_eq!(output_before.len(), 2);

    // Both need a third block, and there is none: request 2 gives its two.
    assert_eq!(steps.step(), [(1, 8, 1, true)]);
    assert_eq!(steps.plan.preempted, [2]);
    assert_eq!(steps.scheduler.token_ids(2)[7..], output_before);
    assert!(steps.scheduler.block_table(2).is_empty());

    while steps.finished().is_empty() {
        steps.step();
        assert_eq!(steps.planned_ids(), [1]);
    }
    // Prompt and output are computed as one prompt; one block was not overwritten meanwhile.
    assert_eq!(steps.step(), [(2, 4, 5, true)]);
    assert!(!steps.plan.sequences[0].first_scheduled);
    assert_eq!(steps.scheduler.token_ids(2).len(), 10);
    assert_eq!(steps.scheduler.stats().num_preemptions_total, 1);
}

#[test]
fn the_preempted_comes_back_before_who_arrived_later() {
    let mut steps = Steps::new(SchedulerConfig {
        num_blocks: 5,
        ..config()
    });
    for id in 1..=3 {
        steps.add(request(id, 7, 6));
    }
    let mut admitted = Vec::new();
    while steps.scheduler.has_unfinished() {
        steps.step();
        for sequence in &steps.plan.sequences {
            if sequence.first_scheduled {
                admitted.push(sequence.request_id);
            }
        }
        if steps.plan.preempted == [2] {
            assert_eq!(admitted, [1, 2]);
        }
    }
    assert_eq!(admitted, [1, 2, 3]);
    assert_eq!(steps.scheduler.stats().finished.length, 3);
}

#[test]
fn nobody_is_admitted_in_a_step_that_preempts() {
    let mut steps = Steps::new(SchedulerConfig {
        num_blocks: 7,
        ..config()
    });
    steps.add(request(1, 8, 9));
    steps.add(request(2, 16, 8));
    steps.step();
    // Request 1 needs a block and takes those of request 2; request 3 could run, and waits.
    steps.add(request(3, 1, 9));
    steps.step();
    assert_eq!(steps.plan.preempted, [2]);
    assert_eq!(steps.planned_ids(), [1]);
}

#[test]
fn who_cannot_go_on_may_preempt_itself() {
    // 6 blocks: request 1 has 2 and does not grow now, request 2 has 4 and needs a fifth.
    let mut steps = Steps::new(SchedulerConfig {
        num_blocks: 7,
        ..config()
    });
    steps.add(request(1, 6, 9));
    steps.add(request(2, 16, 8));
    steps.step();
    steps.step();
    assert_eq!(steps.planned_ids(), [1]);
    assert_eq!(steps.plan.preempted, [2]);
}

#[test]
fn priority_preempts_the_least_important_even_if_planned_already() {
    let priority = SchedulerConfig {
        policy: Policy::Priority,
        num_blocks: 7,
        ..config()
    };
    let mut steps = Steps::new(priority);
    steps.add(NewRequest {
        priority: 5,
        ..request(1, 6, 9)
    });
    steps.step();
    steps.add(NewRequest {
        priority: 1,
        ..request(2, 16, 8)
    });
    steps.step();
    // Request 1 is planned first, then request 2 needs a fifth block.
    assert_eq!(steps.step(), [(2, 16, 1, true)]);
    assert_eq!(steps.plan.preempted, [1]);
    assert_eq!(steps.plan.total_tokens, 1);
    // Its token was never sampled, and nothing of the withdrawn step is taken as computed.
    assert_eq!(steps.scheduler.token_ids(1).len(), 8);
}

#[test]
fn a_better_request_that_waits_preempts_nobody() {
    let priority = SchedulerConfig {
        policy: Policy::Priority,
        max_num_seqs: 1,
        ..config()
    };
    let mut steps = Steps::new(priority);
    steps.add(NewRequest {
        priority: 5,
        ..request(1, 6, 9)
    });
    steps.step();
    steps.add(NewRequest {
        priority: -5,
        ..request(2, 6, 9)
    });
    steps.step();
    assert_eq!(steps.planned_ids(), [1]);
}
