//! An OpenAI-compatible HTTP server for language models.
//!
//! Knows flags, environment variables and signals, and wires the engine to the service. It must
//! never know how a request is answered: that is decided in the crates.
//!
//! Exit codes: 0 after a stop that was asked for; 1 when the service could not start or the
//! engine died; 2 when the command line is wrong; 130 when a second signal cut the stop short.
#![forbid(unsafe_code)]

mod args;
mod bench;
mod compatibility;
mod environment;
mod expand;
mod logging;
mod settings;

use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, FromArgMatches, Parser};
use tokio::runtime::Runtime;
use vllm_engine::{AsyncLlm, EngineClient, LoadObserver, plan_memory};
use vllm_server::{BoundSocket, ExitCause, Phase, Server, Shutdown};
use vllm_terminal::ByteBar;

use crate::args::Args;
use crate::bench::BenchArgs;
use crate::environment::Environment;
use crate::settings::Settings;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1).peekable();
    if words.next_if(|word| word == "bench").is_some() {
        return run_bench(words);
    }
    vllm_tensor::keep_freed_memory();
    let environment = Environment::of_process();
    let expanded = match expand::expand(words, &Args::command()) {
        Ok(expanded) => expanded,
        Err(message) => return usage_error(&message),
    };
    let command_line = std::iter::once("vllm-serve".to_owned()).chain(expanded.arguments);
    let args = Args::command()
        .try_get_matches_from(command_line)
        .and_then(|matches| Args::from_arg_matches(&matches));
    let args = match args {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    let settings = match Settings::new(args, &environment) {
        Ok(settings) => settings,
        Err(message) => return usage_error(&message),
    };
    logging::install(&settings.log);
    for warning in expanded.warnings.iter().chain(&environment.warnings()) {
        tracing::warn!("{warning}");
    }
    match run(settings) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("vllm-serve: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Measures a server that runs elsewhere.
fn run_bench(words: impl Iterator<Item = String>) -> ExitCode {
    let words = words.map(|word| expand::with_dashes(&word));
    let args = BenchArgs::parse_from(std::iter::once("vllm-serve bench".to_owned()).chain(words));
    match bench::run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("vllm-serve bench: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Takes the port, loads the model, serves until it is stopped.
fn run(settings: Settings) -> Result<ExitCode, String> {
    if settings.is_demo_by_default {
        eprintln!(
            "No model was named, so the built-in model `demo` is served. Name a folder or a hub \
             model to serve a real one: vllm-serve facebook/opt-125m"
        );
    }
    settings.server.validate().map_err(text)?;
    if settings.dry_run {
        eprintln!("{}", plan_memory(&settings.engine).map_err(text)?);
        return Ok(ExitCode::SUCCESS);
    }
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(
        "vLLM server version {version}, serving model {}",
        settings.engine.model
    );
    let runtime = Runtime::new().map_err(|error| format!("cannot start threads: {error}"))?;
    let shutdown = Shutdown::new();
    let cause = runtime.block_on(async {
        let socket = BoundSocket::bind(&settings.server.http.listen)
            .await
            .map_err(text)?;
        shutdown.on_signals().map_err(text)?;
        let mut engine_config = settings.engine;
        engine_config.load_observer = ByteBar::on_terminal("Loading weights").map(|bar| {
            LoadObserver::new(move |progress| bar.show(progress.loaded_bytes, progress.total_bytes))
        });
        let has_model_defaults = engine_config.generation_config == "auto"
            && engine_config.override_generation_config.is_none();
        let loading = tokio::task::spawn_blocking(move || AsyncLlm::new(&engine_config));
        let engine = tokio::select! {
            loaded = loading => loaded.map_err(text)?.map_err(text)?,
            () = shutdown.reached(Phase::Stopping) => {
                tracing::info!("Stopped while the model was loading");
                return Ok(ExitCause::Stopped);
            }
        };
        if let (true, Some(defaults)) = (
            has_model_defaults,
            engine.info().default_sampling.describe(),
        ) {
            tracing::warn!(
                "Default vLLM sampling parameters have been overridden by the model's \
                 `generation_config.json`: `{defaults}`. If this is not intended, please relaunch \
                 vLLM instance with `--generation-config vllm`."
            );
        }
        let server = Server::new(&settings.server, Arc::new(engine), shutdown.clone());
        server.map_err(text)?.serve(socket).await.map_err(text)
    })?;
    // Whatever still runs, such as a model that loads, must not hold the process.
    runtime.shutdown_background();
    Ok(match (shutdown.phase(), cause) {
        (Phase::Killed, _) => ExitCode::from(130),
        (_, ExitCause::Stopped) => ExitCode::SUCCESS,
        (_, ExitCause::EngineDead) => ExitCode::FAILURE,
    })
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn usage_error(message: &str) -> ExitCode {
    eprintln!("vllm-serve: {message}");
    ExitCode::from(2)
}
