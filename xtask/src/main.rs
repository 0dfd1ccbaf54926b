//! Developer chores, run as `cargo xtask CHORE`.
//!
//! Knows how the workspace is checked and how a CUDA toolkit is laid out. It must never know how the
//! engine works: of the workspace's crates it depends only on the pure scheduler, whose recordings
//! it replays, so that it builds in seconds.

#[allow(clippy::print_stdout)] // Its table is the result.
mod bench;
mod ci;
mod cuda;
mod process;
mod python;
mod replay;
mod tally;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const HELP: &str = "\
Usage: cargo xtask CHORE

Chores:
  ci              formatting, lints, documentation, Rust tests and end-to-end tests
  e2e [ARGS]      only the end-to-end tests; ARGS go to pytest
  cuda-toolchain  fetch a CUDA toolkit into .cuda/ (no GPU and no installed toolkit needed)
  bench cpu       measure the CPU engine beside its peers; `bench cpu --help` tells more
  bench formats   measure what each form of weights costs the demo model, into docs/weights.md
  replay FILE     run a recording of scheduling steps again and point at the first difference
  check-cuda      build the command lines with the `cuda` feature against .cuda/
";

/// Why a chore failed: a sentence for the terminal.
type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let root = workspace_root();
    let outcome = match arguments.first().map(String::as_str) {
        Some("ci") => ci::check_everything(&root),
        Some("e2e") => ci::end_to_end(&root, &arguments[1..]),
        Some("cuda-toolchain") => cuda::fetch_toolchain(&root),
        Some("check-cuda") => cuda::check(&root),
        Some("bench") => bench::bench(&root, &arguments[1..]),
        Some("replay") => replay::replay_file(&arguments[1..]),
        Some("help" | "--help" | "-h") => {
            eprint!("{HELP}");
            Ok(())
        }
        Some(unknown) => Err(format!("there is no chore `{unknown}`\n\n{HELP}")),
        None => Err(HELP.to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn workspace_root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}
