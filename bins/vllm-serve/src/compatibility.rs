//! vLLM's flags that this program does not have: which of them can be ignored, and which must be
//! refused because ignoring them would change what is served.

/// What to do about a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It takes a value and changes no answer.
    WithoutEffect,
    /// It takes no value and changes no answer.
    SwitchWithoutEffect,
    /// These values are what is done anyway; others cannot be done.
    Only {
        /// Accepted values.
        accepted: &'static [&'static str],
        /// Why others are not.
        reason: &'static str,
    },
    /// It asks for something that is not there.
    Refused(&'static str),
}

impl Verdict {
    pub(crate) fn takes_values(&self) -> bool {
        matches!(self, Self::WithoutEffect | Self::Only { .. })
    }
}

const ONE_PROCESS: &str = "one process computes on one device";
const NO_LORA: &str = "adapters are not loaded";
const NO_SPECULATION: &str = "speculative decoding is not offered";
const NO_REASONING: &str = "reasoning has no settings beyond --reasoning-parser";
const NO_PYTHON: &str = "no Python code is run";
const NO_MULTIMODAL: &str = "only text is accepted";
const NO_TRANSFER: &str = "caches and weights are not moved between servers";
const TEXT_GENERATION: &str = "only text generation is served";

/// Flags with a value that can be ignored.
const WITHOUT_EFFECT: [&str; 37] = [
    "O",
    "additional-config",
    "api-server-count",
    "asc",
    "attention-backend",
    "attention-config",
    "ac",
    "cc",
    "code-revision",
    "compilation-config",
    "cudagraph-capture-sizes",
    "custom-histogram-buckets",
    "distributed-executor-backend",
    "gdn-prefill-backend",
    "ignore-patterns",
    "jit-monitor-mode",
    "kda-decode-backend",
    "kda-prefill-backend",
    "kernel-config",
    "kv-cache-metrics-sample",
    "limit-mm-per-prompt",
    "linear-backend",
    "logging-config",
    "max-cudagraph-capture-size",
    "max-parallel-loading-workers",
    "mm-processor-cache-gb",
    "mm-processor-cache-type",
    "model-loader-extra-config",
    "moe-backend",
    "optimization-level",
    "performance-mode",
    "prefix-caching-hash-algo",
    "renderer-num-workers",
    "safetensors-load-strategy",
    "show-hidden-metrics-for-version",
    "tool-strict-level",
    "tokenizer-revision",
];

/// Flags without a value that can be ignored; their `--no-` forms too.
const SWITCHES_WITHOUT_EFFECT: [&str; 26] = [
    "aggregate-engine-logging",
    "async-scheduling",
    "cudagraph-metrics",
    "disable-cascade-attn",
    "disable-chunked-mm-input",
    "disable-custom-all-reduce",
    "disable-hybrid-kv-cache-manager",
    "enable-flash-late-interaction",
    "enable-log-deltas",
    "enable-logging-iteration-details",
    "enable-mfu-metrics",
    "enable-offline-docs",
    "enforce-eager",
    "fail-on-environ-validation",
    "interleave-mm-strings",
    "jit-monitor-verbose",
    "kv-cache-metrics",
    "language-model-only",
    "log-error-stack",
    "numa-bind",
    "scheduler-reserve-full-isl",
    "skip-mm-profiling",
    "trust-remote-code",
    "trust-request-mm-kwargs",
    "use-fp64-gumbel",
    "use-tqdm-on-load",
];

/// Flags of which some values say what is done anyway.
const ONLY: [(&str, &[&str], &str); 22] = [
    (
        "config-format",
        &["auto", "hf"],
        "configurations are read in Hugging Face form",
    ),
    ("convert", &["auto", "none"], TEXT_GENERATION),
    (
        "cpu-offload-gb",
        &["0"],
        "weights stay where they are computed on",
    ),
    ("data-parallel-size", &["1"], ONE_PROCESS),
    ("decode-context-parallel-size", &["1"], ONE_PROCESS),
    ("dp", &["1"], ONE_PROCESS),
    (
        "logprobs-mode",
        &["raw_logprobs"],
        "logprobs are those of the raw logits",
    ),
    (
        "model-impl",
        &["auto", "vllm"],
        "there is one implementation of each model",
    ),
    ("nnodes", &["1"], ONE_PROCESS),
    ("node-rank", &["0"], ONE_PROCESS),
    ("pipeline-parallel-size", &["1"], ONE_PROCESS),
    ("pp", &["1"], ONE_PROCESS),
    ("prefill-context-parallel-size", &["1"], ONE_PROCESS),
    (
        "response-role",
        &["assistant"],
        "answers have the role `assistant`",
    ),
    ("runner", &["auto", "generate"], TEXT_GENERATION),
    ("spec-method", &[], NO_SPECULATION),
    ("spec-model", &[], NO_SPECULATION),
    ("spec-tokens", &["0"], NO_SPECULATION),
    (
        "structured-outputs-config.backend",
        &["auto"],
        "there is one backend",
    ),
    ("tensor-parallel-size", &["1"], ONE_PROCESS),
    (
        "tokenizer-mode",
        &["auto", "hf"],
        "tokenizers are read in Hugging Face form",
    ),
    ("tp", &["1"], ONE_PROCESS),
];

