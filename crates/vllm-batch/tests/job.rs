//! Jobs on the demo model.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::cell::Cell;
use std::sync::Arc;

use serde_json::{Value, json};
use vllm_batch::{Job, Progress, Row, RowReader, RowResult, to_json_line};
use vllm_engine::{AsyncLlm, EngineConfig, SamplingParams};

fn job(max_tokens: Option<i64>) -> Job {
    let mut config = EngineConfig::new("demo");
    config.dtype = "float32".to_owned();
    let engine = Arc::new(AsyncLlm::new(&config).unwrap());
    Job::new(engine, SamplingParams::greedy(), max_tokens)
}

/// Runs a data set given as the text of a file.
fn run_file(name: &str, text: &str, max_tokens: Option<i64>) -> (Vec<Value>, Progress) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    let rows = RowReader::open(&path).unwrap();
    let mut results = Vec::new();
    let collect = |result: RowResult| {
        results.push(serde_json::from_str(&to_json_line(&result)).unwrap());
        Ok(())
    };
    let progress = job(max_tokens)
        .run(rows, || false, collect, |_| {})
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
    assert!(progress.output_tokens > 60 && progress.prompt_tokens > 300);
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

#[test]
fn stopping_starts_no_further_row_and_finishes_those_under_way() {
    let started = Cell::new(0);
    let rows = std::iter::from_fn(|| {
        started.set(started.get() + 1);
        Some(Ok(Ok(Row::from_text("The capital of France is"))))
    });
    let mut results = 0;
    let count = |_: RowResult| {
        results += 1;
        Ok(())
    };
    let progress = job(Some(2))
        .run(rows, || started.get() > 700, count, |_| {})
        .unwrap();
    assert_eq!(progress.rows_done, 700);
    assert_eq!(results, 700);
}
