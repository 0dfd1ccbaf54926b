//! Server-sent event frames.

use serde::Serialize;

use crate::error::ErrorResponse;

/// The frame that ends a stream.
pub const DONE: &str = "data: [DONE]\n\n";

/// Appends one frame with compact JSON that names its event.
pub(crate) fn push_event(frames: &mut Vec<u8>, event: &str, data: &impl Serialize) {
    frames.extend_from_slice(b"event: ");
    frames.extend_from_slice(event.as_bytes());
    frames.push(b'\n');
    push_frame(frames, data);
}

/// Appends one frame with compact JSON.
pub(crate) fn push_frame(frames: &mut Vec<u8>, chunk: &impl Serialize) {
    frames.extend_from_slice(b"data: ");
    // The chunks consist of strings, numbers and lists; writing them to memory cannot fail.
    let written = serde_json::to_writer(&mut *frames, chunk);
    debug_assert!(written.is_ok(), "chunks always serialize");
    frames.extend_from_slice(b"\n\n");
}

/// Appends the error frame and the end of the stream.
pub fn push_error(frames: &mut Vec<u8>, error: &ErrorResponse) {
    frames.extend_from_slice(b"data: ");
    frames.extend_from_slice(error.to_stream_json().as_bytes());
    frames.extend_from_slice(b"\n\n");
    push_done(frames);
}

/// Appends the end of the stream.
pub(crate) fn push_done(frames: &mut Vec<u8>) {
    frames.extend_from_slice(DONE.as_bytes());
}
