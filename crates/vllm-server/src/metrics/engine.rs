//! The engine's numbers under vLLM's names.

use vllm_engine::statistics::{Counter, FinishedRequests, Gauge, Histogram};
use vllm_engine::{ModelInfo, Statistics};

use super::text::{Exposition, HistogramSample, Labels};

/// Adds the engine's families to a page.
pub(crate) fn expose(
    page: &mut Exposition,
    statistics: &Statistics,
    info: &ModelInfo,
    model_name: &str,
) {
    let labels = [("engine", "0"), ("model_name", model_name)];
    gauges(page, statistics, &labels);
    counters(page, statistics, &labels);
    by_label(page, statistics, model_name);
    histograms(page, statistics, &labels);
    cache_config(page, info);
}

fn gauges(page: &mut Exposition, statistics: &Statistics, labels: &Labels<'_>) {
    let families: [(&str, &str, &Gauge); 3] = [
        (
            "vllm:num_requests_running",
            "Sequences in the running batch.",
            &statistics.num_requests_running,
        ),
        (
            "vllm:num_requests_waiting",
            "Sequences waiting for admission.",
            &statistics.num_requests_waiting,
        ),
        (
            "vllm:kv_cache_usage_perc",
            "Used share of the KV cache, 0 to 1.",
            &statistics.kv_cache_usage,
        ),
    ];
    for (name, help, gauge) in families {
        page.gauge(name, help, &[(labels, gauge.get())]);
    }
    let waiting = statistics.num_requests_waiting.get();
    gauge_by(
        page,
        "vllm:num_requests_waiting_by_reason",
        "Waiting sequences by what they wait for.",
        labels,
        "reason",
        &[("capacity", waiting), ("deferred", 0.0)],
    );
    gauge_by(
        page,
        "vllm:engine_sleep_state",
        "1 for the present state of the engine.",
        labels,
        "sleep_state",
        &[
            ("awake", 1.0),
            ("weights_offloaded", 0.0),
            ("discard_all", 0.0),
        ],
    );
}

fn counters(page: &mut Exposition, statistics: &Statistics, labels: &Labels<'_>) {
    let zero = Counter::default();
    let families: [(&str, &str, &Counter); 13] = [
        (
            "vllm:prefix_cache_queries",
            "Prompt tokens looked up in the prefix cache.",
            &statistics.prefix_cache_queries,
        ),
        (
            "vllm:prefix_cache_hits",
            "Prompt tokens found in the prefix cache.",
            &statistics.prefix_cache_hits,
        ),
        (
            "vllm:external_prefix_cache_queries",
            "Prompt tokens looked up in a cache outside this process.",
            &zero,
        ),
        (
            "vllm:external_prefix_cache_hits",
            "Prompt tokens found in a cache outside this process.",
            &zero,
        ),
        (
            "vllm:mm_cache_queries",
            "Items looked up in the multimodal cache.",
            &zero,
        ),
        (
            "vllm:mm_cache_hits",
            "Items found in the multimodal cache.",
            &zero,
        ),
        (
            "vllm:num_preemptions",
            "Sequences put back to waiting because blocks ran out.",
            &statistics.num_preemptions,
        ),
        (
            "vllm:prompt_tokens",
            "Prompt tokens of admitted requests, cached ones included.",
            &statistics.prompt_tokens,
        ),
        (
            "vllm:prompt_tokens_cached",
            "Prompt tokens that were not computed again.",
            &statistics.prompt_tokens_cached,
        ),
        (
            "vllm:generation_tokens",
            "Generated tokens.",
            &statistics.generation_tokens,
        ),
        (
            "vllm:estimated_flops_per_gpu",
            "Estimated operations per device; not counted.",
            &zero,
        ),
        (
            "vllm:estimated_read_bytes_per_gpu",
            "Estimated bytes read per device; not counted.",
            &zero,
        ),
        (
            "vllm:estimated_write_bytes_per_gpu",
            "Estimated bytes written per device; not counted.",
            &zero,
        ),
    ];
    for (name, help, counter) in families {
        page.counter(name, help, &[(labels, counter.get() as f64)]);
    }
}

