//! A CUDA toolkit from PyPI wheels: enough to compile and link the `cuda` feature on a machine that
//! has neither a toolkit nor a GPU.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::process::{cargo, run};
use crate::python::system_python;

/// The wheels that together make the toolkit; they unpack into one folder.
const WHEELS: &[&str] = &[
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-runtime==13.0.88",
    "nvidia-cuda-nvrtc==13.0.88",
    "nvidia-cuda-cccl==13.0.85",
    "nvidia-cublas==13.0.2.14",
    "nvidia-curand==10.4.0.35",
];

/// The libraries that the linker asks for by their unversioned names.
const LINKED_LIBRARIES: &[&str] = &[
    "libcublas",
    "libcublasLt",
    "libcurand",
    "libcudart",
    "libnvrtc",
];

/// The GPU generation compiled for when `CUDA_COMPUTE_CAP` does not say: Hopper.
const DEFAULT_COMPUTE_CAPABILITY: &str = "90";

/// Fetches the wheels into `.cuda/` and lays them out as an installed toolkit.
pub(crate) fn fetch_toolchain(root: &Path) -> Result<()> {
    let layout = Layout::new(root);
    if layout.is_complete() {
        eprintln!(
            "the CUDA toolkit in {} is complete",
            layout.toolkit.display()
        );
        return Ok(());
    }
    remove_folder(&layout.folder)?;
    run(Command::new(system_python())
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ])
        .args(["--no-deps", "--only-binary", ":all:", "--target"])
        .arg(layout.folder.join("wheels"))
        .args(WHEELS))?;
    make_programs_executable(&layout.toolkit.join("bin"))?;
    make_programs_executable(&layout.toolkit.join("nvvm/bin"))?;
    link_unversioned_names(&layout.libraries)?;
    build_stub_driver(&layout.stubs)?;
    fs::write(&layout.stamp, WHEELS.join("\n")).map_err(|error| at(&layout.stamp, &error))?;
    eprintln!("the CUDA toolkit is in {}", layout.toolkit.display());
    Ok(())
}

/// Builds the command lines with the `cuda` feature, in a target folder of their own because the
/// linker arguments would otherwise throw away the CPU build.
pub(crate) fn check(root: &Path) -> Result<()> {
    fetch_toolchain(root)?;
    let layout = Layout::new(root);
    let arguments = [
        "build",
        "--package",
        "vllm-offline",
        "--package",
        "vllm-serve",
        "--features",
        "cuda",
    ];
    let mut command = cargo(root, &arguments);
    // With a target named, the linker arguments reach the programs but not the build scripts,
    // which have to run on this machine.
    command.args(["--target", &host_target()?]);
    for variable in [
        "CUDA_HOME",
        "CUDA_PATH",
        "CUDA_ROOT",
        "CUDA_TOOLKIT_ROOT_DIR",
    ] {
        command.env(variable, &layout.toolkit);
    }
    if env::var_os("CUDA_COMPUTE_CAP").is_none() {
        command.env("CUDA_COMPUTE_CAP", DEFAULT_COMPUTE_CAPABILITY);
    }
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    command.env("CARGO_TARGET_DIR", target.join("cuda"));
    command.env("PATH", layout.search_path()?);
    command.env("RUSTFLAGS", layout.linker_arguments());
    run(&mut command)
}

/// The target that this machine's toolchain builds for by itself.
fn host_target() -> Result<String> {
    let output = Command::new("rustc")
        .arg("-vV")
        .output()
        .map_err(|error| format!("cannot run rustc: {error}"))?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .find_map(|line| line.strip_prefix("host: ").map(str::to_owned))
        .ok_or_else(|| "rustc does not name its host target".to_owned())
}

/// The folders below `.cuda/`.
struct Layout {
    folder: PathBuf,
    toolkit: PathBuf,
    libraries: PathBuf,
    stubs: PathBuf,
    stamp: PathBuf,
}

impl Layout {
    fn new(root: &Path) -> Self {
        let folder = root.join(".cuda");
        let toolkit = folder.join("wheels/nvidia/cu13");
        Self {
            libraries: toolkit.join("lib"),
            stubs: folder.join("stubs"),
            stamp: folder.join("wheels.txt"),
            folder,
            toolkit,
        }
    }

    fn is_complete(&self) -> bool {
        fs::read_to_string(&self.stamp).is_ok_and(|fetched| fetched == WHEELS.join("\n"))
    }

    fn search_path(&self) -> Result<OsString> {
        let inherited = env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.toolkit.join("bin")).chain(env::split_paths(&inherited));
        env::join_paths(folders).map_err(|error| format!("cannot extend PATH: {error}"))
    }

    /// The stub driver has no functions, so the linker is told to leave them for the real one.
    fn linker_arguments(&self) -> String {
        let libraries = self.libraries.display();
        let stubs = self.stubs.display();
        [
            format!("-L native={libraries}"),
            format!("-L native={stubs}"),
            "-C link-arg=-Wl,--no-as-needed".to_owned(),
            "-C link-arg=-lcuda".to_owned(),
            "-C link-arg=-lcublasLt".to_owned(),
            "-C link-arg=-Wl,--unresolved-symbols=ignore-all".to_owned(),
        ]
        .join(" ")
    }
}

fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(at(folder, &error)),
        _ => Ok(()),
    }
}

/// Wheels do not always carry the run bits of programs.
fn make_programs_executable(folder: &Path) -> Result<()> {
    #[cfg(unix)]
    for program in entries(folder)? {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
            .map_err(|error| at(&program, &error))?;
    }
    Ok(())
}

/// Adds `libX.so` beside each `libX.so.N`, the only name that the wheels carry.
fn link_unversioned_names(folder: &Path) -> Result<()> {
    let present = entries(folder)?;
    for library in LINKED_LIBRARIES {
        let prefix = format!("{library}.so");
        let versioned = present
            .iter()
            .filter_map(|path| path.file_name()?.to_str())
            .find(|name| name.starts_with(&prefix))
            .ok_or_else(|| format!("`{}` has no {prefix}", folder.display()))?;
        let link = folder.join(&prefix);
        if !link.exists() {
            symlink(versioned, &link)?;
        }
    }
    Ok(())
}

/// An empty shared library in the place of the driver's, which no wheel carries.
fn build_stub_driver(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|error| at(folder, &error))?;
    run(Command::new("cc")
        .args([
            "-shared",
            "-Wl,-soname,libcuda.so.1",
            "-x",
            "c",
            "/dev/null",
            "-o",
        ])
        .arg(folder.join("libcuda.so")))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let listing = fs::read_dir(folder).map_err(|error| at(folder, &error))?;
    listing
        .map(|entry| entry.map(|e| e.path()).map_err(|error| at(folder, &error)))
        .collect()
}

#[cfg(unix)]
fn symlink(target: &str, link: &Path) -> Result<()> {
    std::os::unix::fs::symlink(target, link).map_err(|error| at(link, &error))
}

#[cfg(not(unix))]
fn symlink(_target: &str, link: &Path) -> Result<()> {
    Err(format!(
        "cannot make the link `{}`: the CUDA chores run on Linux",
        link.display()
    ))
}

fn at(path: &Path, error: &std::io::Error) -> String {
    format!("`{}`: {error}", path.display())
}
