//! Offline batched inference over a data set of prompts.
//!
//! Knows flags, files and the terminal, and wires the engine to a job. It must never know how rows
//! are read or answered: that is decided in the crates.
//!
//! Exit codes: 0 when every row has an answer, 1 when the job could not run, 2 for a bad command
//! line, 3 when some rows failed (their results say why), 130 after Ctrl-C.

mod args;
mod progress;

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use clap::Parser;
use vllm_batch::{Error, Job, Progress, Row, RowReader, RowResult, to_json_line};
use vllm_engine::{AsyncLlm, DEMO_MODEL, EngineClient, plan_memory};

use crate::args::Args;
use crate::progress::ProgressDisplay;

/// The prompts of vLLM's quick start.
const SAMPLE_PROMPTS: [&str; 4] = [
    "Hello, my name is",
    "The president of the United States is",
    "The capital of France is",
    "The future of AI is",
];

fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("VLLM_LOGGING_LEVEL")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn")),
        )
        .init();
    let interrupted = Arc::new(AtomicBool::new(false));
    if let Err(error) = install_interrupt_handler(&interrupted) {
        eprintln!("vllm-offline: Ctrl-C will not be handled: {error}");
    }
    match run(&args, &interrupted) {
        Ok(_) if interrupted.load(Relaxed) => ExitCode::from(130),
        Ok(progress) if progress.rows_failed > 0 => {
            eprintln!(
                "vllm-offline: {} of {} rows failed; their results say why",
                progress.rows_failed, progress.rows_done
            );
            ExitCode::from(3)
        }
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vllm-offline: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The first Ctrl-C lets rows under way finish, the second ends the process.
fn install_interrupt_handler(interrupted: &Arc<AtomicBool>) -> Result<(), ctrlc::Error> {
    let interrupted = Arc::clone(interrupted);
    ctrlc::set_handler(move || {
        if interrupted.swap(true, Relaxed) {
            std::process::exit(130);
        }
        eprintln!("vllm-offline: finishing the rows under way; Ctrl-C again stops at once");
    })
}

fn run(args: &Args, interrupted: &AtomicBool) -> Result<Progress, Error> {
    let model = args.model.as_deref().unwrap_or_else(|| {
        eprintln!("No --model given: using the embedded demo model.");
        DEMO_MODEL
    });
    let config = args.engine.config(model);
    if args.engine.dry_run {
        eprintln!("{}", plan_memory(&config)?);
        return Ok(Progress::default());
    }
    // Opened first: a missing file should not cost the loading of a model.
    let total = args
        .input
        .as_deref()
        .map(RowReader::count_rows)
        .transpose()?;
    let reader = args.input.as_deref().map(RowReader::open).transpose()?;
    let mut sink = Sink::open(args)?;

    let engine = Arc::new(AsyncLlm::new(&config)?);
    let mut params = args.sampling.params(&engine.info().default_sampling);
    // A bad flag should end the job before its first row does.
    params
        .normalize_and_validate()
        .map_err(|error| Error::Engine(vllm_engine::Error::invalid(error.to_string())))?;

    let display = ProgressDisplay::new(total.unwrap_or(SAMPLE_PROMPTS.len()));
    let job = Job::new(engine, params, args.sampling.max_tokens);
    let should_stop = || interrupted.load(Relaxed);
    let on_result = |result: RowResult| display.suspend(|| sink.write(&result));
    let on_progress = |progress: &Progress| display.update(progress);
    let progress = match reader {
        Some(rows) => job.run(rows, should_stop, on_result, on_progress),
        None => {
            let rows = SAMPLE_PROMPTS
                .into_iter()
                .map(|prompt| Ok(Ok(Row::from_text(prompt))));
            job.run(rows, should_stop, on_result, on_progress)
        }
    }?;
    display.finish();
    sink.close()?;
    Ok(progress)
}

/// Where results go.
enum Sink {
    JsonLines(BufWriter<File>),
    Text,
}

impl Sink {
    fn open(args: &Args) -> Result<Self, Error> {
        let Some(path) = &args.output else {
            return Ok(Self::Text);
        };
        let file = File::create(path).map_err(|source| Error::File {
            path: path.clone(),
            source,
        })?;
        Ok(Self::JsonLines(BufWriter::new(file)))
    }

    fn write(&mut self, result: &RowResult) -> std::io::Result<()> {
        match self {
            Self::JsonLines(file) => writeln!(file, "{}", to_json_line(result)),
            Self::Text => write_text(&mut std::io::stdout().lock(), result),
        }
    }

    fn close(self) -> std::io::Result<()> {
        match self {
            Self::JsonLines(mut file) => file.flush(),
            Self::Text => Ok(()),
        }
    }
}

fn write_text(out: &mut impl Write, result: &RowResult) -> std::io::Result<()> {
    match &result.outcome {
        Ok(output) => {
            let prompt = output.prompt.as_deref().unwrap_or_default();
            output
                .outputs
                .iter()
                .try_for_each(|sample| writeln!(out, "Prompt: {prompt:?}, Text: {:?}", sample.text))
        }
        Err(message) => writeln!(out, "Row {}: error: {message}", result.index),
    }
}
