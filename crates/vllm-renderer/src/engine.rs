//! What the engine says, in the API's words.

use vllm_engine::{DefaultSampling, Error};
use vllm_openai::{ErrorResponse, SamplingDefaults};

/// What a client is told about an engine's error. Of errors that are not the client's it learns
/// nothing; write them down where the operator looks.
pub fn error_response(error: &Error) -> ErrorResponse {
    match error {
        Error::InvalidRequest {
            message,
            parameter,
            value,
        } => match (parameter.as_deref(), value.as_deref()) {
            (Some(parameter), Some(value)) => {
                ErrorResponse::invalid_value(message, parameter, value)
            }
            (Some(parameter), None) => ErrorResponse::invalid(message, parameter),
            (None, _) => ErrorResponse::bad_request(message),
        },
        Error::Busy => ErrorResponse::busy(),
        Error::Dead(_) => ErrorResponse::engine_dead(),
        _ => ErrorResponse::internal(),
    }
}

/// What requests get that leave sampling fields out.
pub fn sampling_defaults(defaults: &DefaultSampling) -> SamplingDefaults {
    SamplingDefaults {
        temperature: defaults.temperature,
        top_p: defaults.top_p,
        top_k: defaults.top_k,
        min_p: defaults.min_p,
        repetition_penalty: defaults.repetition_penalty,
        presence_penalty: defaults.presence_penalty,
        frequency_penalty: defaults.frequency_penalty,
    }
}
