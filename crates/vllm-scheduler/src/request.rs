//! Requests as the scheduler sees them.

use serde::{Deserialize, Serialize};
use vllm_kv_cache::{BlockTable, ExtraKeys};

use crate::queue::QueuePlace;
use crate::stop::StopRules;
use crate::{Error, Policy, RepetitionDetection, Result, Sampled, SchedulerConfig};

/// Number of a sequence inside the engine; a request for `n` outputs is `n` sequences.
pub type RequestId = u64;

/// One sequence to generate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewRequest {
    /// Not in use by any unfinished request.
    pub id: RequestId,
    /// At least one token.
    pub prompt_token_ids: Vec<u32>,
    /// Most output tokens, at least 1. The model length may end the sequence before.
    pub max_tokens: usize,
    /// Output tokens before which repetition is not looked for. EOS and stop tokens are kept out
    /// of that part by whoever samples.
    pub min_tokens: usize,
    /// Token that ends the sequence; `None` to ignore it.
    pub eos_token_id: Option<u32>,
    /// Further tokens that end it.
    pub stop_token_ids: Vec<u32>,
    /// When to end a sequence that repeats itself.
    pub repetition_detection: Option<RepetitionDetection>,
    /// Lower is served earlier, under [`Policy::Priority`].
    pub priority: i64,
    /// Only requests with the same salt share cached blocks.
    pub cache_salt: Option<String>,
    /// Name of the adapter; only requests with the same one share cached blocks.
    pub lora: Option<String>,
    /// Compute the whole prompt even if it is cached; it is cached for others all the same.
    pub skip_reading_prefix_cache: bool,
}

impl NewRequest {
    /// A request that only `max_tokens` or the model length ends.
    pub fn new(id: RequestId, prompt_token_ids: Vec<u32>, max_tokens: usize) -> Self {
        Self {
            id,
            prompt_token_ids,
            max_tokens,
            min_tokens: 0,
            eos_token_id: None,
            stop_token_ids: Vec::new(),
            repetition_detection: None,
            priority: 0,
            cache_salt: None,
            lora: None,
            skip_reading_prefix_cache: false,
        }
    }

    /// Refuses what could not run or would never end.
    pub(crate) fn validate(&self, config: &SchedulerConfig, usable_blocks: usize) -> Result<()> {
        let &Self {
            max_tokens,
            min_tokens,
            ..
        } = self;
        if max_tokens == 0 {
            return Err(Error::MaxTokens);
        }
        if min_tokens > max_tokens {
            return Err(Error::MinTokens {
                min_tokens,
                max_tokens,
            });
        }
        if let Some(detection) = &self.repetition_detection {
            detection.validate()?;
        }
        let prompt_len = self.prompt_token_ids.len();
        let max_model_len = config.max_model_len;
        if prompt_len == 0 {
            return Err(Error::EmptyPrompt);
        }
        if prompt_len > max_model_len {
            return Err(Error::PromptTooLong {
                prompt_len,
                max_model_len,
            });
        }
        if prompt_len == max_model_len {
            return Err(Error::NoRoomForOutput {
                prompt_len,
                max_model_len,
            });
        }
        let block_size = config.block_size;
        let max_output = max_tokens.min(max_model_len - prompt_len);
        let needed_blocks = (prompt_len + max_output - 1).div_ceil(block_size);
        if needed_blocks > usable_blocks {
            return Err(Error::NeverFits {
                prompt_len,
                max_output,
                needed_blocks,
                block_size,
                usable_blocks,
                usable_tokens: usable_blocks * block_size,
            });
        }
        Ok(())
    }
}

/// A request in the scheduler, waiting or running.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) id: RequestId,
    /// Prompt, then output.
    pub(crate) token_ids: Vec<u32>,
    pub(crate) num_prompt_tokens: usize,
    /// Tokens whose keys and values are in the cache, or will be after the step in flight.
    pub(crate) num_computed_tokens: usize,
    /// Tokens in the step in flight; 0 when not part of one.
    pub(crate) num_planned_tokens: usize,
    /// Prefix hit at the first admission; `None` before it.
    pub(crate) num_cached_tokens: Option<usize>,
    pub(crate) is_running: bool,
    /// Aborted while part of the step in flight: ends with it.
    pub(crate) abort_requested: bool,
    pub(crate) place: QueuePlace,
    pub(crate) stop_rules: StopRules,
    pub(crate) skip_reading_prefix_cache: bool,
    pub(crate) table: BlockTable,
    /// What the step in flight gave, while it is applied.
    pub(crate) sampled: Option<Sampled>,
    cache_salt: Option<String>,
    lora: Option<String>,
}

impl Request {
    pub(crate) fn new(request: NewRequest, arrival: u64, policy: Policy) -> Self {
        let priority = match policy {
            Policy::Fcfs => 0,
            Policy::Priority => request.priority,
        };
        Self {
            id: request.id,
            num_prompt_tokens: request.prompt_token_ids.len(),
            token_ids: request.prompt_token_ids,
            num_computed_tokens: 0,
            num_planned_tokens: 0,
            num_cached_tokens: None,
            is_running: false,
            abort_requested: false,
            place: QueuePlace { priority, arrival },
            stop_rules: StopRules {
                max_tokens: request.max_tokens,
                min_tokens: request.min_tokens,
                eos_token_id: request.eos_token_id,
                stop_token_ids: request.stop_token_ids,
                repetition_detection: request.repetition_detection,
            },
            skip_reading_prefix_cache: request.skip_reading_prefix_cache,
            table: BlockTable::default(),
            sampled: None,
            cache_salt: request.cache_salt,
            lora: request.lora,
        }
    }

    /// Tokens that are there but not computed.
    pub(crate) fn gap(&self) -> usize {
        self.token_ids.len() - self.num_computed_tokens
    }

    pub(crate) fn output_token_ids(&self) -> &[u32] {
        &self.token_ids[self.num_prompt_tokens..]
    }

    /// The parts of the request that block hashes and block tables are made of.
    pub(crate) fn split_for_hashing(&mut self) -> (&mut BlockTable, &[u32], ExtraKeys<'_>) {
        let extra_keys = ExtraKeys {
            lora: self.lora.as_deref(),
            cache_salt: self.cache_salt.as_deref(),
        };
        (&mut self.table, &self.token_ids, extra_keys)
    }
}
