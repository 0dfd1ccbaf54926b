//! Changes to the logits before the draw, in vLLM's order: allowed ids, bad words, stop tokens
//! before `min_tokens`, bias, penalties.

use crate::SamplingParams;
use crate::penalties::Penalties;

const MASKED: f32 = f32::NEG_INFINITY;

/// The features of one sequence that change its logits.
pub(crate) struct Processors {
    allowed_token_ids: Option<Vec<u32>>,
    bad_words: Vec<Vec<u32>>,
    min_tokens: usize,
    stop_token_ids: Vec<u32>,
    logit_bias: Vec<(u32, f32)>,
    penalties: Option<Penalties>,
    /// Work area: logits that a mask may have to give back.
    saved: Vec<f32>,
}

impl Processors {
    /// `None` when no feature is on. `stop_token_ids` are those masked before `min_tokens`.
    pub(crate) fn new(
        params: &SamplingParams,
        prompt_token_ids: &[u32],
        stop_token_ids: &[u32],
        bad_words: Vec<Vec<u32>>,
    ) -> Option<Self> {
        let min_tokens = usize::try_from(params.min_tokens).unwrap_or(0);
        let penalties = Penalties::new(params, prompt_token_ids);
        let is_off = params.allowed_token_ids.is_none()
            && bad_words.is_empty()
            && min_tokens == 0
            && params.logit_bias.is_empty()
            && penalties.is_none();
        if is_off {
            return None;
        }
        let mut stop_token_ids = if min_tokens == 0 {
            Vec::new()
        } else {
            stop_token_ids.to_vec()
        };
        // Each id once: a mask that is taken back restores what it saved.
        stop_token_ids.sort_unstable();
        stop_token_ids.dedup();
        Some(Self {
            allowed_token_ids: params.allowed_token_ids.clone(),
            bad_words,
            min_tokens,
            stop_token_ids,
            logit_bias: params.logit_bias.clone(),
            penalties,
            saved: Vec::new(),
        })
    }

    /// Whether [`apply`](Self::apply) would change anything after `num_output_tokens` tokens.
    pub(crate) fn is_active(&self, num_output_tokens: usize) -> bool {
        self.allowed_token_ids.is_some()
            || !self.bad_words.is_empty()
            || num_output_tokens < self.min_tokens
            || !self.logit_bias.is_empty()
            || self.penalties.is_some()
    }

    /// Changes `row`. With `has_grammar`, stop tokens stay possible where the grammar leaves
    /// nothing else.
    pub(crate) fn apply(&mut self, row: &mut [f32], output_token_ids: &[u32], has_grammar: bool) {
        self.keep_allowed(row);
        self.mask_bad_words(row, output_token_ids);
        if output_token_ids.len() < self.min_tokens {
            self.mask_stop_tokens(row, has_grammar);
        }
        for &(id, bias) in &self.logit_bias {
            if let Some(logit) = row.get_mut(id as usize) {
                *logit += bias;
            }
        }
        if let Some(penalties) = &mut self.penalties {
            penalties.apply(row, output_token_ids);
        }
    }

    fn keep_allowed(&mut self, row: &mut [f32]) {
        let Some(allowed) = &self.allowed_token_ids else {
            return;
        };
        save(row, allowed, &mut self.saved);
        row.fill(MASKED);
        restore(row, allowed, &self.saved);
    }

    fn mask_bad_words(&self, row: &mut [f32], output_token_ids: &[u32]) {
        for word in &self.bad_words {
            let Some((&last, beginning)) = word.split_last() else {
                continue;
            };
            if output_token_ids.ends_with(beginning)
                && let Some(logit) = row.get_mut(last as usize)
            {
                *logit = MASKED;
            }
        }
    }

    fn mask_stop_tokens(&mut self, row: &mut [f32], has_grammar: bool) {
        save(row, &self.stop_token_ids, &mut self.saved);
        for &id in &self.stop_token_ids {
            if let Some(logit) = row.get_mut(id as usize) {
                *logit = MASKED;
            }
        }
        if has_grammar && row.iter().all(|&logit| logit == MASKED) {
            restore(row, &self.stop_token_ids, &self.saved);
        }
    }
}

fn save(row: &[f32], ids: &[u32], saved: &mut Vec<f32>) {
    saved.clear();
    saved.extend(
        ids.iter()
            .map(|&id| row.get(id as usize).copied().unwrap_or(MASKED)),
    );
}

fn restore(row: &mut [f32], ids: &[u32], saved: &[f32]) {
    for (&id, &value) in ids.iter().zip(saved) {
        if let Some(logit) = row.get_mut(id as usize) {
            *logit = value;
        }
    }
}

/// Masks the tokens whose bit in `mask` is 0: 32 tokens per word, the lowest bit first. Tokens
/// beyond the end of `mask` are masked.
pub(crate) fn apply_grammar_mask(row: &mut [f32], mask: &[u32]) {
    const BITS: usize = u32::BITS as usize;
    let covered = row.len().min(mask.len() * BITS);
    let (row, beyond) = row.split_at_mut(covered);
    beyond.fill(MASKED);
    for (logits, &word) in row.chunks_mut(BITS).zip(mask) {
        match word {
            0 => logits.fill(MASKED),
            u32::MAX => {}
            _ => {
                for (bit, logit) in logits.iter_mut().enumerate() {
                    *logit = if word >> bit & 1 == 1 { *logit } else { MASKED };
                }
            }
        }
    }
}

