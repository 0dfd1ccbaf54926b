//! Constraints that hold only for the answer, not for the reasoning in front of it.

use serde_json::{Value as Json, json};
use vllm_sampling::StructuredOutputs;

use super::{Opening, ReasoningParser};

/// `constraint` with free reasoning in front of what it constrains. A constraint that cannot be
/// read is left as it is, for its own error.
pub(crate) fn after_reasoning(
    parser: &ReasoningParser,
    constraint: StructuredOutputs,
) -> StructuredOutputs {
    if parser.opening == Opening::AnswerOnly {
        return constraint;
    }
    let Some(answer) = format(&constraint) else {
        return constraint;
    };
    let reasoning = |begin: &str| {
        json!({
            "type": "tag",
            "begin": begin,
            "content": {"type": "any_text"},
            "end": parser.marks.end,
        })
    };
    let then_answer =
        |begin: &str| json!({"type": "sequence", "elements": [reasoning(begin), answer]});
    let format = match parser.opening {
        Opening::Reasoning => then_answer(""),
        Opening::Answer | Opening::AnswerOnly => {
            let mut choices: Vec<Json> = parser
                .marks
                .begin
                .iter()
                .map(|begin| then_answer(begin))
                .collect();
            choices.push(answer.clone());
            json!({"type": "or", "elements": choices})
        }
    };
    let tag = json!({"type": "structural_tag", "format": format});
    StructuredOutputs {
        json: None,
        regex: None,
        choice: None,
        grammar: None,
        json_object: None,
        structural_tag: Some(tag.to_string()),
        ..constraint
    }
}

/// The constraint as a format of structural tags.
fn format(constraint: &StructuredOutputs) -> Option<Json> {
    if let Some(schema) = &constraint.json {
        let schema: Json = serde_json::from_str(schema).ok()?;
        return Some(json!({"type": "json_schema", "json_schema": schema}));
    }
    if constraint.json_object == Some(true) {
        return Some(json!({"type": "json_schema", "json_schema": {"type": "object"}}));
    }
    if let Some(pattern) = &constraint.regex {
        return Some(json!({"type": "regex", "pattern": pattern}));
    }
    if let Some(choices) = &constraint.choice {
        let constant = |text: &String| json!({"type": "const_string", "value": text});
        let elements: Vec<Json> = choices.iter().map(constant).collect();
        return Some(json!({"type": "or", "elements": elements}));
    }
    if let Some(grammar) = &constraint.grammar {
        return Some(json!({"type": "grammar", "grammar": grammar}));
    }
    let tag: Json = serde_json::from_str(constraint.structural_tag.as_deref()?).ok()?;
    tag.get("format").cloned()
}

#[cfg(test)]
mod tests {
    use super::super::reasoning_parser;
    use super::*;

    fn constrained(name: &str, constraint: &StructuredOutputs) -> Option<Json> {
        let parser = reasoning_parser(name).expect("the parser is known");
        let constraint = after_reasoning(&parser, constraint.clone());
        let tag = constraint.structural_tag?;
        serde_json::from_str(&tag).ok()
    }

    #[test]
    fn the_answer_alone_is_constrained() {
        let constraint = StructuredOutputs {
            choice: Some(vec!["a".to_owned(), "b".to_owned()]),
            ..StructuredOutputs::default()
        };
        let answer = json!({"type": "or", "elements": [
            {"type": "const_string", "value": "a"},
            {"type": "const_string", "value": "b"},
        ]});
        let reasoning = json!({
            "type": "tag", "begin": "", "content": {"type": "any_text"}, "end": ["</think>"],
        });
        assert_eq!(
            constrained("deepseek_r1", &constraint),
            Some(json!({"type": "structural_tag", "format": {
                "type": "sequence", "elements": [reasoning, answer],
            }}))
        );
        let optional = constrained("mistral", &constraint).expect("a tag");
        assert_eq!(optional["format"]["type"], "or");
        assert_eq!(optional["format"]["elements"][1], answer);
        // This one does not think unless it is told to.
        let silent = reasoning_parser("deepseek_v3").expect("the parser is known");
        let silent = silent.for_prompt("", &serde_json::Map::new());
        assert_eq!(after_reasoning(&silent, constraint.clone()), constraint);
    }
}
