use super::*;

const PLAIN: ExtraKeys<'_> = ExtraKeys {
    lora: None,
    cache_salt: None,
};

/// Blocks of four tokens; block 0 is the null block.
fn manager(num_blocks: usize) -> KvCacheManager {
    let config = KvCacheConfig {
        num_blocks,
        block_size: 4,
        enable_prefix_caching: true,
    };
    KvCacheManager::new(config).expect("valid config")
}

fn tokens(count: u32) -> Vec<u32> {
    (100..100 + count).collect()
}

/// Admits a whole sequence as a scheduler would; the number of cached blocks it found.
#[track_caller]
fn admit(
    cache: &mut KvCacheManager,
    table: &mut BlockTable,
    token_ids: &[u32],
    extra_keys: &ExtraKeys<'_>,
) -> usize {
    cache.update_hashes(table, token_ids, extra_keys);
    let num_cached_blocks = cache.find_cached_prefix(table, token_ids.len());
    let admission = Admission {
        num_cached_blocks,
        num_tokens: token_ids.len(),
        num_sequence_tokens: token_ids.len(),
        num_reserved_blocks: 0,
    };
    assert!(cache.admit(table, &admission));
    cache.register_full_blocks(table, token_ids.len());
    num_cached_blocks
}

#[test]
fn refuses_bad_sizes() {
    let refuse = |num_blocks, block_size| {
        let config = KvCacheConfig {
            num_blocks,
            block_size,
            enable_prefix_caching: true,
        };
        KvCacheManager::new(config).err()
    };
    assert_eq!(refuse(8, 0), Some(Error::BlockSize));
    assert_eq!(refuse(1, 4), Some(Error::NumBlocks(1)));
}

#[test]
fn a_second_sequence_shares_the_full_blocks_of_the_first() {
    let mut cache = manager(9);
    let (mut first, mut second) = (BlockTable::default(), BlockTable::default());
    assert_eq!(admit(&mut cache, &mut first, &tokens(10), &PLAIN), 0);
    assert_eq!(admit(&mut cache, &mut second, &tokens(10), &PLAIN), 2);
    assert_eq!(first.blocks(), [1, 2, 3]);
    assert_eq!(second.blocks(), [1, 2, 4]);
    assert_eq!(cache.num_free_blocks(), 4);
    assert_eq!(cache.usage(), 0.5);

    cache.free(&mut first);
    assert_eq!(cache.num_free_blocks(), 5);
    cache.free(&mut second);
    assert_eq!(cache.num_free_blocks(), 8);
}

#[test]
fn at_least_one_token_is_left_to_compute() {
    for (num_tokens, num_cached) in [(3, 0), (4, 0), (5, 1), (8, 1), (9, 2), (12, 2)] {
        let mut cache = manager(9);
        let (mut first, mut second) = (BlockTable::default(), BlockTable::default());
        admit(&mut cache, &mut first, &tokens(num_tokens), &PLAIN);
        assert_eq!(
            admit(&mut cache, &mut second, &tokens(num_tokens), &PLAIN),
            num_cached
        );
    }
}

#[test]
fn the_prefix_ends_at_the_first_miss() {
    let mut cache = manager(9);
    let (mut first, mut second) = (BlockTable::default(), BlockTable::default());
    admit(&mut cache, &mut first, &tokens(13), &PLAIN);
    let mut changed = tokens(13);
    changed[5] = 0;
    assert_eq!(admit(&mut cache, &mut second, &changed, &PLAIN), 1);
}

#[test]
fn adapters_and_salts_do_not_share() {
    let all = [
        PLAIN,
        ExtraKeys {
            lora: Some("a"),
            ..PLAIN
        },
        ExtraKeys {
            lora: Some("b"),
            ..PLAIN
        },
        ExtraKeys {
            cache_salt: Some("a"),
            ..PLAIN
        },
        ExtraKeys {
            lora: Some("a"),
            cache_salt: Some("a"),
        },
    ];
    let mut cache = manager(64);
    for round in 0..2 {
        for extra_keys in &all {
            let mut table = BlockTable::default();
            let found = admit(&mut cache, &mut table, &tokens(9), extra_keys);
            assert_eq!(found, if round == 0 { 0 } else { 2 }, "{extra_keys:?}");
        }
    }
}

#[test]
fn generated_tokens_are_found_too() {
    let mut cache = manager(9);
    let mut first = BlockTable::default();
    admit(&mut cache, &mut first, &tokens(6), &PLAIN);
    for count in 7..=9 {
        cache.update_hashes(&mut first, &tokens(count), &PLAIN);
        assert!(cache.allocate(&mut first, count as usize));
        cache.register_full_blocks(&mut first, count as usize);
    }
    cache.free(&mut first);
    assert_eq!(
        admit(&mut cache, &mut BlockTable::default(), &tokens(9), &PLAIN),
        2
    );
}

