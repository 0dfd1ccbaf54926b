//! Which rows are done, in memory that does not grow with the data set.

use std::collections::BTreeMap;

/// The rows that have a result: all below a mark, and some above it.
///
/// Rows are started nearly in order, so the ones above the mark are few, however long the data
/// set is. A checksum is kept of what the rows were, so that a data set that has changed since
/// is noticed when it is read again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DoneRows {
    first: u64,
    low: u64,
    checksum: u32,
    above: BTreeMap<u64, u32>,
}

impl DoneRows {
    /// Nothing is done yet of the rows from `first` on.
    pub fn starting_at(first: u64) -> Self {
        Self {
            first,
            low: first,
            ..Self::default()
        }
    }

    /// The first row of the job.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// All rows below this one are done, and this one is not.
    pub fn low(&self) -> u64 {
        self.low
    }

    /// How many rows are done.
    pub fn len(&self) -> u64 {
        self.low - self.first + self.above.len() as u64
    }

    /// Whether no row is done.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this row has a result.
    pub fn contains(&self, index: u64) -> bool {
        index < self.low || self.above.contains_key(&index)
    }

    /// Notes that the row with this index and checksum has a result. Says whether that is news.
    pub fn insert(&mut self, index: u64, checksum: u32) -> bool {
        if self.contains(index) {
            return false;
        }
        self.above.insert(index, checksum);
        while let Some(checksum) = self.above.remove(&self.low) {
            self.checksum = chain(self.checksum, checksum);
            self.low += 1;
        }
        true
    }
}

/// Compares rows that are read again with what they were when they were answered.
#[derive(Debug)]
pub(crate) struct Recheck {
    done: DoneRows,
    checksum: u32,
}

impl Recheck {
    pub(crate) fn new(done: DoneRows) -> Self {
        Self { done, checksum: 0 }
    }

    /// Whether the row, the next one in order, is to be skipped because it is done.
    ///
    /// # Errors
    /// The index of a row from which on this is another data set.
    pub(crate) fn skips(&mut self, index: u64, checksum: u32) -> Result<bool, u64> {
        let is_same = if index < self.done.low {
            self.checksum = chain(self.checksum, checksum);
            index + 1 < self.done.low || self.checksum == self.done.checksum
        } else {
            let answered = self.done.above.get(&index);
            answered.is_none_or(|answered| *answered == checksum)
        };
        match is_same {
            true => Ok(self.done.contains(index)),
            false => Err(index),
        }
    }
}

/// The checksum of rows in order, one row longer.
pub(crate) fn chain(before: u32, row: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(before);
    hasher.update(&row.to_le_bytes());
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(first: u64, rows: &[(u64, u32)]) -> DoneRows {
        let mut done = DoneRows::starting_at(first);
        for (index, checksum) in rows {
            assert!(done.insert(*index, *checksum));
            assert!(!done.insert(*index, *checksum), "row {index} twice");
        }
        done
    }

    #[test]
    fn the_mark_moves_over_whole_runs_of_rows() {
        let check = |first, rows: &[u64], low, above: &[u64]| {
            let rows: Vec<_> = rows.iter().map(|index| (*index, 0)).collect();
            let done = done(first, &rows);
            assert_eq!(done.low(), low, "{rows:?}");
            assert_eq!(done.len(), rows.len() as u64);
            assert!(done.above.keys().eq(above), "{rows:?}");
            assert!(!done.contains(low));
        };
        check(0, &[], 0, &[]);
        check(0, &[0, 1, 2], 3, &[]);
        check(0, &[2, 0], 1, &[2]);
        check(0, &[2, 1, 4, 0], 3, &[4]);
        check(7, &[8, 7], 9, &[]);
    }

    #[test]
    fn the_order_in_which_rows_finish_does_not_matter() {
        let forward = done(0, &[(0, 10), (1, 11), (2, 12)]);
        assert_eq!(forward, done(0, &[(2, 12), (0, 10), (1, 11)]));
        assert_ne!(forward, done(0, &[(0, 11), (1, 10), (2, 12)]));
    }

    #[test]
    fn a_changed_row_is_noticed() {
        let outcome = |checksums: [u32; 4]| {
            let mut recheck = Recheck::new(done(0, &[(0, 10), (1, 11), (3, 13)]));
            (0..)
                .zip(checksums)
                .map(|(index, checksum)| recheck.skips(index, checksum))
                .collect::<Result<Vec<_>, _>>()
        };
        assert_eq!(outcome([10, 11, 99, 13]), Ok(vec![true, true, false, true]));
        assert_eq!(outcome([10, 99, 12, 13]), Err(1));
        assert_eq!(outcome([99, 11, 12, 13]), Err(1));
        assert_eq!(outcome([10, 11, 12, 99]), Err(3));
    }
}
