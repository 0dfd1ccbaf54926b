//! From parsed arguments and the environment to the configurations of engine and service.

use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value};
use vllm_engine::{DEMO_MODEL, EngineConfig, Policy, UsageContext};
use vllm_server::{
    ApiConfig, ClientCertificates, ContentFormatOption, CorsConfig, Fingerprint, HttpConfig,
    Listen, LogConfig, ServerConfig, TlsConfig,
};

use crate::args::{Args, ContentFormat, FingerprintMode, LogLevel, SchedulingPolicy};
use crate::environment::Environment;
use crate::logging::LogSettings;

/// Everything that one run is told.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) engine: EngineConfig,
    pub(crate) server: ServerConfig,
    pub(crate) log: LogSettings,
    /// Nobody named a model.
    pub(crate) is_demo_by_default: bool,
    /// Only the memory plan is wanted.
    pub(crate) dry_run: bool,
}

impl Settings {
    /// # Errors
    /// One sentence about flags or variables that do not go together or cannot be used.
    pub(crate) fn new(args: Args, environment: &Environment) -> Result<Self, String> {
        let model = args.model.clone().or_else(|| args.model_flag.clone());
        if model.is_none() && args.served_model_name.is_some() {
            return Err(
                "`model` should be provided as the first positional argument, in front of \
                        lists such as --served-model-name: vllm-serve MODEL --served-model-name A B"
                    .to_owned(),
            );
        }
        environment.check_limits()?;
        Ok(Self {
            is_demo_by_default: model.is_none(),
            dry_run: args.dry_run,
            log: log_settings(&args, environment)?,
            server: ServerConfig {
                http: http_config(&args, environment)?,
                api: api_config(&args, environment)?,
                log: log_config(&args, environment)?,
            },
            engine: engine_config(args, model.unwrap_or_else(|| DEMO_MODEL.to_owned()))?,
        })
    }
}

fn engine_config(args: Args, model: String) -> Result<EngineConfig, String> {
    if !(args.gpu_memory_utilization > 0.0 && args.gpu_memory_utilization <= 1.0) {
        return Err(format!(
            "--gpu-memory-utilization is a share above 0 and up to 1, not {}",
            args.gpu_memory_utilization
        ));
    }
    let mut config = EngineConfig::new(model);
    config.usage_context = UsageContext::Server;
    config.tokenizer = args.tokenizer;
    config.revision = args.revision;
    config.hf_token = args.hf_token;
    config.download_dir = args.download_dir;
    config.load_format = args.load_format;
    config.device = args.device;
    config.dtype = args.dtype;
    config.kv_cache_dtype = args.kv_cache_dtype;
    config.set_context_length(args.max_model_len);
    config.quantization = args.quantization;
    config.embedding_quantization = args.embedding_quantization;
    if let Some(block_size) = args.block_size {
        config.block_size = block_size;
    }
    config.kv_cache_memory_bytes = args.kv_cache_memory_bytes;
    config.gpu_memory_utilization = args.gpu_memory_utilization;
    config.max_num_seqs = args.max_num_seqs;
    config.max_num_batched_tokens = args
        .max_num_batched_tokens
        .map(|tokens| size(tokens, "--max-num-batched-tokens"))
        .transpose()?;
    config.max_num_queued_reqs = args.max_num_queued_reqs;
    config.enable_prefix_caching = !args.no_enable_prefix_caching;
    config.enable_chunked_prefill = !args.no_enable_chunked_prefill;
    config.long_prefill_token_threshold = args.long_prefill_token_threshold;
    config.scheduling_policy = match args.scheduling_policy {
        SchedulingPolicy::Fcfs => Policy::Fcfs,
        SchedulingPolicy::Priority => Policy::Priority,
    };
    config.seed = args.seed;
    config.max_logprobs = args.max_logprobs;
    config.generation_config = args.generation_config;
    config.override_generation_config = args.override_generation_config;
    config.num_threads = args.num_threads;
    config.record_steps = args.record_steps;
    Ok(config)
}

