//! Offline batched inference over a data set of prompts.
//!
//! Knows flags, files and the terminal, and wires the engine to a job. It must never know how rows
//! are read or answered: that is decided in the crates.
//!
//! Exit codes: 0 when every row has an answer, 1 when the job could not run, 2 for a bad command
//! line, 3 when some rows failed (their results say why), 130 after Ctrl-C.

mod args;
mod bench;
mod convert;
mod data;
mod interrupt;
#[cfg(feature = "object-store")]
mod objects;
mod places;
mod progress;
mod sink;
mod summary;

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use serde_json::json;
use vllm_batch::{Error, Job, JobIdentity, JobSettings};
use vllm_engine::{AsyncLlm, DEMO_MODEL, EngineClient, LoadObserver, SamplingParams, plan_memory};
use vllm_terminal::ByteBar;

use crate::args::{Args, Command};
use crate::data::DataSet;
use crate::interrupt::{Doing, Interrupts};
use crate::places::Places;
use crate::progress::ProgressDisplay;
use crate::sink::OpenSink;
use crate::summary::Summary;

fn main() -> ExitCode {
    vllm_tensor::keep_freed_memory();
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("VLLM_LOGGING_LEVEL")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn")),
        )
        .init();
    if let Some(Command::Bench(bench)) = &args.command {
        return match bench.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("vllm-offline: {error}");
                ExitCode::FAILURE
            }
        };
    }
    if let Some(Command::Convert(convert)) = &args.command {
        return match convert.run() {
            Ok(ControlFlow::Continue(())) => ExitCode::SUCCESS,
            Ok(ControlFlow::Break(())) => ExitCode::from(130),
            Err(error) => {
                eprintln!("vllm-offline: {error}");
                ExitCode::FAILURE
            }
        };
    }
    match run(&args, &Interrupts::install()) {
        Ok(Outcome::Complete { rows, failed }) if failed > 0 => {
            eprintln!("vllm-offline: {failed} of {rows} rows failed; their results say why");
            ExitCode::from(3)
        }
        Ok(Outcome::Complete { .. }) => ExitCode::SUCCESS,
        Ok(Outcome::Interrupted) => ExitCode::from(130),
        Err(error) => {
            eprintln!("vllm-offline: {error}{}", flag_for(&error));
            ExitCode::FAILURE
        }
    }
}

/// The flag that helps, in brackets.
fn flag_for(error: &Error) -> &'static str {
    match error {
        Error::OtherJob { .. } | Error::OtherInput { .. } => " (--restart)",
        Error::NoPromptColumn { .. } => " (--prompt-column)",
        Error::TooManyFailures { .. } => " (--max-errors)",
        _ => "",
    }
}

enum Outcome {
    Complete { rows: u64, failed: u64 },
    Interrupted,
}

fn run(args: &Args, interrupts: &Interrupts) -> Result<Outcome, Error> {
    let model = args.model.as_deref().unwrap_or_else(|| {
        eprintln!("No --model given: using the embedded demo model.");
        DEMO_MODEL
    });
    let mut config = args.engine.config(model);
    if args.engine.dry_run {
        eprintln!("{}", plan_memory(&config)?);
        return Ok(Outcome::Complete { rows: 0, failed: 0 });
    }
    // Opened first: a missing file or a busy output should not cost the loading of a model.
    let places = Places::find(&args.data)?;
    let data = DataSet::open(&args.data, places.input.as_ref())?;
    let sink = OpenSink::open(places.output.as_deref())?;

    config.load_observer = ByteBar::on_terminal("Loading weights").map(|bar| {
        LoadObserver::new(move |progress| bar.show(progress.loaded_bytes, progress.total_bytes))
    });
    let engine = Arc::new(AsyncLlm::new(&config)?);
    let own_defaults = &engine.info().default_sampling;
    let params = checked(args.sampling.params(own_defaults))?;
    let mut settings = JobSettings {
        model: model.to_owned(),
        params,
        max_tokens: args.sampling.max_tokens,
        defaults: args.sampling.defaults(own_defaults),
        seed: args.sampling.seed.unwrap_or(config.seed.cast_signed()),
        created: 0,
        // Enough that the engine's largest batch never runs dry.
        max_rows_in_flight: 2 * config.resolved_max_num_seqs(),
        max_errors: args.data.max_errors(),
    };
    let identity = identity(args, &data, &settings, &*engine);
    let mut sink = sink.begin(&identity, data.first_row(), &args.data)?;
    settings.created = sink.created();
    let resumed = sink.progress();
    if resumed.rows_done > 0 {
        eprintln!("Going on after {} rows that are done.", resumed.rows_done);
    }

    let stop = interrupts.stop();
    interrupts.now(Doing::Answering);
    let mut summary = Summary::new(resumed);
    let display = ProgressDisplay::new(data.num_rows(), resumed);
    let (done, rows) = (sink.done(data.first_row()), data.into_rows());
    let outcome = Job::new(engine, settings).run(
        rows,
        done,
        resumed,
        stop,
        |result| match sink.is_on_the_terminal() {
            true => display.suspend(|| sink.put(result)),
            false => sink.put(result),
        },
        |progress| {
            summary.update(progress);
            display.update(progress);
        },
    );
    display.finish();
    let is_complete = outcome.is_ok() && !stop.is_requested();
    let ended = match is_complete {
        true => {
            interrupts.now(Doing::Delivering);
            sink.finish(&args.data, &places)
        }
        false => sink.leave(),
    };
    let is_complete = is_complete && ended.is_ok();
    eprintln!("{summary}");
    if let Some(path) = &args.data.summary_json {
        summary.write(path, is_complete)?;
    }
    let progress = outcome?;
    ended?;
    if is_complete {
        places.clean_up();
    }
    Ok(match is_complete {
        true => Outcome::Complete {
            rows: progress.rows_done,
            failed: progress.rows_failed,
        },
        false => Outcome::Interrupted,
    })
}

/// A bad flag should end the job before its first row does.
fn checked(mut params: SamplingParams) -> Result<SamplingParams, Error> {
    params
        .normalize_and_validate()
        .map_err(|error| Error::Engine(vllm_engine::Error::invalid(error.to_string())))?;
    Ok(params)
}

/// Everything that decides what the output is.
fn identity(
    args: &Args,
    data: &DataSet,
    settings: &JobSettings,
    engine: &dyn EngineClient,
) -> JobIdentity {
    let info = engine.info();
    let mut identity = JobIdentity::new();
    let mut add = |name: &str, value| identity.insert(name.to_owned(), value);
    add("version", env!("CARGO_PKG_VERSION").into());
    add("model", settings.model.as_str().into());
    add("model_source", args.engine.model_source());
    add("architecture", info.architecture.as_str().into());
    add("dtype", info.dtype.as_str().into());
    add("kv_cache_dtype", info.kv_cache_dtype.as_str().into());
    add("device", info.device.as_str().into());
    add("max_model_len", info.max_model_len.into());
    add("sampling", json!(format!("{:?}", settings.params)));
    add("defaults", json!(format!("{:?}", settings.defaults)));
    add("max_tokens", settings.max_tokens.into());
    add("seed", settings.seed.into());
    add("input", data.identity());
    add(
        "shard",
        json!(args.data.shard.map(|shard| shard.to_string())),
    );
    identity
}
