//! Prompts as text, because that is what clients send.

use rand::SeedableRng;
use rand::rngs::StdRng;
use vllm_tokenizer::Tokenizer;

use crate::error::Result;
use crate::random::Tokens;
use crate::workload::SampleRequest;

/// Text made of tokens seldom encodes back to as many tokens at once; this many attempts bring it
/// there or close.
const ATTEMPTS: usize = 10;

/// One request of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextRequest {
    /// The prompt.
    pub prompt: String,
    /// Its tokens, special ones that the server may add left out.
    pub prompt_len: usize,
    /// How many tokens to ask for.
    pub output_len: usize,
}

/// Turns prompts into text that encodes to as many tokens as they have, where there is such text.
///
/// # Errors
/// Tokens that have no text.
pub fn to_text(
    requests: &[SampleRequest],
    tokenizer: &Tokenizer,
    seed: u64,
) -> Result<Vec<TextRequest>> {
    let filler = Tokens::of(tokenizer, tokenizer.max_token_id() as usize + 1)?;
    let mut rng = StdRng::seed_from_u64(seed);
    let convert = |request: &SampleRequest| {
        let wanted = request.prompt_token_ids.len();
        let mut ids = request.prompt_token_ids.clone();
        let mut prompt = tokenizer.decode(&ids, true)?;
        for _ in 0..ATTEMPTS {
            ids = tokenizer.encode(&prompt, false)?;
            if ids.len() == wanted {
                break;
            }
            ids.truncate(wanted);
            ids.extend(filler.draw(wanted - ids.len(), &mut rng));
            prompt = tokenizer.decode(&ids, true)?;
        }
        Ok(TextRequest {
            prompt_len: tokenizer.encode(&prompt, false)?.len(),
            prompt,
            output_len: request.output_len,
        })
    };
    requests.iter().map(convert).collect()
}

#[cfg(test)]
mod tests {
    use vllm_engine::EngineClient;
    use vllm_engine::mock::MockEngine;

    use super::*;
    use crate::random::RandomWorkload;

    #[test]
    fn text_has_about_as_many_tokens_as_the_prompt() {
        let engine = MockEngine::new("text").unwrap();
        let workload = RandomWorkload {
            num_prompts: 20,
            input_len: 32,
            output_len: 8,
            range_ratio: 0.0,
            prefix_len: 0,
            seed: 1,
        };
        let tokenizer = engine.tokenizer();
        let requests = workload.draw(tokenizer, engine.info().vocab_size).unwrap();
        let texts = to_text(&requests, tokenizer, 0).unwrap();
        assert_eq!(texts, to_text(&requests, tokenizer, 0).unwrap());
        for text in texts {
            let len = tokenizer.encode(&text.prompt, false).unwrap().len();
            assert_eq!(len, text.prompt_len);
            assert!(len.abs_diff(32) <= 4, "{len} tokens: {:?}", text.prompt);
        }
    }
}
