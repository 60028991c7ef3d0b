//! Keeps the architecture true: the layers, the places where `unsafe` may stand,
//! what libraries may use. Run by `cargo xtask tidy` and as a test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Every crate's layer. An edge must point to a lower one. `formats/*` stand at
/// layer 2, with the crates they may use as their only exception below.
const LAYERS: &[(&str, u32)] = &[
    ("qz-tensor", 0),
    ("qz-codec", 1),
    ("qz-shards", 1),
    ("qz-gguf", 2),
    ("qz-packed", 2),
    ("qz-pickle", 2),
    ("qz-safetensors", 2),
    ("qz-kernels", 2),
    ("qz-jinja", 2),
    ("qz-tokenize", 2),
    ("qz-linalg", 3),
    ("qz-models", 3),
    ("qz-calib", 4),
    ("qz-eval", 4),
    ("qz-methods", 4),
    ("qz-plan", 5),
    ("qz-pipeline", 6),
    ("qz-report", 6),
    ("quantize", 7),
    ("qz-fuzz", 7),
];

/// What a container format may use of ours.
const FORMATS_MAY_USE: &[&str] = &["qz-tensor", "qz-codec", "qz-shards"];

/// What `qz-models` must not see: containers, and whatever draws or parses for a
/// person.
const MODELS_MUST_NOT_USE: &[&str] =
    &["qz-gguf", "qz-packed", "qz-pickle", "qz-safetensors", "clap"];

/// Only the binary and xtask speak to people.
const NOT_IN_LIBRARIES: &[&str] = &["anyhow", "indicatif", "clap", "eyre"];

/// Crates that may hold `unsafe`.
const MAY_BE_UNSAFE: &[&str] = &["qz-kernels"];

/// The processor as a backend, and where `qz-pipeline` may name it: the one place that chooses
/// a job's backend, and the measurement of the processor's own kernels.
const BACKEND: &str = "CpuBackend";
const MAY_NAME_BACKEND: &[&str] = &["compute.rs", "bench/codecs.rs"];

/// A longer file is probably two rooms.
const MAX_LINES: usize = 620;

/// Files that are long because they are tables.
const TABLES: &[&str] = &["unicode_table.rs"];

struct Package {
    name: String,
    root: PathBuf,
    dependencies: Vec<String>,
}

/// Checks everything and reports all of it at once.
pub(crate) fn check(workspace: &Path) -> Result<()> {
    let packages = packages(workspace)?;
    let mut faults = Vec::new();
    for package in packages.iter().filter(|package| package.name != "xtask") {
        check_edges(package, &mut faults);
        check_sources(package, workspace, &mut faults)?;
    }
    if !faults.is_empty() {
        bail!("the architecture does not hold:\n  {}", faults.join("\n  "));
    }
    Ok(())
}

fn packages(workspace: &Path) -> Result<Vec<Package>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(workspace)
        .output()
        .context("cannot run cargo metadata")?;
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let package = |package: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let manifest = PathBuf::from(text(&package["manifest_path"]));
        let normal = |dependency: &&Value| dependency["kind"].is_null();
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        Package {
            name: text(&package["name"]),
            root: manifest.parent().unwrap_or(workspace).to_owned(),
            dependencies: dependencies.filter(normal).map(|found| text(&found["name"])).collect(),
        }
    };
    Ok(metadata["packages"].as_array().into_iter().flatten().map(package).collect())
}

fn layer(name: &str) -> Option<u32> {
    LAYERS.iter().find(|(known, _)| *known == name).map(|(_, layer)| *layer)
}

