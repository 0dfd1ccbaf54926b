//! When a sequence has ended.

use serde::{Deserialize, Serialize};

use crate::{Error, FinishCause, Result};

/// When an output counts as repeating itself: its end is `min_count` copies of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepetitionDetection {
    /// Longest pattern in tokens; 0 switches the detection off.
    pub max_pattern_size: usize,
    /// Shortest pattern in tokens; 0 means 1.
    pub min_pattern_size: usize,
    /// Copies, at least 2.
    pub min_count: usize,
}

impl RepetitionDetection {
    pub(crate) fn validate(&self) -> Result<()> {
        if self.min_pattern_size > self.max_pattern_size {
            return Err(Error::RepetitionSizes);
        }
        if self.max_pattern_size > 0 && self.min_count < 2 {
            return Err(Error::RepetitionCount);
        }
        Ok(())
    }

    /// Whether `output` ends in a repetition.
    fn is_found(&self, output: &[u32]) -> bool {
        let Some(longest) = output.len().checked_div(self.min_count) else {
            return false;
        };
        let sizes = self.min_pattern_size.max(1)..=self.max_pattern_size.min(longest);
        sizes.into_iter().any(|size| {
            // A run of copies is equal to itself moved by one copy.
            let tail = &output[output.len() - size * self.min_count..];
            tail[size..] == tail[..tail.len() - size]
        })
    }
}

/// What ends one sequence.
#[derive(Debug, Clone)]
pub(crate) struct StopRules {
    pub(crate) max_tokens: usize,
    pub(crate) min_tokens: usize,
    pub(crate) eos_token_id: Option<u32>,
    pub(crate) stop_token_ids: Vec<u32>,
    pub(crate) repetition_detection: Option<RepetitionDetection>,
}

impl StopRules {
    /// Looks at the sequence after its newest token: EOS, stop tokens, lengths, and, from
    /// `min_tokens` on, repetition; the first rule that applies gives the cause. In the order of
    /// vLLM's `check_stop`.
    pub(crate) fn check(
        &self,
        num_tokens: usize,
        output: &[u32],
        max_model_len: usize,
    ) -> Option<FinishCause> {
        let newest = *output.last()?;
        if self.eos_token_id == Some(newest) {
            return Some(FinishCause::Eos);
        }
        if self.stop_token_ids.contains(&newest) {
            return Some(FinishCause::StopToken(newest));
        }
        if num_tokens >= max_model_len || output.len() >= self.max_tokens {
            return Some(FinishCause::Length);
        }
        if output.len() < self.min_tokens {
            return None;
        }
        let repeats = self
            .repetition_detection
            .is_some_and(|detection| detection.is_found(output));
        repeats.then_some(FinishCause::Repetition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EOS: u32 = 99;

    fn rules() -> StopRules {
        StopRules {
            max_tokens: 8,
            min_tokens: 0,
            eos_token_id: Some(EOS),
            stop_token_ids: vec![7, EOS],
            repetition_detection: None,
        }
    }

    /// A prompt of ten tokens before the output, and a model length of 16.
    #[track_caller]
    fn check(rules: &StopRules, output: &[u32], expected: Option<FinishCause>) {
        assert_eq!(
            rules.check(10 + output.len(), output, 16),
            expected,
            "{output:?}"
        );
    }

    #[test]
    fn the_first_rule_in_order_wins() {
        let length_four = StopRules {
            max_tokens: 4,
            ..rules()
        };
        check(&length_four, &[1, 2, 3], None);
        check(&length_four, &[1, 2, 3, 4], Some(FinishCause::Length));
        check(&length_four, &[1, 2, 3, EOS], Some(FinishCause::Eos));
        check(&length_four, &[1, 2, 3, 7], Some(FinishCause::StopToken(7)));
        check(&rules(), &[1, 2, 3, 4, 5, 6], Some(FinishCause::Length));
        check(&rules(), &[1, 2, 3, 4, 5, EOS], Some(FinishCause::Eos));
    }

    #[test]
    fn an_ignored_eos_leaves_the_stop_tokens() {
        let ignoring = StopRules {
            eos_token_id: None,
            stop_token_ids: vec![7],
            ..rules()
        };
        check(&ignoring, &[EOS], None);
        check(&ignoring, &[7], Some(FinishCause::StopToken(7)));
    }

    #[test]
    fn min_tokens_holds_back_repetition_only() {
        let detection = RepetitionDetection {
            max_pattern_size: 2,
            min_pattern_size: 0,
            min_count: 2,
        };
        let rules = StopRules {
            min_tokens: 4,
            repetition_detection: Some(detection),
            ..rules()
        };
        check(&rules, &[EOS], Some(FinishCause::Eos));
        check(&rules, &[7], Some(FinishCause::StopToken(7)));
        check(&rules, &[5, 5, 5], None);
        check(&rules, &[5, 5, 5, 5], Some(FinishCause::Repetition));
    }

    #[track_caller]
    fn check_repetition(sizes: (usize, usize, usize), output: &[u32], expected: bool) {
        let (min_pattern_size, max_pattern_size, min_count) = sizes;
        let detection = RepetitionDetection {
            max_pattern_size,
            min_pattern_size,
            min_count,
        };
        assert!(detection.validate().is_ok());
        assert_eq!(
            detection.is_found(output),
            expected,
            "{detection:?} {output:?}"
        );
    }

    #[test]
    fn a_repetition_is_min_count_copies_at_the_end() {
        check_repetition((0, 3, 3), &[4, 4, 4], true);
        check_repetition((0, 3, 3), &[4, 4], false);
        check_repetition((0, 3, 3), &[4, 4, 4, 5], false);
        check_repetition((0, 3, 2), &[1, 2, 3, 1, 2, 3], true);
        check_repetition((0, 2, 2), &[1, 2, 3, 1, 2, 3], false);
        check_repetition((0, 3, 3), &[9, 1, 2, 1, 2, 1, 2], true);
        check_repetition((2, 3, 2), &[9, 8, 4, 4], false);
        check_repetition((2, 3, 2), &[4, 4, 4, 4], true);
        check_repetition((0, 0, 0), &[4, 4, 4, 4], false);
        check_repetition((0, usize::MAX, 2), &[4, 5, 6], false);
    }

    #[test]
    fn refuses_patterns_that_mean_nothing() {
        let refuse = |min_pattern_size, max_pattern_size, min_count| {
            let detection = RepetitionDetection {
                max_pattern_size,
                min_pattern_size,
                min_count,
            };
            detection
                .validate()
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default()
        };
        assert!(refuse(3, 2, 2).starts_with("max_pattern_size, min_pattern_size must be >=0"));
        assert!(refuse(1, 2, 1).starts_with("min_count must be >= 2"));
        assert_eq!(refuse(0, 0, 0), "");
    }

    proptest::proptest! {
        #[test]
        fn finds_the_repetitions_that_the_definition_finds(
            output in proptest::collection::vec(0..3_u32, 0..24),
            min_pattern_size in 0..4_usize,
            more_sizes in 0..4_usize,
            min_count in 2..5_usize,
        ) {
            let max_pattern_size = min_pattern_size + more_sizes;
            let mut sizes = min_pattern_size.max(1)..=max_pattern_size;
            let expected = sizes.any(|size| {
                let pattern = &output[output.len().saturating_sub(size)..];
                pattern.len() == size && output.ends_with(&pattern.repeat(min_count))
            });
            check_repetition((min_pattern_size, max_pattern_size, min_count), &output, expected);
        }
    }
}
