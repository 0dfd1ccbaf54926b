//! Error answers: status, the `error` object, and its form inside a stream.

use serde::Serialize;

use crate::decode::json::ParseError;
use crate::decode::{SchemaError, Value, json_ascii, schema_message};
use crate::scrub::scrub;

/// The result of everything that can refuse a request.
pub type Result<T, E = ErrorResponse> = std::result::Result<T, E>;

/// An error as the client sees it. It is this crate's only error type: whatever goes wrong here
/// ends as an answer on the wire.
///
/// ```
/// use vllm_openai::ErrorResponse;
///
/// let error = ErrorResponse::invalid_value("n must be at least 1, got 0.", "n", "0");
/// assert_eq!(error.status, 400);
/// assert_eq!(
///     error.to_json(),
///     r#"{"error":{"message":"n must be at least 1, got 0. (parameter=n, value=0)","type":"BadRequestError","param":"n","code":400}}"#
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ErrorResponse {
    /// HTTP status, repeated as `code` in the body.
    pub status: u16,
    /// One sentence that says what to change.
    pub message: String,
    /// The error family, `type` in the body. Empty for the plain form `{"detail": message}`.
    pub kind: &'static str,
    /// The request field at fault.
    pub param: Option<String>,
}

#[derive(Serialize)]
struct Body<'a> {
    error: Members<'a>,
}

#[derive(Serialize)]
struct Members<'a> {
    message: &'a str,
    r#type: &'a str,
    param: Option<&'a str>,
    code: u16,
}

impl ErrorResponse {
    /// Any error; the message is scrubbed of paths, addresses and traceback lines.
    pub fn new(status: u16, kind: &'static str, message: &str, param: Option<&str>) -> Self {
        Self {
            status,
            message: scrub(message),
            kind,
            param: param.map(str::to_owned),
        }
    }

    /// 400 for a value that a check refused, without naming a field.
    pub fn bad_request(message: &str) -> Self {
        Self::new(400, "BadRequestError", message, None)
    }

    /// 400 that names the field; ` (parameter=…)` is added to the message.
    pub fn invalid(message: &str, param: &str) -> Self {
        let message = format!("{message} (parameter={param})");
        Self::new(400, "BadRequestError", &message, Some(param))
    }

    /// 400 that names the field and its value, printed as Python prints it.
    pub fn invalid_value(message: &str, param: &str, value: &str) -> Self {
        let message = format!("{message} (parameter={param}, value={value})");
        Self::new(400, "BadRequestError", &message, Some(param))
    }

    /// 400 for a body that breaks the schema.
    pub fn schema(errors: &[SchemaError]) -> Self {
        let param = errors.first().map(|error| error.loc.as_str());
        Self::new(400, "Bad Request", &schema_message(errors), param)
    }

    /// 400 for a request whose content type is missing or not JSON.
    pub fn unsupported_media_type() -> Self {
        const MESSAGE: &str = "1 validation error:\n  Unsupported Media Type: Only \
                               'application/json' is allowed";
        Self::new(400, "Bad Request", MESSAGE, None)
    }

    /// An error of the HTTP layer, whose body is only `{"detail": message}`.
    pub fn detail(status: u16, message: &str) -> Self {
        Self::new(status, "", message, None)
    }

    /// 400 for a body that is not JSON.
    pub fn malformed_json(error: &ParseError) -> Self {
        let ParseError::Syntax { offset, message } = error else {
            return Self::detail(400, "There was an error parsing the body");
        };
        let empty = Value::Dict(Default::default());
        let loc = format!("body.{offset}");
        let error = SchemaError::new("json_invalid", loc, "JSON decode error", &empty)
            .with_context("error", crate::decode::string_repr(message));
        Self::schema(&[error])
    }

    /// 404 for a model name that is not served.
    pub fn unknown_model(model: &str, aliases: &[String]) -> Self {
        let aliases = aliases.join(", ");
        let message = format!("The model `{model}` does not exist. Valid aliases: {aliases}.");
        Self::new(404, "NotFoundError", &message, Some("model"))
    }

    /// 501 for a route that this model cannot serve.
    pub fn not_implemented(message: &str) -> Self {
        Self::new(501, "NotImplementedError", message, None)
    }

