//! Each kind of constraint in the notation of the grammar engine.

use llguidance::api::TopLevelGrammar;
use llguidance::regex_to_lark;
use serde_json::json;
use vllm_sampling::StructuredOutputs;

use crate::error::{Error, Result};
use crate::{ebnf, json_schema, structural_tag};

/// Longest grammar that is read: what is read must fit on the stack when rules refer to each other
/// in one long chain.
const MAX_GRAMMAR_BYTES: usize = 256 << 10;

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
        return from_grammar(grammar);
    }
    match &params.structural_tag {
        Some(tag) => structural_tag::to_lark(tag, params).map(TopLevelGrammar::from_lark),
        None => Err(Error::Grammar("no constraint is given".to_owned())),
    }
}

/// Any text that matches the whole of `regex`.
fn from_regex(regex: &str) -> TopLevelGrammar {
    match lark_regex(regex).as_str() {
        "" => TopLevelGrammar::from_lark("start: \"\"".to_owned()),
        body => TopLevelGrammar::from_lark(format!("start: /{body}/")),
    }
}

fn from_grammar(grammar: &str) -> Result<TopLevelGrammar> {
    if grammar.len() > MAX_GRAMMAR_BYTES {
        return Err(Error::Grammar(format!(
            "the grammar is too long: {} bytes, at most {MAX_GRAMMAR_BYTES} are read",
            grammar.len()
        )));
    }
    let lark = match ebnf::is_ebnf(grammar) {
        true => ebnf::to_lark(grammar)?,
        false => grammar.to_owned(),
    };
    Ok(TopLevelGrammar::from_lark(lark))
}

/// `regex` as it stands between the slashes of a Lark expression, without the anchors that a match
/// of the whole text implies, and with classes like `\d` meaning ASCII.
pub(crate) fn lark_regex(regex: &str) -> String {
    let body = regex.strip_prefix('^').unwrap_or(regex);
    let escapes_before_end = body.strip_suffix('$').map(|body| {
        let kept = body.trim_end_matches('\\');
        body.len() - kept.len()
    });
    let body = match escapes_before_end {
        Some(escapes) if escapes % 2 == 0 => &body[..body.len() - 1],
        _ => body,
    };
    regex_to_lark(body, "dws")
}

/// `text` as a Lark string, which is quoted as JSON strings are.
pub(crate) fn lark_string(text: &str) -> String {
    json!(text).to_string().replace('\x7f', "\\u007f")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outer_anchors_are_implied() {
        let check = |regex: &str, expected: &str| assert_eq!(lark_regex(regex), expected);
        check("^a/b$", r"a\/b");
        check(r"a\$", r"a\$");
        check(r"a\\$", r"a\\");
        check("^$", "");
        check(r"\d+", "[0-9]+");
    }

    #[test]
    fn strings_are_quoted_for_lark() {
        assert_eq!(lark_string("a\"\n\u{7f}"), r#""a\"\n\u007f""#);
    }
}
