//! The command line of `vllm-offline`.

use std::path::PathBuf;

use clap::Parser;
use vllm_batch::{InputFormat, InputOptions, Shard};
use vllm_engine::{ContextLength, DefaultSampling, EngineConfig, LoadFormat, SamplingParams};

use crate::bench::Bench;
use crate::convert::Convert;

/// Complete prompts, one or a whole data set, as one continuously batched job.
///
/// Without arguments it completes four sample prompts on a small embedded model.
#[derive(Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Folder or hub name of the model [default: the embedded demo model]
    #[arg(long, value_name = "NAME_OR_FOLDER")]
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) data: DataArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}

/// What to do instead of answering a data set.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Measure how fast the engine is
    #[command(subcommand)]
    Bench(Box<Bench>),
    /// Write a model's weights anew, in another form
    Convert(Convert),
}

/// Where rows come from and where results go.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Data")]
pub(crate) struct DataArgs {
    /// Data set: one prompt a line, .jsonl with `prompt` or `messages`, an OpenAI batch file, .csv
    /// or .parquet; `-` is standard input
    ///
    /// An object at s3://, gs://, az:// or http(s):// is fetched first. Credentials come from the
    /// environment variables that the store's own tools read, such as AWS_ACCESS_KEY_ID.
    #[arg(long, value_name = "FILE_OR_URL")]
    pub(crate) input: Option<PathBuf>,
    /// How the data set is written down [default: by its name; standard input is text]
    #[arg(long, value_name = "FORMAT", requires = "input")]
    input_format: Option<Format>,
    /// Column of a table that is the prompt
    #[arg(long, value_name = "NAME", default_value = "prompt")]
    prompt_column: String,
    /// Where results go, one JSON object a line or, as .parquet, one row each; `-` is standard
    /// output [default: text on standard output]
    ///
    /// Finished rows are kept in FILE.partial, from which the same command goes on after it was cut
    /// off. The output itself appears when all rows are done. For an object in a store the journal
    /// is kept below --work-dir, and the object is sent at the end.
    #[arg(long, value_name = "FILE_OR_URL")]
    pub(crate) output: Option<PathBuf>,
    /// Where journals of remote outputs and copies of remote data sets are kept; must outlast the
    /// process for a job to go on [default: ~/.cache/vllm/batch]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) work_dir: Option<PathBuf>,
    /// Write results in the order in which they finish
    #[arg(long)]
    pub(crate) as_finished: bool,
    /// Discard what an earlier run of the same job has done
    #[arg(long, requires = "output")]
    pub(crate) restart: bool,
    /// Work on part I of N of the data set, counted from 1; the outputs of all parts, one after
    /// the other, are the output of the whole
    #[arg(long, value_name = "I/N", requires = "input")]
    pub(crate) shard: Option<Shard>,
    /// Stop when more rows than this have failed [default: go on whatever happens]
    #[arg(long, value_name = "N")]
    max_errors: Option<u64>,
    /// Stop at the first row that fails
    #[arg(long, conflicts_with = "max_errors")]
    strict: bool,
    /// Write the summary of the run to a file
    #[arg(long, value_name = "FILE.json")]
    pub(crate) summary_json: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    Text,
    Jsonl,
    OpenaiBatch,
    Csv,
    Parquet,
}

impl DataArgs {
    pub(crate) fn input_options(&self) -> InputOptions {
        InputOptions {
            format: self.input_format.map(|format| match format {
                Format::Text => InputFormat::Text,
                Format::Jsonl => InputFormat::JsonLines,
                Format::OpenaiBatch => InputFormat::OpenAiBatch,
                Format::Csv => InputFormat::Csv,
                Format::Parquet => InputFormat::Parquet,
            }),
            prompt_column: self.prompt_column.clone(),
        }
    }

    pub(crate) fn max_errors(&self) -> Option<u64> {
        match self.strict {
            true => Some(0),
            false => self.max_errors,
        }
    }
}

/// How to run the model.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Engine")]
pub(crate) struct EngineArgs {
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// auto, float32, bfloat16 or float16
    #[arg(long, default_value = "auto")]
    dtype: String,
    /// Which weight files to read: auto, safetensors, pt, gguf, or dummy for made-up weights
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    load_format: LoadFormat,
    /// How the KV cache is stored: auto, float32, bfloat16, float16, fp8 or int8
    #[arg(long, default_value = "auto", value_name = "DTYPE")]
    kv_cache_dtype: String,
    /// Quantize linear layers while loading: int8, fp8, or a GGUF type such as q4_k, q6_k or q8_0
    #[arg(long, short = 'q', value_name = "METHOD")]
    quantization: Option<String>,
    /// Quantize embeddings and output layer likewise, or leave both as they are: none [default: leave
    /// embeddings and output layers that share them]
    #[arg(long, value_name = "METHOD")]
    embedding_quantization: Option<String>,
    /// Folder or hub name of the tokenizer, when it is not with the model
    #[arg(long)]
    tokenizer: Option<String>,
    /// Branch, tag or commit on the hub
    #[arg(long)]
    revision: Option<String>,
    /// Token for private and gated models; also HF_TOKEN
    #[arg(long, value_name = "TOKEN")]
    hf_token: Option<String>,
    /// Longest prompt and output together, in tokens, such as 4096, 4k or 4K; auto for what the KV
    /// cache has room for [default: the model's own limit]
    #[arg(long, value_name = "TOKENS", allow_hyphen_values = true)]
    max_model_len: Option<ContextLength>,
    /// Most sequences in one step
    #[arg(long, value_name = "N")]
    max_num_seqs: Option<usize>,
    /// Most tokens in one step
    #[arg(long, value_name = "TOKENS")]
    max_num_batched_tokens: Option<usize>,
    /// Exact size of the KV cache
    #[arg(long, value_name = "BYTES")]
    kv_cache_memory_bytes: Option<u64>,
    /// Share of the memory to use when the size of the KV cache is not given
    #[arg(long, value_name = "SHARE", default_value_t = 0.92)]
    gpu_memory_utilization: f64,
    /// Worker threads on a CPU [default: all that the process may use]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print the memory plan and stop
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Write every scheduling decision to a file, for `cargo xtask replay`
    #[arg(long, value_name = "FILE")]
    record_steps: Option<PathBuf>,
}

