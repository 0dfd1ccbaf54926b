//! `response_format` and `structured_outputs`: reading them, checking them, and joining both into
//! one constraint.

use serde_json::{Map, Value as Json};

use vllm_sampling::StructuredOutputs;

use crate::decode::json::parse;
use crate::decode::{
    Dict, Fields, Scope, Value, any, boolean, dataclass, dict, list_of, literal, model, string,
};
use crate::error::{ErrorResponse, Result};

/// The `response_format` field.
#[derive(Debug, Clone, PartialEq)]
pub enum ResponseFormat {
    /// Free text.
    Text,
    /// Any JSON object.
    JsonObject,
    /// JSON that follows a schema; the schema itself may be missing, which is refused later.
    JsonSchema(Option<Map<String, Json>>),
    /// A tag grammar, as sent.
    StructuralTag(Map<String, Json>),
}

/// Joins both fields: a response format adds its constraint to `structured_outputs`.
///
/// # Errors
/// 400 when the result is not exactly one usable constraint.
pub fn combined_constraint(
    structured_outputs: Option<&StructuredOutputs>,
    response_format: Option<&ResponseFormat>,
) -> Result<Option<StructuredOutputs>> {
    let mut combined = structured_outputs.cloned();
    if let Some(format) = response_format
        && *format != ResponseFormat::Text
    {
        let target = combined.get_or_insert_default();
        match format {
            ResponseFormat::Text => {}
            ResponseFormat::JsonObject => target.json_object = Some(true),
            ResponseFormat::JsonSchema(schema) => {
                target.json = schema
                    .clone()
                    .map(|schema| Json::Object(schema).to_string());
            }
            ResponseFormat::StructuralTag(tag) => {
                target.structural_tag = Some(Json::Object(tag.clone()).to_string());
            }
        }
    }
    if let Some(combined) = &combined {
        combined.validate()?;
        if combined
            .json
            .as_ref()
            .is_some_and(|schema| parse(schema.as_bytes()).is_err())
        {
            return Err(ErrorResponse::bad_request(
                "Invalid JSON grammar specification.",
            ));
        }
    }
    Ok(combined)
}

/// The check of `structured_outputs` that runs before the schema.
pub(crate) fn check_structured_outputs(
    body: &Dict,
    tool_choice: Option<&Value>,
    is_chat: bool,
) -> Result<()> {
    let Some(constraints) = body.get("structured_outputs").and_then(Value::as_dict) else {
        return Ok(());
    };
    let count = ["json", "regex", "choice"]
        .iter()
        .filter(|kind| !matches!(constraints.get(**kind), None | Some(Value::Null)))
        .count();
    if count > 1 {
        const MESSAGE: &str = "You can only use one kind of constraints for structured outputs \
                               ('json', 'regex' or 'choice').";
        return Err(match is_chat {
            true => ErrorResponse::bad_request(MESSAGE),
            false => ErrorResponse::invalid(MESSAGE, "structured_outputs"),
        });
    }
    let is_free_choice = match tool_choice {
        None => true,
        Some(choice) => matches!(choice.as_str(), Some("none" | "auto" | "required")),
    };
    if is_chat && count > 0 && !is_free_choice {
        return Err(ErrorResponse::bad_request(
            "You can only either use constraints for structured outputs or tools, not both.",
        ));
    }
    match constraints.get("structural_tag") {
        Some(Value::String(tag)) if tag.is_empty() => Err(ErrorResponse::invalid(
            "Invalid structured_outputs structural_tag specification.",
            "structured_outputs",
        )),
        _ => Ok(()),
    }
}

/// The check of `response_format` that runs before the schema.
pub(crate) fn check_response_format(body: &Dict) -> Result<()> {
    let Some(format) = body.get("response_format").and_then(Value::as_dict) else {
        return Ok(());
    };
    let given = |name: &str| !matches!(format.get(name), None | Some(Value::Null));
    match format.get("type").and_then(Value::as_str) {
        Some("json_schema") if !given("json_schema") => Err(ErrorResponse::invalid(
            "When response_format type is 'json_schema', the 'json_schema' field must be provided.",
            "response_format",
        )),
        Some("structural_tag") if !is_structural_tag(format) => Err(ErrorResponse::invalid(
            "Invalid response_format structural_tag specification.",
            "response_format",
        )),
        _ => Ok(()),
    }
}

