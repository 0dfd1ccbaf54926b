//! From the messages of a request to the messages of a template.

use serde_json::{Map, Value as Json, json};

use crate::error::{ErrorResponse, Result};

/// In which form a template wants message contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentFormat {
    /// One string.
    String,
    /// A list of `{"type": …}` objects.
    OpenAi,
}

const SUPPORTED_PARTS: [&str; 16] = [
    "text",
    "thinking",
    "input_text",
    "output_text",
    "refusal",
    "image_url",
    "image_pil",
    "image_embeds",
    "input_image",
    "audio_url",
    "input_audio",
    "audio_embeds",
    "video_url",
    "video_embeds",
    "prompt_embeds",
    "tool_reference",
];

/// Members that tell the type of a part which does not say it.
const MEDIA_KEYS: [&str; 9] = [
    "image_url",
    "image_pil",
    "image_embeds",
    "audio_url",
    "input_audio",
    "audio_embeds",
    "video_url",
    "video_embeds",
    "prompt_embeds",
];

/// Lines of system text that begin so are a client's billing marks, not meant for the model.
const BILLING_HEADER: &str = "x-anthropic-billing-header";

/// Prepares messages for the template: contents in the format it wants, arguments of tool calls
/// decoded to objects, and the developer role turned into system for templates that do not know
/// it. `model` names the model in the refusal of media.
///
/// # Errors
/// 400 for a content part of unknown type or of a kind that text models cannot take.
pub fn normalize_messages(
    messages: &[Map<String, Json>],
    format: ContentFormat,
    knows_developer_role: bool,
    model: &str,
) -> Result<Vec<Json>> {
    let mut normalized = Vec::with_capacity(messages.len());
    for message in messages {
        normalized.push(normalize_message(message, format, model)?);
    }
    let is_developer = |message: &Map<String, Json>| role_of(message) == "developer";
    if !knows_developer_role && normalized.iter().any(is_developer) {
        normalized = merge_into_system(normalized);
    }
    Ok(normalized.into_iter().map(Json::Object).collect())
}

fn role_of(message: &Map<String, Json>) -> &str {
    message
        .get("role")
        .and_then(Json::as_str)
        .unwrap_or_default()
}

fn normalize_message(
    message: &Map<String, Json>,
    format: ContentFormat,
    model: &str,
) -> Result<Map<String, Json>> {
    let role = role_of(message);
    let given = |name: &str| message.get(name).filter(|value| !value.is_null());
    let mut texts = match message.get("content") {
        None | Some(Json::Null) => Vec::new(),
        Some(Json::String(text)) => vec![text.clone()],
        Some(Json::Array(parts)) => part_texts(parts, model)?,
        Some(other) => part_texts(std::slice::from_ref(other), model)?,
    };
    if role == "system" {
        texts.iter_mut().for_each(drop_billing_headers);
    }
    // A tool's answer is text for every template.
    let content = match format {
        ContentFormat::OpenAi if role != "tool" => texts
            .into_iter()
            .map(|text| json!({"type": "text", "text": text}))
            .collect(),
        _ => Json::String(texts.join("\n")),
    };
    let mut result = Map::new();
    result.insert("role".to_owned(), role.into());
    result.insert("content".to_owned(), content);
    if role == "assistant" {
        let calls = given("tool_calls").and_then(Json::as_array);
        if let Some(calls) = calls.filter(|calls| !calls.is_empty()) {
            let calls = calls.iter().cloned().map(with_decoded_arguments).collect();
            result.insert("tool_calls".to_owned(), calls);
        }
        if let Some(reasoning) = given("reasoning") {
            result.insert("reasoning".to_owned(), reasoning.clone());
            result.insert("reasoning_content".to_owned(), reasoning.clone());
        }
    }
    if role == "tool"
        && let Some(id) = message.get("tool_call_id")
    {
        result.insert("tool_call_id".to_owned(), id.clone());
    }
    if let Some(name @ Json::String(_)) = message.get("name") {
        result.insert("name".to_owned(), name.clone());
    }
    if role == "developer" {
        result.insert(
            "tools".to_owned(),
            message.get("tools").cloned().unwrap_or_default(),
        );
    }
    Ok(result)
}