/// How to draw tokens and when to stop.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// 0 takes the likeliest token [default: the model's, else 0]
    #[arg(long, allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// Keep the likeliest tokens that together reach this probability
    #[arg(long, allow_negative_numbers = true)]
    top_p: Option<f64>,
    /// Keep this many of the likeliest tokens; 0 keeps all
    #[arg(long, allow_negative_numbers = true)]
    top_k: Option<i64>,
    /// Drop tokens below this share of the likeliest one's probability
    #[arg(long, allow_negative_numbers = true)]
    min_p: Option<f64>,
    /// Most tokens to generate for each prompt [default: 16, for messages the rest of the context]
    #[arg(long, value_name = "TOKENS", allow_negative_numbers = true)]
    pub(crate) max_tokens: Option<i64>,
    /// Fewest tokens to generate for each prompt
    #[arg(
        long,
        value_name = "TOKENS",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    min_tokens: i64,
    /// Makes sampling repeatable
    #[arg(long, allow_negative_numbers = true)]
    pub(crate) seed: Option<i64>,
    /// Samples for each prompt
    #[arg(long, default_value_t = 1, allow_negative_numbers = true)]
    n: i64,
    /// Text that ends the output; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Go on past the model's end-of-sequence tokens
    #[arg(long)]
    ignore_eos: bool,
    /// Weakens tokens that have appeared, once each
    #[arg(long, allow_negative_numbers = true)]
    presence_penalty: Option<f64>,
    /// Weakens tokens for each time that they have appeared
    #[arg(long, allow_negative_numbers = true)]
    frequency_penalty: Option<f64>,
    /// Divides the logits of tokens in prompt and output
    #[arg(long, allow_negative_numbers = true)]
    repetition_penalty: Option<f64>,
}

impl EngineArgs {
    /// What besides its name decides which model it is.
    pub(crate) fn model_source(&self) -> serde_json::Value {
        serde_json::json!({
            "revision": self.revision,
            "tokenizer": self.tokenizer,
            "load_format": self.load_format.name(),
        })
    }

    pub(crate) fn config(&self, model: &str) -> EngineConfig {
        let mut config = EngineConfig::new(model);
        config.device.clone_from(&self.device);
        config.dtype.clone_from(&self.dtype);
        config.load_format = self.load_format;
        config.kv_cache_dtype.clone_from(&self.kv_cache_dtype);
        config.quantization.clone_from(&self.quantization);
        config
            .embedding_quantization
            .clone_from(&self.embedding_quantization);
        config.tokenizer.clone_from(&self.tokenizer);
        config.revision.clone_from(&self.revision);
        config.hf_token.clone_from(&self.hf_token);
        config.set_context_length(self.max_model_len);
        config.max_num_seqs = self.max_num_seqs;
        config.max_num_batched_tokens = self.max_num_batched_tokens;
        config.kv_cache_memory_bytes = self.kv_cache_memory_bytes;
        config.gpu_memory_utilization = self.gpu_memory_utilization;
        config.num_threads = self.threads;
        config.record_steps.clone_from(&self.record_steps);
        config
    }
}

impl SamplingArgs {
    /// Flags over the model's defaults, for requests that leave these fields out.
    pub(crate) fn defaults(&self, model: &DefaultSampling) -> DefaultSampling {
        DefaultSampling {
            temperature: self.temperature.or(model.temperature),
            top_p: self.top_p.or(model.top_p),
            top_k: self.top_k.or(model.top_k),
            min_p: self.min_p.or(model.min_p),
            presence_penalty: self.presence_penalty.or(model.presence_penalty),
            frequency_penalty: self.frequency_penalty.or(model.frequency_penalty),
            repetition_penalty: self.repetition_penalty.or(model.repetition_penalty),
            max_tokens: self.max_tokens.or(model.max_tokens),
            eos_token_ids: model.eos_token_ids.clone(),
        }
    }

    /// How to sample plain rows; greedy where neither flags nor the model say anything, so that a
    /// job gives the same answers every time.
    pub(crate) fn params(&self, model: &DefaultSampling) -> SamplingParams {
        let neutral = SamplingParams::default();
        let given = self.defaults(model);
        SamplingParams {
            temperature: given.temperature.unwrap_or(0.0),
            top_p: given.top_p.unwrap_or(neutral.top_p),
            top_k: given.top_k.unwrap_or(neutral.top_k),
            min_p: given.min_p.unwrap_or(neutral.min_p),
            presence_penalty: given.presence_penalty.unwrap_or(neutral.presence_penalty),
            frequency_penalty: given.frequency_penalty.unwrap_or(neutral.frequency_penalty),
            repetition_penalty: given
                .repetition_penalty
                .unwrap_or(neutral.repetition_penalty),
            max_tokens: self.max_tokens.or(neutral.max_tokens),
            min_tokens: self.min_tokens,
            n: self.n,
            stop: self.stop.clone(),
            ignore_eos: self.ignore_eos,
            ..neutral
        }
    }
}