/// The token sequences that a request's `bad_words` forbid. `encode` turns text into token ids
/// without special tokens.
///
/// A word is taken at the beginning of a text and after a space. The second is left out where it
/// starts alike, or comes to another number of tokens. Check the result with
/// [`validate_bad_words`](crate::validate_bad_words).
///
/// # Errors
/// Whatever `encode` fails with.
pub fn bad_word_token_ids<E>(
    bad_words: &[String],
    mut encode: impl FnMut(&str) -> Result<Vec<u32>, E>,
) -> Result<Vec<Vec<u32>>, E> {
    let mut sequences = Vec::with_capacity(2 * bad_words.len());
    for word in bad_words {
        let word = word.trim_start();
        let bare = encode(word)?;
        let spaced = encode(&format!(" {word}"))?;
        let differs = spaced.first() != bare.first() && spaced.len() == bare.len();
        sequences.push(bare);
        if differs {
            sequences.push(spaced);
        }
    }
    Ok(sequences)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: [f32; 4] = [1.0, 2.0, 3.0, 4.0];

    fn check(params: SamplingParams, bad_words: &[&[u32]], output: &[u32], expected: [f32; 4]) {
        let bad_words = bad_words.iter().map(|word| word.to_vec()).collect();
        let mut row = ROW;
        if let Some(mut processors) = Processors::new(&params, &[], &[2, 3, 2, 77], bad_words)
            && processors.is_active(output.len())
        {
            processors.apply(&mut row, output, false);
        }
        assert_eq!(row, expected, "{params:?} after {output:?}");
    }

    #[test]
    fn each_feature_changes_its_logits() {
        let off = SamplingParams::default();
        check(off.clone(), &[], &[], ROW);
        let allowed = SamplingParams {
            allowed_token_ids: Some(vec![3, 1, 9]),
            ..off.clone()
        };
        check(allowed, &[], &[], [MASKED, 2.0, MASKED, 4.0]);
        let bias = SamplingParams {
            logit_bias: vec![(0, 1.5), (9, 1.0)],
            ..off.clone()
        };
        check(bias, &[], &[], [2.5, 2.0, 3.0, 4.0]);
        let min_tokens = SamplingParams {
            min_tokens: 2,
            ..off.clone()
        };
        check(min_tokens.clone(), &[], &[0], [1.0, 2.0, MASKED, MASKED]);
        check(min_tokens, &[], &[0, 0], ROW);
        check(
            off.clone(),
            &[&[1], &[9], &[]],
            &[],
            [1.0, MASKED, 3.0, 4.0],
        );
        check(
            off.clone(),
            &[&[2, 0, 1]],
            &[5, 2, 0],
            [1.0, MASKED, 3.0, 4.0],
        );
        check(off.clone(), &[&[2, 0, 1]], &[2, 0, 5], ROW);
        check(off, &[&[2, 0, 1]], &[0], ROW);
    }

    #[test]
    fn bias_comes_before_penalties_and_never_revives_a_masked_token() {
        let params = SamplingParams {
            logit_bias: vec![(0, -3.0), (3, 100.0)],
            repetition_penalty: 2.0,
            min_tokens: 9,
            ..SamplingParams::default()
        };
        check(params, &[], &[0], [-4.0, 2.0, MASKED, MASKED]);
    }

    #[test]
    fn a_grammar_that_only_allows_stopping_beats_min_tokens() {
        let params = SamplingParams {
            min_tokens: 9,
            ..SamplingParams::default()
        };
        let mut processors = Processors::new(&params, &[], &[2, 3, 2], Vec::new()).expect("on");
        let mut row = [MASKED, MASKED, 3.0, 4.0];
        processors.apply(&mut row, &[], true);
        assert_eq!(row, [MASKED, MASKED, 3.0, 4.0]);
        processors.apply(&mut row, &[], false);
        assert_eq!(row, [MASKED; 4]);
        let mut row = [0.5, MASKED, 3.0, 4.0];
        processors.apply(&mut row, &[], true);
        assert_eq!(row, [0.5, MASKED, MASKED, MASKED]);
    }

    #[test]
    fn grammar_masks_are_read_bit_by_bit() {
        let mut row = [0.0; 70];
        apply_grammar_mask(&mut row, &[0b101, u32::MAX]);
        for (id, &logit) in row.iter().enumerate() {
            let allowed = id == 0 || id == 2 || (32..64).contains(&id);
            assert_eq!(logit == 0.0, allowed, "id {id}");
        }
        let mut row = [0.0; 40];
        apply_grammar_mask(&mut row, &[0, 1 << 7, u32::MAX]);
        let allowed: Vec<usize> = (0..40).filter(|&id| row[id] == 0.0).collect();
        assert_eq!(allowed, [39]);
    }

    #[test]
    fn bad_words_are_encoded_with_and_without_a_space() {
        let encode = |text: &str| -> Result<Vec<u32>, ()> {
            match text {
                "ab" => Ok(vec![1, 2]),
                " ab" => Ok(vec![3, 2]),
                "c" => Ok(vec![4]),
                " c" => Ok(vec![9, 4]),
                "d" | " d" => Ok(vec![5]),
                "" => Ok(vec![]),
                " " => Ok(vec![]),
                _ => Err(()),
            }
        };
        let check = |words: &[&str], expected: Result<Vec<Vec<u32>>, ()>| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(bad_word_token_ids(&words, encode), expected);
        };
        check(
            &["ab", "c", "d"],
            Ok(vec![vec![1, 2], vec![3, 2], vec![4], vec![5]]),
        );
        check(&["  c"], Ok(vec![vec![4]]));
        check(&[" "], Ok(vec![vec![]]));
        check(&["zz"], Err(()));
    }
}
