//! The programs that are measured, one per engine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Options;
use super::workloads::Workload;
use crate::Result;
use crate::process::{cargo, run};

/// What one engine did.
#[derive(Clone, Debug, Default)]
pub(super) struct Measurements {
    /// Seconds of each workload.
    pub(super) seconds: BTreeMap<String, f64>,
    /// Seconds from the start of the process to the first token.
    pub(super) ready: Option<f64>,
    /// The largest resident set in bytes.
    pub(super) peak: Option<f64>,
}

impl Measurements {
    /// Takes in further workloads; the start and the peak of the first ones stay.
    pub(super) fn extend(&mut self, further: Self) {
        self.seconds.extend(further.seconds);
        self.ready = self.ready.or(further.ready);
        self.peak = self.peak.or(further.peak);
    }
}

/// Which side of a ratio an engine is on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Side {
    Ours,
    Peer,
    /// Ours as well, to be compared with ours of the form [`VARIANTS_OF`].
    Variant,
}

/// The form that others of about as many bits are compared with.
pub(super) const VARIANTS_OF: &str = "Q4_K_M";

/// A program that takes workloads.
pub(super) struct Engine {
    pub(super) name: String,
    pub(super) side: Side,
    /// Engines of one form are compared with one another.
    pub(super) form: &'static str,
    command: Vec<PathBuf>,
    /// Libraries that the engine's makers recommend to load first.
    preload: Vec<PathBuf>,
}

impl Engine {
    /// Runs `workloads` in a process of their own.
    pub(super) fn run(&self, workloads: &[&Workload]) -> Result<Measurements> {
        eprintln!("measuring {} ...", self.name);
        let mut arguments: Vec<String> = Vec::new();
        arguments.extend(
            self.command[1..]
                .iter()
                .map(|word| word.display().to_string()),
        );
        arguments.extend(workloads.iter().map(|workload| workload.argument()));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut command = Command::new(&self.command[0]);
        command.args(&arguments);
        if !self.preload.is_empty() {
            let libraries = std::env::join_paths(&self.preload);
            command.env("LD_PRELOAD", libraries.map_err(|error| error.to_string())?);
        }
        parse(&stdout(&mut command)?)
    }
}

/// Reads the lines `ready SECONDS`, `workload NAME SECONDS` and `peak BYTES`, ignoring others.
fn parse(lines: &str) -> Result<Measurements> {
    let mut measurements = Measurements::default();
    for line in lines.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |word: &str| {
            let number = word.parse::<f64>();
            number.map_err(|_| format!("`{line}` does not end in a number"))
        };
        match words.as_slice() {
            ["ready", seconds] => measurements.ready = Some(number(seconds)?),
            ["peak", bytes] => measurements.peak = Some(number(bytes)?),
            ["workload", name, seconds] => {
                measurements
                    .seconds
                    .insert((*name).to_owned(), number(seconds)?);
            }
            _ => {}
        }
    }
    Ok(measurements)
}

