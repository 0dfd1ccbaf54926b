//! Repetition, frequency and presence penalties.

use std::collections::HashMap;

use crate::SamplingParams;

/// The penalties of one sequence and the token counts they need.
pub(crate) struct Penalties {
    repetition: f32,
    frequency: f32,
    presence: f32,
    /// How often each token was generated; 0 for tokens of the prompt alone, which only the
    /// repetition penalty looks at.
    output_counts: HashMap<u32, u32>,
    /// How many generated tokens have been counted.
    num_counted: usize,
}

impl Penalties {
    /// `None` when no penalty is on.
    pub(crate) fn new(params: &SamplingParams, prompt_token_ids: &[u32]) -> Option<Self> {
        let repetition = params.repetition_penalty as f32;
        let frequency = params.frequency_penalty as f32;
        let presence = params.presence_penalty as f32;
        if repetition == 1.0 && frequency == 0.0 && presence == 0.0 {
            return None;
        }
        let mut output_counts = HashMap::new();
        if repetition != 1.0 {
            output_counts.extend(prompt_token_ids.iter().map(|&id| (id, 0)));
        }
        Some(Self {
            repetition,
            frequency,
            presence,
            output_counts,
            num_counted: 0,
        })
    }

    /// Counts the tokens that are new in `output_token_ids` and changes the logits in `row`.
    pub(crate) fn apply(&mut self, row: &mut [f32], output_token_ids: &[u32]) {
        for &id in output_token_ids.get(self.num_counted..).unwrap_or_default() {
            *self.output_counts.entry(id).or_default() += 1;
        }
        self.num_counted = output_token_ids.len();

        for (&id, &count) in &self.output_counts {
            let Some(logit) = row.get_mut(id as usize) else {
                continue;
            };
            *logit = if *logit > 0.0 {
                *logit / self.repetition
            } else {
                *logit * self.repetition
            };
            if count > 0 {
                *logit -= self.frequency * count as f32;
                *logit -= self.presence;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(params: SamplingParams, prompt: &[u32], output: &[u32], expected: &[f32]) {
        let mut row = [2.0, -2.0, 4.0, 1.0, 0.0];
        let mut penalties = Penalties::new(&params, prompt).expect("a penalty is on");
        penalties.apply(&mut row, output);
        assert_eq!(row, expected, "{params:?}");
        // Counting in steps comes to the same.
        let mut stepwise = Penalties::new(&params, prompt).expect("a penalty is on");
        for length in 0..output.len() {
            stepwise.apply(&mut [0.0; 5], &output[..length]);
        }
        let mut row = [2.0, -2.0, 4.0, 1.0, 0.0];
        stepwise.apply(&mut row, output);
        assert_eq!(row, expected, "stepwise {params:?}");
    }

    #[test]
    fn each_penalty_follows_its_formula() {
        let off = SamplingParams::default();
        assert!(Penalties::new(&off, &[1]).is_none());
        let repetition = SamplingParams {
            repetition_penalty: 2.0,
            ..off.clone()
        };
        // Prompt and output alike, once per token; ids outside of the row are ignored.
        check(
            repetition,
            &[0, 0, 9],
            &[1, 2, 2],
            &[1.0, -4.0, 2.0, 1.0, 0.0],
        );
        let frequency = SamplingParams {
            frequency_penalty: 0.5,
            ..off.clone()
        };
        check(frequency, &[0], &[1, 2, 2, 9], &[2.0, -2.5, 3.0, 1.0, 0.0]);
        let presence = SamplingParams {
            presence_penalty: 0.5,
            ..off.clone()
        };
        check(presence, &[0], &[1, 2, 2], &[2.0, -2.5, 3.5, 1.0, 0.0]);
        let all = SamplingParams {
            repetition_penalty: 2.0,
            frequency_penalty: 1.0,
            presence_penalty: -0.5,
            ..off
        };
        check(all, &[3], &[2, 2], &[2.0, -2.0, 0.5, 0.5, 0.0]);
    }
}
