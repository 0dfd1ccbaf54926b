//! How a result is written down.

use serde_json::{Map, Value, json};
use vllm_engine::{RequestOutput, StopReason};

use crate::row::{Row, RowInput};

/// What became of one row.
#[derive(Debug)]
pub struct RowResult {
    /// Position in the data set, from 0.
    pub index: usize,
    /// The row, unless it could not even be read.
    pub row: Option<Row>,
    /// The model's output, or one sentence that says why there is none.
    pub outcome: Result<RequestOutput, String>,
}

/// A result as one JSON line without its line break: `index`, the row's own columns, then
/// `outputs` with `text`, `finish_reason` and `stop_reason` of each sample and `usage`, or
/// `error`.
pub fn to_json_line(result: &RowResult) -> String {
    let mut record = Map::new();
    record.insert("index".into(), result.index.into());
    if let Some(row) = &result.row {
        if let (RowInput::Prompt(prompt), true) = (&row.input, row.columns.is_empty()) {
            record.insert("prompt".into(), prompt.as_str().into());
        }
        record.extend(row.columns.clone());
    }
    match &result.outcome {
        Ok(output) => {
            record.insert(
                "outputs".into(),
                output.outputs.iter().map(sample).collect(),
            );
            let generated: usize = output.outputs.iter().map(|o| o.token_ids.len()).sum();
            let usage = json!({
                "prompt_tokens": output.prompt_token_ids.len(),
                "completion_tokens": generated,
            });
            record.insert("usage".into(), usage);
        }
        Err(message) => {
            record.insert("error".into(), message.as_str().into());
        }
    }
    Value::Object(record).to_string()
}

fn sample(output: &vllm_engine::CompletionOutput) -> Value {
    let stop_reason = match &output.stop_reason {
        None => Value::Null,
        Some(StopReason::TokenId(id)) => (*id).into(),
        Some(StopReason::Text(text)) => text.as_str().into(),
        Some(StopReason::RepetitionDetected) => "repetition_detected".into(),
    };
    json!({
        "text": output.text,
        "finish_reason": output.finish_reason.map(|reason| reason.as_str()),
        "stop_reason": stop_reason,
    })
}
