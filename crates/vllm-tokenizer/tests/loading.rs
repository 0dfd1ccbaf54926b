//! Loading: what beside the recorded folders decides ids, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use serde_json::{Value, json};
use support::{Fixture, tokenizer};
use vllm_tokenizer::{Error, Tokenizer, TokenizerFiles};

fn error_of(fixture: &Fixture) -> String {
    fixture.load().expect_err("loading should fail").to_string()
}

/// Loading `name` with `file` replaced by `contents` fails with a message that says `expected`.
#[track_caller]
fn check_refused(name: &str, file: &str, contents: &str, expected: &str) {
    let mut fixture = Fixture::read(name);
    fixture.set(file, contents);
    let message = error_of(&fixture);
    assert!(
        message.contains(file) && message.contains(expected),
        "{message}"
    );
}

#[test]
fn a_folder_without_a_vocabulary_is_refused() {
    let error = Tokenizer::from_files(&TokenizerFiles::default()).unwrap_err();
    assert!(matches!(error, Error::MissingVocabulary));
    let mut fixture = Fixture::read("opt");
    fixture.remove("merges.txt");
    assert!(error_of(&fixture).contains("vocab.json together with merges.txt"));
}

#[test]
fn broken_files_are_named() {
    check_refused("demo", "tokenizer.json", "{", "EOF");
    check_refused("demo", "tokenizer.json", "{\"version\": \"9.9\"}", "9.9");
    check_refused("demo", "tokenizer_config.json", "[]", "map");
    check_refused(
        "opt",
        "tokenizer_config.json",
        "{\"chat_template\": 3}",
        "chat_template",
    );
    check_refused("demo", "config.json", "nothing", "expected");
    check_refused("opt", "vocab.json", "{\"a\": -1}", "invalid value");
    check_refused("opt", "merges.txt", "#version: 0.2\na b c\n", "line 2");
    check_refused(
        "opt",
        "merges.txt",
        "Ġcapital Ġcapital\n",
        "not in vocab.json",
    );
    check_refused("opt", "special_tokens_map.json", "\"x\"", "map");
    check_refused("gpt2", "added_tokens.json", "{\"<x>\": \"one\"}", "<x>");
}

#[test]
fn added_tokens_decoder_must_map_ids_to_tokens() {
    for (decoder, expected) in [
        (json!([]), "must map ids"),
        (json!({"x": {"content": "a"}}), "not a token id"),
        (json!({"3": {}}), "token 3 has no content"),
        (json!({"3": "a"}), "token 3 has no content"),
    ] {
        let mut fixture = Fixture::read("demo");
        fixture.edit("tokenizer_config.json", |config| {
            config["added_tokens_decoder"] = decoder
        });
        let message = error_of(&fixture);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn merges_longer_than_every_piece_are_an_error_not_a_panic() {
    let mut fixture = Fixture::read("demo");
    fixture.edit("tokenizer.json", |json| {
        json["model"]["vocab"] = json!({"aaaa": 0, "bbbb": 1});
        json["model"]["merges"] = json!([["aaaa", "bbbb"]]);
    });
    assert!(error_of(&fixture).contains("do not belong together"));
}

#[test]
fn bos_and_eos_flags_count_beside_a_bare_vocabulary() {
    for (add_bos, add_eos, expected) in [
        (json!(true), json!(true), "</s>a</s>"),
        (json!(false), json!(true), "a</s>"),
        (json!(true), json!(false), "</s>a"),
        (json!(false), json!(false), "a"),
        (Value::Null, Value::Null, "a"),
    ] {
        let mut fixture = Fixture::read("opt");
        fixture.edit("tokenizer_config.json", |config| {
            config["add_bos_token"] = add_bos;
            config["add_eos_token"] = add_eos;
        });
        let tokenizer = fixture.load().unwrap();
        let ids = tokenizer.encode("a", true).unwrap();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), expected);
    }
}

#[test]
fn ids_of_the_model_stand_in_for_tokens_that_are_not_named() {
    let mut fixture = Fixture::read("demo");
    fixture.set("tokenizer_config.json", "{}");
    fixture.set(
        "config.json",
        r#"{"bos_token_id": 0, "eos_token_id": [5, 2], "pad_token_id": null}"#,
    );
    let tokenizer = fixture.load().unwrap();
    assert_eq!(tokenizer.bos_token_id(), Some(0));
    assert_eq!(tokenizer.eos_token_id(), Some(5));
    assert_eq!(tokenizer.pad_token_id(), None);
    assert!(tokenizer.special_tokens().is_empty());
}