/// Flags that cannot be followed, by the beginning of their names.
const REFUSED: [(&str, &str); 49] = [
    ("all2all-backend", ONE_PROCESS),
    ("allowed-local-media-path", NO_MULTIMODAL),
    ("allowed-media-domains", NO_MULTIMODAL),
    ("data-parallel-", ONE_PROCESS),
    ("default-mm-loras", NO_LORA),
    ("device-ids", "choose the device with --device cuda:N"),
    ("disable-sliding-window", "windows are part of the model"),
    ("ec-transfer-config", NO_TRANSFER),
    ("elastic-ep-", ONE_PROCESS),
    ("enable-dbo", ONE_PROCESS),
    ("enable-elastic-ep", ONE_PROCESS),
    ("enable-eplb", ONE_PROCESS),
    ("enable-expert-parallel", ONE_PROCESS),
    ("enable-fault-tolerance", ONE_PROCESS),
    ("enable-lora", NO_LORA),
    ("enable-mm-embeds", NO_MULTIMODAL),
    ("enable-per-request-metrics", "answers carry no metrics"),
    ("enable-prompt-embeds", "prompts are text or token ids"),
    ("enable-return-routed-experts", "experts are not reported"),
    ("enable-scale-out", "requests are not split over servers"),
    ("enable-sleep-mode", "the model stays in memory"),
    (
        "enable-ssl-refresh",
        "restart the server for a new certificate",
    ),
    (
        "enable-tokenizer-info-endpoint",
        "the tokenizer's settings are not served",
    ),
    ("grpc", "only HTTP is served"),
    ("headless", ONE_PROCESS),
    ("hf-config-path", "the configuration is with the model"),
    (
        "hf-overrides",
        "the model's configuration is taken as it is",
    ),
    ("io-processor-plugin", NO_PYTHON),
    ("kv-events-config", NO_TRANSFER),
    ("kv-offloading-", NO_TRANSFER),
    ("kv-transfer-config", NO_TRANSFER),
    ("logits-processors", NO_PYTHON),
    ("lora-", NO_LORA),
    ("max-lora", NO_LORA),
    ("media-io-kwargs", NO_MULTIMODAL),
    ("middleware", NO_PYTHON),
    ("mm-processor-kwargs", NO_MULTIMODAL),
    ("otlp-traces-endpoint", "traces are not sent"),
    ("pooler-config", TEXT_GENERATION),
    ("profiler-config", "there is no profiler"),
    ("reasoning-", NO_REASONING),
    ("scheduler-cls", NO_PYTHON),
    (
        "skip-tokenizer-init",
        "text is always turned into tokens here",
    ),
    ("speculative-config", NO_SPECULATION),
    (
        "ssl-ciphers",
        "ciphers are those of TLS 1.2 and 1.3 that are safe today",
    ),
    ("tokens-only", "text is always turned into tokens here"),
    ("tool-parser-plugin", NO_PYTHON),
    ("tool-server", "there are no built-in tools"),
    ("worker-", NO_PYTHON),
];

/// What to do about a flag of vLLM; `None` for one that vLLM does not have either.
pub(crate) fn verdict(flag: &str) -> Option<Verdict> {
    let top = flag.split('.').next().unwrap_or(flag);
    let switch = top.strip_prefix("no-").unwrap_or(top);
    if let Some((_, accepted, reason)) =
        ONLY.iter().find(|(name, ..)| *name == flag || *name == top)
    {
        return Some(Verdict::Only { accepted, reason });
    }
    if SWITCHES_WITHOUT_EFFECT.contains(&switch) {
        return Some(Verdict::SwitchWithoutEffect);
    }
    if WITHOUT_EFFECT.contains(&top) || is_optimization_level(top) {
        return Some(Verdict::WithoutEffect);
    }
    let refused =
        |(name, _): &&(&str, &str)| *name == top || name.ends_with('-') && top.starts_with(name);
    REFUSED
        .iter()
        .find(refused)
        .map(|(_, reason)| Verdict::Refused(reason))
}

/// `-O0` to `-O3`.
fn is_optimization_level(flag: &str) -> bool {
    matches!(flag, "O0" | "O1" | "O2" | "O3")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_of_flags_are_found_by_their_beginning() {
        let check = |flag: &str, refused: bool| {
            let found = matches!(verdict(flag), Some(Verdict::Refused(_)));
            assert_eq!(found, refused, "{flag}");
        };
        check("lora-modules", true);
        check("worker-cls", true);
        check("data-parallel-address", true);
        check("profiler-config", true);
        check("speculative-config.method", true);
        check("profiler-config-of-time", false);
        check("frobnicate", false);
    }

    #[test]
    fn harmless_flags_are_ignored_in_all_their_forms() {
        assert_eq!(
            verdict("no-use-tqdm-on-load"),
            Some(Verdict::SwitchWithoutEffect)
        );
        assert_eq!(
            verdict("compilation-config.mode"),
            Some(Verdict::WithoutEffect)
        );
        assert_eq!(verdict("frobnicate"), None);
    }
}
