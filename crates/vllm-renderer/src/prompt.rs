//! Texts as token ids that fit the model.

use vllm_openai::{
    CompletionRequest, ErrorResponse, GenerationOptions, Prompt, Result, StreamPrompt,
    TruncationSide, check_prompt_length, check_text_length, check_truncation, truncated_length,
};

use crate::Renderer;

/// How much of a prompt to keep.
#[derive(Debug, Clone, Copy)]
pub struct Truncation {
    /// This many tokens; all of them without.
    tokens: Option<usize>,
    side: vllm_tokenizer::TruncationSide,
}

impl Truncation {
    /// What a request says about it. `requested` is its wanted output length.
    ///
    /// # Errors
    /// 400 for keeping more than the context holds.
    pub fn of(
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
    fn apply(self, mut token_ids: Vec<u32>) -> Vec<u32> {
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

impl Renderer<'_> {
    /// The token ids of a text, checked against the context.
    ///
    /// # Errors
    /// 400 for a text that does not fit or cannot be tokenized.
    pub fn encode(
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

    /// Text, if there was one, and token ids of a prompt of a completion request.
    ///
    /// # Errors
    /// See [`Renderer::encode`].
    pub fn encode_prompt(
        &self,
        prompt: Prompt,
        options: &GenerationOptions,
        truncation: Truncation,
    ) -> Result<(Option<String>, Vec<u32>)> {
        match prompt {
            Prompt::Text(text) => {
                let token_ids = self.encode(&text, options.add_special_tokens, truncation)?;
                Ok((Some(text), token_ids))
            }
            Prompt::TokenIds(token_ids) => {
                let token_ids = truncation.apply(token_ids);
                check_prompt_length(token_ids.len(), self.engine.info().max_model_len)?;
                Ok((None, token_ids))
            }
        }
    }

    /// What of a prompt may be needed for the answer. A prompt of token ids is turned into text
    /// only to be echoed; its tokens are shown as `token_id:N` where `as_ids` says so.
    ///
    /// # Errors
    /// 400 for token ids that cannot be shown as text.
    pub fn echoed_prompt(
        &self,
        request: &CompletionRequest,
        text: Option<&str>,
        token_ids: &[u32],
        as_ids: bool,
    ) -> Result<StreamPrompt> {
        let decode = |ids: &[u32]| {
            let decoded = self.engine.tokenizer().decode(ids, false);
            decoded.map_err(|error| ErrorResponse::bad_request(&error.to_string()))
        };
        let text = match (request.echo, text) {
            (false, _) => None,
            (true, Some(text)) => Some(text.to_owned()),
            (true, None) => Some(decode(token_ids)?),
        };
        let first_token = match token_ids.first() {
            Some(id) if request.echo && request.logprobs.is_some() => match as_ids {
                true => format!("token_id:{id}"),
                false => decode(&[*id])?,
            },
            _ => String::new(),
        };
        Ok(StreamPrompt {
            text,
            token_ids: token_ids.into(),
            first_token,
        })
    }
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
