//! No constraint, however mad, brings the process down.

mod support;

use proptest::prelude::*;
use serde_json::{Map, Value};
use vllm_sampling::StructuredOutputs;
use vllm_structured_output::Grammar;

use support::{allowed, choice, compiler, grammar, json, regex, structural_tag};

/// Compiles and takes some steps; errors are fine at any point.
fn check(params: &StructuredOutputs) {
    let Ok(mut grammar) = compiler().compile(params) else {
        return;
    };
    for step in 0..8 {
        let Ok(ids) = allowed(&mut grammar) else {
            return;
        };
        assert!(!ids.is_empty(), "{params:?}");
        let id = ids[(step * 7) % ids.len()];
        if grammar.accept(id).is_err() {
            return;
        }
    }
}

fn error(params: &StructuredOutputs) -> String {
    let compiled = compiler().compile(params);
    compiled
        .err()
        .map_or_else(String::new, |error| error.to_string())
}

#[test]
fn regular_expressions_are_bounded() {
    check(&regex("((a{1000}){1000}){1000}"));
    check(&regex("(a|b)*a(a|b){500}"));
    check(&regex(&"(".repeat(100_000)));
    check(&regex(&format!("{}{}", "(".repeat(240), ")".repeat(240))));
    check(&regex(&"a?".repeat(2_000)));
    check(&regex(&"ab".repeat(20_000)));
    assert!(error(&regex("(a)\\1")).starts_with("Failed to transform regex into a grammar: "));
    assert!(error(&regex("(?=a)")).starts_with("Failed to transform regex into a grammar: "));
}

