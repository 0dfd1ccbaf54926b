//! Limits and policies of the scheduler.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Everything the scheduler is told at start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SchedulerConfig {
    /// Token budget of a step, prompt and decode tokens together.
    pub max_num_batched_tokens: usize,
    /// Sequences that run at once.
    pub max_num_seqs: usize,
    /// Longest sequence, prompt and output together.
    pub max_model_len: usize,
    /// Whether a prompt may be computed over several steps.
    pub enable_chunked_prefill: bool,
    /// Longest chunk of a prompt while other requests are there; 0 for no limit beside the budget.
    pub long_prefill_token_threshold: usize,
    /// Who is admitted first and preempted last.
    pub policy: Policy,
    /// KV-cache blocks, the reserved null block included.
    pub num_blocks: usize,
    /// Tokens per block.
    pub block_size: usize,
    /// Whether equal prefixes share blocks.
    pub enable_prefix_caching: bool,
    /// Share of the blocks, 0 to 1, that an admission must leave free while others are running.
    pub watermark: f64,
}

/// The order among requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// First come, first served; priorities are ignored.
    #[default]
    Fcfs,
    /// Lowest [`priority`](crate::NewRequest::priority) first, then first come, first served.
    Priority,
}

impl SchedulerConfig {
    /// Tests the values against each other; sizes of the cache are tested by the cache.
    ///
    /// # Errors
    /// Names the first value that is out of its range.
    pub fn validate(&self) -> Result<()> {
        let limits = [
            ("max_num_batched_tokens", self.max_num_batched_tokens),
            ("max_num_seqs", self.max_num_seqs),
            ("max_model_len", self.max_model_len),
        ];
        if let Some((name, _)) = limits.into_iter().find(|(_, limit)| *limit == 0) {
            return Err(Error::ZeroLimit(name));
        }
        let &Self {
            max_num_batched_tokens,
            max_num_seqs,
            max_model_len,
            ..
        } = self;
        if !self.enable_chunked_prefill && max_num_batched_tokens < max_model_len {
            return Err(Error::BatchBelowModelLen {
                max_num_batched_tokens,
                max_model_len,
            });
        }
        if max_num_batched_tokens < max_num_seqs {
            return Err(Error::BatchBelowSeqs {
                max_num_batched_tokens,
                max_num_seqs,
            });
        }
        let threshold = self.long_prefill_token_threshold;
        if threshold > max_model_len {
            return Err(Error::ThresholdAboveModelLen {
                threshold,
                max_model_len,
            });
        }
        if !(0.0..1.0).contains(&self.watermark) {
            return Err(Error::Watermark(self.watermark));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid() -> SchedulerConfig {
        SchedulerConfig {
            max_num_batched_tokens: 64,
            max_num_seqs: 8,
            max_model_len: 128,
            enable_chunked_prefill: true,
            long_prefill_token_threshold: 0,
            policy: Policy::Fcfs,
            num_blocks: 16,
            block_size: 16,
            enable_prefix_caching: true,
            watermark: 0.0,
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut SchedulerConfig), expected: Option<&str>) {
        let mut config = valid();
        change(&mut config);
        let message = config.validate().err().map(|error| error.to_string());
        assert_eq!(message.as_deref(), expected);
    }

    #[test]
    fn accepts_limits_at_their_ends() {
        check(|_| {}, None);
        check(|c| c.max_num_batched_tokens = 8, None);
        check(|c| c.long_prefill_token_threshold = 128, None);
        check(
            |c| {
                c.enable_chunked_prefill = false;
                c.max_num_batched_tokens = 128;
            },
            None,
        );
    }

    #[test]
    fn refuses_what_cannot_work() {
        check(
            |c| c.max_model_len = 0,
            Some("max_model_len must be at least 1, got 0."),
        );
        check(
            |c| c.max_num_seqs = 0,
            Some("max_num_seqs must be at least 1, got 0."),
        );
        check(
            |c| c.max_num_batched_tokens = 0,
            Some("max_num_batched_tokens must be at least 1, got 0."),
        );
        check(
            |c| c.max_num_batched_tokens = 7,
            Some("max_num_batched_tokens (7) must be greater than or equal to max_num_seqs (8)."),
        );
        check(
            |c| c.enable_chunked_prefill = false,
            Some(
                "max_num_batched_tokens (64) is smaller than max_model_len (128). This \
                 effectively limits the maximum sequence length to max_num_batched_tokens and \
                 makes vLLM reject longer sequences. Please increase max_num_batched_tokens or \
                 decrease max_model_len.",
            ),
        );
        check(
            |c| c.long_prefill_token_threshold = 129,
            Some(
                "long_prefill_token_threshold (129) cannot be greater than the max_model_len (128).",
            ),
        );
        check(
            |c| c.watermark = 1.0,
            Some("watermark must be in [0, 1), got 1."),
        );
        check(
            |c| c.watermark = f64::NAN,
            Some("watermark must be in [0, 1), got NaN."),
        );
    }
}
