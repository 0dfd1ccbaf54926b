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

impl Row {
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
    /// One sentence that says what the line lacks.
    pub fn from_json(line: &str) -> std::result::Result<Self, String> {
        let value: Value =
            serde_json::from_str(line).map_err(|error| format!("not valid JSON: {error}"))?;
        let Value::Object(columns) = value else {
            return Err("not a JSON object: expected {\"prompt\": …} or {\"messages\": …}".into());
        };
        let input = match (columns.get("prompt"), columns.get("messages")) {
            (Some(_), Some(_)) => {
                return Err("both `prompt` and `messages` are given: keep one of them".into());
            }
            (None, None) => return Err("neither `prompt` nor `messages` is given".into()),
            (Some(Value::String(text)), None) => RowInput::Prompt(text.clone()),
            (Some(Value::Array(ids)), None) => RowInput::TokenIds(token_ids(ids)?),
            (Some(_), None) => return Err("`prompt` must be a string or token ids".into()),
            (None, Some(Value::Array(messages))) => RowInput::Messages(messages.clone()),
            (None, Some(_)) => return Err("`messages` must be a list of messages".into()),
        };
        Ok(Self { input, columns })
    }

    /// Reads a row of a table with types, whose prompt (text or token ids) is in `prompt_column`, or
    /// whose conversation is in `messages`.
    ///
    /// # Errors
    /// One sentence that says what the row lacks.
    pub(crate) fn from_table(
        columns: Map<String, Value>,
        prompt_column: &str,
    ) -> std::result::Result<Self, String> {
        let given = |name: &str| columns.get(name).filter(|value| !value.is_null());
        let input = match (given(prompt_column), given("messages")) {
            (Some(Value::String(text)), _) => RowInput::Prompt(text.clone()),
            (Some(Value::Array(ids)), _) => RowInput::TokenIds(token_ids(ids)?),
            (Some(_), _) => {
                return Err(format!("`{prompt_column}` must be text or token ids"));
            }
            (None, Some(Value::Array(messages))) => RowInput::Messages(messages.clone()),
            (None, _) => return Err(format!("`{prompt_column}` is empty")),
        };
        Ok(Self { input, columns })
    }

    /// Reads a record of a CSV file whose `prompt_column`-th field is the prompt.
    ///
    /// # Errors
    /// One sentence that says what is wrong with the record.
    pub(crate) fn from_csv(
        header: &[String],
        prompt_column: usize,
        record: &csv::ByteRecord,
    ) -> std::result::Result<Self, String> {
        let mut columns = Map::new();
        for (name, field) in header.iter().zip(record) {
            let text = std::str::from_utf8(field)
                .map_err(|_| format!("the column `{name}` is not valid UTF-8"))?;
            columns.insert(name.clone(), text.into());
        }
        let prompt = record
            .get(prompt_column)
            .map(|field| String::from_utf8_lossy(field).into_owned())
            .ok_or("the prompt's column is missing")?;
        Ok(Self {
            input: RowInput::Prompt(prompt),
            columns,
        })
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
            (Err(message), Err(part)) => assert!(message.contains(part), "{line}: {message}"),
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
}
