//! [`StructuredOutputs`]: the form the text of a request must have.

use crate::python;
use crate::{Error, Result};

/// Deepest nesting of objects and arrays in a JSON schema.
const MAX_SCHEMA_DEPTH: usize = 64;

/// A structural tag wraps its schemas in some levels of its own.
const MAX_STRUCTURAL_TAG_DEPTH: usize = MAX_SCHEMA_DEPTH + 16;

/// A constraint on the generated text. Exactly one of the first six fields is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StructuredOutputs {
    /// A JSON schema, as JSON text.
    pub json: Option<String>,
    /// A regular expression that the whole text matches.
    pub regex: Option<String>,
    /// The texts to choose from.
    pub choice: Option<Vec<String>>,
    /// A context-free grammar in EBNF or Lark notation.
    pub grammar: Option<String>,
    /// Any JSON object; `Some(false)` is refused.
    pub json_object: Option<bool>,
    /// Free text with constrained parts, as JSON text.
    pub structural_tag: Option<String>,
    /// Allows no whitespace but what the grammar demands.
    pub disable_any_whitespace: bool,
    /// Objects hold only the properties their schema names.
    pub disable_additional_properties: bool,
    /// Regular expression for the whitespace between JSON tokens.
    pub whitespace_pattern: Option<String>,
}

impl StructuredOutputs {
    /// Checks everything that needs no grammar compiler.
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] with vLLM's wording.
    pub fn validate(&self) -> Result<()> {
        let kinds = [
            self.json.is_some(),
            self.regex.is_some(),
            self.choice.is_some(),
            self.grammar.is_some(),
            self.json_object.is_some(),
            self.structural_tag.is_some(),
        ];
        match kinds.into_iter().filter(|&set| set).count() {
            0 => return self.invalid("You must use one kind of structured outputs constraint but none are specified"),
            1 => {}
            _ => return self.invalid("You can only use one kind of structured outputs constraint but multiple are specified"),
        }
        if self.choice.as_ref().is_some_and(Vec::is_empty) {
            return Err(Error::invalid("Choice '[]' cannot be an empty list"));
        }
        for (name, text) in [
            ("grammar", &self.grammar),
            ("json", &self.json),
            ("structural_tag", &self.structural_tag),
        ] {
            if text.as_ref().is_some_and(|text| text.trim().is_empty()) {
                let message = format!("structured_outputs.{name} cannot be an empty string");
                return Err(Error::invalid(message));
            }
        }
        for (text, limit) in [
            (&self.json, MAX_SCHEMA_DEPTH),
            (&self.structural_tag, MAX_STRUCTURAL_TAG_DEPTH),
        ] {
            if text.as_ref().is_some_and(|text| json_depth(text) > limit) {
                return Err(Error::invalid(
                    "The JSON schema is nested too deeply: objects and arrays may nest at most \
                     64 levels",
                ));
            }
        }
        if self.json_object == Some(false) {
            return Err(Error::invalid(
                "structured_outputs.json_object must be True if set; omit structured_outputs to \
                 disable structured outputs",
            ));
        }
        if self
            .regex
            .as_ref()
            .is_some_and(|regex| regex.contains('\0'))
        {
            return Err(Error::invalid(
                "structured_outputs.regex must not contain a NUL character ('\\x00')",
            ));
        }
        Ok(())
    }

    fn invalid(&self, problem: &str) -> Result<()> {
        Err(Error::invalid(format!("{problem}: {}", self.python_dict())))
    }

    fn python_dict(&self) -> String {
        let text = |value: &Option<String>| {
            value
                .as_ref()
                .map_or_else(|| "None".to_owned(), |value| python::string(value))
        };
        let choice = self
            .choice
            .as_ref()
            .map_or_else(|| "None".to_owned(), |all| python::string_list(all));
        let fields = [
            ("json", text(&self.json)),
            ("regex", text(&self.regex)),
            ("choice", choice),
            ("grammar", text(&self.grammar)),
            (
                "json_object",
                self.json_object.map_or("None", python::bool).to_owned(),
            ),
            (
                "disable_any_whitespace",
                python::bool(self.disable_any_whitespace).to_owned(),
            ),
            (
                "disable_additional_properties",
                python::bool(self.disable_additional_properties).to_owned(),
            ),
            ("whitespace_pattern", text(&self.whitespace_pattern)),
            ("structural_tag", text(&self.structural_tag)),
        ];
        let fields = fields.map(|(name, value)| format!("'{name}': {value}"));
        format!("{{{}}}", fields.join(", "))
    }
}