fn is_structural_tag(format: &Dict) -> bool {
    let is_legacy_structure = |structure: &Value| {
        structure.as_dict().is_some_and(|members| {
            ["begin", "end"]
                .iter()
                .all(|name| members.get(*name).is_some_and(|v| v.as_str().is_some()))
        })
    };
    let legacy = format
        .get("structures")
        .and_then(Value::as_list)
        .is_some_and(|structures| structures.iter().all(is_legacy_structure));
    let triggers = format
        .get("triggers")
        .and_then(Value::as_list)
        .is_some_and(|triggers| triggers.iter().all(|trigger| trigger.as_str().is_some()));
    matches!(format.get("format"), Some(Value::Dict(_))) || (legacy && triggers)
}

/// Decodes `structured_outputs`.
pub(crate) fn decode_structured_outputs(
    value: &Value,
    scope: &mut Scope,
) -> Option<StructuredOutputs> {
    let members = dataclass(value, "StructuredOutputsParams", scope)?;
    let mut fields = Fields::new(members, scope);
    Some(StructuredOutputs {
        json: fields.nullable("json", |value, scope| match value {
            Value::String(text) => Some(text.clone()),
            Value::Dict(_) => Some(value.to_json().to_string()),
            other => {
                scope.fail::<()>("string_type", "Input should be a valid string", other);
                scope.fail("dict_type", "Input should be a valid dictionary", other)
            }
        }),
        regex: fields.nullable("regex", string),
        choice: fields.nullable("choice", list_of(string)),
        grammar: fields.nullable("grammar", string),
        json_object: fields.nullable("json_object", boolean),
        disable_any_whitespace: fields.with_default("disable_any_whitespace", false, boolean),
        disable_additional_properties: fields.with_default(
            "disable_additional_properties",
            false,
            boolean,
        ),
        whitespace_pattern: fields.nullable("whitespace_pattern", string),
        structural_tag: fields.nullable("structural_tag", string),
    })
}

/// Decodes `response_format`, a union of three models.
pub(crate) fn decode_response_format(value: &Value, scope: &mut Scope) -> Option<ResponseFormat> {
    const BRANCHES: [&str; 3] = [
        "ResponseFormat",
        "StructuralTagResponseFormat",
        "LegacyStructuralTagResponseFormat",
    ];
    let Some(members) = value.as_dict() else {
        for branch in BRANCHES {
            scope.at(branch, |scope| model(value, scope));
        }
        return None;
    };
    if members.get("type").and_then(Value::as_str) == Some("structural_tag") {
        return dict(value, scope).map(ResponseFormat::StructuralTag);
    }
    let plain =
        scope.attempt(|scope| scope.at(BRANCHES[0], |scope| decode_plain_format(members, scope)));
    let mut errors = match plain {
        Ok(format) => return Some(format),
        Err(errors) => errors,
    };
    let tags = [
        (BRANCHES[1], &["format"][..]),
        (BRANCHES[2], &["structures", "triggers"][..]),
    ];
    for (branch, needed) in tags {
        let failed = scope.attempt(|scope| {
            scope.at(branch, |scope| {
                let mut fields = Fields::new(members, scope);
                fields.required("type", literal(&["structural_tag"]));
                for name in needed {
                    fields.required(name, any);
                }
                None::<()>
            })
        });
        errors.extend(failed.err().unwrap_or_default());
    }
    scope.fail_all(errors)
}

fn decode_plain_format(members: &Dict, scope: &mut Scope) -> Option<ResponseFormat> {
    let mut fields = Fields::new(members, scope);
    let kind = fields.required("type", literal(&["text", "json_object", "json_schema"]));
    let schema = fields.nullable("json_schema", |value, scope| {
        let mut fields = Fields::new(model(value, scope)?, scope);
        fields.required("name", string);
        fields.nullable("description", string);
        let schema = fields.nullable("schema", dict);
        fields.nullable("strict", boolean);
        Some(schema)
    });
    Some(match kind? {
        "text" => ResponseFormat::Text,
        "json_object" => ResponseFormat::JsonObject,
        _ => ResponseFormat::JsonSchema(schema.flatten()),
    })
}