#[test]
fn hashing_step_by_step_gives_the_same_hashes() {
    let cache = manager(9);
    let (mut whole, mut stepwise) = (BlockTable::default(), BlockTable::default());
    cache.update_hashes(&mut whole, &tokens(17), &PLAIN);
    for count in 0..=17 {
        cache.update_hashes(&mut stepwise, &tokens(count), &PLAIN);
        assert_eq!(stepwise.hashes().len(), count as usize / 4);
    }
    assert_eq!(whole.hashes(), stepwise.hashes());
}

#[test]
fn the_end_of_a_sequence_is_evicted_before_its_beginning() {
    let mut cache = manager(4);
    let mut first = BlockTable::default();
    admit(&mut cache, &mut first, &tokens(12), &PLAIN);
    cache.free(&mut first);
    let mut other = BlockTable::default();
    assert!(cache.allocate(&mut other, 4));
    assert_eq!(other.blocks(), [3]);
    cache.update_hashes(&mut first, &tokens(12), &PLAIN);
    assert_eq!(cache.find_cached_prefix(&first, 12), 2);
}

#[test]
fn admission_tests_the_whole_sequence_but_takes_the_chunk() {
    // (sequence tokens, reserved blocks, admitted) in a cache of 8 usable blocks
    for (num_sequence_tokens, num_reserved_blocks, admitted) in
        [(32, 0, true), (33, 0, false), (32, 1, false), (28, 1, true)]
    {
        let mut cache = manager(9);
        let mut table = BlockTable::default();
        let admission = Admission {
            num_cached_blocks: 0,
            num_tokens: 5,
            num_sequence_tokens,
            num_reserved_blocks,
        };
        assert_eq!(
            cache.admit(&mut table, &admission),
            admitted,
            "{admission:?}"
        );
        assert_eq!(table.blocks().len(), if admitted { 2 } else { 0 });
    }
}

#[test]
fn sharing_a_free_block_counts_as_taking_it() {
    // Usable: 4 blocks. Two are cached and free; a sequence that shares them needs three more.
    let mut cache = manager(5);
    let mut first = BlockTable::default();
    admit(&mut cache, &mut first, &tokens(8), &PLAIN);
    cache.free(&mut first);
    let mut second = BlockTable::default();
    cache.update_hashes(&mut second, &tokens(17), &PLAIN);
    let admission = Admission {
        num_cached_blocks: 2,
        num_tokens: 17,
        num_sequence_tokens: 17,
        num_reserved_blocks: 0,
    };
    assert!(!cache.admit(&mut second, &admission));
    assert_eq!(cache.num_free_blocks(), 4);
    let fitting = Admission {
        num_tokens: 16,
        num_sequence_tokens: 16,
        ..admission
    };
    assert!(cache.admit(&mut second, &fitting));
    assert_eq!(cache.num_free_blocks(), 0);
}

#[test]
fn a_failed_allocation_takes_nothing() {
    let mut cache = manager(4);
    let mut table = BlockTable::default();
    assert!(cache.allocate(&mut table, 4));
    assert!(!cache.allocate(&mut table, 17));
    assert_eq!((table.blocks().len(), cache.num_free_blocks()), (1, 2));
}

#[test]
fn a_failed_sequence_leaves_nothing_of_its_own_behind() {
    let mut cache = manager(9);
    let (mut first, mut failed) = (BlockTable::default(), BlockTable::default());
    admit(&mut cache, &mut first, &tokens(6), &PLAIN);
    assert_eq!(admit(&mut cache, &mut failed, &tokens(14), &PLAIN), 1);
    cache.free_and_forget(&mut failed);
    assert_eq!(
        admit(&mut cache, &mut BlockTable::default(), &tokens(14), &PLAIN),
        1
    );
}

#[test]
fn nothing_is_cached_when_caching_is_off() {
    let config = KvCacheConfig {
        num_blocks: 9,
        block_size: 4,
        enable_prefix_caching: false,
    };
    let mut cache = KvCacheManager::new(config).expect("valid config");
    let (mut first, mut second) = (BlockTable::default(), BlockTable::default());
    admit(&mut cache, &mut first, &tokens(9), &PLAIN);
    assert_eq!(admit(&mut cache, &mut second, &tokens(9), &PLAIN), 0);
    assert!(second.hashes().is_empty());
}

#[test]
fn a_reset_waits_for_running_sequences() {
    let mut cache = manager(9);
    let mut table = BlockTable::default();
    admit(&mut cache, &mut table, &tokens(9), &PLAIN);
    assert!(!cache.reset_prefix_cache());
    cache.free(&mut table);
    assert!(cache.reset_prefix_cache());
    assert_eq!(
        admit(&mut cache, &mut BlockTable::default(), &tokens(9), &PLAIN),
        0
    );
}