/// Deepest nesting of brackets outside of strings. Works on text that is not valid JSON, too, and
/// unlike a parser cannot be overwhelmed by the depth it looks for.
fn json_depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: fn(&mut StructuredOutputs), expected: Option<&str>) {
        let mut outputs = StructuredOutputs::default();
        change(&mut outputs);
        let message = outputs.validate().err().map(|error| error.to_string());
        assert_eq!(message.as_deref(), expected, "{outputs:?}");
    }

    fn nested(depth: usize) -> Option<String> {
        Some("[".repeat(depth) + &"]".repeat(depth))
    }

    #[test]
    fn exactly_one_kind_is_set() {
        check(|o| o.regex = Some(" ".into()), None);
        check(|o| o.regex = Some(String::new()), None);
        check(|o| o.json_object = Some(true), None);
        check(|o| o.choice = Some(vec!["a".into()]), None);
        check(
            |_| {},
            Some(
                "You must use one kind of structured outputs constraint but none are specified: \
                 {'json': None, 'regex': None, 'choice': None, 'grammar': None, \
                 'json_object': None, 'disable_any_whitespace': False, \
                 'disable_additional_properties': False, 'whitespace_pattern': None, \
                 'structural_tag': None}",
            ),
        );
        check(
            |o| (o.regex, o.choice) = (Some("a".into()), Some(vec!["b".into()])),
            Some(
                "You can only use one kind of structured outputs constraint but multiple are \
                 specified: {'json': None, 'regex': 'a', 'choice': ['b'], 'grammar': None, \
                 'json_object': None, 'disable_any_whitespace': False, \
                 'disable_additional_properties': False, 'whitespace_pattern': None, \
                 'structural_tag': None}",
            ),
        );
    }

    #[test]
    fn empty_constraints_are_refused() {
        check(
            |o| o.choice = Some(vec![]),
            Some("Choice '[]' cannot be an empty list"),
        );
        let empty = "structured_outputs.grammar cannot be an empty string";
        check(|o| o.grammar = Some(" \n".into()), Some(empty));
        let empty = "structured_outputs.json cannot be an empty string";
        check(|o| o.json = Some(String::new()), Some(empty));
        let empty = "structured_outputs.structural_tag cannot be an empty string";
        check(|o| o.structural_tag = Some(String::new()), Some(empty));
        check(
            |o| o.json_object = Some(false),
            Some(
                "structured_outputs.json_object must be True if set; omit structured_outputs to \
                 disable structured outputs",
            ),
        );
        check(
            |o| o.regex = Some("a\0".into()),
            Some("structured_outputs.regex must not contain a NUL character ('\\x00')"),
        );
    }

    #[test]
    fn schemas_are_not_too_deep() {
        let too_deep = "The JSON schema is nested too deeply: objects and arrays may nest at most \
                        64 levels";
        check(|o| o.json = nested(64), None);
        check(|o| o.json = nested(65), Some(too_deep));
        check(|o| o.json = nested(1_000_000), Some(too_deep));
        check(|o| o.structural_tag = nested(80), None);
        check(|o| o.structural_tag = nested(81), Some(too_deep));
        // Brackets in strings nest nothing.
        check(
            |o| o.json = Some(format!("[\"\\\"{}\"]", "[".repeat(100))),
            None,
        );
    }
}