fn check_edges(package: &Package, faults: &mut Vec<String>) {
    let name = &package.name;
    let Some(own) = layer(name) else {
        faults.push(format!("{name}: has no layer; add it to LAYERS and to ARCHITECTURE.md"));
        return;
    };
    let is_format = package.root.parent().is_some_and(|parent| parent.ends_with("formats"));
    for dependency in &package.dependencies {
        if layer(dependency).is_some_and(|layer| layer >= own) {
            faults.push(format!("{name} (layer {own}) must not use {dependency}"));
        }
        let ours = layer(dependency).is_some();
        if is_format && ours && !FORMATS_MAY_USE.contains(&dependency.as_str()) {
            faults.push(format!("{name} is a format and must not use {dependency}"));
        }
        if name == "qz-models" && MODELS_MUST_NOT_USE.contains(&dependency.as_str()) {
            faults.push(format!("{name} must not use {dependency}"));
        }
        if name != "quantize" && NOT_IN_LIBRARIES.contains(&dependency.as_str()) {
            faults.push(format!("{name} is a library and must not use {dependency}"));
        }
    }
}

fn check_sources(package: &Package, workspace: &Path, faults: &mut Vec<String>) -> Result<()> {
    let source = package.root.join("src");
    let root = ["lib.rs", "main.rs"].map(|name| source.join(name));
    let root = root.iter().find(|path| path.exists()).context("a crate without a root")?;
    let text = fs::read_to_string(root)?;
    if !text.starts_with("//!") {
        faults.push(format!("{}: must open with what belongs here", package.name));
    }
    let is_safe = text.contains("#![forbid(unsafe_code)]");
    if !is_safe && !MAY_BE_UNSAFE.contains(&package.name.as_str()) {
        faults.push(format!("{}: must forbid unsafe code", package.name));
    }
    for file in rust_files(&source)? {
        let text = fs::read_to_string(&file)?;
        let path = file.strip_prefix(workspace).unwrap_or(&file);
        let lines = text.lines().count();
        let is_table = TABLES.iter().any(|table| file.ends_with(table));
        if lines > MAX_LINES && !is_table {
            faults.push(format!("{}: {lines} lines, two rooms?", path.display()));
        }
        if package.name == "qz-pipeline" {
            check_backend(path, &text, faults);
        }
    }
    Ok(())
}

/// A job that names a backend runs on no other.
fn check_backend(path: &Path, text: &str, faults: &mut Vec<String>) {
    let is_allowed = MAY_NAME_BACKEND.iter().any(|own| path.ends_with(Path::new("src").join(own)));
    if text.contains(BACKEND) && !is_allowed {
        faults.push(format!("{}: must work on any backend, not on {BACKEND}", path.display()));
    }
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_architecture_holds() {
        check(crate::workspace()).expect("tidy");
    }

    #[test]
    fn the_code_is_formatted() {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        let status = Command::new(cargo)
            .args(["fmt", "--all", "--", "--check", "--quiet"])
            .current_dir(crate::workspace())
            .status()
            .expect("cargo fmt runs");
        assert!(status.success(), "run `cargo fmt`");
    }

    #[test]
    fn a_job_that_names_a_backend_is_found() {
        let check = |path: &str, text: &str, expected: usize| {
            let mut faults = Vec::new();
            check_backend(Path::new(path), text, &mut faults);
            assert_eq!(faults.len(), expected, "{path}: {faults:?}");
        };
        check("crates/qz-pipeline/src/eval/mod.rs", "let b = CpuBackend::new(&workers);", 1);
        check("crates/qz-pipeline/src/eval/mod.rs", "fn run<B: Backend>(backend: &B) {}", 0);
        check("crates/qz-pipeline/src/compute.rs", "CpuBackend::new(&workers)", 0);
    }

    #[test]
    fn a_wrong_edge_is_found() {
        let check = |name: &str, folder: &str, dependency: &str, expected: usize| {
            let root = PathBuf::from(folder).join(name);
            let dependencies = vec![dependency.to_owned()];
            let mut faults = Vec::new();
            check_edges(&Package { name: name.to_owned(), root, dependencies }, &mut faults);
            assert_eq!(faults.len(), expected, "{name} -> {dependency}: {faults:?}");
        };
        check("qz-codec", "crates", "qz-tensor", 0);
        check("qz-codec", "crates", "qz-plan", 1);
        check("qz-gguf", "formats", "qz-plan", 2);
        check("qz-pipeline", "crates", "anyhow", 1);
        check("quantize", "crates", "anyhow", 0);
        check("qz-new", "crates", "serde", 1);
    }
}
