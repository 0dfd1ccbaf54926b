//! `vllm-serve bench`: load on a running server, by the names of `vllm bench serve`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;
use vllm_bench::serve::{
    Api, Arrivals, Client, ClientSettings, Goal, Load, LoadSettings, Metric, ReportSettings,
    ServeReport, apply_load, to_text,
};
use vllm_bench::{Error, Result, WorkloadArgs};
use vllm_engine::{EngineConfig, open_tokenizer};

/// Send requests to a running server as many clients would, and measure what they see.
#[derive(Debug, Parser)]
#[command(name = "vllm-serve bench", version, max_term_width = 100)]
pub(crate) struct BenchArgs {
    /// The form of requests
    #[arg(long, value_enum, default_value_t = Backend::Openai, help_heading = "Server")]
    backend: Backend,
    /// Address of the server, instead of host and port
    #[arg(long, value_name = "URL", help_heading = "Server")]
    base_url: Option<String>,
    /// Host of the server
    #[arg(long, default_value = "127.0.0.1", help_heading = "Server")]
    host: String,
    /// Port of the server
    #[arg(long, default_value_t = 8000, help_heading = "Server")]
    port: u16,
    /// Path of the route [default: that of the backend]
    #[arg(long, value_name = "PATH", help_heading = "Server")]
    endpoint: Option<String>,
    /// Folder or hub name of the model [default: the first one that the server names]
    #[arg(long, help_heading = "Server")]
    model: Option<String>,
    /// The model's name in requests [default: MODEL]
    #[arg(long, value_name = "NAME", help_heading = "Server")]
    served_model_name: Option<String>,
    /// Folder or hub name of the tokenizer [default: MODEL]
    #[arg(long, help_heading = "Server")]
    tokenizer: Option<String>,
    /// Key that the server asks for
    #[arg(
        long,
        env = "OPENAI_API_KEY",
        hide_env_values = true,
        help_heading = "Server"
    )]
    api_key: Option<String>,
    /// Seconds to wait for a server that is still starting
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 0,
        help_heading = "Server"
    )]
    ready_check_timeout_sec: u64,

    #[command(flatten)]
    workload: WorkloadArgs,

    /// Requests per second; inf sends all at once
    #[arg(long, default_value_t = f64::INFINITY, help_heading = "Load")]
    request_rate: f64,
    /// 1 for a Poisson process, less for bursts, more for an even flow
    #[arg(long, default_value_t = 1.0, help_heading = "Load")]
    burstiness: f64,
    /// Most requests under way at once
    #[arg(long, value_name = "N", help_heading = "Load")]
    max_concurrency: Option<usize>,
    /// Requests before the clock starts
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Load")]
    num_warmups: usize,

    /// Go on past the end of sequence, so that answers are as long as asked for
    #[arg(long, help_heading = "Sampling")]
    ignore_eos: bool,
    /// 0 takes the likeliest token
    #[arg(long, default_value_t = 0.0, help_heading = "Sampling")]
    temperature: f64,
    /// Further members of every request, as a JSON object
    #[arg(long, value_name = "JSON", value_parser = json_object, help_heading = "Sampling")]
    extra_body: Option<JsonObject>,

    /// Metrics with figures: ttft, tpot, itl, e2el
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "ttft,tpot,itl",
        help_heading = "Results"
    )]
    percentile_metrics: Vec<Metric>,
    /// Percentiles of each metric
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "99", value_parser = percentile, help_heading = "Results")]
    metric_percentiles: Vec<f64>,
    /// What a good answer keeps, in milliseconds: ttft:200 tpot:50 e2el:3000
    #[arg(long, value_name = "METRIC:MS", num_args = 1.., value_parser = goal, help_heading = "Results")]
    goodput: Vec<Goal>,
    /// Write the results to a file
    #[arg(long, help_heading = "Results")]
    save_result: bool,
    /// Write what each client saw, too
    #[arg(long, help_heading = "Results")]
    save_detailed: bool,
    /// Folder of the file [default: the current one]
    #[arg(long, value_name = "FOLDER", help_heading = "Results")]
    result_dir: Option<PathBuf>,
    /// Name of the file [default: from label, rate, model and time]
    #[arg(long, value_name = "FILE.json", help_heading = "Results")]
    result_filename: Option<PathBuf>,
    /// Beginning of the file's name [default: the backend]
    #[arg(long, help_heading = "Results")]
    label: Option<String>,
    /// Further members of the file
    #[arg(long, value_name = "KEY=VALUE", num_args = 1.., value_parser = key_value, help_heading = "Results")]
    metadata: Vec<(String, String)>,
    /// Show no progress bar
    #[arg(long, help_heading = "Results")]
    disable_tqdm: bool,
}

