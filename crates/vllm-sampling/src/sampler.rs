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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    const MASKED: f32 = f32::NEG_INFINITY;

    fn sampler(mut params: SamplingParams, vocab_size: usize) -> SequenceSampler {
        params.normalize_and_validate().expect("valid parameters");
        let context = SamplerContext {
            vocab_size,
            prompt_token_ids: &[0],
            stop_token_ids_for_min_tokens: &[1],
            fallback_seed: 3,
            ..SamplerContext::default()
        };
        SequenceSampler::new(&params, context)
    }

    fn sample(params: &SamplingParams, row: &[f32], mask: Option<&[u32]>) -> Result<SampledToken> {
        let mut scratch = SamplerScratch::default();
        sampler(params.clone(), row.len()).sample(&mut row.to_vec(), &[], mask, &mut scratch)
    }

    fn check_token(params: &SamplingParams, row: &[f32], mask: Option<&[u32]>, expected: u32) {
        assert_eq!(
            sample(params, row, mask).map(|token| token.token_id),
            Ok(expected),
            "{params:?}"
        );
    }

    #[test]
    fn greedy_takes_the_lowest_of_equal_maxima() {
        let greedy = SamplingParams::greedy();
        check_token(&greedy, &[1.0, 2.0, 2.0], None, 1);
        let mut long = vec![-1.0; 1000];
        (long[300], long[700]) = (5.0, 5.0);
        check_token(&greedy, &long, None, 300);
        check_token(&greedy, &[1.0, f32::INFINITY, 2.0, f32::INFINITY], None, 1);
    }

    #[test]
    fn features_act_in_order() {
        let greedy = SamplingParams::greedy();
        let row = [1.0, 9.0, 2.0, 3.0];
        check_token(&greedy, &row, Some(&[0b1101]), 3);
        check_token(
            &SamplingParams {
                min_tokens: 1,
                ..greedy.clone()
            },
            &row,
            None,
            3,
        );
        let allowed = SamplingParams {
            allowed_token_ids: Some(vec![0, 2]),
            ..greedy.clone()
        };
        check_token(&allowed, &row, None, 2);
        check_token(&allowed, &row, Some(&[0b1011]), 0);
        let biased = SamplingParams {
            logit_bias: vec![(0, 7.0)],
            ..greedy.clone()
        };
        check_token(&biased, &[1.0, 5.0], None, 0);
        // The penalty halves the biased 8 of the prompt's token.
        let penalized = SamplingParams {
            repetition_penalty: 2.0,
            ..biased
        };
        check_token(&penalized, &[1.0, 5.0], None, 1);
        // Masked columns beyond the vocabulary never win.
        let mut short = sampler(greedy, 2);
        let mut scratch = SamplerScratch::default();
        let token = short.sample(&mut [0.0, 1.0, 99.0], &[], None, &mut scratch);
        assert_eq!(token.map(|token| token.token_id), Ok(1));
    }

    #[test]
    fn logprobs_ignore_everything_but_the_grammar() {
        let params = SamplingParams {
            logprobs: Some(1),
            logit_bias: vec![(2, 50.0)],
            temperature: 0.0,
            ..SamplingParams::default()
        };
        let token = sample(&params, &[0.0, 5.0, 0.0, 0.0], Some(&[0b1101])).expect("a token");
        assert_eq!(token.token_id, 2);
        let entries = token.logprobs.expect("logprobs").entries;
        let got: Vec<(u32, u32)> = entries.iter().map(|e| (e.token_id, e.rank)).collect();
        assert_eq!(got, [(2, 3), (0, 1)]);
        // Three equal tokens are left by the grammar.
        assert!(
            entries
                .iter()
                .all(|entry| (entry.logprob + 3.0_f32.ln()).abs() < 1e-6)
        );
        let none = sample(&SamplingParams::default(), &[0.0, 1.0], None).expect("a token");
        assert_eq!(none.logprobs, None);
    }

    #[test]
    fn a_seed_repeats_itself_whatever_else_is_sampled() {
        let row: Vec<f32> = (0..500).map(|id| (id % 17) as f32 / 4.0).collect();
        let params = SamplingParams {
            seed: Some(7),
            top_p: 0.9,
            ..SamplingParams::default()
        };
        let mut scratch = SamplerScratch::default();
        let mut run = |noise: bool| -> Vec<u32> {
            let mut sampler_under_test = sampler(params.clone(), row.len());
            let mut other = sampler(SamplingParams::default(), 64);
            let mut tokens = Vec::new();
            for _ in 0..50 {
                if noise {
                    other
                        .sample(&mut [1.0; 64], &[], None, &mut scratch)
                        .expect("a token");
                }
                let output = tokens.clone();
                let token = sampler_under_test
                    .sample(&mut row.clone(), &output, None, &mut scratch)
                    .expect("a token");
                tokens.push(token.token_id);
            }
            tokens
        };
        let alone = run(false);
        assert_eq!(alone, run(true));
        assert!(alone.iter().any(|&token| token != alone[0]));
    }

    #[test]
    fn restricted_and_unrestricted_draws_agree_on_the_noise() {
        // A restriction that drops nothing that could win leaves the draw as it is.
        let row: Vec<f32> = (0..3000).map(|id| (id % 97) as f32 / 20.0).collect();
        for seed in 0..50 {
            let free = SamplingParams {
                seed: Some(seed),
                ..SamplingParams::default()
            };
            let expected = sample(&free, &row, None).expect("a token").token_id;
            let top_k = SamplingParams {
                top_k: 2999,
                ..free.clone()
            };
            check_token(&top_k, &row, None, expected);
            let min_p = SamplingParams {
                min_p: 1e-9,
                ..free
            };
            check_token(&min_p, &row, None, expected);
        }
    }

    #[test]
    fn infinite_logits_are_drawn_evenly() {
        let row = [0.0, f32::INFINITY, MASKED, f32::INFINITY];
        for params in [
            SamplingParams::default(),
            SamplingParams {
                top_p: 0.9,
                top_k: 3,
                min_p: 0.1,
                ..SamplingParams::default()
            },
        ] {
            let mut drawn = [0; 4];
            for seed in 0..200 {
                let params = SamplingParams {
                    seed: Some(seed),
                    ..params.clone()
                };
                drawn[sample(&params, &row, None).expect("a token").token_id as usize] += 1;
            }
            assert!(
                drawn[1] > 60 && drawn[3] > 60 && drawn[1] + drawn[3] == 200,
                "{drawn:?}"
            );
        }
        // Finite logits that the temperature makes infinite.
        let hot = SamplingParams {
            temperature: 0.01,
            ..SamplingParams::default()
        };
        check_token(&hot, &[0.0, 3e38], None, 1);
    }

    #[test]
    fn unusable_rows_fail_alone() {
        let variants = [
            SamplingParams::default(),
            SamplingParams::greedy(),
            SamplingParams {
                top_p: 0.5,
                logprobs: Some(2),
                ..SamplingParams::default()
            },
            SamplingParams {
                allowed_token_ids: Some(vec![0]),
                ..SamplingParams::default()
            },
        ];
        for params in variants {
            let check = |row: &[f32], mask: Option<&[u32]>, expected: Error| {
                assert_eq!(sample(&params, row, mask), Err(expected), "{params:?}");
            };
            check(&[0.0, f32::NAN], None, Error::NanLogits);
            check(&[0.0, f32::NAN], Some(&[0b01]), Error::NanLogits);
            check(&[MASKED; 4], None, Error::NoTokenAllowed);
            check(&[0.0; 4], Some(&[0]), Error::NoTokenAllowed);
            check(&[], None, Error::NoTokenAllowed);
        }
        let mut sampler = sampler(SamplingParams::default(), 2);
        let mut scratch = SamplerScratch::default();
        assert!(
            sampler
                .sample(&mut [f32::NAN, 0.0], &[], None, &mut scratch)
                .is_err()
        );
        assert!(
            sampler
                .sample(&mut [1.0, 0.0], &[], None, &mut scratch)
                .is_ok()
        );
    }
}
