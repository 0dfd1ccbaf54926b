use candle_core::Device;
use proptest::prelude::*;

use super::*;
use crate::test_support::{assert_close, random_tensor};
use crate::{BatchSequence, Isa, KvCache, KvCacheDType, KvCacheSpec, Rotary};

const NUM_BLOCKS: usize = 40;

const DTYPES: [KvCacheDType; 5] = [
    KvCacheDType::F32,
    KvCacheDType::F16,
    KvCacheDType::BF16,
    KvCacheDType::Fp8,
    KvCacheDType::Int8,
];

/// Heads of queries, heads of keys, and their width.
#[derive(Clone, Copy, Debug)]
struct Heads(usize, usize, usize);

/// A cache whose first layer holds noise everywhere, and the batch laid out over it.
fn noisy_cache(
    sequences: &[BatchSequence<'_>],
    (num_blocks, block_size): (usize, usize),
    Heads(_, num_kv_heads, head_dim): Heads,
    dtype: KvCacheDType,
) -> (KvCache, AttentionMetadata) {
    let spec = KvCacheSpec {
        num_layers: 1,
        num_kv_heads,
        head_dim,
        dtype,
    };
    let mut cache = KvCache::new(spec, num_blocks, block_size, &Device::Cpu).unwrap();
    let shape = [num_blocks, block_size, num_kv_heads, head_dim];
    let keys = (random_tensor(10, &shape) * 2.0).unwrap();
    let layer = cache.layer_mut(0).unwrap();
    layer.fill(&keys, &random_tensor(11, &shape));
    let metadata = AttentionMetadata::new(sequences, &cache, &Device::Cpu).unwrap();
    (cache, metadata)
}

fn attend(
    isa: Isa,
    queries: &Tensor,
    cache: &mut KvCache,
    metadata: &AttentionMetadata,
    options: &AttentionOptions,
) -> Tensor {
    let Store::Cpu(store) = &cache.layer_mut(0).unwrap().store else {
        unreachable!("tests run on the CPU");
    };
    let form = RowForm::Wide;
    let rows = cpu::paged_attention_with(isa, queries, store, metadata, options, form).unwrap();
    let rows = rows.to_tensor().unwrap();
    rows.reshape(queries.shape()).unwrap()
}

/// How far results may be from those of the plain body, which multiplies in float32.
fn tolerance(isa: Isa, dtype: KvCacheDType) -> f32 {
    use KvCacheDType::{BF16, Fp8, Int8};
    let rounds_rows = matches!(isa, Isa::Avx512Bf16 | Isa::Amx);
    let rounds_rows = rounds_rows && matches!(dtype, BF16 | Fp8 | Int8);
    if rounds_rows { 1e-2 } else { 1e-5 }
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let flat: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
    flat.into_iter().map(f32::to_bits).collect()
}

const MIXED_BATCH: [BatchSequence<'static>; 4] = [
    BatchSequence {
        query_start: 0,
        query_len: 1,
        context_len: 0,
        block_table: &[7],
    },
    BatchSequence {
        query_start: 1,
        query_len: 19,
        context_len: 0,
        block_table: &[3, 9, 1, 4, 12, 30, 31, 32],
    },
    BatchSequence {
        query_start: 20,
        query_len: 6,
        context_len: 13,
        block_table: &[2, 8, 0, 11, 13, 33, 34, 35],
    },
    BatchSequence {
        query_start: 26,
        query_len: 1,
        context_len: 27,
        block_table: &[39, 38, 37, 36, 20, 21, 22, 23, 24, 25],
    },
];

#[test]
fn the_fast_bodies_match_the_plain_one() {
    for (block_size, heads) in [
        (16, Heads(4, 4, 8)),
        (16, Heads(6, 2, 64)),
        (32, Heads(40, 1, 128)),
        (24, Heads(4, 2, 96)),
        (8, Heads(4, 1, 80)),
        (3, Heads(2, 2, 21)),
    ] {
        for dtype in DTYPES {
            let cache_size = (NUM_BLOCKS, block_size);
            let (mut cache, metadata) = noisy_cache(&MIXED_BATCH, cache_size, heads, dtype);
            let queries = random_tensor(12, &[metadata.num_tokens(), heads.0, heads.2]);
            for (sliding_window, soft_cap) in [(None, None), (Some(5), None), (None, Some(2.0))] {
                let options = AttentionOptions {
                    sliding_window,
                    soft_cap,
                    ..AttentionOptions::causal(heads.2)
                };
                let layer = cache.layer_mut(0).unwrap();
                let plain = paged_attention_plain(&queries, layer, &metadata, &options).unwrap();
                for isa in Isa::available() {
                    let fast = attend(isa, &queries, &mut cache, &metadata, &options);
                    let what = format!("{isa:?} {options:?} {dtype:?} {heads:?} {block_size}");
                    assert_close(&fast, &plain, tolerance(isa, dtype), &what);
                }
            }
        }
    }
}

#[test]
fn results_made_for_a_layer_give_the_same_bits() {
    for head_dim in [32, 16, 24] {
        let heads = Heads(4, 2, head_dim);
        let (mut cache, metadata) =
            noisy_cache(&MIXED_BATCH, (NUM_BLOCKS, 16), heads, KvCacheDType::BF16);
        let options = AttentionOptions::causal(head_dim);
        let queries = random_tensor(12, &[metadata.num_tokens(), 4, head_dim]);
        let weight = random_tensor(13, &[40, 4 * head_dim]).to_dtype(DType::BF16);
        let next = Linear::new(weight.unwrap(), None).unwrap();
        let layer = cache.layer_mut(0).unwrap();
        let rows = paged_attention_for(&queries, layer, &metadata, &options, &next).unwrap();
        let plain = paged_attention(&queries, layer, &metadata, &options).unwrap();
        let plain = plain.flatten_from(1).unwrap();
        let actual = next.forward_input(&rows, None).unwrap();
        assert_eq!(bits(&actual), bits(&next.forward(&plain).unwrap()));
    }
}

#[test]
fn a_window_of_one_sees_only_itself() {
    let heads = Heads(1, 1, 4);
    let (mut cache, metadata) =
        noisy_cache(&MIXED_BATCH, (NUM_BLOCKS, 16), heads, KvCacheDType::F32);
    let layer = cache.layer_mut(0).unwrap();
    let values = random_tensor(13, &[metadata.num_tokens(), 1, 4]);
    write_kv(layer, &random_tensor(14, &[27, 1, 4]), &values, &metadata).unwrap();
    let options = AttentionOptions {
        sliding_window: Some(1),
        ..AttentionOptions::causal(4)
    };
    let queries = random_tensor(15, &[27, 1, 4]);
    let output = paged_attention(&queries, layer, &metadata, &options).unwrap();
    assert_close(&output, &values, 1e-6, "own values");
}

/// Computes a prompt at once and in chunks, alone and beside others, and compares the bits.
fn check_chunks(
    isa: Isa,
    dtype: KvCacheDType,
    heads: Heads,
    block_size: usize,
    window: Option<usize>,
) {
    const LEN: usize = 600;
    let num_blocks = LEN.div_ceil(block_size) + 8;
    let table: Vec<u32> = (0..num_blocks as u32).rev().collect();
    let whole = BatchSequence {
        query_start: 0,
        query_len: LEN,
        context_len: 0,
        block_table: &table,
    };
    let (mut cache, metadata) = noisy_cache(&[whole], (num_blocks, block_size), heads, dtype);
    let queries = random_tensor(16, &[LEN, heads.0, heads.2]);
    let options = AttentionOptions {
        sliding_window: window,
        ..AttentionOptions::causal(heads.2)
    };
    let together = attend(isa, &queries, &mut cache, &metadata, &options);
    let other_queries = random_tensor(17, &[3, heads.0, heads.2]);
    for (chunk, first) in [(1, 585), (1, 250), (7, 490), (512, 0), (100, 0)] {
        let last = if chunk == 1 { first + 15 } else { LEN };
        for start in (first..last).step_by(chunk) {
            let query_len = chunk.min(last - start);
            let own = BatchSequence {
                query_start: 3,
                query_len,
                context_len: start,
                block_table: &table,
            };
            // Its blocks are read and not written, so it may be anywhere.
            let other = BatchSequence {
                query_start: 0,
                query_len: 3,
                context_len: 41,
                block_table: &table,
            };
            let metadata = AttentionMetadata::new(&[other, own], &cache, &Device::Cpu).unwrap();
            let own_queries = queries.narrow(0, start, query_len).unwrap();
            let both = Tensor::cat(&[&other_queries, &own_queries], 0).unwrap();
            let output = attend(isa, &both, &mut cache, &metadata, &options);
            assert_eq!(
                bits(&output.narrow(0, 3, query_len).unwrap()),
                bits(&together.narrow(0, start, query_len).unwrap()),
                "{isa:?} {dtype:?} {heads:?}: chunk of {query_len} at {start}, window {window:?}",
            );
        }
    }
}

#[test]
fn rows_do_not_depend_on_chunks_or_on_the_batch() {
    for isa in Isa::available() {
        for dtype in DTYPES {
            check_chunks(isa, dtype, Heads(4, 2, 64), 16, None);
            check_chunks(isa, dtype, Heads(3, 1, 40), 20, None);
        }
        check_chunks(isa, KvCacheDType::BF16, Heads(2, 1, 64), 16, Some(300));
        check_chunks(isa, KvCacheDType::F32, Heads(2, 1, 32), 16, Some(20));
    }
}

/// Sequences of a token each whose tables begin alike, beside others, and each alone: the same bits.
fn check_shared_prefixes(isa: Isa, dtype: KvCacheDType, heads: Heads, block_size: usize) {
    const NUM_BLOCKS: usize = 200;
    let blocks = |tokens: usize| (tokens / block_size) as u32;
    // Common to all, to the first half, and to nobody.
    let (all, half, own) = (blocks(300), blocks(600), blocks(80));
    let tables: Vec<Vec<u32>> = (0..70)
        .map(|index| {
            let second = if index < 35 { all..half } else { 0..0 };
            let third = half + index % 40..half + index % 40 + own;
            (0..all).chain(second).chain(third).collect()
        })
        .collect();
    let mut sequences: Vec<BatchSequence<'_>> = Vec::new();
    for (index, table) in tables.iter().enumerate() {
        // One of them is in the midst of its prompt.
        let query_len = if index == 3 { 9 } else { 1 };
        let len = table.len() * block_size - index % block_size;
        sequences.push(BatchSequence {
            query_start: sequences.last().map_or(0, |s| s.query_start + s.query_len),
            query_len,
            context_len: len - query_len,
            block_table: table,
        });
    }
    let (mut cache, metadata) = noisy_cache(&sequences, (NUM_BLOCKS, block_size), heads, dtype);
    let queries = random_tensor(27, &[metadata.num_tokens(), heads.0, heads.2]);
    let options = AttentionOptions::causal(heads.2);
    let together = attend(isa, &queries, &mut cache, &metadata, &options);
    for sequence in &sequences {
        let alone = BatchSequence {
            query_start: 0,
            ..*sequence
        };
        let metadata = AttentionMetadata::new(&[alone], &cache, &Device::Cpu).unwrap();
        let rows = |of: &Tensor| {
            of.narrow(0, sequence.query_start, sequence.query_len)
                .unwrap()
        };
        let output = attend(isa, &rows(&queries), &mut cache, &metadata, &options);
        assert_eq!(
            bits(&output),
            bits(&rows(&together)),
            "{isa:?} {dtype:?} {heads:?} {block_size}: {sequence:?}"
        );
    }
}

#[test]
fn sequences_that_share_a_prefix_get_what_they_get_alone() {
    for isa in Isa::available() {
        for dtype in DTYPES {
            check_shared_prefixes(isa, dtype, Heads(4, 2, 64), 16);
        }
        check_shared_prefixes(isa, KvCacheDType::BF16, Heads(6, 1, 32), 32);
        check_shared_prefixes(isa, KvCacheDType::BF16, Heads(2, 2, 24), 20);
    }
}

#[test]
fn rows_do_not_depend_on_the_number_of_threads() {
    const CONTEXT: usize = 2_500;
    let table: Vec<u32> = (0..160).rev().collect();
    let sequence = BatchSequence {
        query_start: 0,
        query_len: 3,
        context_len: CONTEXT,
        block_table: &table,
    };
    for isa in Isa::available() {
        for dtype in DTYPES {
            let heads = Heads(4, 2, 64);
            let (mut cache, metadata) = noisy_cache(&[sequence], (160, 16), heads, dtype);
            let queries = random_tensor(22, &[3, 4, 64]);
            let options = AttentionOptions::causal(64);
            let mut with_threads = |num_threads| {
                crate::set_num_threads(num_threads).unwrap();
                bits(&attend(isa, &queries, &mut cache, &metadata, &options))
            };
            let alone = with_threads(1);
            for num_threads in [2, 5, 16] {
                assert_eq!(
                    with_threads(num_threads),
                    alone,
                    "{isa:?} {dtype:?} {num_threads}"
                );
            }
        }
    }
    crate::set_num_threads(0).unwrap();
}

#[test]
fn what_lies_in_slots_not_written_does_not_matter() {
    // 21 tokens: the last strip is partly written, and so is its last pair.
    let table = [5, 2];
    let sequence = |context_len, query_len| BatchSequence {
        query_start: 0,
        query_len,
        context_len,
        block_table: &table,
    };
    for dtype in DTYPES {
        let heads = Heads(4, 2, 64);
        let (mut clean, whole) = noisy_cache(&[sequence(0, 21)], (8, 16), heads, dtype);
        let (mut stale, _) = noisy_cache(&[sequence(0, 21)], (8, 16), heads, dtype);
        let poison = Tensor::full(f32::NAN, &[8, 16, 2, 64], &Device::Cpu).unwrap();
        stale.layer_mut(0).unwrap().fill(&poison, &poison);
        let (keys, values) = (
            random_tensor(23, &[21, 2, 64]),
            random_tensor(24, &[21, 2, 64]),
        );
        for cache in [&mut clean, &mut stale] {
            write_kv(cache.layer_mut(0).unwrap(), &keys, &values, &whole).unwrap();
        }
        let options = AttentionOptions::causal(64);
        for (context_len, query_len) in [(20, 1), (17, 4), (0, 21)] {
            let part = [sequence(context_len, query_len)];
            let metadata = AttentionMetadata::new(&part, &clean, &Device::Cpu).unwrap();
            let queries = random_tensor(25, &[query_len, 4, 64]);
            for isa in Isa::available() {
                let expected = attend(isa, &queries, &mut clean, &metadata, &options);
                let actual = attend(isa, &queries, &mut stale, &metadata, &options);
                assert!(
                    bits(&expected)
                        .iter()
                        .all(|bits| f32::from_bits(*bits).is_finite())
                );
                assert_eq!(
                    bits(&actual),
                    bits(&expected),
                    "{isa:?} {dtype:?} {context_len}"
                );
            }
        }
    }
}

#[test]
fn writes_land_in_their_slots_and_nowhere_else() {
    for dtype in [KvCacheDType::F32, KvCacheDType::F16, KvCacheDType::BF16] {
        for block_size in [16, 5] {
            let heads = Heads(3, 3, 9);
            let (mut cache, metadata) =
                noisy_cache(&MIXED_BATCH, (NUM_BLOCKS, block_size), heads, dtype);
            let layer = cache.layer_mut(0).unwrap();
            let shape = [metadata.num_tokens(), 3, 9];
            let (keys, values) = (random_tensor(17, &shape), random_tensor(18, &shape));
            let (expected_keys, expected_values) = (layer.keys().unwrap(), layer.values().unwrap());
            let rounded = |tensor: &Tensor| -> Tensor {
                let narrow = tensor.to_dtype(dtype.tensor_dtype().unwrap()).unwrap();
                narrow.to_dtype(DType::F32).unwrap()
            };
            write_slots_plain(&expected_keys, &rounded(&keys), &metadata).unwrap();
            write_slots_plain(&expected_values, &rounded(&values), &metadata).unwrap();
            write_kv(layer, &keys, &values, &metadata).unwrap();
            assert_eq!(
                bits(&layer.keys().unwrap()),
                bits(&expected_keys),
                "{dtype:?}"
            );
            assert_eq!(
                bits(&layer.values().unwrap()),
                bits(&expected_values),
                "{dtype:?}"
            );
        }
    }
}

#[test]
fn narrow_caches_keep_what_they_can() {
    let heads = Heads(2, 2, 40);
    let shape = [27, 2, 40];
    let (keys, values) = (random_tensor(27, &shape), random_tensor(28, &shape));
    for (dtype, tolerance) in [
        (KvCacheDType::Fp8, 1.0 / 32.0),
        (KvCacheDType::Int8, 0.51 / 127.0),
    ] {
        let (mut cache, metadata) = noisy_cache(&MIXED_BATCH, (NUM_BLOCKS, 16), heads, dtype);
        let layer = cache.layer_mut(0).unwrap();
        write_kv(layer, &keys, &values, &metadata).unwrap();
        let slots = Tensor::new(metadata.slot_mapping(), &Device::Cpu).unwrap();
        for (stored, written) in [(layer.keys(), &keys), (layer.values(), &values)] {
            let stored = stored.unwrap().flatten_to(1).unwrap();
            let read = stored.index_select(&slots, 0).unwrap();
            assert_close(&read, written, tolerance, &format!("{dtype:?}"));
        }
    }
}

#[test]
fn one_pass_matches_norm_rotation_and_write() {
    let heads = Heads(4, 2, 16);
    let norm = |seed| RmsNorm::new(random_tensor(seed, &[16]), 1e-6).unwrap();
    let norms = (norm(30), norm(31));
    let rotary = Rotary::new((0..6).map(|i| 0.3f32.powi(i)).collect(), 1.25);
    let positions: Vec<u32> = (0..27).map(|token| token * 5 % 31).collect();
    let angles = rotary.angles(&positions, &Device::Cpu).unwrap();
    // Queries, keys and values lie side by side, as a projection leaves them.
    let qkv = random_tensor(32, &[27, 8, 16]);
    let [queries, keys, values] =
        [(0, 4), (4, 2), (6, 2)].map(|(first, count)| qkv.narrow(1, first, count).unwrap());
    let new = QueryKeyValue {
        queries: &queries,
        keys: &keys,
        values: &values,
    };
    let dtype = KvCacheDType::F32;
    for norms in [None, Some((&norms.0, &norms.1))] {
        for angles in [None, Some(&angles)] {
            let (mut fast, metadata) = noisy_cache(&MIXED_BATCH, (NUM_BLOCKS, 16), heads, dtype);
            let (mut plain, _) = noisy_cache(&MIXED_BATCH, (NUM_BLOCKS, 16), heads, dtype);
            let (fast, plain) = (fast.layer_mut(0).unwrap(), plain.layer_mut(0).unwrap());
            let expected = rotate_and_write_plain(plain, new, norms, angles, &metadata).unwrap();
            let actual = rotate_and_write_kv(fast, new, norms, angles, &metadata).unwrap();
            assert!(actual.is_contiguous());
            assert_close(&actual, &expected, 1e-6, "queries");
            for (actual, expected) in [(fast.keys(), plain.keys()), (fast.values(), plain.values())]
            {
                assert_close(&actual.unwrap(), &expected.unwrap(), 1e-6, "cache");
            }
        }
    }
}

#[test]
fn misshapen_operands_are_refused() {
    let heads = Heads(2, 2, 8);
    let (mut cache, metadata) =
        noisy_cache(&MIXED_BATCH, (NUM_BLOCKS, 16), heads, KvCacheDType::F32);
    let options = AttentionOptions::causal(8);
    let good = random_tensor(19, &[27, 2, 8]);
    for shape in [[27, 3, 8], [26, 2, 8], [27, 2, 4]] {
        let layer = cache.layer_mut(0).unwrap();
        let tensor = random_tensor(19, &shape);
        assert!(
            paged_attention(&tensor, layer, &metadata, &options).is_err(),
            "{shape:?}"
        );
        assert!(
            write_kv(layer, &tensor, &tensor, &metadata).is_err(),
            "{shape:?}"
        );
        for [queries, keys, values] in [
            [&tensor, &good, &good],
            [&good, &tensor, &good],
            [&good, &good, &tensor],
        ] {
            let new = QueryKeyValue {
                queries,
                keys,
                values,
            };
            assert!(
                rotate_and_write_kv(layer, new, None, None, &metadata).is_err(),
                "{shape:?}"
            );
        }
    }
    let new = QueryKeyValue {
        queries: &good,
        keys: &good,
        values: &good,
    };
    let layer = cache.layer_mut(0).unwrap();
    let wide = RmsNorm::new(random_tensor(1, &[16]), 1e-6).unwrap();
    assert!(rotate_and_write_kv(layer, new, Some((&wide, &wide)), None, &metadata).is_err());
    let angles = Rotary::new(vec![1.0; 5], 1.0)
        .angles(&[0; 27], &Device::Cpu)
        .unwrap();
    assert!(rotate_and_write_kv(layer, new, None, Some(&angles), &metadata).is_err());
    let spec = *cache.spec();
    let mut smaller = KvCache::new(spec, 5, 16, &Device::Cpu).unwrap();
    let layer = smaller.layer_mut(0).unwrap();
    let message = paged_attention(&good, layer, &metadata, &options)
        .unwrap_err()
        .to_string();
    assert!(message.contains("KV cache of 5 blocks"), "{message}");
}

#[test]
fn a_slot_given_twice_keeps_the_later_token() {
    let sequence = |query_start| BatchSequence {
        query_start,
        query_len: 40,
        context_len: 0,
        block_table: &[1, 2, 3],
    };
    let twice = [sequence(0), sequence(40)];
    let heads = Heads(1, 1, 16);
    let (mut cache, metadata) = noisy_cache(&twice, (4, 16), heads, KvCacheDType::F32);
    let layer = cache.layer_mut(0).unwrap();
    let new = random_tensor(26, &[80, 1, 16]);
    write_kv(layer, &new, &new, &metadata).unwrap();
    let stored = layer.values().unwrap().flatten_to(1).unwrap();
    let stored = stored.narrow(0, 16, 40).unwrap();
    assert_eq!(bits(&stored), bits(&new.narrow(0, 40, 40).unwrap()));
}

proptest! {
    #[test]
    fn any_ragged_batch_matches_the_plain_body(
        lengths in prop::collection::vec((1usize..12, 0usize..30), 1..5),
        block_size in 1usize..20,
        group in 1usize..4,
        num_kv_heads in 1usize..3,
        head_dim in 1usize..40,
        window in prop::option::of(1usize..20),
        dtype in prop::sample::select(DTYPES.to_vec()),
    ) {
        let tables: Vec<Vec<u32>> = lengths
            .iter()
            .map(|(query_len, context_len)| {
                let needed = (query_len + context_len).div_ceil(block_size);
                (0..needed).map(|block| ((block * 7 + 3) % NUM_BLOCKS) as u32).collect()
            })
            .collect();
        let mut query_start = 0;
        let mut sequences = Vec::new();
        for ((query_len, context_len), block_table) in lengths.iter().copied().zip(&tables) {
            sequences.push(BatchSequence { query_start, query_len, context_len, block_table });
            query_start += query_len;
        }
        let heads = Heads(group * num_kv_heads, num_kv_heads, head_dim);
        let (mut cache, metadata) = noisy_cache(&sequences, (NUM_BLOCKS, block_size), heads, dtype);
        let queries = random_tensor(21, &[query_start, heads.0, head_dim]);
        let options =
            AttentionOptions { sliding_window: window, ..AttentionOptions::causal(head_dim) };
        let layer = cache.layer_mut(0).unwrap();
        let plain = paged_attention_plain(&queries, layer, &metadata, &options).unwrap();
        for isa in Isa::available() {
            let fast = attend(isa, &queries, &mut cache, &metadata, &options);
            assert_close(&fast, &plain, tolerance(isa, dtype), &format!("{isa:?} {dtype:?}"));
        }
    }
}
