//! Random numbers that depend on nothing but the job's seed and the row.

/// A seed for one row. Rows that follow each other get seeds far apart, because sample `i` of a
/// row draws with its seed plus `i`.
pub(crate) fn row_seed(seed: i64, index: u64) -> i64 {
    let mixed = mix(mix(seed.cast_unsigned()).wrapping_add(index));
    // Small enough to add sample numbers to, and never -1, which stands for no seed.
    (mixed >> 2).cast_signed()
}

/// SplitMix64's step (Steele, Lea and Flood, 2014).
pub(crate) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_and_every_seed_draws_differently() {
        let seeds: std::collections::HashSet<i64> = [-1, 0, 1, i64::MAX]
            .into_iter()
            .flat_map(|seed| (0..1000).map(move |index| row_seed(seed, index)))
            .collect();
        assert_eq!(seeds.len(), 4000);
        assert!(seeds.iter().all(|seed| *seed >= 0));
        assert_eq!(row_seed(7, 3), row_seed(7, 3));
    }

    #[test]
    fn mixes_as_the_reference_does() {
        // The first output of the reference generator that starts from 0.
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
    }
}
