//! Rules about the shape of the workspace, which no compiler checks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Crates that decide things and touch nothing; they compile in seconds and stay that way.
const PURE_CRATES: &[&str] = &[
    "vllm-kv-cache",
    "vllm-scheduler",
    "vllm-sampling",
    "vllm-openai",
    "vllm-chat-template",
    "vllm-gguf",
];

/// What must not appear in a pure crate's dependency tree.
const HEAVY_CRATES: &[&str] = &["candle-core", "candle-nn", "tokio", "hyper", "axum"];

/// The longest source file, in lines, that can still be read in one sitting.
const LONGEST_FILE: usize = 700;

#[test]
fn pure_crates_stay_free_of_tensors_and_runtimes() {
    let tree = DependencyTree::load();
    for package in PURE_CRATES {
        let reached = tree.reachable_from(package);
        for heavy in HEAVY_CRATES {
            assert!(!reached.contains(*heavy), "{package} depends on {heavy}");
        }
    }
}

#[test]
fn the_rule_about_pure_crates_sees_heavy_dependencies() {
    let reached = DependencyTree::load().reachable_from("vllm-engine");
    assert!(
        reached.contains("candle-core"),
        "the engine is known to use candle: {reached:?}"
    );
}

#[test]
fn every_crate_says_what_it_must_never_know() {
    for package in packages() {
        let crate_root = ["src/lib.rs", "src/main.rs"]
            .map(|file| package.join(file))
            .into_iter()
            .find(|file| file.exists())
            .unwrap_or_else(|| panic!("{} has no crate root", package.display()));
        let source = read(&crate_root);
        let lines = source.lines().take_while(|line| line.starts_with("//!"));
        let documentation = lines
            .map(|line| line.trim_start_matches("//!"))
            .collect::<String>();
        let words = documentation
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .to_lowercase();
        assert!(
            words.contains("must never know") || words.contains("never knows"),
            "the documentation of {} does not say what the crate must never know",
            crate_root.display()
        );
    }
}

#[test]
fn the_map_of_the_crates_is_complete() {
    let map = read(&workspace_root().join("docs/architecture.md"));
    for package in entries(&workspace_root().join("crates")) {
        let name = package
            .file_name()
            .expect("a folder has a name")
            .to_string_lossy();
        assert!(
            map.contains(&format!("| `{name}` |")),
            "docs/architecture.md does not list {name}"
        );
    }
}

#[test]
fn every_crate_inherits_the_lints_of_the_workspace() {
    for package in packages() {
        let manifest = read(&package.join("Cargo.toml"));
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "{} does not inherit the workspace's lints",
            package.display()
        );
    }
}

#[test]
fn versions_of_dependencies_are_named_once_in_the_workspace() {
    for package in packages() {
        let manifest = read(&package.join("Cargo.toml"));
        let sections = manifest.split("\n[").filter(|section| {
            let title = section.lines().next().unwrap_or_default();
            title.ends_with("dependencies]")
        });
        for line in sections
            .flat_map(str::lines)
            .filter(|line| line.contains('='))
        {
            assert!(
                line.contains("workspace = true"),
                "{}: `{line}` does not inherit from the workspace",
                package.display()
            );
        }
    }
}

#[test]
fn source_files_are_short() {
    for file in source_files() {
        let lines = read(&file).lines().count();
        assert!(
            lines <= LONGEST_FILE,
            "{} has {lines} lines; split it",
            file.display()
        );
    }
}

#[test]
fn unsafe_code_is_refused_or_explained_at_every_crate_root() {
    for package in packages()
        .into_iter()
        .filter(|package| package.join("src/lib.rs").exists())
    {
        let source = read(&package.join("src/lib.rs"));
        let walled = source.contains("#![forbid(unsafe_code)]")
            || source.contains("#![deny(unsafe_code)]")
            || source_files_below(&package.join("src"))
                .iter()
                .any(|file| read(file).contains("// SAFETY:"));
        assert!(
            walled,
            "{} neither forbids nor explains unsafe code",
            package.display()
        );
    }
}

/// The normal (not build, not test) dependencies of every package of the workspace's lock file.
struct DependencyTree {
    dependencies: BTreeMap<String, BTreeSet<String>>,
}

impl DependencyTree {
    fn load() -> Self {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .current_dir(workspace_root())
            .args(["metadata", "--format-version", "1", "--locked"])
            .output()
            .expect("cargo starts");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");

        let packages = list(&metadata["packages"]);
        let names: BTreeMap<&str, &str> = packages
            .iter()
            .map(|package| (text(&package["id"]), text(&package["name"])))
            .collect();
        let mut dependencies = BTreeMap::new();
        for node in list(&metadata["resolve"]["nodes"]) {
            let normal = list(&node["deps"])
                .iter()
                .filter(|dependency| is_normal(dependency));
            let named = normal.map(|dependency| names[text(&dependency["pkg"])].to_owned());
            let name = names[text(&node["id"])].to_owned();
            dependencies
                .entry(name)
                .or_insert_with(BTreeSet::new)
                .extend(named);
        }
        Self { dependencies }
    }

    fn reachable_from(&self, package: &str) -> BTreeSet<String> {
        assert!(
            self.dependencies.contains_key(package),
            "there is no package {package}"
        );
        let mut reached = BTreeSet::new();
        let mut open = vec![package.to_owned()];
        while let Some(name) = open.pop() {
            let direct = self.dependencies.get(&name).into_iter().flatten();
            open.extend(direct.filter(|next| !reached.contains(*next)).cloned());
            reached.insert(name);
        }
        reached
    }
}

fn is_normal(dependency: &Value) -> bool {
    list(&dependency["dep_kinds"])
        .iter()
        .any(|kind| kind["kind"].is_null())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("cargo metadata has a list here")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("cargo metadata has a string here")
}

/// The folders of all packages of the workspace.
fn packages() -> Vec<PathBuf> {
    let root = workspace_root();
    let mut folders = vec![root.join("xtask")];
    for group in ["crates", "bins"] {
        folders.extend(entries(&root.join(group)));
    }
    folders.retain(|folder| folder.join("Cargo.toml").exists());
    assert!(folders.len() > 10, "only {} packages found", folders.len());
    folders
}

fn source_files() -> Vec<PathBuf> {
    packages()
        .iter()
        .flat_map(|package| source_files_below(package))
        .collect()
}

fn source_files_below(folder: &Path) -> Vec<PathBuf> {
    let (folders, files): (Vec<_>, Vec<_>) =
        entries(folder).into_iter().partition(|path| path.is_dir());
    let sources = files
        .into_iter()
        .filter(|file| file.extension().is_some_and(|end| end == "rs"));
    sources
        .chain(folders.iter().flat_map(|inner| source_files_below(inner)))
        .collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let listing =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    listing
        .map(|entry| entry.expect("folder can be listed").path())
        .collect()
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