/// The texts of content parts; parts with null text are dropped.
fn part_texts(parts: &[Json], model: &str) -> Result<Vec<String>> {
    let mut texts = Vec::with_capacity(parts.len());
    for part in parts {
        if let Json::String(text) = part {
            texts.push(text.clone());
            continue;
        }
        let kind = match part.get("type") {
            Some(Json::String(kind)) => kind.as_str(),
            _ => *MEDIA_KEYS
                .iter()
                .find(|key| part.get(**key).is_some())
                .ok_or_else(|| {
                    ErrorResponse::bad_request("Missing 'type' field in multimodal part.")
                })?,
        };
        let text_member = match kind {
            "text" | "input_text" | "output_text" => "text",
            "refusal" => "refusal",
            "thinking" => "thinking",
            "tool_reference" => "name",
            _ if SUPPORTED_PARTS.contains(&kind) => {
                let message = format!("{model} is not a multimodal model");
                return Err(ErrorResponse::bad_request(&message));
            }
            _ => {
                let supported: Vec<String> = SUPPORTED_PARTS
                    .iter()
                    .map(|part| format!("'{part}'"))
                    .collect();
                let message = format!(
                    "Unsupported chat content part type: '{kind}'. Supported types: {}",
                    supported.join(", ")
                );
                return Err(ErrorResponse::invalid(&message, "type"));
            }
        };
        if let Some(text) = part.get(text_member).and_then(Json::as_str) {
            texts.push(text.to_owned());
        }
    }
    Ok(texts)
}

fn drop_billing_headers(text: &mut String) {
    if !text.contains(BILLING_HEADER) {
        return;
    }
    let lines: Vec<&str> = text
        .split('\n')
        .filter(|line| !line.starts_with(BILLING_HEADER))
        .collect();
    *text = lines.join("\n");
}

/// Templates expect arguments as an object. What is not one, or not JSON, becomes `{}`.
fn with_decoded_arguments(mut call: Json) -> Json {
    if let Some(function) = call.get_mut("function").and_then(Json::as_object_mut) {
        let decoded = match function.get("arguments") {
            Some(Json::String(text)) => serde_json::from_str::<Map<String, Json>>(text).ok(),
            Some(Json::Object(members)) => Some(members.clone()),
            _ => None,
        };
        function.insert(
            "arguments".to_owned(),
            Json::Object(decoded.unwrap_or_default()),
        );
    }
    call
}

