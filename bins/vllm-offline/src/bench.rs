//! `vllm-offline bench`: how fast the engine is, by the names of `vllm bench`.

use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use vllm_bench::{
    Error, Generation, LatencySettings, RandomWorkload, Result, WorkloadArgs, measure_latency,
    measure_throughput,
};
use vllm_engine::{AsyncLlm, DEMO_MODEL, EngineClient, EngineConfig};

use crate::args::EngineArgs;

/// What to measure.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Bench {
    /// Requests and tokens per second when all requests come at once
    Throughput(Throughput),
    /// Seconds for one batch of random prompts, several times over, without a prefix cache
    Latency(Latency),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Throughput {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    workload: WorkloadArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Latency {
    #[command(flatten)]
    common: Common,
    /// Tokens of each prompt
    #[arg(long, value_name = "TOKENS", default_value_t = 32)]
    input_len: usize,
    /// Tokens to generate for each prompt
    #[arg(long, value_name = "TOKENS", default_value_t = 128)]
    output_len: usize,
    /// Prompts in the batch
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch_size: usize,
    /// Runs before the clock starts
    #[arg(long, value_name = "N", default_value_t = 10)]
    num_iters_warmup: usize,
    /// Runs that count
    #[arg(long, value_name = "N", default_value_t = 30)]
    num_iters: usize,
    /// Decides which prompts are drawn
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    engine: EngineArgs,
}

/// What both measurements ask.
#[derive(Debug, clap::Args)]
struct Common {
    /// Folder or hub name of the model
    #[arg(long, value_name = "NAME_OR_FOLDER", default_value = DEMO_MODEL)]
    model: String,
    /// Write the results to a file
    #[arg(long, value_name = "FILE.json")]
    output_json: Option<PathBuf>,
    /// Samples for each prompt
    #[arg(long, default_value_t = 1)]
    n: i64,
    /// How tokens are drawn; 0 takes the likeliest
    #[arg(long, default_value_t = 1.0)]
    temperature: f64,
}

impl Bench {
    /// Measures, and prints the figures on standard output.
    pub(crate) fn run(&self) -> Result<()> {
        match self {
            Self::Throughput(bench) => bench.run(),
            Self::Latency(bench) => bench.run(),
        }
    }
}

impl Throughput {
    fn run(&self) -> Result<()> {
        let engine = AsyncLlm::new(&self.common.config(&self.engine))?;
        let vocab_size = engine.info().vocab_size;
        let requests = self.workload.requests(engine.tokenizer(), vocab_size)?;
        let bar = progress_bar(requests.len(), "prompts");
        let generation = self.common.generation();
        let report = measure_throughput(&engine, &requests, &generation, || bar.inc(1));
        bar.finish_and_clear();
        let report = report?;
        self.common.tell(&report, report.to_json())
    }
}

impl Latency {
    fn run(&self) -> Result<()> {
        let mut config = self.common.config(&self.engine);
        config.enable_prefix_caching = false;
        let engine = AsyncLlm::new(&config)?;
        let workload = RandomWorkload {
            num_prompts: self.batch_size,
            input_len: self.input_len,
            output_len: self.output_len,
            range_ratio: 0.0,
            prefix_len: 0,
            seed: self.seed,
        };
        let batch = workload.draw(engine.tokenizer(), engine.info().vocab_size)?;
        let settings = LatencySettings {
            num_warmup_iterations: self.num_iters_warmup,
            num_iterations: self.num_iters,
        };
        let bar = progress_bar(self.num_iters_warmup + self.num_iters, "runs");
        let generation = self.common.generation();
        let report = measure_latency(&engine, &batch, &generation, settings, || bar.inc(1));
        bar.finish_and_clear();
        let report = report?;
        self.common.tell(&report, report.to_json())
    }
}

impl Common {
    fn config(&self, engine: &EngineArgs) -> EngineConfig {
        engine.config(&self.model)
    }

    fn generation(&self) -> Generation {
        Generation {
            n: self.n,
            temperature: self.temperature,
        }
    }

    #[allow(clippy::print_stdout)]
    fn tell(&self, report: &impl std::fmt::Display, json: Value) -> Result<()> {
        println!("{report}");
        match &self.output_json {
            Some(path) => write_json(path, &json),
            None => Ok(()),
        }
    }
}

fn write_json(path: &Path, json: &Value) -> Result<()> {
    std::fs::write(path, format!("{json:#}\n")).map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })
}

/// Hidden where standard error is no terminal.
fn progress_bar(total: usize, unit: &str) -> ProgressBar {
    let bar = ProgressBar::new(total as u64);
    let template = format!("{{bar:30}} {{pos}}/{{len}} {unit}  {{elapsed}} elapsed, {{eta}} left");
    match ProgressStyle::with_template(&template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
