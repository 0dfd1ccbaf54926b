//! Conversations become prompts through the model's chat template.

use serde_json::{Map, Value};
use vllm_chat_template::RenderInput;

use crate::client::EngineClient;
use crate::error::{Error, Result};

/// vLLM's words for a model without a chat template.
pub const NO_CHAT_TEMPLATE: &str = "As of transformers v4.44, default chat template is no longer \
    allowed, so you must provide a chat template if the tokenizer does not define one.";

/// How to render a conversation.
#[derive(Debug, Clone)]
pub struct ChatOptions {
    /// Tools in the OpenAI form.
    pub tools: Option<Vec<Value>>,
    /// End with the beginning of an answer.
    pub add_generation_prompt: bool,
    /// Leave the last message open for the model to go on with.
    pub continue_final_message: bool,
    /// Further variables of the template.
    pub kwargs: Map<String, Value>,
}

impl Default for ChatOptions {
    fn default() -> Self {
        Self {
            tools: None,
            add_generation_prompt: true,
            continue_final_message: false,
            kwargs: Map::new(),
        }
    }
}

/// Renders a conversation with the model's own template.
///
/// # Errors
/// [`Error::InvalidRequest`] if the model has no template or the template refuses the messages.
pub fn render_chat(
    engine: &dyn EngineClient,
    messages: &[Value],
    options: &ChatOptions,
) -> Result<String> {
    let template = engine
        .chat_template(options.tools.is_some())?
        .ok_or_else(|| Error::invalid(NO_CHAT_TEMPLATE))?;
    let input = RenderInput {
        messages,
        tools: options.tools.as_deref(),
        documents: None,
        add_generation_prompt: options.add_generation_prompt,
        continue_final_message: options.continue_final_message,
        kwargs: &options.kwargs,
        special_tokens: engine.tokenizer().special_tokens(),
    };
    template
        .render(&input)
        .map_err(|error| Error::invalid(error.to_string()))
}
