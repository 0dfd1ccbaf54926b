//! Jobs on the demo model.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;

use serde_json::{Value, json};
use vllm_batch::{
    DoneRows, Error, InOrder, InputOptions, Job, JobSettings, Progress, RowReader, RowResult, Stop,
};
use vllm_engine::{AsyncLlm, DefaultSampling, EngineConfig, SamplingParams};

fn job(max_tokens: Option<i64>, max_errors: Option<u64>) -> Job {
    let mut config = EngineConfig::new("demo");
    config.dtype = "float32".to_owned();
    let settings = JobSettings {
        model: "demo".to_owned(),
        params: SamplingParams::greedy(),
        max_tokens,
        defaults: DefaultSampling::default(),
        seed: 0,
        created: 1_700_000_000,
        max_rows_in_flight: 512,
        max_errors,
    };
    Job::new(Arc::new(AsyncLlm::new(&config).unwrap()), settings)
}

/// Runs a data set given as the text of a file.
fn run_file(name: &str, text: &str, max_tokens: Option<i64>) -> (Vec<Value>, Progress) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    let rows = RowReader::open(&path, &InputOptions::default()).unwrap();
    let mut results = Vec::new();
    let mut in_order = InOrder::starting_at(0);
    let collect = |result: RowResult| {
        let line = serde_json::from_str(&result.to_json_line()).unwrap();
        in_order.push(result.index, line, |line| {
            results.push(line);
            Ok(())
        })
    };
    let (done, progress, stop) = Default::default();
    let progress = job(max_tokens, None)
        .run(rows, done, progress, &stop, collect, |_| {})
        .unwrap();
    (results, progress)
}

#[test]
fn results_keep_the_order_and_the_columns_of_their_rows() {
    let countries = [
        ("Italy", "Rome"),
        ("Japan", "Tokyo"),
        ("Peru", "Lima"),
        ("Cuba", "Havana"),
    ];
    // Every third row goes on for much longer than the others, so rows end in another order.
    let text: String = (0..60)
        .map(|i| {
            let prompt = match i % 3 {
                0 => "Once upon a time, there was a baker named Leo who".to_owned(),
                _ => format!("The capital of {} is", countries[i % 4].0),
            };
            json!({"id": format!("row-{i}"), "prompt": prompt}).to_string() + "\n"
        })
        .collect();
    let (results, progress) = run_file("rows.jsonl", &text, Some(40));
    assert_eq!((progress.rows_done, progress.rows_failed), (60, 0));
    assert!(progress.tokens.output > 60 && progress.tokens.prompt > 300);
    for (i, result) in results.iter().enumerate() {
        assert_eq!(result["index"], i);
        assert_eq!(result["id"], format!("row-{i}"));
        let answer = result["outputs"][0]["text"].as_str().unwrap();
        let expected = if i % 3 == 0 {
            "lived in"
        } else {
            countries[i % 4].1
        };
        assert!(answer.contains(expected), "{result}");
    }
}

#[test]
fn bad_rows_become_error_results_and_the_job_goes_on() {
    let text = format!(
        "{}\nnot json\n{}\n{}\n{}\n",
        json!({"prompt": "The capital of France is"}),
        json!({"prompt": ""}),
        json!({"prompt": [2, 999_999]}),
        json!({"messages": [{"role": "user", "content": "What is the capital of Spain?"}]}),
    );
    let (results, progress) = run_file("rows.jsonl", &text, None);
    assert_eq!((progress.rows_done, progress.rows_failed), (5, 2));
    assert_eq!(
        results[0]["outputs"][0]["text"],
        " Paris. Many people visit Paris every year."
    );
    assert!(
        results[1]["error"]
            .as_str()
            .unwrap()
            .contains("rows.jsonl:2: not valid JSON")
    );
    // An empty prompt is still the begin-of-sequence token.
    assert!(results[2]["outputs"][0]["finish_reason"].is_string());
    assert_eq!(results[3]["error"], "Token id 999999 is out of vocabulary");
    assert_eq!(
        results[4]["outputs"][0]["text"],
        "The capital of Spain is Madrid."
    );
}

/// A stream that repeats a line for ever.
fn endless(line: &'static str) -> RowReader {
    struct Endless(&'static [u8], usize);
    impl std::io::Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            for byte in &mut *buffer {
                *byte = self.0[self.1 % self.0.len()];
                self.1 += 1;
            }
            Ok(buffer.len())
        }
    }
    RowReader::from_stream(
        "endless",
        Endless(line.as_bytes(), 0),
        &InputOptions::default(),
    )
    .unwrap()
}

#[test]
fn stopping_starts_no_further_row_and_finishes_those_under_way() {
    let stop = Stop::default();
    let mut done = DoneRows::default();
    let count = |result: RowResult| {
        assert_eq!(result.error, None);
        assert!(done.insert(result.index, result.checksum));
        if done.len() == 100 {
            stop.request();
        }
        Ok(())
    };
    let progress = job(Some(2), None)
        .run(
            endless("The capital of France is\n"),
            DoneRows::default(),
            Progress::default(),
            &stop,
            count,
            |_| {},
        )
        .unwrap();
    assert_eq!(progress.rows_done, done.len());
    // Whatever was started has a result: no row is missing among them.
    assert_eq!(done.low(), done.len());
}

#[test]
fn too_many_failures_end_the_job() {
    let options = InputOptions {
        format: Some(vllm_batch::InputFormat::JsonLines),
        ..InputOptions::default()
    };
    let rows = RowReader::from_stream("rows", "[\n".repeat(100).leak().as_bytes(), &options);
    let (done, progress, stop) = Default::default();
    let mut failed = 0;
    let count = |result: RowResult| {
        failed += u64::from(result.error.is_some());
        Ok(())
    };
    let error = job(None, Some(3))
        .run(rows.unwrap(), done, progress, &stop, count, |_| {})
        .unwrap_err();
    assert_eq!(failed, 4);
    assert!(
        matches!(
            error,
            Error::TooManyFailures {
                failed: 4,
                limit: 3,
                ..
            }
        ),
        "{error}"
    );
}