fn by_label(page: &mut Exposition, statistics: &Statistics, model_name: &str) {
    let labels = [("engine", "0"), ("model_name", model_name)];
    let cached = statistics.prompt_tokens_cached.get();
    let computed = statistics.prompt_tokens.get().saturating_sub(cached);
    counter_by(
        page,
        "vllm:prompt_tokens_by_source",
        "Prompt tokens by where they came from.",
        &labels,
        "source",
        &[
            ("local_compute", computed),
            ("local_cache_hit", cached),
            ("external_kv_transfer", 0),
        ],
    );
    counter_by(
        page,
        "vllm:prompt_tokens_cached_by_source",
        "Cached prompt tokens by where the cache is.",
        &labels,
        "source",
        &[
            ("device", cached),
            ("host", 0),
            ("p2p", 0),
            ("disk", 0),
            ("external_unspecified", 0),
        ],
    );
    let finished = FinishedRequests::REASONS.map(|reason| {
        (
            reason.as_str(),
            statistics.finished_requests.of(reason).get(),
        )
    });
    counter_by(
        page,
        "vllm:request_success",
        "Finished requests by the way they ended.",
        &labels,
        "finished_reason",
        &finished,
    );
    let rejected = statistics.admission_rejections.get();
    counter_by(
        page,
        "vllm:admission_rejections",
        "Requests refused because a queue was full.",
        &[("model_name", model_name)],
        "reason",
        &[
            ("max_num_queued_reqs", rejected),
            ("max_num_queued_tokens", 0),
        ],
    );
}

fn histograms(page: &mut Exposition, statistics: &Statistics, labels: &Labels<'_>) {
    let families: [(&str, &str, &Histogram); 16] = [
        (
            "vllm:iteration_tokens_total",
            "Tokens computed in one step.",
            &statistics.iteration_tokens,
        ),
        (
            "vllm:time_to_first_token_seconds",
            "Seconds from arrival to the first token.",
            &statistics.time_to_first_token,
        ),
        (
            "vllm:inter_token_latency_seconds",
            "Seconds between the outputs of a request.",
            &statistics.inter_token_latency,
        ),
        (
            "vllm:request_time_per_output_token_seconds",
            "Decode seconds over generated tokens less one.",
            &statistics.time_per_output_token,
        ),
        (
            "vllm:e2e_request_latency_seconds",
            "Seconds from arrival to the last token.",
            &statistics.e2e_request_latency,
        ),
        (
            "vllm:request_queue_time_seconds",
            "Seconds from arrival to the first step.",
            &statistics.request_queue_time,
        ),
        (
            "vllm:request_inference_time_seconds",
            "Seconds from the first step to the last token.",
            &statistics.request_inference_time,
        ),
        (
            "vllm:request_prefill_time_seconds",
            "Seconds from the first step to the first token.",
            &statistics.request_prefill_time,
        ),
        (
            "vllm:request_decode_time_seconds",
            "Seconds from the first token to the last.",
            &statistics.request_decode_time,
        ),
        (
            "vllm:request_prompt_tokens",
            "Prompt tokens per request.",
            &statistics.request_prompt_tokens,
        ),
        (
            "vllm:request_generation_tokens",
            "Generated tokens per request.",
            &statistics.request_generation_tokens,
        ),
        (
            "vllm:request_max_num_generation_tokens",
            "Generated tokens of a request's longest sample.",
            &statistics.request_max_num_generation_tokens,
        ),
        (
            "vllm:request_params_max_tokens",
            "Token limit per request.",
            &statistics.request_params_max_tokens,
        ),
        (
            "vllm:request_params_n",
            "Samples per request.",
            &statistics.request_params_n,
        ),
        (
            "vllm:request_prefill_kv_computed_tokens",
            "Prompt tokens computed per request, cached ones excluded.",
            &statistics.request_prefill_kv_computed_tokens,
        ),
        (
            "vllm:request_num_preemptions",
            "Preemptions per request.",
            &statistics.request_num_preemptions,
        ),
    ];
    for (name, help, histogram) in families {
        let sample = HistogramSample {
            bounds: histogram.bounds(),
            cumulative_counts: &histogram.cumulative_counts(),
            sum: histogram.sum(),
        };
        page.histogram(name, help, &[(labels, sample)]);
    }
}

