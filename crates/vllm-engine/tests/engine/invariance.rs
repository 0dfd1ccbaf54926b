//! The same tokens and log-probabilities for a request, bit for bit, whatever else is running.

use crate::support::{complete, engine, greedy, last, prompts, submit};
use vllm_engine::{AsyncLlm, EngineClient, EngineConfig, RequestOutput, SamplingParams};

/// Token ids and the bits of their log-probabilities.
type Fingerprint = (Vec<u32>, Vec<u32>);

fn fingerprint(output: &RequestOutput) -> Fingerprint {
    let sample = &output.outputs[0];
    let logprobs = sample.logprobs.iter().flatten().flatten();
    (
        sample.token_ids.clone(),
        logprobs.map(|entry| entry.logprob.to_bits()).collect(),
    )
}

fn params(seed: Option<i64>) -> SamplingParams {
    SamplingParams {
        logprobs: Some(3),
        temperature: if seed.is_some() { 0.9 } else { 0.0 },
        seed,
        ignore_eos: true,
        ..greedy(24)
    }
}

fn alone(engine: &AsyncLlm, seed: Option<i64>) -> Vec<Fingerprint> {
    prompts()
        .iter()
        .map(|prompt| fingerprint(&complete(engine, prompt, &params(seed))))
        .collect()
}

fn together(engine: &AsyncLlm, seed: Option<i64>, companions: usize) -> Vec<Fingerprint> {
    // Companions of other lengths and sampling share every step.
    let noise = SamplingParams {
        temperature: 1.3,
        ignore_eos: true,
        ..greedy(37)
    };
    let crowd: Vec<_> = (0..companions)
        .map(|i| submit(engine, &"Count: 1, 2, ".repeat(1 + i % 9), &noise))
        .collect();
    let streams: Vec<_> = prompts()
        .iter()
        .map(|prompt| submit(engine, prompt, &params(seed)))
        .collect();
    let outputs = streams
        .into_iter()
        .map(|stream| fingerprint(&last(stream)))
        .collect();
    drop(crowd);
    outputs
}

#[test]
fn alone_in_a_crowd_in_chunks_and_after_prefix_hits() {
    for seed in [None, Some(11)] {
        let reference = alone(&engine(|config| config.enable_prefix_caching = false), seed);
        let check = |what: &str, outputs: Vec<Fingerprint>| {
            assert_eq!(outputs, reference, "{what}, seed {seed:?}");
        };
        let whole = engine(|config| config.max_num_batched_tokens = Some(512));
        check("in a crowd", together(&whole, seed, 64));
        check("after prefix hits", alone(&whole, seed));
        assert!(whole.statistics().prefix_cache_hits.get() > 0);
        for tokens_per_step in [1, 7] {
            let chunked = engine(|config| {
                config.max_num_batched_tokens = Some(tokens_per_step);
                config.max_num_seqs = Some(tokens_per_step);
            });
            check("in chunks", together(&chunked, seed, 3));
        }
    }
}

#[test]
fn after_preemption() {
    let reference = alone(&engine(|_| {}), None);
    // Room for about two of the longest requests: a crowd of twelve must be preempted.
    let block_bytes = 4 * 2 * 192 * 4 * 16;
    let tight = engine(|config| {
        config.max_model_len = Some(128);
        config.kv_cache_memory_bytes = Some(block_bytes * 20);
    });
    assert_eq!(together(&tight, None, 6), reference);
    assert!(
        tight.statistics().num_preemptions.get() > 0,
        "the cache was not tight enough"
    );
}

#[test]
fn with_every_kind_of_cache() {
    for dtype in ["bfloat16", "float16", "fp8", "int8"] {
        let with_cache = |tokens_per_step| {
            engine(|config| {
                config.kv_cache_dtype = dtype.to_owned();
                config.max_num_batched_tokens = Some(tokens_per_step);
                config.max_num_seqs = Some(tokens_per_step);
            })
        };
        let whole = with_cache(512);
        let answer = complete(&whole, "The capital of France is", &greedy(4));
        let text = &answer.outputs[0].text;
        assert!(text.contains("Paris"), "{dtype}: {text}");
        let reference = alone(&whole, None);
        assert_eq!(together(&whole, None, 5), reference, "{dtype}, in a crowd");
        assert_eq!(
            together(&with_cache(7), None, 0),
            reference,
            "{dtype}, in chunks"
        );
    }
}

#[test]
fn an_unknown_kind_of_cache_is_refused() {
    let mut config = EngineConfig::new("demo");
    config.kv_cache_dtype = "int3".to_owned();
    let message = AsyncLlm::new(&config).err().unwrap().to_string();
    assert!(
        message.contains("Unknown KV cache dtype: 'int3'"),
        "{message}"
    );
}