#[test]
fn vocabulary_entries_can_be_looked_up() {
    let tokenizer = tokenizer("demo");
    assert_eq!(tokenizer.id_to_token(2).as_deref(), Some("</s>"));
    assert_eq!(tokenizer.token_to_id("<|im_end|>"), Some(5));
    assert_eq!(tokenizer.id_to_token(1385), None);
    assert_eq!(tokenizer.token_to_id("no such piece"), None);
    assert!(tokenizer.is_special(2) && !tokenizer.is_special(6) && !tokenizer.is_special(9999));
    let longest = (0..1385)
        .filter_map(|id| tokenizer.id_to_token(id))
        .map(|t| t.chars().count());
    assert_eq!(Some(tokenizer.max_chars_per_token()), longest.max());
}

#[test]
fn truncation_below_the_added_tokens_still_holds() {
    let tokenizer = tokenizer("opt");
    for side in [
        vllm_tokenizer::TruncationSide::Left,
        vllm_tokenizer::TruncationSide::Right,
    ] {
        assert!(
            tokenizer
                .encode_truncated("Hello", true, 0, side)
                .unwrap()
                .is_empty()
        );
        assert_eq!(
            tokenizer.encode_truncated("Hello", true, 1, side).unwrap(),
            [2]
        );
        assert_eq!(tokenizer.encode_truncated("", true, 8, side).unwrap(), [2]);
    }
}

/// Which template a request gets: `None` for none, `Err` for the error's message.
fn chosen(
    fixture: &Fixture,
    name: Option<&str>,
    has_tools: bool,
) -> Result<Option<String>, String> {
    let tokenizer = fixture.load().unwrap();
    let chosen = tokenizer.chat_template(name, has_tools);
    chosen
        .map(|template| template.map(str::to_owned))
        .map_err(|error| error.to_string())
}

#[test]
fn a_tool_template_is_for_requests_with_tools() {
    let fixture = Fixture::read("llama");
    assert_eq!(
        chosen(&fixture, None, false),
        Ok(Some("{{ messages }}".to_owned()))
    );
    assert_eq!(
        chosen(&fixture, None, true),
        Ok(Some("{{ tools }}".to_owned()))
    );
    assert_eq!(
        chosen(&fixture, Some("default"), true),
        Ok(Some("{{ messages }}".to_owned()))
    );
    let error = chosen(&fixture, Some("rag"), false).unwrap_err();
    assert_eq!(
        error,
        "this model has no chat template named \"rag\"; available: default, tool_use"
    );
}

#[test]
fn a_model_may_have_one_template_or_none() {
    let none = Fixture::read("opt");
    assert_eq!(chosen(&none, None, true), Ok(None));
    let error = chosen(&none, Some("x"), true).unwrap_err();
    assert_eq!(
        error,
        "this model has no chat template named \"x\"; available: none"
    );
    let mut one = Fixture::read("opt");
    one.edit("tokenizer_config.json", |config| {
        config["chat_template"] = json!("one")
    });
    assert_eq!(chosen(&one, None, true), Ok(Some("one".to_owned())));
}

#[test]
fn template_files_win_over_the_configuration() {
    let mut fixture = Fixture::read("llama");
    fixture.set("chat_template.jinja", "file");
    assert_eq!(chosen(&fixture, None, true), Ok(Some("file".to_owned())));
    fixture.set("additional_chat_templates/tool_use.jinja", "tools file");
    assert_eq!(
        chosen(&fixture, None, true),
        Ok(Some("tools file".to_owned()))
    );
    assert_eq!(chosen(&fixture, None, false), Ok(Some("file".to_owned())));
}

#[test]
fn several_templates_without_a_default_need_a_name() {
    let mut fixture = Fixture::read("opt");
    fixture.edit("tokenizer_config.json", |config| {
        config["chat_template"] = json!({"rag": "documents", "tool_use": "tools"});
    });
    let error = chosen(&fixture, None, false).unwrap_err();
    assert!(error.ends_with("choose one of: rag, tool_use"), "{error}");
    assert_eq!(chosen(&fixture, None, true), Ok(Some("tools".to_owned())));
    assert_eq!(
        chosen(&fixture, Some("rag"), true),
        Ok(Some("documents".to_owned()))
    );
}
