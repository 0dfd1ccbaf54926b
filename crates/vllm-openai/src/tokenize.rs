//! `/tokenize` and `/detokenize`.

use serde::Serialize;
use serde_json::{Map, Value as Json};

use crate::body::parse_any_body;
use crate::chat::{
    RequestPolicy, check_generation_prompt, check_media_kwargs, check_template_kwargs,
    decode_media_io_kwargs, decode_messages, decode_tools, merge_template_kwargs,
};
use crate::decode::{Dict, Fields, Scope, boolean, dict, integer_between, list_of, model, string};
use crate::error::{ErrorResponse, Result};

/// `POST /tokenize`.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenizeRequest {
    /// Model name; `None` and empty text mean the served model.
    pub model: Option<String>,
    /// What to tokenize.
    pub input: TokenizeInput,
    /// Add the tokenizer's special tokens.
    pub add_special_tokens: bool,
    /// Add the tokens' vocabulary strings to the answer.
    pub return_token_strs: bool,
}

/// The two forms of [`TokenizeRequest`].
#[derive(Debug, Clone, PartialEq)]
pub enum TokenizeInput {
    /// One text.
    Prompt(String),
    /// A conversation, to be rendered first.
    Chat(Box<TokenizeChat>),
}

/// The conversation of a [`TokenizeRequest`].
#[derive(Debug, Clone, PartialEq)]
pub struct TokenizeChat {
    /// As in [`ChatCompletionRequest`](crate::ChatCompletionRequest).
    pub messages: Vec<Map<String, Json>>,
    /// End the prompt with the start of the answer.
    pub add_generation_prompt: bool,
    /// Leave the last message open for continuation.
    pub continue_final_message: bool,
    /// A template of the request's own.
    pub chat_template: Option<String>,
    /// Further variables for the template.
    pub chat_template_kwargs: Option<Map<String, Json>>,
    /// The tools as templates get them.
    pub tools: Option<Vec<Json>>,
    media_io_kwargs: Option<Map<String, Json>>,
    mm_processor_kwargs: Option<Map<String, Json>>,
}

impl TokenizeChat {
    /// The template's further variables: the server's defaults, then the request's.
    pub fn template_kwargs(&self, server_defaults: &Map<String, Json>) -> Map<String, Json> {
        merge_template_kwargs(server_defaults, self.chat_template_kwargs.as_ref())
    }
}

impl TokenizeRequest {
    /// Checks the content type and decodes the body. A body that fits the form with messages is
    /// that form even if it has a prompt.
    ///
    /// # Errors
    /// 400; when neither form fits, the errors of both are listed.
    pub fn parse(content_type: Option<&str>, body: &[u8]) -> Result<Self> {
        let body = parse_any_body(content_type, body)?;
        let Some(members) = body.as_dict() else {
            let mut scope = Scope::new();
            // One error for each of the two forms.
            model(&body, &mut scope);
            model(&body, &mut scope);
            return Err(ErrorResponse::schema(scope.errors()));
        };
        check_generation_prompt(members)?;
        let read = |decode: fn(&Dict, &mut Scope) -> Self| {
            let mut scope = Scope::new();
            let request = decode(members, &mut scope);
            scope.finish(Some(request))
        };
        let chat_errors = match read(Self::decode_chat) {
            Ok(request) => return Ok(request),
            Err(errors) => errors,
        };
        read(Self::decode_prompt).map_err(|mut errors| {
            errors.extend(chat_errors);
            ErrorResponse::schema(&errors)
        })
    }

    pub(crate) fn decode_prompt(members: &Dict, scope: &mut Scope) -> Self {
        let mut fields = Fields::new(members, scope);
        let model = fields.nullable("model", string);
        let prompt = fields.required("prompt", string);
        Self {
            model,
            input: TokenizeInput::Prompt(prompt.unwrap_or_default()),
            add_special_tokens: fields.with_default("add_special_tokens", true, boolean),
            return_token_strs: fields
                .nullable("return_token_strs", boolean)
                .unwrap_or(false),
        }
    }

