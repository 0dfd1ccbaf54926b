//! The `text` and `reasoning` fields: what they ask for, and how the answer repeats them.

use serde_json::{Map, Value as Json, json};

use crate::chat::REASONING_EFFORTS;
use crate::decode::{Dict, Fields, Scope, Value, boolean, dict, literal, model, string};
use crate::structured::ResponseFormat;

/// The format of the output, and the field as the answer repeats it.
pub(super) fn decode_text(
    value: &Value,
    scope: &mut Scope,
) -> Option<(Option<ResponseFormat>, Option<Json>)> {
    let mut fields = Fields::new(model(value, scope)?, scope);
    let format = fields.nullable("format", decode_format);
    let verbosity = fields.nullable("verbosity", literal(&["low", "medium", "high"]));
    let (format, echo) = format.unzip();
    Some((
        format,
        Some(json!({"format": echo, "verbosity": verbosity})),
    ))
}

fn decode_format(value: &Value, scope: &mut Scope) -> Option<(ResponseFormat, Json)> {
    let members = model(value, scope)?;
    let mut fields = Fields::new(members, scope);
    let kinds = &["text", "json_schema", "json_object"];
    match fields.required("type", literal(kinds))? {
        "text" => Some((ResponseFormat::Text, json!({"type": "text"}))),
        "json_object" => Some((ResponseFormat::JsonObject, json!({"type": "json_object"}))),
        _ => decode_json_schema(members, scope),
    }
}

fn decode_json_schema(members: &Dict, scope: &mut Scope) -> Option<(ResponseFormat, Json)> {
    let mut fields = Fields::new(members, scope);
    let name = fields.required("name", string);
    let schema = fields.required("schema", dict);
    let description = fields.nullable("description", string);
    let strict = fields.nullable("strict", boolean);
    let (name, schema) = (name?, schema?);
    let echo = json!({
        "name": name,
        "schema": schema,
        "type": "json_schema",
        "description": description,
        "strict": strict,
    });
    Some((ResponseFormat::JsonSchema(Some(schema)), echo))
}

/// The effort, and the field as the answer repeats it.
pub(super) fn decode_reasoning(
    value: &Value,
    scope: &mut Scope,
) -> Option<(Option<&'static str>, Option<Json>)> {
    const SUMMARIES: &[&str] = &["auto", "concise", "detailed"];
    let mut fields = Fields::new(model(value, scope)?, scope);
    let effort = fields.nullable("effort", literal(REASONING_EFFORTS));
    let generate_summary = fields.nullable("generate_summary", literal(SUMMARIES));
    let summary = fields.nullable("summary", literal(SUMMARIES));
    let mut echo = Map::new();
    echo.insert("effort".to_owned(), json!(effort));
    echo.insert("generate_summary".to_owned(), json!(generate_summary));
    echo.insert("summary".to_owned(), json!(summary));
    Some((effort, Some(Json::Object(echo))))
}
