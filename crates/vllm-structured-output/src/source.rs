//! Each kind of constraint in the notation of the grammar engine.

use llguidance::api::TopLevelGrammar;
use serde_json::json;
use vllm_sampling::StructuredOutputs;

use crate::error::{Error, Result};
use crate::json_schema;

/// The grammar of checked parameters.
pub(crate) fn grammar(params: &StructuredOutputs) -> Result<TopLevelGrammar> {
    if let Some(text) = &params.json {
        let schema = serde_json::from_str(text).map_err(|_| Error::InvalidJson)?;
        return Ok(TopLevelGrammar::from_json_schema(json_schema::prepare(
            schema, params,
        )?));
    }
    if params.json_object.is_some() {
        let schema = json_schema::prepare(json!({"type": "object"}), params)?;
        return Ok(TopLevelGrammar::from_json_schema(schema));
    }
    if let Some(regex) = &params.regex {
        return Ok(from_regex(regex));
    }
    if let Some(choices) = &params.choice {
        let quoted: Vec<String> = choices.iter().map(|choice| lark_string(choice)).collect();
        let lark = format!("start: CHOICE\nCHOICE: {}", quoted.join(" | "));
        return Ok(TopLevelGrammar::from_lark(lark));
    }
    if let Some(grammar) = &params.grammar {
        return Ok(TopLevelGrammar::from_lark(grammar.clone()));
    }
    Err(Error::StructuralTag("not supported".to_owned()))
}

/// The whole text matches `regex`.
fn from_regex(regex: &str) -> TopLevelGrammar {
    match regex {
        // Two slashes would begin a comment.
        "" => TopLevelGrammar::from_lark("start: \"\"".to_owned()),
        _ => TopLevelGrammar::from_regex(regex),
    }
}

/// `text` as a Lark string, which is quoted as JSON strings are.
pub(crate) fn lark_string(text: &str) -> String {
    json!(text).to_string()
}
