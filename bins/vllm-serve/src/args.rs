//! The command line, in vLLM's words.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use vllm_engine::{ContextLength, LoadFormat, human_number};

/// Serve a language model over HTTP as OpenAI's API does.
#[derive(Debug, Parser)]
#[command(
    name = "vllm-serve",
    version,
    args_override_self = true,
    infer_long_args = true,
    max_term_width = 100
)]
pub(crate) struct Args {
    /// The model: a folder, a hub name such as facebook/opt-125m, or `demo`
    pub(crate) model: Option<String>,
    /// The same as MODEL
    #[arg(long = "model", value_name = "MODEL", hide = true)]
    pub(crate) model_flag: Option<String>,
    /// A YAML file whose keys are flags of this command line, which wins over it
    #[arg(long, value_name = "FILE.yaml")]
    pub(crate) config: Option<PathBuf>,

    /// Address to listen on; all IPv4 interfaces if not given
    #[arg(long, help_heading = "Frontend")]
    pub(crate) host: Option<String>,
    /// Port to listen on
    #[arg(long, default_value_t = 8000, help_heading = "Frontend")]
    pub(crate) port: u16,
    /// Unix socket to listen on instead of host and port
    #[arg(long, value_name = "PATH", help_heading = "Frontend")]
    pub(crate) uds: Option<PathBuf>,
    /// Keys that clients must show one of; also VLLM_API_KEY
    #[arg(long, num_args = 1.., value_name = "KEY", help_heading = "Frontend")]
    pub(crate) api_key: Option<Vec<String>>,
    /// Certificate chain (PEM) for HTTPS
    #[arg(
        long,
        value_name = "FILE",
        requires = "ssl_keyfile",
        help_heading = "Frontend"
    )]
    pub(crate) ssl_certfile: Option<PathBuf>,
    /// Private key (PEM) for HTTPS
    #[arg(
        long,
        value_name = "FILE",
        requires = "ssl_certfile",
        help_heading = "Frontend"
    )]
    pub(crate) ssl_keyfile: Option<PathBuf>,
    /// Authorities (PEM) that sign client certificates
    #[arg(long, value_name = "FILE", help_heading = "Frontend")]
    pub(crate) ssl_ca_certs: Option<PathBuf>,
    /// Client certificates: 0 none, 1 optional, 2 required
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2), help_heading = "Frontend")]
    pub(crate) ssl_cert_reqs: u8,
    /// Path prefix under which a proxy offers the service
    #[arg(long, value_name = "PATH", help_heading = "Frontend")]
    pub(crate) root_path: Option<String>,
    /// Origins that browsers may call from, as a JSON list
    #[arg(long, value_name = "JSON", default_value = "[]", value_parser = json_list, help_heading = "Frontend")]
    pub(crate) allowed_origins: StringList,
    /// Methods that browsers may use, as a JSON list
    #[arg(long, value_name = "JSON", default_value = r#"["*"]"#, value_parser = json_list, help_heading = "Frontend")]
    pub(crate) allowed_methods: StringList,
    /// Headers that browsers may send, as a JSON list
    #[arg(long, value_name = "JSON", default_value = r#"["*"]"#, value_parser = json_list, help_heading = "Frontend")]
    pub(crate) allowed_headers: StringList,
    /// Let browsers send credentials
    #[arg(long, help_heading = "Frontend")]
    pub(crate) allow_credentials: bool,
    /// Answer with an X-Request-Id header
    #[arg(long, help_heading = "Frontend")]
    pub(crate) enable_request_id_headers: bool,
    /// The largest accepted request body in bytes
    #[arg(long, value_name = "BYTES", value_parser = human_number, help_heading = "Frontend")]
    pub(crate) max_body_size: Option<u64>,
    /// The largest accepted request head in bytes
    #[arg(long, value_name = "BYTES", default_value = "4194304", value_parser = human_number, help_heading = "Frontend")]
    pub(crate) h11_max_incomplete_event_size: u64,
    /// The most header lines of a request
    #[arg(
        long,
        value_name = "N",
        default_value_t = 256,
        help_heading = "Frontend"
    )]
    pub(crate) h11_max_header_count: usize,
    /// Seconds that running requests may take after the first stop signal
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 0,
        help_heading = "Frontend"
    )]
    pub(crate) shutdown_timeout: u64,

    /// Names of the model in the API; the first one stands in answers
    #[arg(long, num_args = 1.., value_name = "NAME", help_heading = "API")]
    pub(crate) served_model_name: Option<Vec<String>>,
    /// Chat template: a file or Jinja source
    #[arg(long, value_name = "FILE_OR_TEXT", help_heading = "API")]
    pub(crate) chat_template: Option<String>,
    /// How message contents are handed to the template
    #[arg(long, value_enum, default_value_t = ContentFormat::Auto, help_heading = "API")]
    pub(crate) chat_template_content_format: ContentFormat,
    /// Template variables under those of each request, as a JSON object
    #[arg(long, value_name = "JSON", value_parser = json_object, help_heading = "API")]
    pub(crate) default_chat_template_kwargs: Option<serde_json::Value>,
    /// Accept chat templates from requests
    #[arg(long, help_heading = "API")]
    pub(crate) trust_request_chat_template: bool,
    /// Let the model decide when to call tools
    #[arg(long, help_heading = "API")]
    pub(crate) enable_auto_tool_choice: bool,
    /// The parser that finds tool calls in the model's text
    #[arg(long, value_name = "NAME", help_heading = "API")]
    pub(crate) tool_call_parser: Option<String>,
    /// The parser that tells reasoning from the answer in the model's text
    #[arg(long, value_name = "NAME", help_heading = "API")]
    pub(crate) reasoning_parser: Option<String>,
    /// Do not show tools to the template when the choice is `none`
    #[arg(long, help_heading = "API")]
    pub(crate) exclude_tools_when_tool_choice_none: bool,
    /// Show tokens in logprobs as token_id:N
    #[arg(long, help_heading = "API")]
    pub(crate) return_tokens_as_token_ids: bool,
    /// What disabled thinking in the Anthropic form means to the model
    #[arg(
        long,
        value_name = "EFFORT",
        value_parser = ["auto", "none", "minimal", "low", "medium", "high"],
        default_value = "auto",
        help_heading = "API"
    )]
    pub(crate) anthropic_disabled_thinking_effort: String,
    /// Tell how much of a prompt came from the prefix cache
    #[arg(long, help_heading = "API")]
    pub(crate) enable_prompt_tokens_details: bool,
    /// Report usage in every stream
    #[arg(long, help_heading = "API")]
    pub(crate) enable_force_include_usage: bool,
    /// No /openapi.json, /docs and /redoc
    #[arg(long, help_heading = "API")]
    pub(crate) disable_fastapi_docs: bool,
    /// Count requests in flight for /load
    #[arg(long, help_heading = "API")]
    pub(crate) enable_server_load_tracking: bool,
    /// The fewest tokens per chunk of a stream
    #[arg(
        long,
        value_name = "TOKENS",
        default_value_t = 1,
        value_parser = clap::value_parser!(i64).range(1..),
        help_heading = "API"
    )]
    pub(crate) stream_interval: i64,
    /// Seconds of silence after which a stream gets a comment; 0 for never
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 0.0,
        allow_negative_numbers = true,
        help_heading = "API"
    )]
    pub(crate) sse_keep_alive_interval: f64,
    /// What stands in system_fingerprint
    #[arg(long, value_enum, default_value_t = FingerprintMode::Full, help_heading = "API")]
    pub(crate) fingerprint_mode: FingerprintMode,
    /// The fingerprint in mode `custom`
    #[arg(long, value_name = "TEXT", help_heading = "API")]
    pub(crate) fingerprint_value: Option<String>,

    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto", help_heading = "Engine")]
    pub(crate) device: String,
    /// Data type: auto, float32, bfloat16 or float16
    #[arg(long, default_value = "auto", help_heading = "Engine")]
    pub(crate) dtype: String,
    /// Which weight files to read: auto, safetensors, pt, gguf, or dummy for made-up weights
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "auto",
        help_heading = "Engine"
    )]
    pub(crate) load_format: LoadFormat,
    /// How the KV cache is stored: auto, float32, bfloat16, float16, fp8 or int8
    #[arg(
        long,
        default_value = "auto",
        value_name = "DTYPE",
        help_heading = "Engine"
    )]
    pub(crate) kv_cache_dtype: String,
    /// Quantize linear layers while loading: int8, fp8, or a GGUF type such as q4_k, q6_k or q8_0
    #[arg(long, short = 'q', value_name = "METHOD", help_heading = "Engine")]
    pub(crate) quantization: Option<String>,
    /// Quantize embeddings and output layer likewise, or leave both as they are: none [default: leave
    /// embeddings and output layers that share them]
    #[arg(long, value_name = "METHOD", help_heading = "Engine")]
    pub(crate) embedding_quantization: Option<String>,
    /// Prompt and output tokens of one request, such as 4096, 4k or 4K
    #[arg(
        long,
        value_name = "TOKENS",
        allow_hyphen_values = true,
        help_heading = "Engine"
    )]
    pub(crate) max_model_len: Option<ContextLength>,
    /// The tokenizer, if it is not with the model
    #[arg(long, value_name = "FOLDER_OR_NAME", help_heading = "Engine")]
    pub(crate) tokenizer: Option<String>,
    /// Branch, tag or commit on the hub
    #[arg(long, help_heading = "Engine")]
    pub(crate) revision: Option<String>,
    /// Access token for the hub
    #[arg(long, value_name = "TOKEN", help_heading = "Engine")]
    pub(crate) hf_token: Option<String>,
    /// Where downloads are kept
    #[arg(long, value_name = "FOLDER", help_heading = "Engine")]
    pub(crate) download_dir: Option<PathBuf>,
    /// Source of sampling defaults: auto, vllm or a folder
    #[arg(long, default_value = "auto", help_heading = "Engine")]
    pub(crate) generation_config: String,
    /// Sampling defaults over those of the model, as a JSON object
    #[arg(long, value_name = "JSON", value_parser = json_object, help_heading = "Engine")]
    pub(crate) override_generation_config: Option<serde_json::Value>,
    /// The largest accepted logprobs; -1 for any
    #[arg(
        long,
        value_name = "N",
        default_value_t = 20,
        allow_negative_numbers = true,
        help_heading = "Engine"
    )]
    pub(crate) max_logprobs: i64,
    /// Seed of requests that bring none
    #[arg(long, default_value_t = 0, help_heading = "Engine")]
    pub(crate) seed: u64,
    /// Tokens per KV-cache block
    #[arg(long, value_name = "TOKENS", help_heading = "Engine")]
    pub(crate) block_size: Option<usize>,
    /// Share of the memory that the engine may use
    #[arg(
        long,
        visible_alias = "device-memory-utilization",
        value_name = "SHARE",
        default_value_t = 0.92,
        help_heading = "Engine"
    )]
    pub(crate) gpu_memory_utilization: f64,
    /// Size of the KV cache in bytes, instead of a share
    #[arg(long, value_name = "BYTES", value_parser = human_number, help_heading = "Engine")]
    pub(crate) kv_cache_memory_bytes: Option<u64>,
    /// Do not share cached prompt prefixes
    #[arg(long, help_heading = "Engine")]
    pub(crate) no_enable_prefix_caching: bool,
    /// Compute each prompt in one step
    #[arg(long, help_heading = "Engine")]
    pub(crate) no_enable_chunked_prefill: bool,
    /// Tokens in one step
    #[arg(long, value_name = "TOKENS", value_parser = human_number, help_heading = "Engine")]
    pub(crate) max_num_batched_tokens: Option<u64>,
    /// Sequences in one step
    #[arg(long, value_name = "N", help_heading = "Engine")]
    pub(crate) max_num_seqs: Option<usize>,
    /// Waiting requests beyond which new ones are refused with 503
    #[arg(long, value_name = "N", help_heading = "Engine")]
    pub(crate) max_num_queued_reqs: Option<usize>,
    /// Prompts above this many tokens are split even if they fit; 0 for never
    #[arg(
        long,
        value_name = "TOKENS",
        default_value_t = 0,
        help_heading = "Engine"
    )]
    pub(crate) long_prefill_token_threshold: usize,
    /// Who runs first
    #[arg(long, value_enum, default_value_t = SchedulingPolicy::Fcfs, help_heading = "Engine")]
    pub(crate) scheduling_policy: SchedulingPolicy,
    /// Worker threads on a CPU
    #[arg(long, value_name = "N", help_heading = "Engine")]
    pub(crate) num_threads: Option<usize>,
    /// Print the memory plan and stop
    #[arg(long, help_heading = "Engine")]
    pub(crate) dry_run: bool,
    /// Write every scheduling decision to a file, for `cargo xtask replay`
    #[arg(long, value_name = "FILE", help_heading = "Engine")]
    pub(crate) record_steps: Option<PathBuf>,

    /// Level of vLLM's own lines
    #[arg(long, value_enum, ignore_case = true, help_heading = "Logging")]
    pub(crate) log_level: Option<LogLevel>,
    /// Level of access and life-cycle lines
    #[arg(long, value_enum, ignore_case = true, default_value_t = LogLevel::Info, help_heading = "Logging")]
    pub(crate) uvicorn_log_level: LogLevel,
    /// No line per answered request
    #[arg(long, help_heading = "Logging")]
    pub(crate) disable_uvicorn_access_log: bool,
    /// Paths without a line per answered request, with commas between
    #[arg(
        long,
        value_name = "PATHS",
        value_delimiter = ',',
        help_heading = "Logging"
    )]
    pub(crate) disable_access_log_for_endpoints: Vec<String>,
    /// A line per request with its parameters
    #[arg(long, help_heading = "Logging")]
    pub(crate) enable_log_requests: bool,
    /// A line per request with its output
    #[arg(long, help_heading = "Logging")]
    pub(crate) enable_log_outputs: bool,
    /// The most characters of a prompt or an output in a line
    #[arg(long, value_name = "N", help_heading = "Logging")]
    pub(crate) max_log_len: Option<usize>,
    /// No periodic line and no engine metrics
    #[arg(long, help_heading = "Logging")]
    pub(crate) disable_log_stats: bool,
}

/// Strings from a JSON list.
#[derive(Debug, Clone)]
pub(crate) struct StringList(pub(crate) Vec<String>);

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ContentFormat {
    Auto,
    #[value(name = "openai")]
    OpenAi,
    String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum FingerprintMode {
    Full,
    Hash,
    Custom,
    None,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum SchedulingPolicy {
    Fcfs,
    Priority,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogLevel {
    Critical,
    Error,
    Warning,
    Info,
    Debug,
    Trace,
}

fn json_list(text: &str) -> Result<StringList, String> {
    serde_json::from_str(text)
        .map(StringList)
        .map_err(|_| r#"it must be a JSON list of strings, such as '["*"]'"#.to_owned())
}

fn json_object(text: &str) -> Result<serde_json::Value, String> {
    serde_json::from_str::<serde_json::Map<_, _>>(text)
        .map(serde_json::Value::Object)
        .map_err(|error| format!("it must be a JSON object: {error}"))
}
