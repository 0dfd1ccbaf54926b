//! Errors in the Anthropic form.

use serde::Serialize;

use crate::error::ErrorResponse;
use crate::sse;

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    error: Members<'a>,
}

#[derive(Serialize)]
struct Members<'a> {
    r#type: &'a str,
    message: &'a str,
}

fn body<'a>(kind: &'a str, message: &'a str) -> Body<'a> {
    Body {
        r#type: "error",
        error: Members {
            r#type: kind,
            message,
        },
    }
}

impl ErrorResponse {
    /// The body of the answer in the Anthropic form, for errors found after the schema was
    /// satisfied; schema errors keep the form of [`ErrorResponse::to_json`].
    pub fn to_messages_json(&self) -> String {
        // Strings only: serialization cannot fail.
        serde_json::to_string(&body(self.kind, &self.message)).unwrap_or_default()
    }
}

/// Appends the event that ends a failing message stream.
pub fn push_messages_error(frames: &mut Vec<u8>, error: &ErrorResponse) {
    sse::push_event(frames, "error", &body("internal_error", &error.message));
}
