//! [`BeamSearch`]: the bookkeeping of a beam search; the caller runs the model.

use std::cmp::Ordering;

use crate::{Error, Result, TokenLogprob, TokenLogprobs};

/// How a beam search runs.
#[derive(Clone, Debug, PartialEq)]
pub struct BeamSearchParams {
    /// Sequences kept from round to round, and returned.
    pub beam_width: usize,
    /// Most rounds, that is, generated tokens.
    pub max_tokens: usize,
    /// Treats the end-of-sequence token as any other.
    pub ignore_eos: bool,
    /// Temperature of the one-token requests; 0 asks for nothing but logprobs.
    pub temperature: f64,
    /// Above 1 favours long sequences, below 1 short ones.
    pub length_penalty: f64,
    /// See [`SamplingParams::include_stop_str_in_output`](crate::SamplingParams).
    pub include_stop_str_in_output: bool,
    /// See [`SamplingParams::skip_special_tokens`](crate::SamplingParams).
    pub skip_special_tokens: bool,
}

impl BeamSearchParams {
    /// vLLM's defaults for the given width and length.
    pub fn new(beam_width: usize, max_tokens: usize) -> Self {
        Self {
            beam_width,
            max_tokens,
            ignore_eos: false,
            temperature: 0.0,
            length_penalty: 1.0,
            include_stop_str_in_output: false,
            skip_special_tokens: true,
        }
    }

    /// The `logprobs` of the one-token requests: twice the width, so that as many candidates as
    /// beams go on even if each beam ends in one.
    pub fn logprobs_per_round(&self) -> usize {
        2 * self.beam_width
    }
}

/// One sequence of a beam search.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Beam {
    /// Prompt and generated tokens.
    pub token_ids: Vec<u32>,
    /// Sum of the logprobs of the generated tokens.
    pub cumulative_logprob: f64,
    /// The candidates each generated token was chosen from.
    pub logprobs: Vec<TokenLogprobs>,
    /// Whether the sequence ended with the end-of-sequence token; otherwise in its length.
    pub stopped: bool,
}

/// A beam search in progress.
///
/// ```
/// use vllm_sampling::{BeamSearch, BeamSearchParams, TokenLogprob, TokenLogprobs};
/// let mut search = BeamSearch::new(BeamSearchParams::new(2, 1), &[1, 2], Some(0));
/// while !search.is_finished() {
///     // The caller generates one token for each of `search.live()` and reports the candidates.
///     let entries = vec![
///         TokenLogprob { token_id: 7, logprob: -0.5, rank: 1 },
///         TokenLogprob { token_id: 8, logprob: -1.5, rank: 2 },
///     ];
///     let candidates = vec![TokenLogprobs { entries }; search.live().len()];
///     search.advance(&candidates)?;
/// }
/// assert_eq!(search.into_best()[0].token_ids, [1, 2, 7]);
/// # Ok::<(), vllm_sampling::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct BeamSearch {
    params: BeamSearchParams,
    eos_token_id: Option<u32>,
    num_rounds: usize,
    live: Vec<Beam>,
    completed: Vec<Beam>,
}

impl BeamSearch {
    /// A search that starts with the prompt as its only beam.
    pub fn new(
        params: BeamSearchParams,
        prompt_token_ids: &[u32],
        eos_token_id: Option<u32>,
    ) -> Self {
        let first = Beam {
            token_ids: prompt_token_ids.to_vec(),
            ..Beam::default()
        };
        Self {
            params,
            eos_token_id,
            num_rounds: 0,
            live: vec![first],
            completed: Vec::new(),
        }
    }

    /// The sequences to generate one token for.
    pub fn live(&self) -> &[Beam] {
        &self.live
    }

    /// Whether there is nothing left to do.
    pub fn is_finished(&self) -> bool {
        self.num_rounds >= self.params.max_tokens || self.live.is_empty()
    }

    /// Ends a round: extends every live beam by each of its candidates, sets those that end aside
    /// and keeps the best of the others. `candidates` are in the order of [`live`](Self::live).
    ///
    /// # Errors
    /// [`Error::BeamCandidates`] if their numbers differ.
    pub fn advance(&mut self, candidates: &[TokenLogprobs]) -> Result<()> {
        if candidates.len() != self.live.len() {
            let (expected, got) = (self.live.len(), candidates.len());
            return Err(Error::BeamCandidates { expected, got });
        }
        // Sequences are copied only for the winners, scores for all.
        let mut extensions = Vec::new();
        for (parent, (beam, logprobs)) in self.live.iter().zip(candidates).enumerate() {
            for entry in &logprobs.entries {
                if self.is_end(entry.token_id) {
                    let completed = extend(beam, logprobs, entry, true);
                    self.completed.push(completed);
                } else {
                    let cumulative = beam.cumulative_logprob + f64::from(entry.logprob);
                    let length = beam.token_ids.len() + 1;
                    let score = self.score(cumulative, length, entry.token_id);
                    extensions.push((score, parent, entry));
                }
            }
        }
        extensions.sort_by(|a, b| b.0.total_cmp(&a.0));
        extensions.truncate(self.params.beam_width);
        self.live = extensions
            .into_iter()
            .map(|(_, parent, entry)| extend(&self.live[parent], &candidates[parent], entry, false))
            .collect();
        self.num_rounds += 1;
        Ok(())
    }

