//! Request types as JSON Schema, taken from their decoders.

use serde_json::{Map, Value as Json, json};

use crate::chat::ChatCompletionRequest;
use crate::completion::CompletionRequest;
use crate::decode::{DeclaredField, SchemaError, declared_fields};
use crate::messages::MessagesRequest;
use crate::responses::ResponsesRequest;
use crate::scoring::ScoringRequest;
use crate::tokenize::{DetokenizeRequest, TokenizeRequest};

/// The schema of every request type by its name in vLLM. The fields are those that the decoders
/// look for, with the types that they accept without coercion; how objects inside of fields look
/// is not described.
pub fn request_schemas() -> Vec<(&'static str, Json)> {
    let types = [
        (
            "ChatCompletionRequest",
            declared_fields(|body, scope| ChatCompletionRequest::decode(body, scope, false)),
        ),
        (
            "CompletionRequest",
            declared_fields(CompletionRequest::decode),
        ),
        (
            "ResponsesRequest",
            declared_fields(ResponsesRequest::decode),
        ),
        (
            "AnthropicMessagesRequest",
            declared_fields(|body, scope| MessagesRequest::decode(body, scope, false)),
        ),
        (
            "AnthropicCountTokensRequest",
            declared_fields(|body, scope| MessagesRequest::decode(body, scope, true)),
        ),
        (
            "GenerativeScoringRequest",
            declared_fields(ScoringRequest::decode),
        ),
        (
            "TokenizeCompletionRequest",
            declared_fields(TokenizeRequest::decode_prompt),
        ),
        (
            "TokenizeChatRequest",
            declared_fields(TokenizeRequest::decode_chat),
        ),
        (
            "DetokenizeRequest",
            declared_fields(DetokenizeRequest::decode),
        ),
    ];
    let schemas = types.into_iter();
    schemas
        .map(|(name, fields)| (name, object_schema(name, &fields)))
        .collect()
}

fn object_schema(title: &str, fields: &[DeclaredField]) -> Json {
    let properties: Map<String, Json> = fields
        .iter()
        .map(|field| (field.name.clone(), field_schema(field)))
        .collect();
    let required: Vec<&str> = fields
        .iter()
        .filter(|field| field.required)
        .map(|field| field.name.as_str())
        .collect();
    json!({
        "title": title,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": true,
    })
}

fn field_schema(field: &DeclaredField) -> Json {
    let mut types: Vec<Json> = Vec::new();
    for schema in field.refusals.iter().filter_map(type_schema) {
        if !types.contains(&schema) {
            types.push(schema);
        }
    }
    if types.is_empty() {
        return json!({});
    }
    if field.nullable {
        types.push(json!({ "type": "null" }));
    }
    match types.as_slice() {
        [only] => only.clone(),
        _ => json!({ "anyOf": types }),
    }
}

/// The type whose absence an error is about.
fn type_schema(error: &SchemaError) -> Option<Json> {
    let name = match error.kind {
        "string_type" => "string",
        "int_type" => "integer",
        "float_type" => "number",
        "bool_type" => "boolean",
        "list_type" | "iterable_type" => "array",
        "dict_type" | "model_attributes_type" | "dataclass_type" => "object",
        "literal_error" => {
            // Every other piece between quotes is a choice.
            let choices: Vec<&str> = error.message.split('\'').skip(1).step_by(2).collect();
            return Some(json!({ "type": "string", "enum": choices }));
        }
        _ => return None,
    };
    Some(json!({ "type": name }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::json::parse;
    use crate::error::Result;

    fn schema(name: &str) -> Json {
        let found = request_schemas().into_iter().find(|(it, _)| *it == name);
        found.expect("a known type").1
    }

    #[test]
    fn types_are_what_the_decoders_accept() {
        let check = |name: &str, field: &str, expected: Json| {
            assert_eq!(
                schema(name)["properties"][field],
                expected,
                "{name}.{field}"
            );
        };
        let completion = "CompletionRequest";
        check(
            completion,
            "max_tokens",
            json!({"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        );
        check(completion, "ignore_eos", json!({"type": "boolean"}));
        check(
            completion,
            "truncation_side",
            json!({"anyOf": [{"type": "string", "enum": ["left", "right"]}, {"type": "null"}]}),
        );
        check(
            completion,
            "stop",
            json!({"anyOf": [{"type": "string"}, {"type": "array"}, {"type": "null"}]}),
        );
        check("DetokenizeRequest", "tokens", json!({"type": "array"}));
        check("ResponsesRequest", "echo", Json::Null);
    }

    #[test]
    fn required_fields_are_those_that_an_empty_body_misses() {
        let check = |name: &str, read: fn(&crate::decode::Dict) -> Result<()>, filler: &str| {
            let body = parse(filler.as_bytes()).expect("JSON");
            let error = read(body.as_dict().expect("an object")).expect_err("fields are missing");
            let missing = error.message.matches("'type': 'missing'").count();
            let required = schema(name)["required"].as_array().map(Vec::len);
            assert_eq!(required, Some(missing), "{name}: {}", error.message);
        };
        check(
            "ChatCompletionRequest",
            |body| ChatCompletionRequest::from_body(body).map(drop),
            "{}",
        );
        check(
            "ResponsesRequest",
            |body| ResponsesRequest::from_body(body).map(drop),
            "{}",
        );
        check(
            "AnthropicMessagesRequest",
            |body| MessagesRequest::from_body(body).map(drop),
            "{}",
        );
        check(
            "GenerativeScoringRequest",
            |body| ScoringRequest::from_body(body).map(drop),
            "{}",
        );
    }

    /// Sends every declared field with a value of no accepted type, and one that nobody declares:
    /// the decoder refuses exactly the declared ones.
    #[test]
    fn declared_fields_are_the_ones_that_are_read() {
        let fields = declared_fields(ScoringRequest::decode);
        for field in fields.iter().filter(|field| !field.refusals.is_empty()) {
            let body = format!(r#"{{"undeclared": 1.5, "{}": {{"a": 1}}}}"#, field.name);
            let body = parse(body.as_bytes()).expect("JSON");
            let refused = ScoringRequest::from_body(body.as_dict().expect("an object"));
            let message = refused.expect_err("refused").message;
            assert!(message.contains(&field.name), "{message}");
            assert!(!message.contains("'loc': 'body.undeclared'"), "{message}");
        }
    }
}
