//! What became of a row, and how that is written down.

use serde_json::{Map, Value, json};
use vllm_engine::{RequestOutput, StopReason};

use crate::row::{Row, RowInput};

/// Tokens that a row took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Tokens of its prompts.
    pub prompt: u64,
    /// Of these, tokens that the prefix cache already held.
    pub cached: u64,
    /// Tokens generated.
    pub output: u64,
}

impl Tokens {
    pub(crate) fn of(outputs: &[RequestOutput]) -> Self {
        let sum = |count: fn(&RequestOutput) -> usize| outputs.iter().map(count).sum::<usize>();
        Self {
            prompt: sum(|output| output.prompt_token_ids.len()) as u64,
            cached: sum(|output| output.num_cached_tokens) as u64,
            output: sum(|output| output.outputs.iter().map(|o| o.token_ids.len()).sum()) as u64,
        }
    }
}

/// What became of one row.
#[derive(Debug)]
pub struct RowResult {
    /// Position in the data set, from 0.
    pub index: u64,
    /// CRC-32 of the row as it was read.
    pub checksum: u32,
    /// What it took.
    pub tokens: Tokens,
    /// Why there is no answer, in one sentence.
    pub error: Option<String>,
    /// The answer.
    pub answer: Answer,
}

/// An answer in the form that its row asks for.
#[derive(Debug)]
pub enum Answer {
    /// To a row with a prompt or a conversation.
    Plain {
        /// The row.
        row: Box<Row>,
        /// The model's output, unless there is an error.
        output: Option<Box<RequestOutput>>,
    },
    /// To a row that asks for nothing: the columns that it has.
    Unread(Map<String, Value>),
    /// To a line of an OpenAI batch file: the line of the output file.
    Batch(String),
}

impl RowResult {
    /// The result as one JSON line without its line break: for a batch file the line of its
    /// answer, else `index`, the row's own columns, then `outputs` with `text`, `finish_reason`
    /// and `stop_reason` of each sample and `usage`, or `error`.
    pub fn to_json_line(&self) -> String {
        let mut record = Map::new();
        record.insert("index".into(), self.index.into());
        let output = match &self.answer {
            Answer::Batch(line) => return line.clone(),
            Answer::Unread(columns) => {
                record.extend(columns.clone());
                &None
            }
            Answer::Plain { row, output } => {
                if let (RowInput::Prompt(prompt), true) = (&row.input, row.columns.is_empty()) {
                    record.insert("prompt".into(), prompt.as_str().into());
                }
                record.extend(row.columns.clone());
                output
            }
        };
        if let Some(output) = output {
            record.insert(
                "outputs".into(),
                output.outputs.iter().map(sample).collect(),
            );
            let usage = json!({
                "prompt_tokens": self.tokens.prompt,
                "completion_tokens": self.tokens.output,
            });
            record.insert("usage".into(), usage);
        }
        if let Some(message) = &self.error {
            record.insert("error".into(), message.as_str().into());
        }
        Value::Object(record).to_string()
    }
}

fn sample(output: &vllm_engine::CompletionOutput) -> Value {
    let stop_reason = match &output.stop_reason {
        None => Value::Null,
        Some(StopReason::TokenId(id)) => (*id).into(),
        Some(StopReason::Text(text)) => text.as_str().into(),
        Some(StopReason::RepetitionDetected) => StopReason::REPETITION_DETECTED.into(),
    };
    json!({
        "text": output.text,
        "finish_reason": output.finish_reason.map(|reason| reason.as_str()),
        "stop_reason": stop_reason,
    })
}
