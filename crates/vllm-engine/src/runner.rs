//! Runs the model on a step's plan: flat inputs in, one row of logits per wanted position out.

use vllm_models::{Batch, BatchSequence, Model};
use vllm_scheduler::{RequestId, Scheduler, StepPlan};
use vllm_tensor::KvCache;

use crate::error::{Error, Result};

/// What a row of logits is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowPurpose {
    /// The next token of the sequence is drawn from it.
    Sample,
    /// It tells the log-probability of the prompt token at this index.
    PromptLogprob(usize),
}

/// One row of logits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogitRow {
    pub(crate) request_id: RequestId,
    pub(crate) purpose: RowPurpose,
}

/// The model, its cache, and the input buffers that every step reuses.
pub(crate) struct ModelRunner {
    model: Box<dyn Model>,
    kv_cache: KvCache,
    token_ids: Vec<u32>,
    positions: Vec<u32>,
    logit_indices: Vec<u32>,
    rows: Vec<LogitRow>,
    logits: Vec<f32>,
    vocab_size: usize,
}

impl ModelRunner {
    pub(crate) fn new(model: Box<dyn Model>, kv_cache: KvCache, vocab_size: usize) -> Self {
        Self {
            model,
            kv_cache,
            token_ids: Vec::new(),
            positions: Vec::new(),
            logit_indices: Vec::new(),
            rows: Vec::new(),
            logits: Vec::new(),
            vocab_size,
        }
    }

    /// Computes the step. `wants_prompt_logprobs` says for which sequences every prompt position
    /// needs a row of its own.
    pub(crate) fn run(
        &mut self,
        plan: &StepPlan,
        scheduler: &Scheduler,
        wants_prompt_logprobs: impl Fn(RequestId) -> bool,
    ) -> Result<()> {
        self.token_ids.clear();
        self.positions.clear();
        self.logit_indices.clear();
        self.rows.clear();
        let mut sequences = Vec::with_capacity(plan.sequences.len());
        for planned in &plan.sequences {
            let id = planned.request_id;
            let query_start = self.token_ids.len();
            let range = planned.start..planned.start + planned.num_tokens;
            self.token_ids
                .extend_from_slice(&scheduler.token_ids(id)[range.clone()]);
            self.positions
                .extend(range.clone().map(|position| position as u32));
            sequences.push(BatchSequence {
                query_start,
                query_len: planned.num_tokens,
                context_len: planned.start,
                block_table: scheduler.block_table(id),
            });
            if wants_prompt_logprobs(id) {
                // The row at a position predicts the token after it.
                let last = scheduler.num_prompt_tokens(id) - 1;
                for position in range.clone().take_while(|position| *position < last) {
                    let index = query_start + position - planned.start;
                    self.push_row(index, id, RowPurpose::PromptLogprob(position + 1));
                }
            }
            if planned.samples {
                self.push_row(query_start + planned.num_tokens - 1, id, RowPurpose::Sample);
            }
        }
        let batch = Batch {
            token_ids: &self.token_ids,
            positions: &self.positions,
            sequences: &sequences,
            logit_rows: &self.logit_indices,
        };
        let logits = self
            .model
            .forward(&batch, &mut self.kv_cache)
            .map_err(|error| Error::Failed(error.to_string()))?;
        self.logits = logits
            .flatten_all()
            .and_then(|flat| flat.to_vec1())
            .map_err(|error| Error::Failed(error.to_string()))?;
        debug_assert_eq!(self.logits.len(), self.rows.len() * self.vocab_size);
        Ok(())
    }

    fn push_row(&mut self, index: usize, request_id: RequestId, purpose: RowPurpose) {
        self.logit_indices.push(index as u32);
        self.rows.push(LogitRow {
            request_id,
            purpose,
        });
    }

    /// The rows of the latest step, in batch order, each `[vocab_size]`.
    pub(crate) fn rows_mut(&mut self) -> impl Iterator<Item = (LogitRow, &mut [f32])> {
        self.rows
            .iter()
            .copied()
            .zip(self.logits.chunks_exact_mut(self.vocab_size.max(1)))
    }
}
