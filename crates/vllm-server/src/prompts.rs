//! From texts and conversations to token ids that fit the model.

use std::sync::Arc;

use serde_json::{Map, Value};
use vllm_chat_template::{ChatTemplate, RenderInput};
use vllm_engine::NO_CHAT_TEMPLATE;
use vllm_openai::{
    ContentFormat, ErrorResponse, GenerationOptions, LengthLimits, Result, SamplingDefaults,
    TruncationSide, check_prompt_length, check_text_length, check_truncation, normalize_messages,
    truncated_length,
};

use crate::config::ContentFormatOption;
use crate::generation::to_response;
use crate::state::AppState;

/// How much of a prompt to keep.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Truncation {
    /// This many tokens; all of them without.
    tokens: Option<usize>,
    side: vllm_tokenizer::TruncationSide,
}

impl Truncation {
    /// What a request says about it. `requested` is its wanted output length.
    ///
    /// # Errors
    /// 400 for keeping more than the context holds.
    pub(crate) fn of(
        options: &GenerationOptions,
        requested: Option<i64>,
        max_model_len: usize,
    ) -> Result<Self> {
        check_truncation(options.truncate_prompt_tokens, max_model_len)?;
        let wanted = options.truncate_prompt_tokens;
        Ok(Self {
            tokens: truncated_length(wanted, requested, max_model_len),
            side: match options.truncation_side {
                Some(TruncationSide::Right) => vllm_tokenizer::TruncationSide::Right,
                Some(TruncationSide::Left) | None => vllm_tokenizer::TruncationSide::Left,
            },
        })
    }

    /// Cuts a prompt that came as token ids.
    pub(crate) fn apply(self, mut token_ids: Vec<u32>) -> Vec<u32> {
        let Some(tokens) = self.tokens else {
            return token_ids;
        };
        let excess = token_ids.len().saturating_sub(tokens);
        match self.side {
            vllm_tokenizer::TruncationSide::Left => drop(token_ids.drain(..excess)),
            vllm_tokenizer::TruncationSide::Right => token_ids.truncate(tokens),
        }
        token_ids
    }
}

impl AppState {
    /// The token ids of a text, checked against the context.
    ///
    /// # Errors
    /// 400 for a text that does not fit or cannot be tokenized.
    pub(crate) fn encode(
        &self,
        text: &str,
        add_special_tokens: bool,
        truncation: Truncation,
    ) -> Result<Vec<u32>> {
        let tokenizer = self.engine.tokenizer();
        let max_model_len = self.engine.info().max_model_len;
        let token_ids = match truncation.tokens {
            Some(tokens) => {
                tokenizer.encode_truncated(text, add_special_tokens, tokens, truncation.side)
            }
            None => {
                check_text_length(text, tokenizer.max_chars_per_token(), max_model_len)?;
                tokenizer.encode(text, add_special_tokens)
            }
        };
        let token_ids =
            token_ids.map_err(|error| ErrorResponse::bad_request(&error.to_string()))?;
        // Counting ends at the first token that does not fit, so that is the length told.
        check_prompt_length(token_ids.len().min(max_model_len + 1), max_model_len)?;
        Ok(token_ids)
    }

    /// What bounds answers.
    pub(crate) fn length_limits(&self) -> LengthLimits {
        let info = self.engine.info();
        let default_max_tokens = info.default_sampling.max_tokens;
        LengthLimits {
            max_model_len: info.max_model_len,
            default_max_tokens,
            max_tokens_cap: default_max_tokens.filter(|_| self.api.default_max_tokens_is_cap),
        }
    }

    /// What requests get that leave sampling fields out.
    pub(crate) fn sampling_defaults(&self) -> SamplingDefaults {
        let defaults = &self.engine.info().default_sampling;
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

    /// Renders a conversation.
    ///
    /// # Errors
    /// 400 when there is no template, or in its own words when it refuses.
    pub(crate) fn render(&self, conversation: &Conversation<'_>) -> Result<Rendered> {
        let template = self.template(conversation)?;
        let format = match self.api.chat_template_content_format {
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
            self.model_name(),
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

    /// The request's own template, the one given to the server, or the model's.
    fn template(&self, conversation: &Conversation<'_>) -> Result<Arc<ChatTemplate>> {
        if let Some(source) = conversation.template {
            let template = ChatTemplate::new(source);
            return template
                .map(Arc::new)
                .map_err(|error| ErrorResponse::bad_request(&error.to_string()));
        }
        if let Some(template) = &self.chat_template {
            return Ok(Arc::clone(template));
        }
        let own = self.engine.chat_template(conversation.tools.is_some());
        own.map_err(|error| to_response(&error))?
            .ok_or_else(|| ErrorResponse::bad_request(NO_CHAT_TEMPLATE))
    }
}

/// What a template is to render.
pub(crate) struct Conversation<'a> {
    pub(crate) messages: &'a [Map<String, Value>],
    pub(crate) tools: Option<&'a [Value]>,
    pub(crate) documents: Option<&'a [Value]>,
    /// A template of the request's own, where it is trusted.
    pub(crate) template: Option<&'a str>,
    pub(crate) add_generation_prompt: bool,
    pub(crate) continue_final_message: bool,
    pub(crate) kwargs: Map<String, Value>,
}

/// A conversation as text.
pub(crate) struct Rendered {
    pub(crate) text: String,
    /// The messages as the template got them.
    pub(crate) messages: Vec<Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_ids_are_cut_at_the_chosen_side() {
        let check = |tokens, side, expected: &[u32]| {
            assert_eq!(
                Truncation { tokens, side }.apply(vec![1, 2, 3, 4]),
                expected
            );
        };
        use vllm_tokenizer::TruncationSide::{Left, Right};
        check(Some(2), Left, &[3, 4]);
        check(Some(2), Right, &[1, 2]);
        check(Some(9), Left, &[1, 2, 3, 4]);
        check(None, Left, &[1, 2, 3, 4]);
    }
}
