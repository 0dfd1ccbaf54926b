//! Everything that must hold before a change is taken.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::Result;
use crate::process::{cargo, run, run_counted, succeeds};
use crate::python;
use crate::tally::Tally;

/// Runs every check, also after one failed, and ends with one line of test counts.
pub(crate) fn check_everything(root: &Path) -> Result<()> {
    let started = Instant::now();
    let mut tally = Tally::default();
    let mut failures = Vec::new();
    let mut note = |outcome: Result<()>| failures.extend(outcome.err());

    note(run(&mut cargo(root, &["fmt", "--all", "--check"])));
    let lints = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    note(run(&mut cargo(root, &lints)));
    let mut documentation = cargo(root, &["doc", "--workspace", "--no-deps"]);
    note(run(documentation.env("RUSTDOCFLAGS", "-D warnings")));
    note(run_counted(&mut rust_tests(root), &mut tally));
    note(run_counted(
        &mut cargo(root, &["test", "--workspace", "--doc"]),
        &mut tally,
    ));
    note(build_programs(root).and_then(|()| run_counted(&mut pytest(root, &[])?, &mut tally)));

    let seconds = started.elapsed().as_secs_f64();
    let summary = format!("===== {tally} in {seconds:.2}s =====");
    if failures.is_empty() {
        print_result(&summary);
        return Ok(());
    }
    Err(format!(
        "FAILED: {}\n{summary}",
        failures.join("\nFAILED: ")
    ))
}

/// Runs only the end-to-end tests, with `arguments` for pytest.
pub(crate) fn end_to_end(root: &Path, arguments: &[String]) -> Result<()> {
    build_programs(root)?;
    run(&mut pytest(root, arguments)?)
}

/// All Rust tests except doc tests, with nextest where it is installed.
fn rust_tests(root: &Path) -> Command {
    let arguments: &[&str] = if succeeds(&mut cargo(root, &["nextest", "--version"])) {
        &["nextest", "run", "--workspace", "--no-fail-fast"]
    } else {
        &[
            "test",
            "--workspace",
            "--no-fail-fast",
            "--lib",
            "--bins",
            "--tests",
        ]
    };
    cargo(root, arguments)
}

/// Builds what the end-to-end tests start, in the profile of the tests to share their artefacts.
fn build_programs(root: &Path) -> Result<()> {
    run(&mut cargo(
        root,
        &["build", "--workspace", "--bins", "--examples"],
    ))
}

fn pytest(root: &Path, arguments: &[String]) -> Result<Command> {
    let mut command = Command::new(python::interpreter(root)?);
    command
        .current_dir(root)
        .args(["-m", "pytest", "tests"])
        .args(arguments);
    command.env("VLLM_BIN_DIR", program_folder()?);
    Ok(command)
}

/// Where cargo puts the workspace's programs: beside this one.
fn program_folder() -> Result<PathBuf> {
    let this = std::env::current_exe().map_err(|error| format!("cannot find myself: {error}"))?;
    this.parent()
        .map(Path::to_path_buf)
        .ok_or_else(|| "this program has no folder".to_owned())
}

#[allow(clippy::print_stdout)]
fn print_result(line: &str) {
    println!("{line}");
}