/// Labels of `vllm:cache_config_info` that never change here, so that dashboards find them.
const FIXED_CACHE_CONFIG: [(&str, &str); 29] = [
    ("_block_size_resolved", "True"),
    ("cache_hit_alignment_tokens", "None"),
    ("enable_mamba_shared_prefix_checkpoint", "False"),
    ("gpu_memory_utilization", "None"),
    ("hash_block_size", "None"),
    ("is_attention_free", "False"),
    ("kv_cache_dtype_skip_layers", "[]"),
    ("kv_cache_layout", "None"),
    ("kv_offloading_backend", "native"),
    ("kv_offloading_size", "None"),
    ("kv_sharing_fast_prefill", "False"),
    ("mamba_block_size", "None"),
    ("mamba_cache_dtype", "auto"),
    ("mamba_cache_mode", "none"),
    ("mamba_page_size_padded", "None"),
    ("mamba_ssm_cache_dtype", "float32"),
    ("num_cpu_blocks", "None"),
    ("num_gpu_blocks_override", "None"),
    ("prefix_cache_retention_interval", "0"),
    ("prefix_caching_hash_algo", "xxhash"),
    ("prefix_match_unit", "None"),
    ("replayssm_buffer_len", "16"),
    ("skip_page_size_padded", "None"),
    ("sliding_window", "None"),
    ("swa_bounded_replay", "True"),
    ("use_kda_recoverssm", "False"),
    ("use_replayssm", "False"),
    ("user_specified_block_size", "False"),
    ("kv_cache_memory_bytes", "None"),
];

fn cache_config(page: &mut Exposition, info: &ModelInfo) {
    // Block 0 is reserved and holds no tokens.
    let tokens = info.num_blocks.saturating_sub(1) * info.block_size;
    let concurrency = tokens as f64 / info.max_model_len.max(1) as f64;
    let block_size = info.block_size.to_string();
    let numbers = [
        info.num_blocks.to_string(),
        tokens.to_string(),
        format!("{concurrency:.2}"),
    ];
    let [num_blocks, tokens, concurrency] = numbers.each_ref().map(String::as_str);
    let mut labels = FIXED_CACHE_CONFIG.to_vec();
    labels.extend([
        ("engine", "0"),
        ("block_size", block_size.as_str()),
        ("cache_dtype", info.kv_cache_dtype.as_str()),
        ("effective_attention_block_size", block_size.as_str()),
        (
            "enable_prefix_caching",
            if info.enable_prefix_caching {
                "True"
            } else {
                "False"
            },
        ),
        ("kv_cache_max_concurrency", concurrency),
        ("kv_cache_size_tokens", tokens),
        ("num_gpu_blocks", num_blocks),
    ]);
    page.gauge(
        "vllm:cache_config_info",
        "How the KV cache is laid out.",
        &[(&labels, 1.0)],
    );
}

fn gauge_by(
    page: &mut Exposition,
    name: &str,
    help: &str,
    labels: &Labels<'_>,
    label: &str,
    values: &[(&str, f64)],
) {
    let rows = with_label(labels, label, values.iter().map(|(value, _)| *value));
    let samples: Vec<_> = rows
        .iter()
        .zip(values)
        .map(|(row, (_, value))| (row.as_slice(), *value))
        .collect();
    page.gauge(name, help, &samples);
}

fn counter_by(
    page: &mut Exposition,
    name: &str,
    help: &str,
    labels: &Labels<'_>,
    label: &str,
    values: &[(&str, u64)],
) {
    let rows = with_label(labels, label, values.iter().map(|(value, _)| *value));
    let samples: Vec<_> = rows
        .iter()
        .zip(values)
        .map(|(row, (_, value))| (row.as_slice(), *value as f64))
        .collect();
    page.counter(name, help, &samples);
}

fn with_label<'a>(
    labels: &Labels<'a>,
    label: &'a str,
    values: impl Iterator<Item = &'a str>,
) -> Vec<Vec<(&'a str, &'a str)>> {
    values
        .map(|value| [labels, &[(label, value)]].concat())
        .collect()
}
