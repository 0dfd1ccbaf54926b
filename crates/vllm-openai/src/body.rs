//! From the bytes of a request to the members of its top object.

use crate::decode::json::parse;
use crate::decode::{Dict, Scope, Value, model};
use crate::error::{ErrorResponse, Result};

/// Checks the content type and parses the body, which must be a JSON object.
///
/// # Errors
/// 400 for another content type, for text that is not JSON, and for anything but an object.
pub fn parse_body(content_type: Option<&str>, body: &[u8]) -> Result<Dict> {
    match parse_any_body(content_type, body)? {
        Value::Dict(members) => Ok(members),
        other => {
            let mut scope = Scope::new();
            model(&other, &mut scope);
            Err(ErrorResponse::schema(scope.errors()))
        }
    }
}

/// Like [`parse_body`], but leaves other JSON values than objects to the caller.
pub(crate) fn parse_any_body(content_type: Option<&str>, body: &[u8]) -> Result<Value> {
    if !is_json(content_type) {
        return Err(ErrorResponse::unsupported_media_type());
    }
    let parsed = match body.is_empty() {
        true => Value::Null,
        false => parse(body).map_err(|error| ErrorResponse::malformed_json(&error))?,
    };
    if parsed == Value::Null {
        let mut scope = Scope::new();
        scope.fail::<()>("missing", "Field required", &Value::Null);
        return Err(ErrorResponse::schema(scope.errors()));
    }
    Ok(parsed)
}

/// Parameters such as a character set are allowed after the media type.
fn is_json(content_type: Option<&str>) -> bool {
    let media_type = content_type
        .and_then(|value| value.split(';').next())
        .unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/json")
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: Option<&str> = Some("application/json; charset=utf-8");

    #[track_caller]
    fn check(content_type: Option<&str>, body: &str, expected: &str) {
        let message = parse_body(content_type, body.as_bytes()).map_err(|error| error.message);
        assert_eq!(message.err().as_deref(), Some(expected));
    }

    #[test]
    fn other_bodies_than_json_objects_are_refused() {
        const MEDIA: &str =
            "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed";
        check(None, "{}", MEDIA);
        check(Some("text/plain"), "{}", MEDIA);
        const MISSING: &str = "1 validation error:\n  {'type': 'missing', 'loc': 'body', 'msg': \
                               'Field required', 'input': 'None'}";
        check(JSON, "", MISSING);
        check(JSON, "null", MISSING);
        check(
            JSON,
            "[1, 2]",
            "1 validation error:\n  {'type': 'model_attributes_type', 'loc': 'body', 'msg': \
             'Input should be a valid dictionary or object to extract fields from', 'input': \
             '<list of 2 items>'}",
        );
        assert_eq!(
            parse_body(JSON, br#"{"a":1}"#).map(|members| members.len()),
            Ok(1)
        );
    }
}