fn http_config(args: &Args, environment: &Environment) -> Result<HttpConfig, String> {
    let defaults = HttpConfig::default();
    let listen = match &args.uds {
        Some(path) => Listen::Unix(path.clone()),
        None => Listen::Tcp {
            host: args.host.clone(),
            port: args.port,
        },
    };
    let tls = args.ssl_certfile.clone().zip(args.ssl_keyfile.clone());
    let tls = tls.map(|(certificate, key)| TlsConfig {
        certificate,
        key,
        client_authorities: args.ssl_ca_certs.clone(),
        client_certificates: match args.ssl_cert_reqs {
            0 => ClientCertificates::None,
            1 => ClientCertificates::Optional,
            _ => ClientCertificates::Required,
        },
    });
    let api_keys = match &args.api_key {
        Some(keys) => keys.clone(),
        None => environment
            .get("VLLM_API_KEY")
            .map(str::to_owned)
            .into_iter()
            .collect(),
    };
    let keep_alive = environment.number("VLLM_HTTP_TIMEOUT_KEEP_ALIVE")?;
    Ok(HttpConfig {
        listen,
        tls,
        root_path: args.root_path.clone().unwrap_or_default(),
        api_keys,
        cors: CorsConfig {
            origins: args.allowed_origins.0.clone(),
            methods: args.allowed_methods.0.clone(),
            headers: args.allowed_headers.0.clone(),
            credentials: args.allow_credentials,
        },
        max_body_bytes: match args.max_body_size {
            Some(bytes) => size(bytes, "--max-body-size")?,
            None => defaults.max_body_bytes,
        },
        // The parser's buffer cannot be smaller than this.
        max_head_bytes: size(
            args.h11_max_incomplete_event_size,
            "--h11-max-incomplete-event-size",
        )?
        .max(8 << 10),
        max_header_count: args.h11_max_header_count.max(1),
        keep_alive: keep_alive.map_or(defaults.keep_alive, Duration::from_secs_f64),
        shutdown_timeout: Duration::from_secs(args.shutdown_timeout),
        request_id_headers: args.enable_request_id_headers,
        dev_mode: environment.is_on("VLLM_SERVER_DEV_MODE"),
        docs: !args.disable_fastapi_docs,
        keep_alive_on_engine_death: environment.is_on("VLLM_KEEP_ALIVE_ON_ENGINE_DEATH"),
    })
}

fn api_config(args: &Args, environment: &Environment) -> Result<ApiConfig, String> {
    if args.enable_auto_tool_choice && args.tool_call_parser.is_none() {
        return Err("Error: --enable-auto-tool-choice requires --tool-call-parser".to_owned());
    }
    let interval = args.sse_keep_alive_interval;
    if !(0.0..=1e9).contains(&interval) {
        return Err(format!(
            "--sse-keep-alive-interval must not be negative, got {interval}"
        ));
    }
    let chat_template = args
        .chat_template
        .as_deref()
        .map(read_template)
        .transpose()?;
    Ok(ApiConfig {
        served_model_names: args.served_model_name.clone().unwrap_or_default(),
        skip_model_name_validation: environment.is_on("VLLM_SKIP_MODEL_NAME_VALIDATION"),
        chat_template,
        chat_template_content_format: match args.chat_template_content_format {
            ContentFormat::Auto => ContentFormatOption::Auto,
            ContentFormat::OpenAi => ContentFormatOption::OpenAi,
            ContentFormat::String => ContentFormatOption::String,
        },
        default_chat_template_kwargs: match &args.default_chat_template_kwargs {
            Some(Value::Object(kwargs)) => kwargs.clone(),
            _ => Map::new(),
        },
        trust_request_chat_template: args.trust_request_chat_template,
        default_max_tokens_is_cap: caps_max_tokens(args),
        enable_auto_tool_choice: args.enable_auto_tool_choice,
        tool_call_parser: args.tool_call_parser.clone(),
        reasoning_parser: args
            .reasoning_parser
            .clone()
            .filter(|name| !name.is_empty()),
        exclude_tools_when_tool_choice_none: args.exclude_tools_when_tool_choice_none,
        disabled_thinking_effort: match args.anthropic_disabled_thinking_effort.as_str() {
            // Templates that can leave thinking out know this word.
            "auto" => "none".to_owned(),
            effort => effort.to_owned(),
        },
        return_tokens_as_token_ids: args.return_tokens_as_token_ids,
        enable_prompt_tokens_details: args.enable_prompt_tokens_details,
        enable_force_include_usage: args.enable_force_include_usage,
        enable_server_load_tracking: args.enable_server_load_tracking,
        stream_interval: Some(args.stream_interval).filter(|tokens| *tokens > 1),
        sse_keep_alive_interval: (interval > 0.0).then(|| Duration::from_secs_f64(interval)),
        fingerprint: fingerprint(args)?,
    })
}

