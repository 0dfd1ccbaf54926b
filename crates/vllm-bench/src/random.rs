//! Prompts of random tokens, in place of a data set.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use vllm_tokenizer::Tokenizer;

use crate::error::{Error, Result};
use crate::workload::SampleRequest;

/// Prompts of ordinary tokens drawn at random, so that no two share a prefix but the one asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct RandomWorkload {
    /// How many prompts.
    pub num_prompts: usize,
    /// Tokens of a prompt behind the shared prefix.
    pub input_len: usize,
    /// Tokens to generate.
    pub output_len: usize,
    /// Lengths are drawn evenly from `len * (1 - ratio)` to `len * (1 + ratio)`; below 1.
    pub range_ratio: f64,
    /// Tokens with which every prompt begins.
    pub prefix_len: usize,
    /// The same seed draws the same workload.
    pub seed: u64,
}

impl RandomWorkload {
    /// Draws the requests. Special tokens, and ids that the model's `vocab_size` does not reach,
    /// stay out.
    ///
    /// # Errors
    /// Lengths of 0, a ratio outside `0..1`, or a vocabulary without ordinary tokens.
    pub fn draw(&self, tokenizer: &Tokenizer, vocab_size: usize) -> Result<Vec<SampleRequest>> {
        if self.input_len + self.prefix_len == 0 || self.output_len == 0 {
            let message = "prompts and outputs must have at least one token";
            return Err(Error::Workload(message.to_owned()));
        }
        if !(0.0..1.0).contains(&self.range_ratio) {
            let ratio = self.range_ratio;
            let message = format!("the range ratio must be at least 0 and below 1, not {ratio}");
            return Err(Error::Workload(message));
        }
        let tokens = Tokens::of(tokenizer, vocab_size)?;
        let mut rng = StdRng::seed_from_u64(self.seed);
        let prefix = tokens.draw(self.prefix_len, &mut rng);
        let request = |_| {
            let mut prompt_token_ids = prefix.clone();
            let input_len = self.length(self.input_len, &mut rng);
            let output_len = self.length(self.output_len, &mut rng);
            prompt_token_ids.extend(tokens.draw(input_len, &mut rng));
            SampleRequest {
                prompt_token_ids,
                output_len,
            }
        };
        Ok((0..self.num_prompts).map(request).collect())
    }

    fn length(&self, around: usize, rng: &mut StdRng) -> usize {
        let spread = around as f64 * self.range_ratio;
        let least = ((around as f64 - spread).floor() as usize).max(usize::from(around > 0));
        let most = ((around as f64 + spread).ceil() as usize).max(least);
        rng.random_range(least..=most)
    }
}

/// The ordinary tokens of a vocabulary.
pub(crate) struct Tokens(Vec<u32>);

impl Tokens {
    pub(crate) fn of(tokenizer: &Tokenizer, vocab_size: usize) -> Result<Self> {
        let end = u32::try_from(vocab_size).unwrap_or(u32::MAX);
        let ids = 0..end.min(tokenizer.max_token_id().saturating_add(1));
        let ordinary =
            |id: &u32| tokenizer.id_to_token(*id).is_some() && !tokenizer.is_special(*id);
        let ids: Vec<u32> = ids.filter(ordinary).collect();
        match ids.is_empty() {
            true => Err(Error::Workload(
                "the vocabulary has no ordinary tokens to make prompts of".to_owned(),
            )),
            false => Ok(Self(ids)),
        }
    }

    pub(crate) fn draw(&self, count: usize, rng: &mut StdRng) -> Vec<u32> {
        let Self(ids) = self;
        (0..count)
            .map(|_| ids[rng.random_range(0..ids.len())])
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use vllm_engine::EngineClient;
    use vllm_engine::mock::MockEngine;

    use super::*;

    const WORKLOAD: RandomWorkload = RandomWorkload {
        num_prompts: 50,
        input_len: 20,
        output_len: 8,
        range_ratio: 0.0,
        prefix_len: 0,
        seed: 3,
    };

    fn draw(workload: &RandomWorkload) -> Result<Vec<SampleRequest>> {
        let engine = MockEngine::new("text").unwrap();
        workload.draw(engine.tokenizer(), engine.info().vocab_size)
    }

    #[test]
    fn lengths_are_as_asked_for() {
        let requests = draw(&WORKLOAD).unwrap();
        assert_eq!(requests.len(), 50);
        assert!(requests.iter().all(|r| r.prompt_token_ids.len() == 20));
        assert!(requests.iter().all(|r| r.output_len == 8));
        let around = RandomWorkload {
            range_ratio: 0.5,
            prefix_len: 4,
            ..WORKLOAD
        };
        let requests = draw(&around).unwrap();
        let lengths: std::collections::BTreeSet<usize> =
            requests.iter().map(|r| r.prompt_token_ids.len()).collect();
        assert!(lengths.len() > 5 && lengths.iter().all(|len| (14..=34).contains(len)));
        let prefix = &requests[0].prompt_token_ids[..4];
        assert!(
            requests
                .iter()
                .all(|r| r.prompt_token_ids.starts_with(prefix))
        );
        assert_ne!(requests[0], requests[1]);
    }

    #[test]
    fn a_seed_draws_one_workload_of_ordinary_tokens() {
        let requests = draw(&WORKLOAD).unwrap();
        assert_eq!(requests, draw(&WORKLOAD).unwrap());
        assert_ne!(
            requests,
            draw(&RandomWorkload {
                seed: 4,
                ..WORKLOAD
            })
            .unwrap()
        );
        let engine = MockEngine::new("text").unwrap();
        let ids = requests.iter().flat_map(|r| &r.prompt_token_ids);
        assert!(
            ids.into_iter()
                .all(|id| !engine.tokenizer().is_special(*id))
        );
    }

    #[test]
    fn workloads_that_make_no_sense_are_refused() {
        for (workload, part) in [
            (
                RandomWorkload {
                    input_len: 0,
                    ..WORKLOAD
                },
                "at least one token",
            ),
            (
                RandomWorkload {
                    output_len: 0,
                    ..WORKLOAD
                },
                "at least one token",
            ),
            (
                RandomWorkload {
                    range_ratio: 1.0,
                    ..WORKLOAD
                },
                "below 1, not 1",
            ),
            (
                RandomWorkload {
                    range_ratio: f64::NAN,
                    ..WORKLOAD
                },
                "not NaN",
            ),
        ] {
            let message = draw(&workload).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }
}
