//! What the generating routes share.

use http::HeaderMap;
use vllm_engine::RequestOutput;
use vllm_openai::{GenerationOptions, RequestPolicy, ResponseContext, Result};

use crate::body::header_text;
use crate::front::REQUEST_ID;
use crate::state::AppState;

const PRIORITY: http::HeaderName = http::HeaderName::from_static("x-vllm-priority");

/// Headers win over the fields that they repeat.
pub(super) trait WithHeaders {
    fn apply_headers(&mut self, headers: &HeaderMap);
}

impl WithHeaders for GenerationOptions {
    fn apply_headers(&mut self, headers: &HeaderMap) {
        if let Some(request_id) = header_text(headers, REQUEST_ID).filter(|id| !id.is_empty()) {
            self.request_id = request_id.to_owned();
        }
        if let Some(Ok(priority)) = header_text(headers, PRIORITY).map(str::parse) {
            self.priority = priority;
        }
    }
}

/// Refuses a model name that is not served.
pub(super) fn check_model(state: &AppState, model: Option<&str>) -> Result<()> {
    if state.api.skip_model_name_validation {
        return Ok(());
    }
    vllm_openai::check_model(model, &state.model_names)
}

/// The head of the answer to a request.
pub(super) fn context(
    state: &AppState,
    prefix: &str,
    options: &GenerationOptions,
    created: u64,
) -> ResponseContext {
    ResponseContext {
        id: format!("{prefix}-{}", options.request_id),
        created,
        model: state.model_name().to_owned(),
        system_fingerprint: state.system_fingerprint.clone(),
        prompt_tokens_details: state.api.enable_prompt_tokens_details,
        return_tokens_as_token_ids: state.api.return_tokens_as_token_ids,
        force_include_usage: state.api.enable_force_include_usage,
    }
}

/// Whether logprobs show token ids in place of texts.
pub(super) fn shows_tokens_as_ids(state: &AppState, options: &GenerationOptions) -> bool {
    options
        .return_tokens_as_token_ids
        .unwrap_or(state.api.return_tokens_as_token_ids)
}

impl AppState {
    /// What the command line allows requests to do.
    pub(super) fn request_policy(&self) -> RequestPolicy {
        RequestPolicy {
            trust_chat_template: self.api.trust_request_chat_template,
            trust_mm_kwargs: false,
            has_tool_parser: self.tool_parser.is_some(),
        }
    }
}

/// Writes down what was generated, where that is wanted.
pub(super) fn log_outputs(state: &AppState, outputs: &[RequestOutput]) {
    if !state.log.outputs {
        return;
    }
    for output in outputs {
        for choice in &output.outputs {
            let text = match state.log.max_length {
                Some(length) => choice.text.chars().take(length).collect(),
                None => choice.text.clone(),
            };
            let reason = choice
                .finish_reason
                .map_or("None", |reason| reason.as_str());
            let id = &output.request_id;
            tracing::info!("Generated response {id}: output: {text:?}, finish_reason: {reason}");
        }
    }
}
