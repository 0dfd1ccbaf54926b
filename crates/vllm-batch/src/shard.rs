//! One part of a data set that several processes share.

use std::ops::Range;
use std::str::FromStr;

/// Shard `number` of `count`, counted from 1. Shards are contiguous, so that their outputs one
/// after the other are the output of the whole.
///
/// ```
/// let shard: vllm_batch::Shard = "2/3".parse().unwrap();
/// assert_eq!(shard.rows_of(10), 3..6);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    number: u64,
    count: u64,
}

impl Shard {
    /// The rows of this shard, of `total` rows.
    pub fn rows_of(self, total: u64) -> Range<u64> {
        let bound = |number: u64| {
            let bound = u128::from(total) * u128::from(number) / u128::from(self.count);
            // Never more than `total`, because `number` is at most `count`.
            u64::try_from(bound).unwrap_or(total)
        };
        bound(self.number - 1)..bound(self.number)
    }
}

impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.number, self.count)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text
            .split_once('/')
            .and_then(|(number, count)| Some((number.parse().ok()?, count.parse().ok()?)));
        match numbers {
            Some((number, count)) if (1..=count).contains(&number) => Ok(Self { number, count }),
            Some(_) => Err("shards are numbered from 1/N to N/N".to_owned()),
            None => Err("expected I/N, for example 1/8".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_cover_every_row_once_and_in_order() {
        for total in [0, 1, 5, 7, 100, u64::MAX] {
            for count in [1, 2, 3, 7, 8] {
                let mut next = 0;
                for number in 1..=count {
                    let rows = Shard { number, count }.rows_of(total);
                    assert_eq!(rows.start, next, "{number}/{count} of {total}");
                    assert!((rows.end - rows.start).abs_diff(total / count) <= 1);
                    next = rows.end;
                }
                assert_eq!(next, total);
            }
        }
    }

    #[test]
    fn others_are_refused() {
        let check = |text: &str, part: &str| {
            let message = text.parse::<Shard>().unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        };
        check("0/4", "from 1/N");
        check("5/4", "from 1/N");
        check("0/0", "from 1/N");
        check("4", "I/N");
        check("a/b", "I/N");
        check("-1/3", "I/N");
    }
}
