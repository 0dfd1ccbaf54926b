//! Each kind of constraint: recorded texts pass, walks over random allowed tokens end in texts
//! that fulfil the constraint.

mod support;

use std::collections::BTreeMap;

use proptest::prelude::*;
use regex::Regex;
use serde::de::IgnoredAny;
use serde_json::Value;
use vllm_sampling::StructuredOutputs;

use support::{accepts, choice, compiler, grammar, json, regex, structural_tag, walk};

const PERSON: &str = r#"{"type": "object", "properties": {"name": {"type": "string"},
    "age": {"type": "integer"}, "city": {"type": "string"}},
    "required": ["name", "age", "city"], "additionalProperties": false}"#;

const REQUIRED_TOOLS: &str = r#"{"type": "array", "minItems": 1, "items": {"type": "object",
    "anyOf": [{"type": "object", "properties": {"name": {"type": "string", "enum":
    ["get_weather"]}, "parameters": {"type": "object", "properties": {"city":
    {"type": "string"}}, "required": ["city"]}}, "required": ["name", "parameters"]}]}}"#;

const NAMED_TOOL: &str =
    r#"{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}"#;

/// A recursive grammar in which every greedy cut of the text leads astray.
const NESTED: &str = "root ::= \"(\" inner \")\"\ninner ::= [a-z]* \"end\" | root\n";

const JSON_GRAMMAR: &str = r##"
# JSON as llama.cpp writes it.
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [1-9] [0-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"##;

const LARK: &str = "start: \"say \" WORD (\", \" WORD)*\nWORD: /[a-z]+/\n";

const CALLS: &str = r#"{"type": "structural_tag", "format": {"type": "triggered_tags",
    "triggers": ["<call "], "tags": [
        {"begin": "<call a>", "content": {"type": "json_schema", "json_schema":
            {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}},
         "end": "</call>"},
        {"begin": "<call b>", "content": {"type": "regex", "pattern": "[0-9]{2}"},
         "end": "</call>"}]}}"#;

