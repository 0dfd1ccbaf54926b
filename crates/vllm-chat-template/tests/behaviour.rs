//! What the crate promises beyond equality with Python: variables, errors, and safety.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use vllm_chat_template::{ChatTemplate, Error, RenderInput};

struct Request {
    messages: Vec<Value>,
    tools: Option<Vec<Value>>,
    add_generation_prompt: bool,
    continue_final_message: bool,
    kwargs: Value,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            messages: vec![json!({"role": "user", "content": "Hi"})],
            tools: None,
            add_generation_prompt: false,
            continue_final_message: false,
            kwargs: json!({}),
        }
    }
}

fn render(source: &str, request: &Request) -> Result<String, Error> {
    ChatTemplate::new(source)?.render(&RenderInput {
        messages: &request.messages,
        tools: request.tools.as_deref(),
        documents: None,
        add_generation_prompt: request.add_generation_prompt,
        continue_final_message: request.continue_final_message,
        kwargs: request.kwargs.as_object().unwrap(),
        special_tokens: &BTreeMap::from([("eos_token".to_owned(), "</s>".to_owned())]),
    })
}

fn check(source: &str, request: &Request, expected: &str) {
    assert_eq!(render(source, request).unwrap(), expected, "{source}");
}

#[test]
fn arguments_come_last_and_null_overrides_nothing() {
    let source = "{{ eos_token }}|{{ add_generation_prompt }}|{{ extra is defined }}|{{ tools }}";
    check(source, &Request::default(), "</s>|False|False|None");
    let kwargs = json!({"eos_token": "<end>", "add_generation_prompt": true, "extra": 1});
    check(
        source,
        &Request {
            kwargs,
            ..Request::default()
        },
        "<end>|True|True|None",
    );
    let kwargs = json!({"eos_token": null, "add_generation_prompt": null, "extra": null});
    check(
        source,
        &Request {
            kwargs,
            ..Request::default()
        },
        "</s>|False|False|None",
    );
}

#[test]
fn the_conversation_is_no_argument() {
    for name in ["messages", "tools"] {
        let kwargs = json!({name: []});
        let error = render(
            "{{ 1 }}",
            &Request {
                kwargs,
                ..Request::default()
            },
        )
        .unwrap_err();
        assert_eq!(error, Error::ReservedArgument(name.to_owned()));
    }
}

#[test]
fn a_message_is_an_object() {
    let request = Request {
        messages: vec![json!("Hi")],
        ..Request::default()
    };
    let error = render("{{ 1 }}", &request).unwrap_err();
    assert_eq!(error, Error::MessageNotAnObject("\"Hi\"".to_owned()));
}

#[test]
fn key_order_survives_everything() {
    let tool = json!({"zeta": 1, "alpha": {"y": 1, "b": 2}, "middle": [{"q": 1, "c": 2}]});
    let request = Request {
        tools: Some(vec![tool]),
        ..Request::default()
    };
    check(
        "{{ tools[0] | tojson }}",
        &request,
        r#"{"zeta": 1, "alpha": {"y": 1, "b": 2}, "middle": [{"q": 1, "c": 2}]}"#,
    );
}

#[test]
fn reasoning_has_every_name() {
    for name in ["reasoning_content", "reasoning", "thinking"] {
        let messages = vec![json!({"role": "assistant", "content": "c", name: "r"})];
        check(
            "{{ messages[0].reasoning_content }}{{ messages[0].thinking }}",
            &Request {
                messages,
                ..Request::default()
            },
            "rr",
        );
    }
}

#[test]
fn declared_variables_are_those_read_from_outside() {
    let template = ChatTemplate::new(
        "{% set own = 1 %}{{ own }}{% if enable_thinking is defined %}{{ messages }}{% endif %}\
         {% macro m(argument) %}{{ argument }}{{ inside_macro }}{% endmacro %}",
    )
    .unwrap();
    let names: Vec<_> = template
        .declared_variables()
        .iter()
        .map(String::as_str)
        .collect();
    assert_eq!(names, ["enable_thinking", "inside_macro", "messages"]);
}

