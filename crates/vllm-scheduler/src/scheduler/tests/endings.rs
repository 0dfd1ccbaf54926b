//! Stops, failures and aborts.

use super::*;

#[test]
fn stop_rules_of_each_request_apply() {
    let mut steps = Steps::new(config());
    steps.add(NewRequest {
        eos_token_id: Some(9),
        ..request(1, 3, 5)
    });
    steps.add(NewRequest {
        stop_token_ids: vec![9],
        ..request(2, 3, 5)
    });
    steps.add(request(3, 3, 5));
    steps.schedule();
    steps.apply(Sampled::Token(9));
    assert_eq!(
        steps.finished(),
        [(1, FinishCause::Eos), (2, FinishCause::StopToken(9))]
    );
    assert!(
        steps
            .updates
            .iter()
            .all(|update| update.token_id == Some(9))
    );
    let finished = steps.scheduler.stats().finished;
    assert_eq!(
        (finished.eos, finished.stop_token, finished.total()),
        (1, 1, 2)
    );
}

#[test]
fn the_model_length_ends_a_sequence() {
    let mut steps = Steps::new(config());
    steps.add(request(1, 62, usize::MAX));
    steps.step();
    steps.step();
    assert_eq!(steps.finished(), []);
    steps.step();
    assert_eq!(steps.finished(), [(1, FinishCause::Length)]);
}

#[test]
fn a_failed_sequence_ends_alone() {
    let mut steps = Steps::new(config());
    for id in 1..=3 {
        steps.add(request(id, 6, 5));
    }
    steps.schedule();
    // Any order; request 3 gets no result at all.
    let sampled = [(2, Sampled::Failed), (1, Sampled::Token(4))];
    steps
        .scheduler
        .apply(&steps.plan, &sampled, &mut steps.updates);
    assert_eq!(
        steps.finished(),
        [(2, FinishCause::Error), (3, FinishCause::Error)]
    );
    assert_eq!(steps.scheduler.token_ids(1).last(), Some(&4));
    assert_eq!(steps.step(), [(1, 6, 1, true)]);
    assert_eq!(steps.num_free_blocks(), 14);
}

#[test]
fn a_sequence_can_fail_in_the_middle_of_its_prompt() {
    let mut steps = Steps::new(SchedulerConfig {
        max_num_batched_tokens: 8,
        ..config()
    });
    steps.add(request(1, 20, 5));
    steps.schedule();
    steps
        .scheduler
        .apply(&steps.plan, &[(1, Sampled::Failed)], &mut steps.updates);
    assert_eq!(steps.finished(), [(1, FinishCause::Error)]);
    // Nothing of it can be found afterwards.
    steps.add(NewRequest {
        id: 2,
        ..request(1, 20, 5)
    });
    assert_eq!(steps.schedule(), [(2, 0, 8, false)]);
}

#[test]
fn results_for_strangers_are_ignored() {
    let mut steps = Steps::new(SchedulerConfig {
        max_num_seqs: 1,
        ..config()
    });
    steps.add(request(1, 3, 5));
    steps.add(request(2, 3, 5));
    steps.schedule();
    let sampled = [
        (7, Sampled::Token(4)),
        (2, Sampled::Failed),
        (1, Sampled::Token(5)),
    ];
    steps
        .scheduler
        .apply(&steps.plan, &sampled, &mut steps.updates);
    assert_eq!(steps.updates.len(), 1);
    steps.scheduler.abort(1);
    assert_eq!(steps.step(), [(2, 0, 3, true)]);
    assert_eq!(steps.finished(), []);
}

#[test]
fn aborts_before_during_and_after_running() {
    let mut steps = Steps::new(SchedulerConfig {
        max_num_seqs: 1,
        ..config()
    });
    steps.add(request(1, 6, 9));
    steps.add(request(2, 6, 9));
    assert!(steps.scheduler.abort(2), "waiting");
    assert!(!steps.scheduler.abort(2), "only once");
    assert!(!steps.scheduler.abort(3), "never seen");
    steps.step();
    assert!(steps.scheduler.abort(1), "running, between two steps");
    assert_eq!(steps.num_free_blocks(), 16);
    assert!(!steps.scheduler.has_unfinished());
    assert_eq!(steps.scheduler.stats().finished.abort, 2);
}

#[test]
fn an_abort_in_flight_waits_for_the_end_of_the_step() {
    let mut steps = Steps::new(config());
    steps.add(request(1, 6, 9));
    steps.add(request(2, 6, 9));
    steps.schedule();
    assert!(steps.scheduler.abort(1));
    assert!(!steps.scheduler.abort(1));
    // What computes the step still sees it.
    assert_eq!(steps.scheduler.block_table(1), [1, 2]);
    assert_eq!(steps.scheduler.token_ids(1).len(), 6);
    steps.apply(Sampled::Token(1));
    assert_eq!(steps.updates.len(), 1, "an abort makes no update");
    assert!(steps.scheduler.block_table(1).is_empty());
    assert_eq!(steps.num_free_blocks(), 14);
    assert_eq!(steps.scheduler.stats().finished.abort, 1);
}

#[test]
fn an_aborted_preempted_request_does_not_come_back() {
    let mut steps = Steps::new(SchedulerConfig {
        num_blocks: 5,
        ..config()
    });
    steps.add(request(1, 7, 6));
    steps.add(request(2, 7, 6));
    while steps.plan.preempted.is_empty() {
        steps.step();
    }
    assert_eq!(steps.plan.preempted, [2]);
    assert!(steps.scheduler.abort(2));
    while steps.scheduler.has_unfinished() {
        steps.step();
        assert_eq!(steps.planned_ids(), [1]);
    }
    assert_eq!(steps.num_free_blocks(), 4);
}

#[test]
fn a_plan_that_was_never_applied_is_planned_again() {
    let mut steps = Steps::new(config());
    steps.add(request(1, 6, 9));
    steps.step();
    steps.add(request(2, 9, 9));
    steps.schedule();
    steps.scheduler.abort(2);
    steps.add(NewRequest {
        id: 3,
        ..request(2, 9, 9)
    });
    // Neither trusts what the lost step should have written.
    assert_eq!(steps.schedule(), [(1, 0, 7, true), (3, 0, 9, true)]);
    assert_eq!(steps.scheduler.stats().finished.abort, 1);
}

#[test]
fn a_plan_of_the_past_changes_nothing() {
    let mut steps = Steps::new(config());
    steps.add(request(1, 6, 9));
    steps.step();
    steps.apply(Sampled::Token(8));
    assert!(steps.updates.is_empty());
    assert_eq!(steps.scheduler.token_ids(1).len(), 7);
}
