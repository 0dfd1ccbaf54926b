//! Reading a request's body whole.

use axum::body::{Body, Bytes};
use axum::extract::Request;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use vllm_openai::{ErrorResponse, Result};

/// A request that has arrived in whole.
pub(crate) struct Received {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Received {
    /// Waits for the body.
    ///
    /// # Errors
    /// 413 beyond `limit` bytes, 400 when the client breaks off.
    pub(crate) async fn read(request: Request, limit: usize) -> Result<Self> {
        let (head, body) = request.into_parts();
        let announced = header_text(&head.headers, header::CONTENT_LENGTH);
        if announced
            .and_then(|length| length.parse().ok())
            .is_some_and(|length: usize| length > limit)
        {
            return Err(too_large(limit));
        }
        let body = collect(body, limit).await?;
        Ok(Self {
            headers: head.headers,
            body,
        })
    }

    pub(crate) fn content_type(&self) -> Option<&str> {
        header_text(&self.headers, header::CONTENT_TYPE)
    }
}

/// The text of a header, if it is there and is text.
pub(crate) fn header_text(headers: &HeaderMap, name: http::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

async fn collect(body: Body, limit: usize) -> Result<Bytes> {
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large(limit)),
        Err(_) => Err(ErrorResponse::bad_request("The request body ended early.")),
    }
}

fn too_large(limit: usize) -> ErrorResponse {
    let message = format!("The request body is larger than the {limit} bytes that are accepted.");
    ErrorResponse::new(413, "RequestEntityTooLarge", &message, None)
}