#[test]
fn the_developer_role_is_found_in_quotes() {
    let mentions = |source: &str| ChatTemplate::new(source).unwrap().mentions_developer_role();
    assert!(mentions(
        "{% if messages[0].role == 'developer' %}{% endif %}"
    ));
    assert!(mentions(
        "{% if messages[0].role == \"developer\" %}{% endif %}"
    ));
    assert!(!mentions("the developer wrote this"));
}

#[test]
fn the_source_comes_back_unchanged() {
    let source = "{% generation %}{{ '%s' % 1 }}{% endgeneration %}\n";
    assert_eq!(ChatTemplate::new(source).unwrap().source(), source);
}

#[test]
fn errors_say_what_is_wrong() {
    let request = Request::default();
    let error = render("{{ raise_exception('No. \"You\" first') }}", &request).unwrap_err();
    assert_eq!(error.to_string(), "No. \"You\" first");

    let error = render("line\n{% if %}", &request).unwrap_err();
    assert!(matches!(error, Error::Syntax(_)), "{error:?}");
    assert!(error.to_string().contains("chat_template:2"), "{error}");

    let error = render("{{ messages[0].nothing.more }}", &request).unwrap_err();
    assert!(matches!(error, Error::Render(_)), "{error:?}");
}

const PLAIN: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}";

fn continued(content: Value) -> Request {
    Request {
        messages: vec![json!({"role": "assistant", "content": content})],
        continue_final_message: true,
        ..Request::default()
    }
}

#[test]
fn the_final_message_stays_open() {
    check(PLAIN, &continued(json!("The end ")), "<assistant>The end ");
    let by_argument = Request {
        add_generation_prompt: true,
        continue_final_message: false,
        kwargs: json!({"add_generation_prompt": false, "continue_final_message": true}),
        ..continued(json!("The end "))
    };
    check(PLAIN, &by_argument, "<assistant>The end ");
    let trimming = PLAIN.replace("m.content", "m.content | trim");
    check(
        &trimming,
        &continued(json!("The end ")),
        "<assistant>The end",
    );
    let parts =
        "{% for m in messages %}{% for c in m.content %}[{{ c.text }}]{% endfor %}{% endfor %}";
    check(
        parts,
        &continued(json!([{"text": "a"}, {"text": "b"}, {"type": "image"}])),
        "[a][b",
    );
}

#[test]
fn what_cannot_be_continued_is_refused() {
    let refused = |source: &str, request: &Request| render(source, request).unwrap_err();
    let both = Request {
        add_generation_prompt: true,
        ..continued(json!("x"))
    };
    assert_eq!(refused(PLAIN, &both), Error::ContinueAndGenerate);
    let empty = Request {
        messages: vec![],
        ..continued(json!("x"))
    };
    assert!(matches!(
        refused(PLAIN, &empty),
        Error::NothingToContinue(_)
    ));
    assert!(matches!(
        refused(PLAIN, &continued(json!(null))),
        Error::NothingToContinue(_)
    ));
    assert!(matches!(
        refused(PLAIN, &continued(json!([]))),
        Error::NothingToContinue(_)
    ));
    assert!(matches!(
        refused("fixed", &continued(json!("x"))),
        Error::NothingToContinue(_)
    ));
    let dropped = refused("{# content #}fixed", &continued(json!(" x ")));
    let expected = Error::FinalMessageLost {
        final_message: "x".to_owned(),
        rendered: "fixed".to_owned(),
    };
    assert_eq!(dropped, expected);
}