type JsonObject = Map<String, Value>;

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Backend {
    /// Completions
    #[value(alias = "vllm")]
    Openai,
    /// Chat completions
    OpenaiChat,
}

impl Backend {
    fn name(self) -> &'static str {
        match self {
            Self::Openai => "openai",
            Self::OpenaiChat => "openai-chat",
        }
    }

    fn api(self) -> Api {
        match self {
            Self::Openai => Api::Completions,
            Self::OpenaiChat => Api::Chat,
        }
    }
}

/// Loads the server and prints the figures on standard output. Says whether all requests were
/// answered.
pub(crate) fn run(args: &BenchArgs) -> std::result::Result<bool, String> {
    let runtime = Runtime::new().map_err(|error| format!("cannot start threads: {error}"))?;
    let outcome = runtime.block_on(measure(args));
    outcome.map_err(|error| error.to_string())
}

#[allow(clippy::print_stdout)]
async fn measure(args: &BenchArgs) -> Result<bool> {
    let client = Client::new(args.client_settings())?;
    let model = match &args.model {
        Some(model) => model.clone(),
        None => client.first_model().await?,
    };
    let mut tokenizer_config = EngineConfig::new(&model);
    tokenizer_config.tokenizer.clone_from(&args.tokenizer);
    let tokenizer = open_tokenizer(&tokenizer_config)?;
    let vocab_size = tokenizer.max_token_id() as usize + 1;
    let requests = args.workload.requests(&tokenizer, vocab_size)?;
    let requests = to_text(&requests, &tokenizer, args.workload.seed)?;
    let settings = LoadSettings {
        model: args.served_model_name.clone().unwrap_or(model.clone()),
        arrivals: Arrivals {
            request_rate: args.request_rate,
            burstiness: args.burstiness,
            seed: args.workload.seed,
        },
        max_concurrency: args.max_concurrency,
    };
    let patience = Duration::from_secs(args.ready_check_timeout_sec);
    client
        .wait_until_ready(&settings.model, &requests[0], patience)
        .await?;
    if args.num_warmups > 0 {
        let count = args.num_warmups.min(requests.len());
        let at_once = LoadSettings {
            arrivals: Arrivals {
                request_rate: f64::INFINITY,
                ..settings.arrivals
            },
            ..settings.clone()
        };
        apply_load(&client, &requests[..count], &at_once, |_| ()).await?;
    }
    let bar = args.progress_bar(requests.len());
    let load = apply_load(&client, &requests, &settings, |_| bar.inc(1)).await?;
    bar.finish_and_clear();
    let report = ServeReport::new(&load, args.report_settings());
    println!("{:=^50}", " Serving Benchmark Result ");
    println!("{report}");
    if let Some(reason) = load.observations.iter().find_map(|o| o.error.as_ref()) {
        eprintln!(
            "vllm-serve bench: {} requests failed, the first one: {reason}",
            report.failed()
        );
    }
    if args.save_result || args.save_detailed {
        let path = args.save(&model, &load, &report)?;
        eprintln!("Results are in {}.", path.display());
    }
    Ok(report.failed() == 0)
}

impl BenchArgs {
    fn client_settings(&self) -> ClientSettings {
        let mut extra_body = Map::new();
        extra_body.insert("temperature".to_owned(), self.temperature.into());
        if self.ignore_eos {
            extra_body.insert("ignore_eos".to_owned(), true.into());
        }
        extra_body.extend(self.extra_body.clone().unwrap_or_default());
        let by_port = || format!("http://{}:{}", self.host, self.port);
        let api = self.backend.api();
        let endpoint = self.endpoint.as_deref().unwrap_or(api.endpoint());
        ClientSettings {
            base_url: self.base_url.clone().unwrap_or_else(by_port),
            api,
            endpoint: endpoint.to_owned(),
            api_key: self.api_key.clone(),
            extra_body,
        }
    }