    pub(crate) fn decode_chat(members: &Dict, scope: &mut Scope) -> Self {
        let mut fields = Fields::new(members, scope);
        let model = fields.nullable("model", string);
        let messages = fields.required("messages", decode_messages);
        let add_generation_prompt = fields.with_default("add_generation_prompt", true, boolean);
        let return_token_strs = fields
            .nullable("return_token_strs", boolean)
            .unwrap_or(false);
        let chat = TokenizeChat {
            messages: messages.unwrap_or_default(),
            add_generation_prompt,
            continue_final_message: fields.with_default("continue_final_message", false, boolean),
            chat_template: fields.nullable("chat_template", string),
            chat_template_kwargs: fields.nullable("chat_template_kwargs", dict),
            tools: fields.nullable("tools", decode_tools),
            media_io_kwargs: fields.nullable("media_io_kwargs", decode_media_io_kwargs),
            mm_processor_kwargs: fields.nullable("mm_processor_kwargs", dict),
        };
        Self {
            model,
            input: TokenizeInput::Chat(Box::new(chat)),
            add_special_tokens: fields.with_default("add_special_tokens", false, boolean),
            return_token_strs,
        }
    }

    /// Refuses what the server's command line does not allow.
    ///
    /// # Errors
    /// 400 with vLLM's wording.
    pub fn check_supported(&self, policy: RequestPolicy) -> Result<()> {
        let TokenizeInput::Chat(chat) = &self.input else {
            return Ok(());
        };
        check_template_kwargs(
            chat.chat_template.as_deref(),
            chat.chat_template_kwargs.as_ref(),
            policy.trust_chat_template,
        )?;
        check_media_kwargs(
            chat.mm_processor_kwargs.as_ref(),
            chat.media_io_kwargs.as_ref(),
            policy.trust_mm_kwargs,
        )
    }
}

/// The answer to [`TokenizeRequest`].
#[derive(Debug, Clone, Serialize)]
pub struct TokenizeResponse {
    count: usize,
    max_model_len: usize,
    tokens: Vec<u32>,
    token_strs: Option<Vec<String>>,
}

impl TokenizeResponse {
    /// `token_strs` are the vocabulary's strings, one per token, when wanted.
    pub fn new(tokens: Vec<u32>, token_strs: Option<Vec<String>>, max_model_len: usize) -> Self {
        Self {
            count: tokens.len(),
            max_model_len,
            tokens,
            token_strs,
        }
    }
}

/// `POST /detokenize`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetokenizeRequest {
    /// Model name; `None` and empty text mean the served model.
    pub model: Option<String>,
    /// The tokens; ids beyond 32 bits are in no vocabulary and were dropped, as tokenizers do
    /// with unknown ids.
    pub tokens: Vec<u32>,
}

impl DetokenizeRequest {
    /// Decodes the members of a body.
    ///
    /// # Errors
    /// 400 with all schema errors.
    pub fn from_body(body: &Dict) -> Result<Self> {
        let mut scope = Scope::new();
        let request = Self::decode(body, &mut scope);
        scope
            .finish(Some(request))
            .map_err(|errors| ErrorResponse::schema(&errors))
    }

    pub(crate) fn decode(body: &Dict, scope: &mut Scope) -> Self {
        let mut fields = Fields::new(body, scope);
        let model = fields.nullable("model", string);
        let tokens = fields.required("tokens", list_of(integer_between(0, i64::MAX)));
        let tokens = tokens.unwrap_or_default();
        let tokens = tokens
            .into_iter()
            .filter_map(|token| u32::try_from(token).ok())
            .collect();
        Self { model, tokens }
    }
}

/// The answer to [`DetokenizeRequest`].
#[derive(Debug, Clone, Serialize)]
pub struct DetokenizeResponse {
    /// The text, special tokens included.
    pub prompt: String,
}