#[test]
fn hostile_templates_end_with_an_error() {
    let hostile = [
        "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m(n) %}{% for i in [1, 2] %}{{ m(n) }}{% endfor %}{% endmacro %}{{ m(1) }}",
        "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s='aa') %}{% for i in range(64) %}{% set ns.s = ns.s.replace('a', ns.s) %}{% endfor %}",
        "{{ 'x' * 99999999999 }}",
        "{{ [0] * 99999999999 }}",
        "{{ 'x'.ljust(99999999999) }}",
        "{{ 'x'.join(range(99999)) }}",
        "{{ '%999999999999d' % 1 }}",
        "{{ '{:>999999999999}'.format(1) }}",
        "{{ 9 ** 9 ** 9 ** 9 }}",
        "{{ range(9999999999) | list }}",
        "{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
        "{% set ns = namespace(l=[]) %}{% for i in range(5000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l | tojson }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% for j in range(9999) %}{% set ns.l = [ns.l] %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(l={}) %}{% for i in range(9999) %}{% for j in range(9999) %}{% set ns.l = {'a': ns.l} %}{% endfor %}{% endfor %}",
        "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns ~ '' }}",
        "{% set ns = namespace() %}{% set ns.me = [{'a': ns}] %}{{ ns ~ '' }}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(9999) %}{% set ns.l = ns.l | batch(1) | list %}{% endfor %}",
        "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = dict(a=ns.l) %}{% endfor %}",
        "{% macro m(x) %}{{ m([x]) }}{% endmacro %}{{ m(1) }}",
        "{% include 'chat_template' %}",
        "{% extends 'chat_template' %}",
        "{{ messages.append(1) }}",
        "{{ 1 // 0 }}{{ 1 % 0 }}",
        "{{ strftime_now(1) }}",
    ];
    let one_by_one = "{% set x = [x] %}".repeat(50_000);
    for source in hostile.into_iter().chain([one_by_one.as_str()]) {
        let error = render(source, &Request::default()).expect_err(source);
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn deep_values_are_printed() {
    let source = "{% set ns = namespace(l=[]) %}{% for i in range(250) %}{% set ns.l = [ns.l] %}\
                  {% endfor %}{{ ns.l }}";
    check(
        source,
        &Request::default(),
        &("[".repeat(251) + &"]".repeat(251)),
    );
}

#[test]
fn a_template_is_shared_between_threads() {
    fn assert_shared<T: Send + Sync>() {}
    assert_shared::<ChatTemplate>();
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>()
            .prop_filter("finite", |float| float.is_finite())
            .prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((any::<String>(), inner), 0..5)
                .prop_map(|entries| Value::Object(entries.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn json_written_by_a_template_reads_back(value in json_value()) {
        let request = Request { kwargs: json!({"value": [value.clone()]}), ..Request::default() };
        for options in ["", "indent=2", "ensure_ascii=true"] {
            let text = render(&format!("{{{{ value[0] | tojson({options}) }}}}"), &request).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Value>(&text).unwrap(), &value);
        }
    }

    #[test]
    fn no_template_panics(pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..24)) {
        let _ = render(&pieces.concat(), &Request::default());
    }

    #[test]
    fn no_string_method_panics(
        text in any::<String>(),
        argument in any::<String>(),
        call in prop::sample::select(&CALLS[..]),
        (start, end) in (-9i64..9, -9i64..9),
    ) {
        let kwargs = json!({"s": text, "a": argument, "i": start, "j": end});
        let _ = render(&format!("{{{{ s.{call} }}}}"), &Request { kwargs, ..Request::default() });
    }
}

const CALLS: [&str; 24] = [
    "strip(a)",
    "lstrip()",
    "rstrip()",
    "split(a, i)",
    "split(none, i)",
    "rsplit(a, i)",
    "rsplit(none, i)",
    "splitlines(true)",
    "replace(a, s, i)",
    "find(a, i, j)",
    "rfind(a, i, j)",
    "count(a, i, j)",
    "startswith(a, i, j)",
    "endswith(a, i, j)",
    "partition(a)",
    "rpartition(a)",
    "title()",
    "capitalize()",
    "swapcase()",
    "zfill(i)",
    "center(i, a)",
    "removeprefix(a)",
    "format(a, i)",
    "join([a, s])",
];

const PIECES: [&str; 40] = [
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    "{%-",
    "-%}",
    "\n",
    " ",
    "text",
    "'str'",
    "\"",
    "(",
    ")",
    "[",
    "]",
    "1",
    "messages",
    "content",
    " if ",
    " else ",
    "endif",
    " for x in ",
    "endfor",
    "set x = ",
    "macro m(a)",
    "endmacro",
    "generation",
    "endgeneration",
    "raw",
    "endraw",
    "|",
    ".",
    "%",
    "~",
    "tojson",
    "[::-1]",
    "m(1)",
    "\u{e9}",
];
