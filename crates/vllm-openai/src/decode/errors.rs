//! Schema errors and the message that lists them.

use super::python::string_repr;
use super::value::Value;

/// At most this many errors are listed; the rest is only counted.
const MAX_LISTED: usize = 10;
/// An entry is cut after this many characters.
const MAX_ENTRY_CHARS: usize = 1000;
/// An input string is cut after this many characters.
const MAX_INPUT_CHARS: usize = 200;

/// One disagreement between a body and its schema.
#[derive(Debug, Clone, PartialEq)]
pub struct SchemaError {
    /// Machine-readable kind, such as `int_parsing` or `missing`.
    pub kind: &'static str,
    /// Dotted place, beginning with `body`.
    pub loc: String,
    /// Sentence for people.
    pub message: String,
    /// The offending value, already summarised.
    pub input: String,
    /// The limits involved, as name and printed Python value.
    pub context: Vec<(&'static str, String)>,
}

impl SchemaError {
    /// An error about `input` at the dotted place `loc`.
    pub fn new(
        kind: &'static str,
        loc: impl Into<String>,
        message: impl Into<String>,
        input: &Value,
    ) -> Self {
        Self {
            kind,
            loc: loc.into(),
            message: message.into(),
            input: summarize(input),
            context: Vec::new(),
        }
    }

    /// Adds a member to the context; `printed` is the value as Python prints it.
    pub fn with_context(mut self, name: &'static str, printed: impl Into<String>) -> Self {
        self.context.push((name, printed.into()));
        self
    }

    /// The error as a Python dict literal.
    fn to_entry(&self) -> String {
        let mut entry = format!(
            "{{'type': '{}', 'loc': {}, 'msg': {}, 'input': {}",
            self.kind,
            string_repr(&self.loc),
            string_repr(&self.message),
            string_repr(&self.input),
        );
        if !self.context.is_empty() {
            let members: Vec<String> = self
                .context
                .iter()
                .map(|(name, value)| format!("'{name}': {value}"))
                .collect();
            entry.push_str(&format!(", 'ctx': {{{}}}", members.join(", ")));
        }
        entry.push('}');
        cut(&entry, MAX_ENTRY_CHARS).unwrap_or(entry)
    }
}

/// The message of a schema violation: how many errors, and the first ten of them.
pub fn schema_message(errors: &[SchemaError]) -> String {
    let plural = if errors.len() == 1 { "" } else { "s" };
    let mut message = format!("{} validation error{plural}:", errors.len());
    for error in errors.iter().take(MAX_LISTED) {
        message.push_str("\n  ");
        message.push_str(&error.to_entry());
    }
    if errors.len() > MAX_LISTED {
        message.push_str(&format!(
            "\n  ...and {} more errors",
            errors.len() - MAX_LISTED
        ));
    }
    message
}

fn summarize(input: &Value) -> String {
    match input {
        Value::Dict(members) => format!("<dict of {} items>", members.len()),
        Value::List(items) => format!("<list of {} items>", items.len()),
        scalar => {
            let text = scalar.python_str();
            match cut(&text, MAX_INPUT_CHARS) {
                Some(start) => start + "...[truncated]",
                None => text,
            }
        }
    }
}

/// The first `limit` characters of `text`, or `None` when it is not longer than that.
fn cut(text: &str, limit: usize) -> Option<String> {
    let (end, _) = text.char_indices().nth(limit)?;
    Some(text[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(input: Value) -> SchemaError {
        SchemaError::new(
            "int_type",
            "body.n",
            "Input should be a valid integer",
            &input,
        )
    }

    #[test]
    fn one_error_is_singular_and_long_input_is_cut() {
        let message = schema_message(&[error(Value::String("x".repeat(201)))]);
        let input = "x".repeat(200);
        assert_eq!(
            message,
            format!(
                "1 validation error:\n  {{'type': 'int_type', 'loc': 'body.n', 'msg': 'Input \
                 should be a valid integer', 'input': '{input}...[truncated]'}}"
            )
        );
    }

    #[test]
    fn ten_errors_are_listed_and_the_rest_counted() {
        let errors = vec![error(Value::Null); 13];
        let message = schema_message(&errors);
        assert!(message.starts_with("13 validation errors:\n  {'type'"));
        assert!(message.ends_with("\n  ...and 3 more errors"));
        assert_eq!(message.lines().count(), 12);
    }

    #[test]
    fn an_entry_is_cut_at_a_thousand_characters() {
        let mut long = error(Value::Null);
        long.message = "m".repeat(2000);
        let message = schema_message(&[long]);
        assert_eq!(
            message.lines().nth(1).map(|line| line.chars().count()),
            Some(1002)
        );
    }

    #[test]
    fn context_is_a_nested_dict() {
        let entry = error(Value::List(vec![]))
            .with_context("field_type", "'List'")
            .with_context("max_length", "4")
            .to_entry();
        assert!(
            entry.ends_with(
                "'input': '<list of 0 items>', 'ctx': {'field_type': 'List', 'max_length': 4}}"
            ),
            "{entry}"
        );
    }
}
