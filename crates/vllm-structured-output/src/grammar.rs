//! [`Grammar`]: how far one text has come under its constraint.

use std::sync::Arc;

use llguidance::Matcher;

use crate::error::{Error, Result, message};

/// The state of one constrained sequence. A clone continues on its own from the same point.
#[derive(Clone)]
pub struct Grammar {
    matcher: Matcher,
    stop_ids: Arc<[u32]>,
    mask_words: usize,
    is_finished: bool,
}

impl Grammar {
    pub(crate) fn new(matcher: Matcher, stop_ids: Arc<[u32]>, vocab_size: usize) -> Self {
        Self {
            matcher,
            stop_ids,
            mask_words: vocab_size.div_ceil(32),
            is_finished: false,
        }
    }

    /// Replaces `mask` by the tokens that may come next: 32 ids per word, lowest bit first, 1 for
    /// allowed, with zeros behind the last id. Stop ids are allowed only where the constraint is
    /// complete; nothing else is once it cannot go on.
    ///
    /// # Errors
    /// [`Error::Mask`] if the constraint has become too complex to follow or the vocabulary cannot
    /// spell it.
    pub fn fill_mask(&mut self, mask: &mut Vec<u32>) -> Result<()> {
        mask.clear();
        if self.is_finished {
            mask.resize(self.mask_words, 0);
            for &id in self.stop_ids.iter() {
                if let Some(word) = mask.get_mut(id as usize / 32) {
                    *word |= 1 << (id % 32);
                }
            }
            return Ok(());
        }
        let allowed = self
            .matcher
            .compute_mask_or_eos()
            .map_err(|error| Error::Mask(message(error)))?;
        // The engine keeps room for more ids than there are.
        mask.extend(allowed.as_slice().iter().take(self.mask_words));
        Ok(())
    }

    /// Advances by a sampled token. Once finished, only stop ids are accepted.
    ///
    /// # Errors
    /// [`Error::Rejected`] if the constraint forbids the token, [`Error::Mask`] if it has become
    /// too complex to follow. Either ends the request.
    pub fn accept(&mut self, token_id: u32) -> Result<()> {
        let failed = |error| Error::Mask(message(error));
        if self.stop_ids.contains(&token_id) {
            let is_complete = self.is_finished || self.matcher.is_accepting().map_err(failed)?;
            self.is_finished = is_complete;
            return is_complete
                .then_some(())
                .ok_or(Error::Rejected { token_id });
        }
        if self.is_finished {
            return Err(Error::Rejected { token_id });
        }
        match self
            .matcher
            .try_consume_tokens(&[token_id])
            .map_err(failed)?
        {
            1 => Ok(()),
            _ => Err(Error::Rejected { token_id }),
        }
    }

    /// Whether a stop id has ended the text.
    pub fn is_finished(&self) -> bool {
        self.is_finished
    }
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Grammar")
            .field("is_finished", &self.is_finished)
            .finish_non_exhaustive()
    }
}