    /// 503 when the queue is full.
    pub fn busy() -> Self {
        Self::unavailable(
            "The engine is currently busy and cannot accept new requests. Please try again later \
             or on a different instance.",
        )
    }

    /// 503 when too many prompt tokens wait.
    pub fn prefill_backlog() -> Self {
        Self::unavailable(
            "The engine has reached its prefill token backlog limit. Please try again later or on \
             a different instance.",
        )
    }

    /// 503 with a message of the caller.
    pub fn unavailable(message: &str) -> Self {
        Self::new(503, "Service Unavailable", message, None)
    }

    /// 500 for a request that failed inside the engine.
    pub fn internal() -> Self {
        Self::internal_with("Internal server error")
    }

    /// 500 with a message of the caller.
    pub fn internal_with(message: &str) -> Self {
        Self::new(500, "InternalServerError", message, None)
    }

    /// 500 when the engine has died.
    pub fn engine_dead() -> Self {
        Self::internal_with(
            "EngineCore encountered an issue. See stack trace (above) for the root cause.",
        )
    }

    /// 403 for the scale-out routes, which are off.
    pub fn scale_out_disabled() -> Self {
        const MESSAGE: &str = "Scale-out endpoints are disabled. Restart vllm serve with \
                               --enable-scale-out to enable them.";
        Self::new(403, "PermissionDeniedError", MESSAGE, None)
    }

    /// The body of the answer, compact.
    pub fn to_json(&self) -> String {
        if self.kind.is_empty() {
            return serde_json::json!({ "detail": self.message }).to_string();
        }
        let error = Members {
            message: &self.message,
            r#type: self.kind,
            param: self.param.as_deref(),
            code: self.status,
        };
        // Strings and integers only: serialization cannot fail.
        serde_json::to_string(&Body { error }).unwrap_or_default()
    }

    /// The JSON of an error frame in a stream: blanks after `:` and `,`, ASCII only.
    pub fn to_stream_json(&self) -> String {
        format!(
            r#"{{"error": {{"message": {}, "type": {}, "param": {}, "code": {}}}}}"#,
            json_ascii(&self.message),
            json_ascii(self.kind),
            self.param
                .as_deref()
                .map_or_else(|| "null".to_owned(), json_ascii),
            self.status,
        )
    }
}

impl From<vllm_sampling::Error> for ErrorResponse {
    fn from(error: vllm_sampling::Error) -> Self {
        match error {
            vllm_sampling::Error::InvalidParameter {
                message,
                parameter,
                value,
            } => match (parameter, value) {
                (Some(param), Some(value)) => Self::invalid_value(&message, param, &value),
                (Some(param), None) => Self::invalid(&message, param),
                (None, _) => Self::bad_request(&message),
            },
            // Everything else is about rows of logits, not about what the client sent.
            _ => Self::internal(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_form_has_blanks_and_is_ascii() {
        let error = ErrorResponse::invalid_value("boöm", "p", "3");
        assert_eq!(
            error.to_stream_json(),
            r#"{"error": {"message": "bo\u00f6m (parameter=p, value=3)", "type": "BadRequestError", "param": "p", "code": 400}}"#
        );
        assert_eq!(
            ErrorResponse::internal().to_stream_json(),
            r#"{"error": {"message": "Internal server error", "type": "InternalServerError", "param": null, "code": 500}}"#
        );
    }

    #[test]
    fn malformed_json_names_the_offset() {
        let error = ErrorResponse::malformed_json(&ParseError::Syntax {
            offset: 1,
            message: "Expecting property name enclosed in double quotes",
        });
        assert_eq!(error.param.as_deref(), Some("body.1"));
        assert_eq!(
            error.message,
            "1 validation error:\n  {'type': 'json_invalid', 'loc': 'body.1', 'msg': 'JSON decode \
             error', 'input': '<dict of 0 items>', 'ctx': {'error': 'Expecting property name \
             enclosed in double quotes'}}"
        );
        assert_eq!(
            ErrorResponse::malformed_json(&ParseError::Unreadable).to_json(),
            r#"{"detail":"There was an error parsing the body"}"#
        );
    }

    #[test]
    fn a_served_path_is_hidden() {
        let error = ErrorResponse::unknown_model("x", &["/srv/models/opt".to_owned()]);
        assert_eq!(
            error.message,
            "The model `x` does not exist. Valid aliases: <path>."
        );
    }
}