/// Whether the default output length is a limit, too: when the operator set it or named a folder
/// of defaults, but not when it only comes with the model.
fn caps_max_tokens(args: &Args) -> bool {
    let overrides = args.override_generation_config.as_ref();
    let is_set = overrides.is_some_and(|values| values.get("max_new_tokens").is_some());
    is_set || !matches!(args.generation_config.as_str(), "auto" | "vllm")
}

fn fingerprint(args: &Args) -> Result<Fingerprint, String> {
    Ok(match (args.fingerprint_mode, &args.fingerprint_value) {
        (FingerprintMode::Full, _) => Fingerprint::Full,
        (FingerprintMode::Hash, _) => Fingerprint::Hash,
        (FingerprintMode::None, _) => Fingerprint::None,
        (FingerprintMode::Custom, Some(value)) => Fingerprint::Custom(value.clone()),
        (FingerprintMode::Custom, None) => {
            return Err("--fingerprint-mode custom needs --fingerprint-value".to_owned());
        }
    })
}

fn log_config(args: &Args, environment: &Environment) -> Result<LogConfig, String> {
    if args.enable_log_outputs && !args.enable_log_requests {
        return Err("Error: --enable-log-outputs requires --enable-log-requests".to_owned());
    }
    let defaults = LogConfig::default();
    let interval = environment
        .number("VLLM_LOG_STATS_INTERVAL")?
        .filter(|number| *number > 0.0);
    Ok(LogConfig {
        access: !args.disable_uvicorn_access_log,
        access_excluded: args
            .disable_access_log_for_endpoints
            .iter()
            .cloned()
            .collect(),
        requests: args.enable_log_requests,
        outputs: args.enable_log_outputs,
        max_length: args.max_log_len,
        statistics: !args.disable_log_stats,
        statistics_interval: interval.map_or(defaults.statistics_interval, Duration::from_secs_f64),
    })
}

fn log_settings(args: &Args, environment: &Environment) -> Result<LogSettings, String> {
    let level = match (args.log_level, environment.get("VLLM_LOGGING_LEVEL")) {
        (Some(level), _) => level,
        (None, None) => LogLevel::Info,
        (None, Some(name)) => {
            <LogLevel as clap::ValueEnum>::from_str(name, true).map_err(|_| {
                format!(
                    "VLLM_LOGGING_LEVEL={name} is none of CRITICAL, ERROR, WARNING, INFO, DEBUG"
                )
            })?
        }
    };
    let stream = environment.get("VLLM_LOGGING_STREAM").unwrap_or_default();
    Ok(LogSettings {
        level,
        uvicorn_level: args.uvicorn_log_level,
        prefix: environment
            .get("VLLM_LOGGING_PREFIX")
            .unwrap_or_default()
            .to_owned(),
        to_stderr: stream == "stderr" || stream == "ext://sys.stderr",
    })
}

/// `--chat-template`: a file's content, or the text itself if it looks like a template.
fn read_template(given: &str) -> Result<String, String> {
    let error = match std::fs::read_to_string(Path::new(given)) {
        Ok(text) => return Ok(text),
        Err(error) => error,
    };
    if given.contains(['{', '}', '\n']) {
        return Ok(given.to_owned());
    }
    Err(format!(
        "The supplied chat template ({given}) looks like a file path, but it failed to be opened. \
         Tried: {given}. Reason: {error}"
    ))
}

