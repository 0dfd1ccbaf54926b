//! JSON schemas as vLLM reads them.
//!
//! vLLM gives a schema to one engine, which ignores keywords it does not know and allows no
//! property that is not named, and falls back to a second, stricter about keywords and laxer about
//! properties, where the first is known to get a keyword wrong. The rules of both are kept here.

use llguidance::JsonCompileOptions;
use serde_json::{Map, Value, json};
use vllm_sampling::StructuredOutputs;

use crate::error::{Error, Result};

/// Whitespace between JSON tokens unless the request says otherwise.
const ANY_WHITESPACE: &str = r"[ \n\t]+";

/// Formats of strings that need no fallback.
const FORMATS: [&str; 17] = [
    "email",
    "date",
    "time",
    "date-time",
    "duration",
    "ipv4",
    "ipv6",
    "hostname",
    "uuid",
    "uri",
    "uri-reference",
    "uri-template",
    "json-pointer",
    "relative-json-pointer",
    "idn-email",
    "idn-hostname",
    "iri",
];

/// Keywords whose value is a schema.
const SCHEMA: [&str; 6] = [
    "additionalItems",
    "additionalProperties",
    "items",
    "not",
    "propertyNames",
    "unevaluatedProperties",
];

/// Keywords whose value is a list of schemas.
const SCHEMA_LIST: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];

/// Keywords whose value maps names to schemas.
const SCHEMA_MAP: [&str; 4] = ["$defs", "definitions", "patternProperties", "properties"];

/// The schema in the form that the grammar engine reads, options included.
///
/// # Errors
/// [`Error::Grammar`] if `schema` is not a schema at all.
pub(crate) fn prepare(schema: Value, params: &StructuredOutputs) -> Result<Value> {
    let mut schema = match schema {
        Value::Object(_) => schema,
        Value::Bool(true) => json!({}),
        Value::Bool(false) => json!({"allOf": [false]}),
        _ => {
            let reason = "schema must be an object or boolean";
            return Err(Error::Grammar(reason.to_owned()));
        }
    };
    let is_fallback = needs_fallback(&schema);
    let is_closed = !is_fallback && !combines_objects(&schema);
    if is_closed || params.disable_additional_properties {
        close(&mut schema);
    }
    options(params, !is_fallback).apply_to(&mut schema);
    Ok(schema)
}

fn options(params: &StructuredOutputs, ignores_unknown: bool) -> JsonCompileOptions {
    let (item_separator, key_separator) = match params.disable_any_whitespace {
        true => (", ", ": "),
        false => (",", ":"),
    };
    let any_whitespace = || (!params.disable_any_whitespace).then(|| ANY_WHITESPACE.to_owned());
    JsonCompileOptions {
        item_separator: item_separator.to_owned(),
        key_separator: key_separator.to_owned(),
        whitespace_flexible: !params.disable_any_whitespace,
        whitespace_pattern: params.whitespace_pattern.clone().or_else(any_whitespace),
        coerce_one_of: true,
        lenient: ignores_unknown,
        ..JsonCompileOptions::default()
    }
}

/// Whether a schema within `value` uses a keyword that only the second engine takes seriously.
fn needs_fallback(value: &Value) -> bool {
    let Value::Object(schema) = value else {
        return value
            .as_array()
            .is_some_and(|parts| parts.iter().any(needs_fallback));
    };
    let has = |names: &[&str]| names.iter().any(|name| schema.contains_key(*name));
    let is_special = match schema.get("type").and_then(Value::as_str) {
        Some("integer" | "number") => has(&["multipleOf"]),
        Some("array") => has(&["uniqueItems", "contains", "minContains", "maxContains"]),
        Some("string") => schema
            .get("format")
            .is_some_and(|format| !format.as_str().is_some_and(|name| FORMATS.contains(&name))),
        Some("object") => has(&["patternProperties", "propertyNames"]),
        _ => false,
    };
    is_special || schema.values().any(needs_fallback)
}

