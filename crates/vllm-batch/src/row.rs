//! One row of a data set: what to ask the model, and the columns that travel along.

use serde_json::{Map, Value};

use crate::openai::BatchRequest;

/// What a row asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum RowInput {
    /// Continue this text.
    Prompt(String),
    /// Continue these token ids.
    TokenIds(Vec<u32>),
    /// Answer this conversation.
    Messages(Vec<Value>),
    /// Answer this line of an OpenAI batch file.
    Batch(BatchRequest),
}

/// A row that could be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// What to ask.
    pub input: RowInput,
    /// All columns of a JSON row or a table's, which the result repeats; empty for other rows.
    pub columns: Map<String, Value>,
}

/// A row that asks for nothing that can be answered.
#[derive(Debug, Clone, PartialEq)]
pub struct UnreadRow {
    /// One sentence that says why.
    pub reason: String,
    /// The columns that could be read, which the result repeats.
    pub columns: Map<String, Value>,
}

impl UnreadRow {
    /// A row of which nothing could be read.
    pub(crate) fn damaged(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            columns: Map::new(),
        }
    }
}

impl Row {
    /// A row with these columns, if they gave something to ask.
    fn new(
        input: std::result::Result<RowInput, String>,
        columns: Map<String, Value>,
    ) -> std::result::Result<Self, UnreadRow> {
        match input {
            Ok(input) => Ok(Self { input, columns }),
            Err(reason) => Err(UnreadRow { reason, columns }),
        }
    }

    /// A row that is nothing but a prompt.
    pub fn from_text(text: impl Into<String>) -> Self {
        Self {
            input: RowInput::Prompt(text.into()),
            columns: Map::new(),
        }
    }

    /// Reads an object with `prompt` (text or token ids) or `messages`.
    ///
    /// # Errors
    /// What the line lacks.
    pub fn from_json(line: &str) -> std::result::Result<Self, UnreadRow> {
        let value: Value = serde_json::from_str(line)
            .map_err(|error| UnreadRow::damaged(format!("not valid JSON: {error}")))?;
        let Value::Object(columns) = value else {
            let reason = "not a JSON object: expected {\"prompt\": …} or {\"messages\": …}";
            return Err(UnreadRow::damaged(reason));
        };
        let input = match (columns.get("prompt"), columns.get("messages")) {
            (Some(_), Some(_)) => {
                Err("both `prompt` and `messages` are given: keep one of them".to_owned())
            }
            (None, None) => Err("neither `prompt` nor `messages` is given".to_owned()),
            (Some(Value::String(text)), None) => Ok(RowInput::Prompt(text.clone())),
            (Some(Value::Array(ids)), None) => token_ids(ids).map(RowInput::TokenIds),
            (Some(_), None) => Err("`prompt` must be a string or token ids".to_owned()),
            (None, Some(Value::Array(messages))) => Ok(RowInput::Messages(messages.clone())),
            (None, Some(_)) => Err("`messages` must be a list of messages".to_owned()),
        };
        Self::new(input, columns)
    }

    /// Reads a row of a table with types, whose prompt (text or token ids) is in `prompt_column`, or
    /// whose conversation is in `messages`.
    ///
    /// # Errors
    /// What the row lacks.
    pub(crate) fn from_table(
        columns: Map<String, Value>,
        prompt_column: &str,
    ) -> std::result::Result<Self, UnreadRow> {
        let given = |name: &str| columns.get(name).filter(|value| !value.is_null());
        let input = match (given(prompt_column), given("messages")) {
            (Some(Value::String(text)), _) => Ok(RowInput::Prompt(text.clone())),
            (Some(Value::Array(ids)), _) => token_ids(ids).map(RowInput::TokenIds),
            (Some(_), _) => Err(format!("`{prompt_column}` must be text or token ids")),
            (None, Some(Value::Array(messages))) => Ok(RowInput::Messages(messages.clone())),
            (None, _) => Err(format!("`{prompt_column}` is empty")),
        };
        Self::new(input, columns)
    }

    /// Reads a record of a CSV file whose `prompt_column`-th field is the prompt.
    ///
    /// # Errors
    /// What is wrong with the record.
    pub(crate) fn from_csv(
        header: &[String],
        prompt_column: usize,
        record: &csv::ByteRecord,
    ) -> std::result::Result<Self, UnreadRow> {
        let mut columns = Map::new();
        let mut damaged = None;
        for (name, field) in header.iter().zip(record) {
            match std::str::from_utf8(field) {
                Ok(text) => {
                    columns.insert(name.clone(), text.into());
                }
                Err(_) => damaged = Some(format!("the column `{name}` is not valid UTF-8")),
            }
        }
        let input = match (damaged, record.get(prompt_column)) {
            (Some(reason), _) => Err(reason),
            (None, None) => Err("the prompt's column is missing".to_owned()),
            (None, Some(prompt)) => Ok(RowInput::Prompt(
                String::from_utf8_lossy(prompt).into_owned(),
            )),
        };
        Self::new(input, columns)
    }
}

fn token_ids(values: &[Value]) -> std::result::Result<Vec<u32>, String> {
    values
        .iter()
        .map(|value| {
            value
                .as_u64()
                .and_then(|id| u32::try_from(id).ok())
                .ok_or_else(|| format!("`prompt` holds {value}, which is not a token id"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: std::result::Result<RowInput, &str>) {
        match (Row::from_json(line), expected) {
            (Ok(row), Ok(input)) => assert_eq!(row.input, input, "{line}"),
            (Err(UnreadRow { reason, .. }), Err(part)) => {
                assert!(reason.contains(part), "{line}: {reason}");
            }
            (got, _) => panic!("{line}: {got:?}"),
        }
    }

    #[test]
    fn reads_every_form_and_names_what_is_wrong() {
        check(r#"{"prompt":"a"}"#, Ok(RowInput::Prompt("a".into())));
        check(r#"{"prompt":[1,2]}"#, Ok(RowInput::TokenIds(vec![1, 2])));
        let message = serde_json::json!({"role": "user", "content": "hi"});
        check(
            r#"{"messages":[{"role":"user","content":"hi"}]}"#,
            Ok(RowInput::Messages(vec![message])),
        );
        check("{", Err("not valid JSON"));
        check("[]", Err("not a JSON object"));
        check("{}", Err("neither"));
        check(r#"{"prompt":"a","messages":[]}"#, Err("both"));
        check(r#"{"prompt":1}"#, Err("string or token ids"));
        check(r#"{"prompt":[-1]}"#, Err("-1, which is not a token id"));
        check(r#"{"messages":"hi"}"#, Err("list of messages"));
    }

    #[test]
    fn columns_travel_along() {
        let row = Row::from_json(r#"{"id":7,"prompt":"a"}"#).unwrap();
        assert_eq!(row.columns["id"], 7);
    }

    #[test]
    fn columns_of_rows_that_ask_for_nothing_are_kept() {
        let unread = Row::from_json(r#"{"id":7,"prompt":1}"#).unwrap_err();
        assert_eq!(unread.columns["id"], 7);
        let unread = Row::from_table(unread.columns, "question").unwrap_err();
        assert_eq!(unread.columns["id"], 7);
        let header = ["id".to_owned(), "prompt".to_owned()];
        let record = csv::ByteRecord::from(vec![&b"7"[..], &b"\xff"[..]]);
        let unread = Row::from_csv(&header, 1, &record).unwrap_err();
        assert!(
            unread.reason.contains("`prompt` is not valid UTF-8"),
            "{}",
            unread.reason
        );
        assert_eq!(unread.columns["id"], "7");
    }
}
