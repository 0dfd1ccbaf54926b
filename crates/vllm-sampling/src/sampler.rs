//! [`SequenceSampler`]: from a row of logits to a token.

use crate::draw::{RowSeeds, draw_candidate, draw_from_row};
use crate::logprobs::{Rivals, report};
use crate::processors::{Processors, apply_grammar_mask};
use crate::scan::RowScan;
use crate::select::{Candidate, Restriction};
use crate::{Result, SampledToken, SamplingParams};

/// Chooses the tokens of one sequence. Features that are off cost nothing.
pub struct SequenceSampler {
    vocab_size: usize,
    processors: Option<Box<Processors>>,
    rivals: Option<Rivals>,
    /// `None` for greedy decoding.
    draw: Option<Draw>,
}

struct Draw {
    restriction: Restriction,
    seeds: RowSeeds,
}

/// What a sampler needs to know of its sequence besides the parameters.
#[derive(Clone, Debug, Default)]
pub struct SamplerContext<'a> {
    /// Number of token ids; further columns of a row are ignored.
    pub vocab_size: usize,
    /// The prompt, for the repetition penalty.
    pub prompt_token_ids: &'a [u32],
    /// Every id that would stop the sequence, end-of-sequence ids included even where they are
    /// ignored: all are masked until `min_tokens`.
    pub stop_token_ids_for_min_tokens: &'a [u32],
    /// `bad_words` as token ids, see [`bad_word_token_ids`](crate::bad_word_token_ids).
    pub bad_words_token_ids: Vec<Vec<u32>>,
    /// Used when the request has no seed; different for each request.
    pub fallback_seed: u64,
    /// Which of the `n` sequences of the request; a seeded one uses `seed + sample_index`.
    pub sample_index: usize,
}

/// Work areas, reused from row to row. One serves any number of samplers.
#[derive(Default)]
pub struct SamplerScratch {
    pub(crate) scan: RowScan,
    candidates: Vec<Candidate>,
    bits_maxima: Vec<u64>,
    raw: Vec<f32>,
    raw_scan: RowScan,
}

impl SequenceSampler {
    /// A sampler for one sequence of a request with normalised `params`.
    pub fn new(params: &SamplingParams, context: SamplerContext<'_>) -> Self {
        let processors = Processors::new(
            params,
            context.prompt_token_ids,
            context.stop_token_ids_for_min_tokens,
            context.bad_words_token_ids,
        );
        let draw = (!params.is_greedy()).then(|| Draw {
            restriction: Restriction::new(params, context.vocab_size),
            seeds: RowSeeds::new(params.seed, context.fallback_seed, context.sample_index),
        });
        Self {
            vocab_size: context.vocab_size,
            processors: processors.map(Box::new),
            rivals: Rivals::of_sampled(params),
            draw,
        }
    }

    /// Chooses the next token.
    ///
    /// `logits` is the row of the last position; it is changed only by the features of the request
    /// that change logits. `output_token_ids` are the tokens generated so far. `allowed_mask`, from
    /// a grammar, holds 32 tokens per word, the lowest bit first, 1 for allowed.
    ///
    /// The order is vLLM's: grammar mask, raw logprobs, allowed ids, bad words, stop tokens before
    /// `min_tokens`, bias, penalties, greedy choice or else temperature, min-p, top-k, top-p, draw.
    /// An infinite logit beats every finite one; several share the probability.
    ///
    /// # Errors
    /// [`NanLogits`](crate::Error::NanLogits) and
    /// [`NoTokenAllowed`](crate::Error::NoTokenAllowed); both concern this row alone and leave
    /// the sampler usable.
    pub fn sample(
        &mut self,
        logits: &mut [f32],
        output_token_ids: &[u32],
        allowed_mask: Option<&[u32]>,
        scratch: &mut SamplerScratch,
    ) -> Result<SampledToken> {
        let width = logits.len().min(self.vocab_size);
        let row = &mut logits[..width];
        if let Some(mask) = allowed_mask {
            // Before the mask can hide a NaN.
            scratch.scan.scan(row)?;
            apply_grammar_mask(row, mask);
        }
        let processors = self.processors.as_mut();
        let active = processors.filter(|processors| processors.is_active(output_token_ids.len()));
        let is_changed = active.is_some();
        if let Some(processors) = active {
            scratch.raw_scan.scan(row)?;
            if self.rivals.is_some() {
                scratch.raw.clear();
                scratch.raw.extend_from_slice(row);
            }
            processors.apply(row, output_token_ids, allowed_mask.is_some());
        }
        scratch.scan.scan(row)?;

        let token_id = match &mut self.draw {
            None => scratch.scan.argmax(row),
            Some(draw) => draw.draw(row, scratch),
        };
        let logprobs = match &self.rivals {
            None => None,
            Some(rivals) if is_changed => Some(report(
                &scratch.raw,
                &mut scratch.raw_scan,
                token_id,
                rivals,
            )?),
            Some(rivals) => Some(report(row, &mut scratch.scan, token_id, rivals)?),
        };
        Ok(SampledToken { token_id, logprobs })
    }
}

impl Draw {
    fn draw(&mut self, row: &[f32], scratch: &mut SamplerScratch) -> u32 {
        let SamplerScratch {
            scan,
            candidates,
            bits_maxima,
            ..
        } = scratch;
        let row_seed = self.seeds.next();
        let temperature = self.restriction.temperature;
        if scan.max() / temperature == f32::INFINITY {
            candidates.clear();
            scan.for_each_at_least(row, 0.0, |id, logit| {
                if logit / temperature == f32::INFINITY {
                    candidates.push(Candidate {
                        value: 0.0,
                        weight: 1.0,
                        id,
                    });
                }
            });
            return draw_candidate(row_seed, candidates);
        }
        if self.restriction.is_off() {
            return draw_from_row(row_seed, row, scan, temperature, bits_maxima);
        }
        self.restriction.select(row, scan, candidates);
        draw_candidate(row_seed, candidates)
    }
}
