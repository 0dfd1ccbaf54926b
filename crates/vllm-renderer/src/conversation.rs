//! Conversations as text.

use std::sync::Arc;

use serde_json::{Map, Value};
use vllm_chat_template::{ChatTemplate, RenderInput};
use vllm_engine::NO_CHAT_TEMPLATE;
use vllm_openai::{ContentFormat, ErrorResponse, Result, normalize_messages};

use crate::{Renderer, error_response};

/// How message contents are handed to the chat template.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ContentFormatOption {
    /// As the template's source shows.
    #[default]
    Auto,
    /// As one string.
    String,
    /// As a list of parts.
    OpenAi,
}

/// What a template is to render.
pub struct Conversation<'a> {
    /// The messages as the request has them.
    pub messages: &'a [Map<String, Value>],
    /// The tools that the model is told of.
    pub tools: Option<&'a [Value]>,
    /// Documents for templates with retrieval.
    pub documents: Option<&'a [Value]>,
    /// A template of the request's own, where it is trusted.
    pub template: Option<&'a str>,
    /// Whether to open the answer.
    pub add_generation_prompt: bool,
    /// Whether to leave the last message open.
    pub continue_final_message: bool,
    /// Further variables.
    pub kwargs: Map<String, Value>,
}

/// A conversation as text.
#[derive(Debug)]
pub struct Rendered {
    /// The prompt.
    pub text: String,
    /// The messages as the template got them.
    pub messages: Vec<Value>,
}

impl Renderer<'_> {
    /// Renders a conversation.
    ///
    /// # Errors
    /// 400 when there is no template, or in its own words when it refuses.
    pub fn render(&self, conversation: &Conversation<'_>) -> Result<Rendered> {
        let template = self.template(conversation)?;
        let format = match self.content_format {
            ContentFormatOption::Auto => match template.content_format() {
                vllm_chat_template::ContentFormat::String => ContentFormat::String,
                vllm_chat_template::ContentFormat::OpenAi => ContentFormat::OpenAi,
            },
            ContentFormatOption::String => ContentFormat::String,
            ContentFormatOption::OpenAi => ContentFormat::OpenAi,
        };
        let knows_developer = template.mentions_developer_role();
        let messages = normalize_messages(
            conversation.messages,
            format,
            knows_developer,
            self.model_name,
        )?;
        let input = RenderInput {
            messages: &messages,
            tools: conversation.tools,
            documents: conversation.documents,
            add_generation_prompt: conversation.add_generation_prompt,
            continue_final_message: conversation.continue_final_message,
            kwargs: &conversation.kwargs,
            special_tokens: self.engine.tokenizer().special_tokens(),
        };
        let text = template
            .render(&input)
            .map_err(|error| ErrorResponse::bad_request(&error.to_string()))?;
        Ok(Rendered { text, messages })
    }

    /// The request's own template, the one given to the renderer, or the model's.
    fn template(&self, conversation: &Conversation<'_>) -> Result<Arc<ChatTemplate>> {
        if let Some(source) = conversation.template {
            let template = ChatTemplate::new(source);
            return template
                .map(Arc::new)
                .map_err(|error| ErrorResponse::bad_request(&error.to_string()));
        }
        if let Some(template) = self.chat_template {
            return Ok(Arc::clone(template));
        }
        let own = self.engine.chat_template(conversation.tools.is_some());
        own.map_err(|error| error_response(&error))?
            .ok_or_else(|| ErrorResponse::bad_request(NO_CHAT_TEMPLATE))
    }
}