/// Whether an object within `value` is described by several schemas together. To close one of them
/// would exclude the properties of the others.
fn combines_objects(value: &Value) -> bool {
    let Value::Object(schema) = value else {
        return value
            .as_array()
            .is_some_and(|parts| parts.iter().any(combines_objects));
    };
    let all_of = schema.get("allOf").and_then(Value::as_array);
    let names_some_itself = schema.contains_key("properties")
        && ["$ref", "allOf", "anyOf", "if", "oneOf"]
            .iter()
            .any(|name| schema.contains_key(*name));
    all_of.is_some_and(|parts| parts.len() > 1)
        || names_some_itself
        || schema.values().any(combines_objects)
}

/// Allows no properties but the named ones, nor items behind the listed ones, where a schema does
/// not say otherwise.
fn close(schema: &mut Value) {
    let Value::Object(members) = schema else {
        return;
    };
    for (name, value) in members.iter_mut() {
        let name = name.as_str();
        match value {
            value if SCHEMA.contains(&name) => close(value),
            Value::Array(list) if SCHEMA_LIST.contains(&name) => list.iter_mut().for_each(close),
            Value::Object(map) if SCHEMA_MAP.contains(&name) => map.values_mut().for_each(close),
            _ => {}
        }
    }
    close_members(members);
}

fn close_members(members: &mut Map<String, Value>) {
    let names_properties = ["properties", "patternProperties"]
        .iter()
        .any(|name| members.contains_key(*name));
    if names_properties {
        members
            .entry("additionalProperties")
            .or_insert(Value::Bool(false));
    }
    if members.contains_key("prefixItems") {
        members.entry("items").or_insert(Value::Bool(false));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_closed(mut schema: Value, expected: Value) {
        close(&mut schema);
        assert_eq!(schema, expected);
    }

    #[test]
    fn objects_hold_the_named_properties_only() {
        let inner = json!({"properties": {"b": {}}});
        let closed = json!({"properties": {"b": {}}, "additionalProperties": false});
        check_closed(inner.clone(), closed.clone());
        check_closed(json!({"type": "object"}), json!({"type": "object"}));
        check_closed(
            json!({"properties": {"b": {}}, "additionalProperties": true}),
            json!({"properties": {"b": {}}, "additionalProperties": true}),
        );
        check_closed(
            json!({"$defs": {"x": inner}, "anyOf": [inner, {"items": inner}]}),
            json!({"$defs": {"x": closed}, "anyOf": [closed, {"items": closed}]}),
        );
        // A property may have the name of a keyword.
        check_closed(
            json!({"properties": {"properties": {"type": "string"}}}),
            json!({
                "properties": {"properties": {"type": "string"}},
                "additionalProperties": false,
            }),
        );
        check_closed(
            json!({"prefixItems": [inner]}),
            json!({"prefixItems": [closed], "items": false}),
        );
    }

    #[test]
    fn objects_of_several_schemas_are_told() {
        let check = |schema: Value, expected: bool| {
            assert_eq!(combines_objects(&schema), expected, "{schema}");
        };
        check(json!({"items": {"allOf": [{"$ref": "#/$defs/a"}]}}), false);
        check(json!({"items": {"allOf": [{}, {}]}}), true);
        check(
            json!({"type": "object", "anyOf": [{"properties": {}}]}),
            false,
        );
        check(json!({"properties": {"a": {"anyOf": []}}}), false);
        check(json!({"properties": {}, "anyOf": []}), true);
    }

    #[test]
    fn some_keywords_need_the_stricter_reading() {
        let check = |schema: Value, expected: bool| {
            assert_eq!(needs_fallback(&schema), expected, "{schema}");
        };
        check(json!({"type": "string", "format": "email"}), false);
        check(json!({"type": "string", "format": "regex"}), true);
        check(json!({"type": "integer", "minimum": 3}), false);
        check(json!({"type": "integer", "multipleOf": 3}), true);
        check(
            json!({"items": {"type": "array", "uniqueItems": true}}),
            true,
        );
        check(
            json!({"anyOf": [{"type": "object", "propertyNames": {}}]}),
            true,
        );
    }
}
