//! Attention of one layer in the shape of Qwen3-0.6B: a prompt, a long context, a batch of decodes;
//! and beside them what reading memory costs on this machine.
//!
//! `cargo bench -p vllm-tensor --bench attention`

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use vllm_tensor::{
    AttentionMetadata, AttentionOptions, BatchSequence, DType, Device, KvCache, KvCacheSpec,
    Tensor, paged_attention, write_kv,
};

const NUM_HEADS: usize = 16;
const NUM_KV_HEADS: usize = 8;
const HEAD_DIM: usize = 128;
const BLOCK_SIZE: usize = 16;

const DTYPES: [(&str, DType); 3] = [
    ("bfloat16", DType::BF16),
    ("float16", DType::F16),
    ("float32", DType::F32),
];

/// A step of equal sequences over a cache that holds numbers.
struct Step {
    cache: KvCache,
    num_layers: usize,
    metadata: AttentionMetadata,
    queries: Tensor,
}

impl Step {
    fn new(
        dtype: DType,
        num_layers: usize,
        num_sequences: usize,
        query_len: usize,
        context_len: usize,
    ) -> Self {
        let total_len = query_len + context_len;
        let blocks_each = total_len.div_ceil(BLOCK_SIZE);
        let spec = KvCacheSpec {
            num_layers,
            num_kv_heads: NUM_KV_HEADS,
            head_dim: HEAD_DIM,
            dtype: dtype.into(),
        };
        let num_blocks = num_sequences * blocks_each;
        let mut cache =
            KvCache::new(spec, num_blocks, BLOCK_SIZE, &Device::Cpu).expect("memory for the cache");
        // Blocks in an order that no prefetcher guesses.
        let block_tables: Vec<Vec<u32>> = (0..num_sequences)
            .map(|sequence| {
                let block = |index: usize| (sequence + index * num_sequences) * 7919 % num_blocks;
                (0..blocks_each).map(|index| block(index) as u32).collect()
            })
            .collect();
        let lay_out = |cache: &KvCache, context_len: usize, query_len: usize| {
            let sequences: Vec<_> = block_tables
                .iter()
                .enumerate()
                .map(|(index, block_table)| BatchSequence {
                    query_start: index * query_len,
                    query_len,
                    context_len,
                    block_table,
                })
                .collect();
            AttentionMetadata::new(&sequences, cache, &Device::Cpu).expect("a good batch")
        };
        let whole = lay_out(&cache, 0, total_len);
        let shape = (num_sequences * total_len, NUM_KV_HEADS, HEAD_DIM);
        let noise = Tensor::randn(0f32, 1.0, shape, &Device::Cpu).expect("noise");
        for layer in 0..num_layers {
            let layer = cache.layer_mut(layer).expect("a layer");
            write_kv(layer, &noise, &noise, &whole).expect("a good batch");
        }
        let shape = (num_sequences * query_len, NUM_HEADS, HEAD_DIM);
        Self {
            metadata: lay_out(&cache, context_len, query_len),
            queries: Tensor::randn(0f32, 1.0, shape, &Device::Cpu).expect("noise"),
            cache,
            num_layers,
        }
    }

    fn bench(
        mut self,
        group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
        name: &str,
    ) {
        let options = AttentionOptions::causal(HEAD_DIM);
        let mut layer = 0;
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| {
                // Layers in turn, so that the cache is read from memory as in a model.
                layer = (layer + 1) % self.num_layers;
                let layer = self.cache.layer_mut(layer).expect("a layer");
                paged_attention(&self.queries, layer, &self.metadata, &options).expect("attention")
            });
        });
    }
}

fn prefill(criterion: &mut Criterion) {
    const LEN: usize = 2048;
    let mut group = criterion.benchmark_group("prefill 2048");
    // Scores and values, each a multiplication and an addition, for half of all pairs.
    group.throughput(Throughput::Elements(
        (4 * NUM_HEADS * HEAD_DIM * LEN * (LEN + 1) / 2) as u64,
    ));
    for (name, dtype) in DTYPES {
        Step::new(dtype, 1, 1, LEN, 0).bench(&mut group, name);
    }
}

fn decode(criterion: &mut Criterion) {
    for (name, num_layers, num_sequences, context_len) in [
        ("decode 1 x 8192", 16, 1, 8191),
        ("decode 32 x 192", 16, 32, 191),
    ] {
        let mut group = criterion.benchmark_group(name);
        for (name, dtype) in DTYPES {
            let bytes_per_token = 2 * NUM_KV_HEADS * HEAD_DIM * dtype.size_in_bytes();
            let bytes = num_sequences * (context_len + 1) * bytes_per_token;
            group.throughput(Throughput::Bytes(bytes as u64));
            Step::new(dtype, num_layers, num_sequences, 1, context_len).bench(&mut group, name);
        }
    }
}

/// Reads more memory than any cache has, a part of it on each core.
fn memory(criterion: &mut Criterion) {
    let numbers = vec![1u64; 1 << 27];
    let num_threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut group = criterion.benchmark_group("memory");
    group.throughput(Throughput::Bytes(8 * numbers.len() as u64));
    group.bench_function("read", |bencher| {
        bencher.iter(|| {
            std::thread::scope(|scope| {
                for part in numbers.chunks(numbers.len().div_ceil(num_threads)) {
                    scope.spawn(|| black_box(part.iter().copied().fold(0u64, u64::wrapping_add)));
                }
            });
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(std::time::Duration::from_millis(300))
        .measurement_time(std::time::Duration::from_secs(1));
    targets = memory, prefill, decode
}
criterion_main!(benches);
