use super::*;
use crate::{Policy, SequenceUpdate};

fn config() -> SchedulerConfig {
    SchedulerConfig {
        max_num_batched_tokens: 8,
        max_num_seqs: 2,
        max_model_len: 32,
        enable_chunked_prefill: true,
        long_prefill_token_threshold: 0,
        policy: Policy::Priority,
        num_blocks: 9,
        block_size: 4,
        enable_prefix_caching: true,
        watermark: 0.0,
    }
}

/// Three requests, one refusal, one abort, to the end.
fn recording() -> String {
    let mut scheduler = Scheduler::new(config()).expect("valid config");
    let mut recorder = StepRecorder::new(Vec::new(), &config()).expect("writes to memory");
    for (id, prompt_len) in [(1, 6), (2, 9), (3, 5), (4, 99)] {
        let request = NewRequest::new(id, (0..prompt_len).collect(), 3);
        let result = scheduler.add_request(request.clone());
        recorder.add(&request, &result).expect("writes to memory");
    }
    recorder
        .abort(3, scheduler.abort(3))
        .expect("writes to memory");
    let (mut plan, mut updates) = (StepPlan::default(), Vec::<SequenceUpdate>::new());
    while scheduler.has_unfinished() {
        scheduler.schedule(&mut plan);
        recorder.schedule(&plan).expect("writes to memory");
        let sampling = plan.sequences.iter().filter(|sequence| sequence.samples);
        let sampled: Vec<_> = sampling
            .map(|s| (s.request_id, Sampled::Token(77)))
            .collect();
        scheduler.apply(&plan, &sampled, &mut updates);
        recorder
            .apply(&sampled, &updates)
            .expect("writes to memory");
    }
    recorder
        .reset_prefix_cache(scheduler.reset_prefix_cache())
        .expect("writes to memory");
    let bytes = recorder.into_inner().expect("writes to memory");
    String::from_utf8(bytes).expect("JSON is UTF-8")
}

#[test]
fn a_recording_replays_without_difference() {
    let recording = recording();
    let replay = replay(recording.as_bytes()).expect("readable");
    assert_eq!(
        replay,
        Replay {
            num_events: recording.lines().count() - 1,
            difference: None
        }
    );
}

#[test]
fn lines_are_as_documented() {
    let recording = recording();
    let mut lines = recording.lines();
    assert!(lines.next().is_some_and(|line| {
        line.starts_with(r#"{"event":"start","format":1,"config":{"max_num_batched_tokens":8,"#)
    }));
    let rest: Vec<_> = lines.collect();
    assert!(rest[3].contains(r#""refused":"The decoder prompt (length 99) is longer"#));
    assert_eq!(rest[4], r#"{"event":"abort","request_id":3,"known":true}"#);
    assert!(
        rest[6].contains(r#""sampled":[[1,{"token":77}]]"#),
        "{}",
        rest[6]
    );
    assert_eq!(
        rest.last(),
        Some(&r#"{"event":"reset_prefix_cache","done":true}"#)
    );
}

/// Edits the recording and replays it.
#[track_caller]
fn check_difference(from: &str, to: &str, expected: &str) {
    let original = recording();
    let edited = original.replacen(from, to, 1);
    assert_ne!(original, edited);
    let replay = replay(edited.as_bytes()).expect("readable");
    let difference = replay.difference.map(|difference| difference.to_string());
    assert_eq!(difference.as_deref(), Some(expected));
}

#[test]
fn the_first_difference_is_told_with_place_and_values() {
    check_difference(
        r#""start":0,"num_tokens":6"#,
        r#""start":0,"num_tokens":5"#,
        "line 7: plan.sequences[0].num_tokens was 5 and is now 6",
    );
    check_difference(
        r#""known":true"#,
        r#""known":false"#,
        "line 6: known was false and is now true",
    );
    check_difference(
        r#""token_id":77,"finished":"length""#,
        r#""token_id":77,"finished":"eos""#,
        r#"line 12: updates[0].finished was "eos" and is now "length""#,
    );
    check_difference(
        r#""done":true"#,
        r#""done":false"#,
        "line 15: done was false and is now true",
    );
}

#[track_caller]
fn check_refused(recording: &str, expected: &str) {
    let message = replay(recording.as_bytes())
        .err()
        .map(|error| error.to_string());
    assert!(
        message
            .as_deref()
            .is_some_and(|message| message.starts_with(expected)),
        "{message:?} is not {expected:?}"
    );
}

#[test]
fn an_unreadable_recording_is_refused_with_the_line() {
    let recording = recording();
    let start = recording.lines().next().unwrap_or_default();
    check_refused("", "step recording, line 1: the recording is empty");
    check_refused(
        r#"{"event":"abort","request_id":3,"known":true}"#,
        "step recording, line 1: the first event is not `start`",
    );
    check_refused(
        &start.replace(r#""format":1"#, r#""format":2"#),
        "step recording, line 1: the format is 2, and this version reads 1",
    );
    check_refused(
        &format!("{start}\n{start}"),
        "step recording, line 2: `start` in the middle",
    );
    check_refused(&recording[..recording.len() - 9], "step recording, line ");
    check_refused(
        &format!("{start}\n{{}}"),
        "step recording, line 2: missing field `event`",
    );
}