#[test]
fn schemas_are_bounded() {
    let nested = |depth: usize| {
        (0..depth).fold("{}".to_owned(), |inner, _| {
            format!("{{\"type\":\"array\",\"items\":{inner}}}")
        })
    };
    check(&json(&nested(63)));
    assert!(error(&json(&nested(64))).contains("nested too deeply"));
    check(&json(r##"{"$ref": "#"}"##));
    check(&json(
        r##"{"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}"##,
    ));
    check(&json(
        r##"{"anyOf": [{"$ref": "#"}, {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}]}"##,
    ));
    check(&json(r#"{"type": "string", "minLength": 1000000000}"#));
    check(&json(r#"{"type": "string", "maxLength": 1000000000}"#));
    check(&json(
        r#"{"type": "array", "minItems": 1000000000, "items": {}}"#,
    ));
    check(&json(
        r#"{"type": "array", "maxItems": 1000000000, "items": {}}"#,
    ));
    check(&json(
        r#"{"type": "integer", "minimum": -1e300, "maximum": 1e300}"#,
    ));
    check(&json(r#"{"type": "number", "multipleOf": 1e-300}"#));
    check(&json(r#"{"type": "integer", "minimum": 5, "maximum": 1}"#));
    check(&json(r#"{"type": "string", "pattern": "(a{1000}){1000}"}"#));
    check(&json(
        r#"{"x-guidance": {"whitespace_pattern": 3}, "type": "object"}"#,
    ));
    let mut chain: Map<String, Value> = (0..3_000)
        .map(|n| {
            (
                format!("d{n}"),
                serde_json::json!({"$ref": format!("#/$defs/d{}", n + 1)}),
            )
        })
        .collect();
    chain.insert("d3000".to_owned(), Value::Bool(true));
    let chain = serde_json::json!({"$ref": "#/$defs/d0", "$defs": chain});
    check(&json(&chain.to_string()));
    let many: Vec<String> = (0..10_000).map(|n| format!("value {n}")).collect();
    check(&json(&serde_json::json!({"enum": many}).to_string()));
    check(&choice(
        &many.iter().map(String::as_str).collect::<Vec<_>>(),
    ));
}

#[test]
fn grammars_are_bounded() {
    let chain = |define: &str| {
        let rules = (0..9_000).map(|n| format!("r{n} {define} \"a\" r{}\n", n + 1));
        rules.collect::<String>()
    };
    check(&grammar(&format!(
        "start: r0\n{}r9000: \"b\"\n",
        chain(":")
    )));
    check(&grammar(&format!(
        "root ::= r0\n{}r9000 ::= \"b\"\n",
        chain("::=")
    )));
    check(&grammar(&format!(
        "root ::= r0\n{}r9000 ::= \"b\" | r0\n",
        chain("::=")
    )));
    check(&grammar(&format!("start: {}", "(".repeat(100_000))));
    check(&grammar("root ::= root"));
    check(&grammar("root ::= root | root root | \"\""));
    check(&grammar("root ::= (((\"a\"*)*)*)*"));
    check(&grammar("root ::= (root \"a\" root){0,100000}"));
    check(&grammar("root ::= \"a\"{100000000}"));
    let doubling: String = (0..60)
        .map(|n| format!("r{n} ::= r{0} r{0}\n", n + 1))
        .collect();
    check(&grammar(&format!("root ::= r0\n{doubling}r60 ::= \"a\"")));
    assert!(error(&grammar(&"a".repeat(300_000))).contains("the grammar is too long"));
}

fn schema_like() -> impl Strategy<Value = Value> {
    const WORDS: [&str; 44] = [
        "type",
        "object",
        "array",
        "string",
        "number",
        "integer",
        "boolean",
        "null",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "prefixItems",
        "minItems",
        "maxItems",
        "anyOf",
        "oneOf",
        "allOf",
        "not",
        "$ref",
        "$defs",
        "#",
        "#/$defs/a",
        "enum",
        "const",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "multipleOf",
        "pattern",
        "format",
        "minLength",
        "maxLength",
        "patternProperties",
        "propertyNames",
        "minProperties",
        "uniqueItems",
        "a",
        "^a+$",
        "é",
        "",
        "date",
        "uuid",
        "x-guidance",
    ];
    let word = proptest::sample::select(WORDS.to_vec()).prop_map(str::to_owned);
    let leaf = prop_oneof![
        word.clone().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        (-3_i64..100).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        Just(Value::Null),
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((word.clone(), inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_json_is_no_danger_as_a_schema(
        value in schema_like(), no_space: bool, closed: bool, pattern in "[ a*+?()]{0,5}",
    ) {
        let mut params = json(&value.to_string());
        params.disable_any_whitespace = no_space;
        params.disable_additional_properties = closed;
        params.whitespace_pattern = (!pattern.is_empty()).then_some(pattern);
        check(&params);
    }

    #[test]
    fn any_text_is_no_danger(
        text in "\\PC{0,40}", pattern in r"[ab.*+?|(){}\[\]^$\\d\-,0-9/&~]{0,24}",
        ebnf in r#"root ::= ["a-c\[\]()|*+?{}0-9, \\rot:=\n#.]{0,40}"#,
        lark in r#"start: ["/a-cA\[\]()|*+?{}0-9, \\~&%:\n<>.]{0,40}"#,
    ) {
        for text in [text, pattern] {
            check(&regex(&text));
            check(&grammar(&text));
            check(&choice(&[&text]));
            check(&structural_tag(&text));
            check(&json(&text));
        }
        check(&grammar(&ebnf));
        check(&grammar(&lark));
    }

    #[test]
    fn any_structural_tag_is_no_danger(content in schema_like(), begin: String, end: String) {
        let tag = serde_json::json!({"format": {"type": "triggered_tags", "triggers": [begin],
            "tags": [{"begin": begin, "end": end,
                "content": {"type": "json_schema", "json_schema": content}}]}});
        check(&structural_tag(&tag.to_string()));
        check(&structural_tag(&serde_json::json!({"format": content}).to_string()));
    }
}

#[test]
fn clones_go_their_own_ways() {
    let mut first: Grammar = support::compile(&choice(&["a b", "c d"]));
    let mut second = first.clone();
    let ids = |text: &str| support::tokenizer().encode(text, false).expect("text");
    for id in ids("a b") {
        first.accept(id).expect("allowed");
    }
    for id in ids("c d") {
        second.accept(id).expect("allowed");
    }
    assert_eq!(allowed(&mut first).expect("a mask"), support::STOP_IDS);
    assert_eq!(allowed(&mut second).expect("a mask"), support::STOP_IDS);
    assert!(first.accept(u32::MAX).is_err());
}