    fn report_settings(&self) -> ReportSettings {
        ReportSettings {
            metrics: self.percentile_metrics.clone(),
            percentiles: self.metric_percentiles.clone(),
            goals: self.goodput.clone(),
        }
    }

    fn progress_bar(&self, total: usize) -> ProgressBar {
        if self.disable_tqdm {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(total as u64);
        match ProgressStyle::with_template("{bar:30} {pos}/{len} requests  {elapsed} elapsed") {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        }
    }

    fn label(&self) -> &str {
        self.label.as_deref().unwrap_or(self.backend.name())
    }

    /// Infinity has no number in JSON, so it is a word as in vLLM's files.
    fn rate(&self) -> Value {
        match self.request_rate.is_infinite() {
            true => "inf".into(),
            false => self.request_rate.into(),
        }
    }

    fn save(&self, model: &str, load: &Load, report: &ServeReport) -> Result<PathBuf> {
        let date = chrono::Local::now().format("%Y%m%d-%H%M%S").to_string();
        let tokenizer = self.tokenizer.as_deref().unwrap_or(model);
        let mut file = Map::new();
        for (name, value) in [
            ("date", json!(date)),
            ("backend", json!(self.backend.name())),
            ("endpoint_type", json!(self.backend.name())),
            ("label", json!(self.label)),
            ("model_id", json!(model)),
            ("tokenizer_id", json!(tokenizer)),
            ("num_prompts", json!(self.workload.num_prompts)),
            ("request_rate", self.rate()),
            ("burstiness", json!(self.burstiness)),
            ("max_concurrency", json!(self.max_concurrency)),
        ] {
            file.insert(name.to_owned(), value);
        }
        let metadata = self.metadata.iter();
        file.extend(metadata.map(|(name, value)| (name.clone(), value.as_str().into())));
        file.extend(report.to_json());
        if self.save_detailed {
            file.extend(ServeReport::details(load));
        }
        let name = self.result_filename.clone().unwrap_or_else(|| {
            let concurrency = self
                .max_concurrency
                .map(|most| format!("-concurrency{most}"));
            let rate = self.request_rate;
            let model = Path::new(model).file_name().unwrap_or_default();
            let (concurrency, model) = (concurrency.unwrap_or_default(), model.to_string_lossy());
            format!(
                "{}-{rate}qps{concurrency}-{model}-{date}.json",
                self.label()
            )
            .into()
        });
        let folder = self.result_dir.clone().unwrap_or_default();
        let path = folder.join(name);
        let file_error = |source| Error::File {
            path: path.clone(),
            source,
        };
        std::fs::create_dir_all(path.parent().unwrap_or(&folder)).map_err(file_error)?;
        let text = format!("{:#}\n", Value::Object(file));
        std::fs::write(&path, text).map_err(file_error)?;
        Ok(path)
    }
}

fn json_object(text: &str) -> std::result::Result<JsonObject, String> {
    serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))
}

fn percentile(text: &str) -> std::result::Result<f64, String> {
    match text.parse() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent),
        _ => Err("a percentile is a number from 0 to 100".to_owned()),
    }
}

fn goal(text: &str) -> std::result::Result<Goal, String> {
    let (metric, milliseconds) = text.split_once(':').ok_or("expected METRIC:MS")?;
    let metric = metric.parse()?;
    if metric == Metric::Itl {
        return Err("a request has many inter-token latencies; use tpot".to_owned());
    }
    match milliseconds.parse() {
        Ok(milliseconds) if milliseconds >= 0.0 => Ok(Goal {
            metric,
            milliseconds,
        }),
        _ => Err(format!("`{milliseconds}` is no number of milliseconds")),
    }
}

fn key_value(text: &str) -> std::result::Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
