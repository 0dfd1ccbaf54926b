use super::{CHUNK, Tier};
use crate::Result;
use crate::cpu::pool;

/// Rows of activations in int8.
#[derive(Debug)]
pub(super) struct QuantizedRows {
    /// `[rows][columns, filled up with zeros to whole chunks]`.
    codes: Vec<i8>,
    /// `[rows][chunks]`.
    scales: Vec<f32>,
    /// Of the codes of each group, `[rows][groups]`.
    sums: Vec<i32>,
    /// The same times the scale.
    scaled_sums: Vec<f32>,
    chunks: usize,
    groups_of_chunk: usize,
}

/// One row, by its parts.
#[derive(Clone, Copy)]
pub(super) struct RowView<'a> {
    pub(super) codes: &'a [i8],
    pub(super) scales: &'a [f32],
    pub(super) sums: &'a [i32],
    pub(super) scaled_sums: &'a [f32],
}

struct RowMut<'a> {
    codes: &'a mut [i8],
    scales: &'a mut [f32],
    sums: &'a mut [i32],
    scaled_sums: &'a mut [f32],
}

/// What rounding a number costs, in multiplications.
const WORK_PER_NUMBER: usize = 8;

impl QuantizedRows {
    /// Rounds `x`, `[rows, columns]`, for weights with groups of `group_len`.
    pub(super) fn new(tier: Tier, x: &[f32], columns: usize, group_len: usize) -> Result<Self> {
        let (chunks, groups_of_chunk) = (columns.div_ceil(CHUNK), CHUNK / group_len);
        let num_rows = x.len() / columns;
        let mut rows = Self {
            codes: vec![0; num_rows * chunks * CHUNK],
            scales: vec![0.0; num_rows * chunks],
            sums: vec![0; num_rows * chunks * groups_of_chunk],
            scaled_sums: vec![0.0; num_rows * chunks * groups_of_chunk],
            chunks,
            groups_of_chunk,
        };
        let groups = chunks * groups_of_chunk;
        let parts = rows.codes.chunks_exact_mut(chunks * CHUNK);
        let parts = parts.zip(rows.scales.chunks_exact_mut(chunks));
        let parts = parts.zip(rows.sums.chunks_exact_mut(groups));
        let parts = parts.zip(rows.scaled_sums.chunks_exact_mut(groups));
        let parts = parts.map(|(((codes, scales), sums), scaled_sums)| RowMut {
            codes,
            scales,
            sums,
            scaled_sums,
        });
        // Each is locked once, by the only task that wants it.
        let parts: Vec<_> = x
            .chunks_exact(columns)
            .zip(parts)
            .map(std::sync::Mutex::new)
            .collect();
        pool::for_each(
            parts.len(),
            x.len().saturating_mul(WORK_PER_NUMBER),
            |task| {
                let mut part = parts[task]
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                let (x, row) = &mut *part;
                row.fill(tier, x, group_len);
            },
        )?;
        drop(parts);
        Ok(rows)
    }

    /// Row `index`.
    pub(super) fn row(&self, index: usize) -> RowView<'_> {
        let groups = self.chunks * self.groups_of_chunk;
        RowView {
            codes: &self.codes[index * self.chunks * CHUNK..][..self.chunks * CHUNK],
            scales: &self.scales[index * self.chunks..][..self.chunks],
            sums: &self.sums[index * groups..][..groups],
            scaled_sums: &self.scaled_sums[index * groups..][..groups],
        }
    }
}

impl RowMut<'_> {
    fn fill(&mut self, tier: Tier, x: &[f32], group_len: usize) {
        match tier {
            Tier::Plain => self.round(x),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the tier is only chosen where its instructions are.
            Tier::Vnni | Tier::Tiles => unsafe { self.round_wide(x) },
        }
        let groups = self.codes.chunks_exact(group_len);
        for (group, codes) in groups.enumerate() {
            let sum: i32 = codes.iter().map(|code| i32::from(*code)).sum();
            self.sums[group] = sum;
            self.scaled_sums[group] = self.scales[group * group_len / CHUNK] * sum as f32;
        }
    }

    /// The largest of each chunk becomes 127.
    #[inline(always)]
    fn round(&mut self, x: &[f32]) {
        let chunks = self.codes.chunks_exact_mut(CHUNK).zip(x.chunks(CHUNK));
        for ((codes, x), scale) in chunks.zip(self.scales.iter_mut()) {
            let largest = x.iter().fold(0f32, |largest, x| largest.max(x.abs()));
            *scale = largest / 127.0;
            let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
            for (code, x) in codes.iter_mut().zip(x) {
                *code = (x * inverse).round_ties_even() as i8;
            }
        }
    }

    /// The same, compiled for wide vectors.
    ///
    /// # Safety
    /// The processor has these instructions.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    unsafe fn round_wide(&mut self, x: &[f32]) {
        self.round(x);
    }
}