/// Turns developer messages into system ones and merges all of them at the front.
fn merge_into_system(messages: Vec<Map<String, Json>>) -> Vec<Map<String, Json>> {
    let is_system =
        |message: &Map<String, Json>| matches!(role_of(message), "system" | "developer");
    let (system, mut rest): (Vec<_>, Vec<_>) = messages.into_iter().partition(is_system);
    let mut contents = system
        .into_iter()
        .filter_map(|mut message| message.remove("content"));
    let first = contents
        .next()
        .unwrap_or_else(|| Json::String(String::new()));
    let merged = contents.fold(first, |merged, next| match (merged, next) {
        (Json::String(merged), Json::String(next)) => Json::String(format!("{merged}\n\n{next}")),
        (Json::Array(mut merged), Json::Array(next)) => {
            merged.extend(next);
            Json::Array(merged)
        }
        (merged, _) => merged,
    });
    let mut message = Map::new();
    message.insert("role".to_owned(), "system".into());
    message.insert("content".to_owned(), merged);
    rest.insert(0, message);
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(messages: Json, format: ContentFormat, knows_developer: bool, expected: &str) {
        let messages: Vec<Map<String, Json>> =
            serde_json::from_value(messages).expect("test messages are objects");
        let outcome = match normalize_messages(&messages, format, knows_developer, "m") {
            Ok(normalized) => Json::Array(normalized).to_string(),
            Err(error) => error.message,
        };
        assert_eq!(outcome, expected);
    }

    #[test]
    fn contents_take_the_form_that_the_template_wants() {
        let parts = json!([{"role": "user", "content": [{"type": "text", "text": "a"}, "b"]}]);
        check(
            parts.clone(),
            ContentFormat::String,
            true,
            r#"[{"role":"user","content":"a\nb"}]"#,
        );
        check(
            parts,
            ContentFormat::OpenAi,
            true,
            r#"[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]"#,
        );
        check(
            json!([{"role": "user", "content": "a"}]),
            ContentFormat::OpenAi,
            true,
            r#"[{"role":"user","content":[{"type":"text","text":"a"}]}]"#,
        );
        check(
            json!([{"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "a"},
                   {"type": "text", "text": "b"}]}]),
            ContentFormat::OpenAi,
            true,
            r#"[{"role":"tool","content":"a\nb","tool_call_id":"c"}]"#,
        );
    }

    #[test]
    fn arguments_of_tool_calls_become_objects() {
        let call = |arguments: &str| {
            json!([{"role": "assistant", "content": null, "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
            ]}])
        };
        let expected = |arguments: &str| {
            format!(
                r#"[{{"role":"assistant","content":"","tool_calls":[{{"id":"c","type":"function","function":{{"name":"f","arguments":{arguments}}}}}]}}]"#
            )
        };
        let format = ContentFormat::String;
        check(
            call(r#"{"b": 1, "a": 2}"#),
            format,
            true,
            &expected(r#"{"b":1,"a":2}"#),
        );
        for broken in ["{", "[1]", ""] {
            check(call(broken), format, true, &expected("{}"));
        }
        check(
            json!([{"role": "assistant", "content": "x", "tool_calls": []}]),
            format,
            true,
            r#"[{"role":"assistant","content":"x"}]"#,
        );
    }

    #[test]
    fn reasoning_is_given_under_both_names() {
        check(
            json!([{"role": "assistant", "content": "x", "reasoning": "r"}]),
            ContentFormat::String,
            true,
            r#"[{"role":"assistant","content":"x","reasoning":"r","reasoning_content":"r"}]"#,
        );
    }

    #[test]
    fn developer_becomes_system_for_templates_that_do_not_know_it() {
        let messages = json!([
            {"role": "system", "content": "a"},
            {"role": "user", "content": "u"},
            {"role": "developer", "content": "b"},
        ]);
        let format = ContentFormat::String;
        let merged = r#"[{"role":"system","content":"a\n\nb"},{"role":"user","content":"u"}]"#;
        check(messages.clone(), format, false, merged);
        check(
            messages,
            format,
            true,
            r#"[{"role":"system","content":"a"},{"role":"user","content":"u"},{"role":"developer","content":"b","tools":null}]"#,
        );
    }

    #[test]
    fn billing_marks_are_dropped_from_system_text() {
        check(
            json!([{"role": "system", "content": "x-anthropic-billing-header: 1\nBe kind."}]),
            ContentFormat::String,
            true,
            r#"[{"role":"system","content":"Be kind."}]"#,
        );
    }

    #[test]
    fn media_and_unknown_parts_are_refused() {
        let user = |part: Json| json!([{"role": "user", "content": [part]}]);
        let format = ContentFormat::String;
        let image = json!({"type": "image_url", "image_url": {"url": "u"}});
        check(user(image), format, true, "m is not a multimodal model");
        check(
            user(json!({"input_audio": {}})),
            format,
            true,
            "m is not a multimodal model",
        );
        check(
            user(json!({"x": 1})),
            format,
            true,
            "Missing 'type' field in multimodal part.",
        );
        let unknown = user(json!({"type": "x"}));
        check(
            unknown,
            format,
            true,
            "Unsupported chat content part type: 'x'. Supported types: 'text', 'thinking', \
             'input_text', 'output_text', 'refusal', 'image_url', 'image_pil', 'image_embeds', \
             'input_image', 'audio_url', 'input_audio', 'audio_embeds', 'video_url', \
             'video_embeds', 'prompt_embeds', 'tool_reference' (parameter=type)",
        );
    }
}