fn size(number: u64, flag: &str) -> Result<usize, String> {
    usize::try_from(number).map_err(|_| format!("{flag} {number} is too large for this machine"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn settings(line: &str, variables: &[(&str, &str)]) -> Result<Settings, String> {
        let words = std::iter::once("vllm-serve").chain(line.split_whitespace());
        Settings::new(
            Args::try_parse_from(words).unwrap(),
            &Environment::with(variables),
        )
    }

    #[test]
    fn without_arguments_the_demo_model_is_served_where_vllm_listens() {
        let settings = settings("", &[]).unwrap();
        assert!(settings.is_demo_by_default);
        assert_eq!(settings.engine.model, "demo");
        assert_eq!(
            settings.server.http.listen.display(false),
            "http://0.0.0.0:8000"
        );
        assert!(settings.server.http.api_keys.is_empty());
        assert!(settings.server.http.docs);
        assert_eq!(settings.server.api.disabled_thinking_effort, "none");
    }

    #[test]
    fn flags_reach_engine_and_service() {
        let settings = settings(
            "demo --served-model-name a b --dtype float32 --max-model-len 4K --api-key k1 k2 \
             --enable-auto-tool-choice --tool-call-parser hermes --port 9 --max-logprobs -1 \
             --disable-fastapi-docs --anthropic-disabled-thinking-effort low \
             --reasoning-parser qwen3 --stream-interval 3",
            &[("VLLM_API_KEY", "unused")],
        )
        .unwrap();
        assert!(!settings.is_demo_by_default);
        assert_eq!(settings.engine.dtype, "float32");
        assert_eq!(settings.engine.max_model_len, Some(4096));
        assert_eq!(settings.engine.max_logprobs, -1);
        assert_eq!(settings.server.api.served_model_names, ["a", "b"]);
        assert_eq!(settings.server.http.api_keys, ["k1", "k2"]);
        assert_eq!(
            settings.server.api.tool_call_parser.as_deref(),
            Some("hermes")
        );
        assert_eq!(
            settings.server.api.reasoning_parser.as_deref(),
            Some("qwen3")
        );
        assert_eq!(settings.server.api.stream_interval, Some(3));
        assert!(!settings.server.http.docs);
        assert_eq!(settings.server.api.disabled_thinking_effort, "low");
    }

    #[test]
    fn the_environment_fills_in() {
        let variables = [
            ("VLLM_API_KEY", "k"),
            ("VLLM_SERVER_DEV_MODE", "1"),
            ("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "7"),
            ("VLLM_LOG_STATS_INTERVAL", "0.5"),
        ];
        let server = settings("demo", &variables).unwrap().server;
        assert_eq!(server.http.api_keys, ["k"]);
        assert!(server.http.dev_mode);
        assert_eq!(server.http.keep_alive, Duration::from_secs(7));
        assert_eq!(server.log.statistics_interval, Duration::from_millis(500));
    }

    #[test]
    fn what_does_not_go_together_is_refused_in_words() {
        let check = |line: &str, mention: &str| {
            let message = settings(line, &[]).unwrap_err();
            assert!(message.contains(mention), "{line}: {message}");
        };
        check("--served-model-name a", "first positional argument");
        check(
            "demo --enable-auto-tool-choice",
            "requires --tool-call-parser",
        );
        check(
            "demo --enable-log-outputs",
            "requires --enable-log-requests",
        );
        check("demo --sse-keep-alive-interval -1", "must not be negative");
        check("demo --chat-template /no/such.jinja", "/no/such.jinja");
        check("demo --gpu-memory-utilization 1.5", "1.5");
        check("demo --fingerprint-mode custom", "--fingerprint-value");
    }

    #[test]
    fn a_template_may_be_given_as_text() {
        let server = settings("demo --chat-template {{messages}}", &[])
            .unwrap()
            .server;
        assert_eq!(server.api.chat_template.as_deref(), Some("{{messages}}"));
    }
}
