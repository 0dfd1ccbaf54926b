//! A row summarised by the maxima of its blocks: the first pass of every kind of sampling.

use crate::kernels::{self, BLOCK};
use crate::{Error, Result};

/// The maximum of a row and of each of its blocks.
#[derive(Default)]
pub(crate) struct RowScan {
    block_maxima: Vec<f32>,
    max: f32,
    /// Work area of [`Self::nth_block_maximum`].
    ordered: Vec<f32>,
}

impl RowScan {
    /// Summarises `row`.
    ///
    /// # Errors
    /// [`Error::NanLogits`] if there is a NaN, [`Error::NoTokenAllowed`] if all is `-inf`.
    pub(crate) fn scan(&mut self, row: &[f32]) -> Result<()> {
        self.block_maxima.resize(row.len().div_ceil(BLOCK), 0.0);
        if kernels::block_maxima(row, &mut self.block_maxima) {
            return Err(Error::NanLogits);
        }
        self.max = self
            .block_maxima
            .iter()
            .copied()
            .fold(f32::NEG_INFINITY, f32::max);
        if self.max == f32::NEG_INFINITY {
            return Err(Error::NoTokenAllowed);
        }
        Ok(())
    }

    /// The largest logit; never NaN or `-inf` after a successful scan.
    pub(crate) fn max(&self) -> f32 {
        self.max
    }

    /// The maximum of each block.
    pub(crate) fn block_maxima(&self) -> &[f32] {
        &self.block_maxima
    }

    /// The id of the largest logit; the lowest of equals.
    pub(crate) fn argmax(&self, row: &[f32]) -> u32 {
        let block = self
            .block_maxima
            .iter()
            .position(|&maximum| maximum == self.max)
            .unwrap_or(0);
        let first = block * BLOCK;
        let offset = row[first..]
            .iter()
            .position(|&x| x == self.max)
            .unwrap_or(0);
        (first + offset) as u32
    }

    /// A floor above which the row has at least `n` elements: the `n`-th largest block maximum, or
    /// `-inf` if there are fewer blocks.
    pub(crate) fn floor_of_largest(&mut self, n: usize) -> f32 {
        if n == 0 || n > self.block_maxima.len() {
            return f32::NEG_INFINITY;
        }
        self.ordered.clear();
        self.ordered.extend_from_slice(&self.block_maxima);
        let (_, floor, _) = self
            .ordered
            .select_nth_unstable_by(n - 1, |a, b| b.total_cmp(a));
        *floor
    }

    /// Calls `visit(id, logit)` for every logit that is at least `floor`, in the order of the ids.
    /// Blocks whose maximum is below are skipped.
    pub(crate) fn for_each_at_least(
        &self,
        row: &[f32],
        floor: f32,
        mut visit: impl FnMut(u32, f32),
    ) {
        for (block, (logits, &maximum)) in row.chunks(BLOCK).zip(&self.block_maxima).enumerate() {
            if maximum >= floor {
                for (offset, &logit) in logits.iter().enumerate() {
                    if logit >= floor {
                        visit((block * BLOCK + offset) as u32, logit);
                    }
                }
            }
        }
    }
}
