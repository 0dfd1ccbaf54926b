//! Conversations in the form of the ShareGPT data set.

use std::path::Path;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::Deserialize;
use vllm_tokenizer::Tokenizer;

use crate::error::{Error, Result};
use crate::workload::SampleRequest;

/// Prompts and outputs below this many tokens say nothing about speed; vLLM's limit.
const MIN_LEN: usize = 4;
/// The longest prompt in tokens; vLLM's limit.
const MAX_PROMPT_LEN: usize = 1024;
/// The longest prompt and output together; vLLM's limit.
const MAX_TOTAL_LEN: usize = 2048;

/// The first turns of conversations as prompts, and the answers to them as output lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareGptWorkload {
    /// How many prompts; a shorter data set is gone through again.
    pub num_prompts: usize,
    /// Tokens to generate, in place of the length of each answer.
    pub output_len: Option<usize>,
    /// Decides which conversations are taken.
    pub seed: u64,
}

#[derive(Deserialize)]
struct Conversation {
    #[serde(alias = "conversation", default)]
    conversations: Vec<Turn>,
}

#[derive(Deserialize)]
struct Turn {
    #[serde(alias = "content")]
    value: String,
}

impl ShareGptWorkload {
    /// Takes requests from a JSON list, or JSON lines, of `{"conversations": [{"value": …}, …]}`.
    /// Conversations with no answer, and very short or long ones, are passed over.
    ///
    /// # Errors
    /// The file cannot be read, is no such list, or has no usable conversation.
    pub fn read(&self, path: &Path, tokenizer: &Tokenizer) -> Result<Vec<SampleRequest>> {
        let file_error = |source| Error::File {
            path: path.to_owned(),
            source,
        };
        let data_error = |reason: String| Error::DataSet {
            path: path.to_owned(),
            reason,
        };
        let json = std::fs::read(path).map_err(file_error)?;
        let mut conversations = parse(&json).map_err(|error| data_error(error.to_string()))?;
        conversations.shuffle(&mut StdRng::seed_from_u64(self.seed));
        let mut requests = Vec::with_capacity(self.num_prompts);
        for conversation in &conversations {
            if requests.len() == self.num_prompts {
                break;
            }
            requests.extend(self.request(conversation, tokenizer)?);
        }
        if requests.is_empty() {
            return Err(data_error(format!(
                "no usable conversation: expected {{\"conversations\": [question, answer, …]}} \
                 with {MIN_LEN} to {MAX_PROMPT_LEN} tokens in the question"
            )));
        }
        let usable = requests.len();
        for index in usable..self.num_prompts {
            requests.push(requests[index % usable].clone());
        }
        Ok(requests)
    }

    fn request(
        &self,
        conversation: &Conversation,
        tokenizer: &Tokenizer,
    ) -> Result<Option<SampleRequest>> {
        let [question, answer, ..] = conversation.conversations.as_slice() else {
            return Ok(None);
        };
        let prompt_token_ids = tokenizer.encode(&question.value, true)?;
        let output_len = match self.output_len {
            Some(len) => len,
            None => tokenizer.encode(&answer.value, false)?.len(),
        };
        let prompt_len = prompt_token_ids.len();
        let usable = (MIN_LEN..=MAX_PROMPT_LEN).contains(&prompt_len)
            && prompt_len + output_len <= MAX_TOTAL_LEN
            && (self.output_len.is_some() || output_len >= MIN_LEN);
        Ok(usable.then_some(SampleRequest {
            prompt_token_ids,
            output_len,
        }))
    }
}

fn parse(json: &[u8]) -> serde_json::Result<Vec<Conversation>> {
    if json.trim_ascii_start().starts_with(b"[") {
        return serde_json::from_slice(json);
    }
    serde_json::Deserializer::from_slice(json)
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use vllm_engine::EngineClient;
    use vllm_engine::mock::MockEngine;

    use super::*;

    const WORKLOAD: ShareGptWorkload = ShareGptWorkload {
        num_prompts: 3,
        output_len: None,
        seed: 0,
    };
    const GOOD: &str = r#"{"id": "a", "conversations": [
        {"from": "human", "value": "What is the capital of France, please?"},
        {"from": "gpt", "value": "The capital of France is Paris."}]}"#;
    const LONELY: &str = r#"{"conversations": [{"from": "human", "value": "Is anybody there?"}]}"#;
    const SHORT: &str = r#"{"conversations": [{"value": "Hi"}, {"value": "Hello to you, too."}]}"#;

    fn read(workload: ShareGptWorkload, json: &str) -> Result<Vec<SampleRequest>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), json).unwrap();
        let engine = MockEngine::new("text").unwrap();
        workload.read(file.path(), engine.tokenizer())
    }

    #[test]
    fn usable_conversations_are_taken_as_often_as_needed() {
        for json in [
            format!("[{LONELY},{GOOD},{SHORT}]"),
            format!("{GOOD}\n{SHORT}\n{LONELY}"),
        ] {
            let requests = read(WORKLOAD, &json).unwrap();
            assert_eq!(requests.len(), 3);
            assert!(requests.iter().all(|request| *request == requests[0]));
            assert!(requests[0].output_len >= 4);
        }
        let fixed = ShareGptWorkload {
            output_len: Some(2),
            ..WORKLOAD
        };
        assert_eq!(read(fixed, GOOD).unwrap()[0].output_len, 2);
    }

    #[test]
    fn files_without_any_are_refused() {
        let message = |json: &str| read(WORKLOAD, json).unwrap_err().to_string();
        assert!(message(&format!("[{LONELY}]")).contains("no usable conversation"));
        assert!(message("[").contains("EOF"));
        assert!(message(r#"[{"conversations": 3}]"#).contains("invalid type"));
    }
}
