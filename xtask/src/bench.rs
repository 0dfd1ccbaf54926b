//! Measures the CPU engine beside its peers, all in one run on one machine, and what each form of weights
//! costs.
//!
//! What is measured lives elsewhere: the programs of `xtask/peers` and the benchmark `cpu` of
//! `vllm-engine` take the same workloads and print the same lines.

mod formats;
mod limits;
mod programs;
mod report;
mod workloads;

use std::path::{Path, PathBuf};

use crate::Result;
use limits::{Machine, Shape};
use programs::{Engine, Measurements};
use report::Report;
use workloads::Workload;

pub(crate) const HELP: &str = "\
Usage: cargo xtask bench cpu [OPTIONS]
       cargo xtask bench formats

Options:
  --model NAME        qwen3-0.6b (default) or llama-3.2-1b: the shape of the random weights
  --formats           the quantized forms instead of bfloat16: Q8_0, Q4_K_M, GPTQ and AWQ
  --workloads A,B     only these; `--workloads list` shows them all
  --quick             only decode-1, decode-32 and prefill-512
  --peers DIR         where the peers' Python environments are (default: .peers); docs/benchmarks.md
                      says how to make them. `none` runs our engine alone
  --json FILE         where the figures go (default: target/bench/MODEL.json)
";

struct Options {
    model: String,
    formats: bool,
    workloads: Option<Vec<String>>,
    peers: Option<PathBuf>,
    json: Option<PathBuf>,
}

/// Runs `cargo xtask bench`.
pub(crate) fn bench(root: &Path, arguments: &[String]) -> Result<()> {
    match arguments.first().map(String::as_str) {
        Some("formats") => formats::write_table(root),
        _ => cpu(root, arguments),
    }
}

fn cpu(root: &Path, arguments: &[String]) -> Result<()> {
    let Some(options) = parse(root, arguments)? else {
        return Ok(());
    };
    let workloads = workloads::select(options.formats, options.workloads.as_deref())?;
    let program = programs::build(root, "cpu")?;
    let folder = root.join("target/bench");
    let checkpoint = programs::checkpoint(&program, &folder, (&options.model, "bf16"))?;
    let machine = Machine::parse(&programs::output(&program, &["machine"])?)?;
    eprintln!("{machine}");
    let shape = Shape::parse(&programs::output(&program, &["shape", &options.model])?)?;

    let mut report = Report::new(&options.model, machine, shape);
    let engines = programs::engines(root, &program, &checkpoint, &options)?;
    for engine in &engines {
        report.add(engine, measure(engine, &workloads));
    }
    print!("{}", report.table(&workloads));
    let suffix = if options.formats { "-formats" } else { "" };
    let json = options
        .json
        .unwrap_or_else(|| folder.join(format!("{}{suffix}.json", options.model)));
    std::fs::write(&json, report.json(&workloads))
        .map_err(|error| format!("cannot write `{}`: {error}", json.display()))?;
    eprintln!("figures in {}", json.display());
    Ok(())
}

/// Runs the workloads on one engine: first short ones, then those of long prompts in a process of
/// their own, because engines set aside memory for the longest prompt that they are told of.
///
/// An engine that fails leaves its figures out and those of the others standing.
fn measure(engine: &Engine, workloads: &[Workload]) -> Measurements {
    let (long, short): (Vec<_>, Vec<_>) = workloads.iter().partition(|w| w.is_long());
    let mut all = Measurements::default();
    for workloads in [short, long] {
        if workloads.is_empty() {
            continue;
        }
        match engine.run(&workloads) {
            Ok(measurements) => all.extend(measurements),
            Err(error) => eprintln!("{} is left out: {error}", engine.name),
        }
    }
    all
}

fn parse(root: &Path, arguments: &[String]) -> Result<Option<Options>> {
    let default_peers = root.join(".peers");
    let mut options = Options {
        model: "qwen3-0.6b".to_owned(),
        formats: false,
        workloads: None,
        peers: Some(default_peers),
        json: None,
    };
    let mut arguments = arguments.iter().map(String::as_str);
    match arguments.next() {
        Some("cpu") => {}
        Some("--help" | "-h") | None => {
            eprint!("{HELP}");
            return Ok(None);
        }
        Some(unknown) => return Err(format!("cannot measure `{unknown}`\n\n{HELP}")),
    }
    while let Some(flag) = arguments.next() {
        let mut value = || {
            let value = arguments.next().map(str::to_owned);
            value.ok_or_else(|| format!("`{flag}` needs a value\n\n{HELP}"))
        };
        match flag {
            "--model" => options.model = value()?,
            "--formats" => options.formats = true,
            "--workloads" => {
                let names = value()?;
                if names == "list" {
                    print!("{}", workloads::list());
                    return Ok(None);
                }
                options.workloads = Some(names.split(',').map(str::to_owned).collect());
            }
            "--quick" => {
                let quick = ["decode-1", "decode-32", "prefill-512"];
                options.workloads = Some(quick.map(str::to_owned).to_vec());
            }
            "--peers" => {
                let folder = value()?;
                options.peers = (folder != "none").then(|| PathBuf::from(folder));
            }
            "--json" => options.json = Some(PathBuf::from(value()?)),
            "--help" | "-h" => {
                eprint!("{HELP}");
                return Ok(None);
            }
            unknown => return Err(format!("there is no option `{unknown}`\n\n{HELP}")),
        }
    }
    Ok(Some(options))
}