    /// The best sequences, best first, at most `beam_width`. Live beams take part as they are.
    pub fn into_best(mut self) -> Vec<Beam> {
        let mut beams = std::mem::take(&mut self.completed);
        beams.append(&mut self.live);
        let by_score =
            |a: &Beam, b: &Beam| -> Ordering { self.beam_score(b).total_cmp(&self.beam_score(a)) };
        beams.sort_by(by_score);
        beams.truncate(self.params.beam_width);
        beams
    }

    fn is_end(&self, token_id: u32) -> bool {
        !self.params.ignore_eos && self.eos_token_id == Some(token_id)
    }

    fn beam_score(&self, beam: &Beam) -> f64 {
        match beam.token_ids.last() {
            Some(&last) => self.score(beam.cumulative_logprob, beam.token_ids.len(), last),
            None => beam.cumulative_logprob,
        }
    }

    /// Logprob over length to the power of the penalty. The length counts the prompt, but not an
    /// end-of-sequence token at the end.
    fn score(&self, cumulative_logprob: f64, length: usize, last_token_id: u32) -> f64 {
        let ends = self.eos_token_id == Some(last_token_id);
        let length = (length - usize::from(ends)).max(1);
        cumulative_logprob / (length as f64).powf(self.params.length_penalty)
    }
}

fn extend(beam: &Beam, logprobs: &TokenLogprobs, entry: &TokenLogprob, stopped: bool) -> Beam {
    let mut extended = beam.clone();
    extended.token_ids.push(entry.token_id);
    extended.cumulative_logprob += f64::from(entry.logprob);
    extended.logprobs.push(logprobs.clone());
    extended.stopped = stopped;
    extended
}

#[cfg(test)]
mod tests {
    use super::*;

    const EOS: u32 = 0;

    fn candidates(entries: &[(u32, f32)]) -> TokenLogprobs {
        let entries = entries
            .iter()
            .zip(1..)
            .map(|(&(token_id, logprob), rank)| TokenLogprob {
                token_id,
                logprob,
                rank,
            })
            .collect();
        TokenLogprobs { entries }
    }

    fn tokens(beams: &[Beam]) -> Vec<&[u32]> {
        beams.iter().map(|beam| beam.token_ids.as_slice()).collect()
    }

    #[test]
    fn a_better_second_step_overtakes_the_greedy_path() -> Result<()> {
        let mut search = BeamSearch::new(BeamSearchParams::new(2, 2), &[9], Some(EOS));
        assert_eq!(tokens(search.live()), [[9]]);
        search.advance(&[candidates(&[(1, -0.5), (2, -0.9), (3, -4.0)])])?;
        assert_eq!(tokens(search.live()), [[9, 1], [9, 2]]);
        assert!(!search.is_finished());
        search.advance(&[
            candidates(&[(4, -2.0), (5, -2.1)]),
            candidates(&[(6, -0.1)]),
        ])?;
        assert!(search.is_finished());
        let best = search.into_best();
        assert_eq!(tokens(&best), [[9, 2, 6], [9, 1, 4]]);
        assert!((best[0].cumulative_logprob - -1.0).abs() < 1e-6);
        assert_eq!(best[0].logprobs.len(), 2);
        assert!(!best[0].stopped);
        Ok(())
    }

    #[test]
    fn ended_beams_leave_the_search_and_their_eos_does_not_count() -> Result<()> {
        let params = BeamSearchParams::new(1, 5);
        let mut search = BeamSearch::new(params.clone(), &[9], Some(EOS));
        search.advance(&[candidates(&[(EOS, -1.0), (1, -1.5)])])?;
        assert_eq!(tokens(search.live()), [[9, 1]]);
        // The ended beam scores -1/1, the live one -1.5/2.
        assert_eq!(tokens(&search.clone().into_best()), [[9, 1]]);
        search.advance(&[candidates(&[(EOS, -1.0)])])?;
        assert!(search.is_finished());
        let best = search.into_best();
        assert_eq!(tokens(&best), [[9, EOS]]);
        assert!(best[0].stopped);

        let ignoring = BeamSearchParams {
            ignore_eos: true,
            ..params
        };
        let mut search = BeamSearch::new(ignoring, &[9], Some(EOS));
        search.advance(&[candidates(&[(EOS, -1.0), (1, -3.0)])])?;
        assert_eq!(tokens(search.live()), [[9, EOS]]);
        Ok(())
    }

    #[test]
    fn length_penalty_decides_between_short_and_long() -> Result<()> {
        for (length_penalty, expected) in [(0.0, vec![9, EOS]), (2.0, vec![9, 1, 2, EOS])] {
            let params = BeamSearchParams {
                length_penalty,
                ..BeamSearchParams::new(1, 5)
            };
            let mut search = BeamSearch::new(params, &[9], Some(EOS));
            search.advance(&[candidates(&[(EOS, -1.0), (1, -0.5)])])?;
            search.advance(&[candidates(&[(2, -0.5)])])?;
            search.advance(&[candidates(&[(EOS, -0.5)])])?;
            assert_eq!(
                search.into_best()[0].token_ids,
                expected,
                "penalty {length_penalty}"
            );
        }
        Ok(())
    }

    #[test]
    fn equal_scores_keep_their_order() -> Result<()> {
        let mut search = BeamSearch::new(BeamSearchParams::new(2, 5), &[9], None);
        search.advance(&[candidates(&[(3, -1.0), (1, -1.0), (2, -1.0)])])?;
        assert_eq!(tokens(search.live()), [[9, 3], [9, 1]]);
        assert_eq!(
            search.advance(&[]),
            Err(Error::BeamCandidates {
                expected: 2,
                got: 0
            })
        );
        Ok(())
    }
}