/// Builds the benchmark `name` of `vllm-engine`; returns its path.
pub(super) fn build(root: &Path, name: &str) -> Result<PathBuf> {
    eprintln!("building the benchmark ...");
    let mut command = cargo(root, &["bench", "-p", "vllm-engine", "--bench", name]);
    command.args(["--no-run", "--message-format", "json-render-diagnostics"]);
    let messages = stdout(&mut command)?;
    let mut executable = messages.lines().filter_map(|line| {
        let is_benchmark = line.contains(r#""kind":["bench"]"#);
        let (_, rest) = line.split_once(r#""executable":""#)?;
        let (path, _) = rest.split_once('"')?;
        // JSON doubles the backslashes of Windows.
        is_benchmark.then(|| PathBuf::from(path.replace(r"\\", r"\")))
    });
    let last = executable.next_back();
    last.ok_or_else(|| "cargo does not say where it built the benchmark".to_owned())
}

/// The folder of a checkpoint of this shape, written on first use.
pub(super) fn checkpoint(
    program: &Path,
    folder: &Path,
    (model, form): (&str, &str),
) -> Result<PathBuf> {
    let checkpoint = match form {
        "bf16" => folder.join(model),
        form => folder.join(format!("{model}-{form}")),
    };
    if !checkpoint.join("model.safetensors").exists() {
        eprintln!("writing {} ...", checkpoint.display());
        let path = checkpoint.display().to_string();
        output(program, &["checkpoint", model, form, &path])?;
    }
    Ok(checkpoint)
}

/// Ours and those of the peers that are installed.
pub(super) fn engines(
    root: &Path,
    program: &Path,
    checkpoint: &Path,
    options: &Options,
) -> Result<Vec<Engine>> {
    let scripts = root.join("xtask/peers");
    let python = |peer: &str| {
        let folder = options.peers.as_ref()?.join(peer);
        let python = folder.join(if cfg!(windows) {
            "Scripts/python.exe"
        } else {
            "bin/python"
        });
        let found = python.exists();
        if !found {
            eprintln!("{peer} is not installed: there is no {}", python.display());
        }
        found.then_some(python)
    };
    let llama = python("llama");
    let gguf = checkpoint.with_file_name(format!("{}-gguf", options.model));
    if let Some(python) = &llama {
        let script = scripts.join("gguf_from_checkpoint.py");
        run(Command::new(python).arg(script).arg(checkpoint).arg(&gguf))?;
    }
    let ours = |name: &str, form, model: &Path| Engine {
        name: name.to_owned(),
        side: Side::Ours,
        form,
        command: vec![program.into(), "run".into(), model.into()],
        preload: Vec::new(),
    };
    let llama_cpp = |name: &str, form, file: &str| {
        Some(Engine {
            name: name.to_owned(),
            side: Side::Peer,
            form,
            command: vec![
                llama.clone()?,
                scripts.join("llama_cpp_native.py"),
                gguf.join(file),
            ],
            preload: Vec::new(),
        })
    };
    let mut engines = Vec::new();
    if options.formats {
        if llama.is_none() {
            return Err("the quantized files are written with the peer `llama`".to_owned());
        }
        for (form, file) in [("Q8_0", "q8_0.gguf"), ("Q4_K_M", "q4_k_m.gguf")] {
            engines.push(ours(&format!("ours {form}"), form, &gguf.join(file)));
            engines.extend(llama_cpp(&format!("llama.cpp {form}"), form, file));
        }
        for (name, form) in [("ours GPTQ", "gptq"), ("ours AWQ", "awq")] {
            let folder = checkpoint.parent().unwrap_or(checkpoint);
            let packed = self::checkpoint(program, folder, (&options.model, form))?;
            engines.push(Engine {
                side: Side::Variant,
                ..ours(name, form, &packed)
            });
        }
        return Ok(engines);
    }
    engines.push(ours("ours", "bf16", checkpoint));
    engines.extend(python("vllm").map(|python| Engine {
        name: "vLLM".to_owned(),
        side: Side::Peer,
        form: "bf16",
        preload: vllm_preload(&python),
        command: vec![python, scripts.join("vllm_cpu.py"), checkpoint.into()],
    }));
    engines.extend(llama_cpp("llama.cpp", "bf16", "bf16.gguf"));
    Ok(engines)
}

/// The allocator and the OpenMP library that vLLM asks for on a CPU, where they are found.
fn vllm_preload(python: &Path) -> Vec<PathBuf> {
    let environment = python.ancestors().nth(2).unwrap_or(python);
    let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let candidates = [
        Path::new(&multiarch).join("libtcmalloc_minimal.so.4"),
        environment.join("lib/libiomp5.so"),
    ];
    let is_linux = cfg!(target_os = "linux");
    let found = candidates
        .into_iter()
        .filter(|file| is_linux && file.exists());
    found.collect()
}

/// What `program` prints; what it says on stderr goes to the terminal.
pub(super) fn output(program: &Path, arguments: &[&str]) -> Result<String> {
    stdout(Command::new(program).args(arguments))
}

pub(super) fn stdout(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot start `{program}`: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("`{program}` failed: {}", output.status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_results_are_found_among_others() {
        let lines = "loading\nready 1.5\nworkload decode-1 2.25\npeak 1048576\n";
        let measurements = parse(lines).unwrap();
        assert_eq!(measurements.ready, Some(1.5));
        assert_eq!(measurements.peak, Some(1_048_576.0));
        assert_eq!(measurements.seconds["decode-1"], 2.25);
        assert!(parse("ready soon\n").unwrap_err().contains("soon"));
    }
}