#[test]
fn recorded_answers_can_be_reached() {
    let check = |params: &StructuredOutputs, text: &str| assert!(accepts(params, text), "{text}");
    check(
        &json(PERSON),
        r#"{"name": "Alice", "age": 31, "city": "Rome"}"#,
    );
    check(
        &json(PERSON),
        r#"{"name": "Leo", "age": 40, "city": "Oslo"}"#,
    );
    check(&choice(&["Rome", "Oslo"]), "Rome");
    check(&grammar("root ::= \"yes\" | \"no\""), "yes");
    check(
        &json(REQUIRED_TOOLS),
        r#"[{"name": "get_weather", "parameters": {"city": "Rome"}}]"#,
    );
    check(&json(NAMED_TOOL), r#"{"city": "Rome"}"#);
}

#[test]
fn json_follows_its_schema() {
    let check = |schema: &str, text: &str, expected: bool| {
        assert_eq!(
            accepts(&json(schema), text),
            expected,
            "{text} for {schema}"
        );
    };
    check(
        PERSON,
        "{\"name\": \"A\",\n\t\"age\": 3, \"city\": \"R\"}",
        true,
    );
    check(PERSON, r#"{"name": "A", "age": 3}"#, false);
    check(PERSON, r#"{"name": "A", "age": "3", "city": "R"}"#, false);
    check(PERSON, r#"{"name": "A", "age": 3, "city": "R"#, false);
    check(PERSON, r#" {"name": "A", "age": 3, "city": "R"}"#, false);
    // Properties that the schema does not name.
    check(NAMED_TOOL, r#"{"city": "Rome", "unit": "C"}"#, false);
    check(
        r#"{"type": "object"}"#,
        r#"{"city": "Rome", "unit": [1]}"#,
        true,
    );
    // References, choices, and keywords that are passed over.
    let tree = r##"{"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "properties":
        {"value": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/node"},
        {"type": "null"}]}}, "required": ["value", "next"]}}}"##;
    check(
        tree,
        r#"{"value": 1, "next": {"value": 2, "next": null}}"#,
        true,
    );
    check(tree, r#"{"value": 1, "next": {"value": 2}}"#, false);
    check(
        r#"{"oneOf": [{"const": 1}, {"const": "a"}]}"#,
        "\"a\"",
        true,
    );
    check(
        r#"{"type": "string", "not": {"const": "a"}}"#,
        "\"b\"",
        true,
    );
    check("{}", "[1, null]", true);
    check("true", "{}", true);
}

#[test]
fn objects_of_several_schemas_have_the_properties_of_all() {
    let schema = r#"{"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}},
        "required": ["a"]}, {"type": "object", "properties": {"b": {"type": "integer"}},
        "required": ["b"]}]}"#;
    assert!(accepts(&json(schema), r#"{"a": 1, "b": 2}"#));
}

#[test]
fn options_of_json() {
    let check = |change: fn(&mut StructuredOutputs), text: &str, expected: bool| {
        let mut params = json(r#"{"type": "object", "properties": {"a": {"type": "array"}}}"#);
        change(&mut params);
        assert_eq!(accepts(&params, text), expected, "{params:?} {text}");
    };
    check(
        |p| p.disable_any_whitespace = true,
        r#"{"a": [1, 2]}"#,
        true,
    );
    check(
        |p| p.disable_any_whitespace = true,
        r#"{"a": [1,2]}"#,
        false,
    );
    check(|p| p.disable_any_whitespace = true, "{ \"a\": []}", false);
    check(
        |p| p.whitespace_pattern = Some("[-]?".to_owned()),
        r#"{-"a":[-]}"#,
        true,
    );
    check(
        |p| p.whitespace_pattern = Some("[-]?".to_owned()),
        r#"{"a": []}"#,
        false,
    );
    let mut params =
        json(r#"{"type": "object", "properties": {"a": {"multipleOf": 3, "type": "integer"}}}"#);
    assert!(accepts(&params, r#"{"a": 6, "b": 1}"#));
    params.disable_additional_properties = true;
    assert!(!accepts(&params, r#"{"a": 6, "b": 1}"#));
    assert!(!accepts(&params, r#"{"a": 7}"#));
}

#[test]
fn any_json_object() {
    let params = StructuredOutputs {
        json_object: Some(true),
        ..StructuredOutputs::default()
    };
    assert!(accepts(&params, r#"{"a": [1, {"b": null}], "c": "d"}"#));
    assert!(!accepts(&params, "[1]"));
}

#[test]
fn regular_expressions_match_the_whole_text() {
    let check = |pattern: &str, text: &str, expected: bool| {
        assert_eq!(accepts(&regex(pattern), text), expected, "{pattern} {text}");
    };
    check("[a-z]+ing", "being", true);
    check("[a-z]+ing", "begin", false);
    check("^a|b$", "b", true);
    check("a/b", "a/b", true);
    check(r"\d{3}-\d{2}", "123-45", true);
    check(".*", "one two", true);
    check(".*", "one\ntwo", false);
    check("", "", true);
    check("", "a", false);
    check(" ", " ", true);
    check("(?i)yes", "YES", true);
    check("é+", "éé", true);
    check(r"\$5$", "$5", true);
}

#[test]
fn choices_are_whole_texts() {
    let texts = ["a", "ab", "say \"x\" \\ / \u{7f}\n", "😀", "<|im_end|>"];
    for text in ["a", "ab", "say \"x\" \\ / \u{7f}\n", "😀"] {
        assert!(accepts(&choice(&texts), text), "{text}");
    }
    assert!(!accepts(&choice(&texts), "abc"));
    assert!(!accepts(&choice(&texts), ""));
    assert!(accepts(&choice(&["", "x"]), ""));
    assert!(!accepts(&choice(&texts), "<|im_end|>"), "a token, no text");
}

#[test]
fn grammars_in_both_notations() {
    let check = |text: &str, input: &str, expected: bool| {
        assert_eq!(
            accepts(&grammar(text), input),
            expected,
            "{input} for {text}"
        );
    };
    check(NESTED, "((send))", true);
    check(NESTED, "((sen))", false);
    check(
        JSON_GRAMMAR,
        "{\"a\": [1, -2.5e3], \"b\": {\"c\\n\": true}}",
        true,
    );
    check(JSON_GRAMMAR, "{\"a\": [1,]}", false);
    check(LARK, "say one, two", true);
    check(LARK, "say one,two", false);
    check("start: \"a\" start \"b\" | \"\"", "aabb", true);
    check("root ::= \"\" | \"x\" root", "xx", true);
    check("root ::= (\"a\"?)* root?", "aa", true);
}

#[test]
fn structural_tags_constrain_parts_of_the_text() {
    let check = |tag: &str, text: &str, expected: bool| {
        assert_eq!(
            accepts(&structural_tag(tag), text),
            expected,
            "{text} for {tag}"
        );
    };
    check(CALLS, "free text", true);
    check(CALLS, "", true);
    check(
        CALLS,
        "a <call b>12</call> b <call a>{\"x\": 1}</call> < c",
        true,
    );
    check(CALLS, "a <call b>1", false);
    check(CALLS, "<call c", false);
    check(CALLS, "<call ", false);
    let legacy = r#"{"type": "structural_tag", "structures": [{"begin": "<f>", "schema":
        {"type": "integer"}, "end": "</f>"}], "triggers": ["<f"]}"#;
    check(legacy, "x<f>12</f>y", true);
    check(legacy, "x<f>a", false);
    let thinking = r#"{"format": {"type": "sequence", "elements": [
        {"type": "tag", "begin": "<t>", "content": {"type": "any_text"}, "end": ["</t>"]},
        {"type": "or", "elements": [{"type": "const_string", "value": "yes"},
            {"type": "grammar", "grammar": "root ::= \"no\""}]}]}}"#;
    check(thinking, "<t>hm <b</t>yes", true);
    check(thinking, "<t></t>no", true);
    check(thinking, "<t>hm</t>maybe", false);
    let separated = r#"{"format": {"type": "tags_with_separator", "separator": ",",
        "at_least_one": true, "tags": [{"begin": "[", "content":
        {"type": "regex", "pattern": "a*"}, "end": "]"}]}}"#;
    check(separated, "[aa],[]", true);
    check(separated, "", false);
    let one = r#"{"format": {"type": "triggered_tags", "triggers": ["["], "at_least_one": true,
        "stop_after_first": true, "tags": [{"begin": "[", "content":
        {"type": "regex", "pattern": "a*"}, "end": "]"}]}}"#;
    check(one, "so: [a]", true);
    check(one, "so: [a].", false);
    check(one, "so", false);
}

#[test]
fn mistakes_are_told() {
    let check = |params: &StructuredOutputs, expected: &str| {
        let message = compiler()
            .compile(params)
            .err()
            .map(|error| error.to_string());
        let message = message.unwrap_or_default();
        assert!(message.starts_with(expected), "{params:?}: {message}");
    };
    check(
        &regex("(["),
        "Failed to transform regex into a grammar: at 1(8): invalid regex \"([\" (in regex): regex parse error:\n    ([\n     \
         ^\nerror: unclosed character class\n   1 | start: /([/\n              ^",
    );
    check(&json("{"), "Invalid JSON grammar specification.");
    check(
        &json("3"),
        "Failed to transform json schema into a grammar: schema must be an object or boolean",
    );
    check(
        &json("false"),
        "Failed to transform json schema into a grammar: ",
    );
    check(
        &json(r#"{"type": "frog"}"#),
        "Failed to transform json schema into a grammar: ",
    );
    check(
        &json(r#"{"type": "array", "uniqueItems": true}"#),
        "Failed to transform json schema into a grammar: Unimplemented keys: [\"uniqueItems\"]",
    );
    check(
        &json(r#"{"$ref": "https://example.com/schema"}"#),
        "Failed to transform json schema into a grammar: ",
    );
    check(&grammar("start: nothing"), "Grammar error: ");
    check(
        &grammar("root ::= \"a"),
        "Grammar error: Invalid grammar specification. Line 1",
    );
    check(
        &grammar("root ::= root"),
        "Grammar error: no token of the vocabulary can continue the text",
    );
    check(
        &structural_tag("{}"),
        "Invalid structural tag specification: \"format\" is missing",
    );
    check(
        &structural_tag(r#"{"format": {"type": "frog"}}"#),
        "Invalid structural tag specification: formats of type \"frog\" are not supported",
    );
    check(
        &StructuredOutputs::default(),
        "You must use one kind of structured outputs constraint but none are specified",
    );
}

/// Numbers may be larger than any type holds.
fn is_object(text: &str) -> bool {
    serde_json::from_str::<BTreeMap<String, IgnoredAny>>(text).is_ok()
}

fn is_person(text: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok_and(|value| {
        value["name"].is_string()
            && value["age"].is_number()
            && value["city"].is_string()
            && value.as_object().is_some_and(|members| members.len() == 3)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn walks_end_in_objects_of_the_schema(seed: u64) {
        let text = walk(&json(PERSON), seed);
        prop_assert!(is_person(&text), "{text}");
        let text = walk(&json(REQUIRED_TOOLS), seed);
        let calls: Value = serde_json::from_str(&text)?;
        prop_assert!(calls[0]["parameters"]["city"].is_string(), "{text}");
    }

    #[test]
    fn walks_end_in_any_object(seed: u64) {
        let params = StructuredOutputs { json_object: Some(true), ..StructuredOutputs::default() };
        let text = walk(&params, seed);
        prop_assert!(is_object(&text), "{text}");
    }

    #[test]
    fn walks_end_in_matches(seed: u64) {
        for pattern in [r"[a-z]+ing|\d{2,4}", r"(ab|cd)*(é|ü){1,3}", r"\w{1,8}@\w{1,8}\.(com|org)", ".{3}"] {
            let text = walk(&regex(pattern), seed);
            let whole = Regex::new(&format!("^(?:{pattern})$")).expect("a valid pattern");
            prop_assert!(whole.is_match(&text), "{text} {pattern}");
        }
    }

    #[test]
    fn walks_end_in_choices(seed: u64) {
        let texts = ["Rome", "Roma", "Oslo", "New York", "New York City"];
        let text = walk(&choice(&texts), seed);
        prop_assert!(texts.contains(&text.as_str()), "{text}");
    }

    #[test]
    fn walks_end_in_sentences_of_the_grammar(seed: u64) {
        let text = walk(&grammar(JSON_GRAMMAR), seed);
        prop_assert!(is_object(&text), "{text}");
        let text = walk(&grammar(LARK), seed);
        let whole = Regex::new("^say [a-z]+(, [a-z]+)*$").expect("a valid pattern");
        prop_assert!(whole.is_match(&text), "{text}");
    }
}
