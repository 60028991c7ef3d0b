//! Perplexities against llama-perplexity's, of the same files on the same text.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// What is compared, and within what.
pub(crate) struct Settings {
    /// Folder with `llama-perplexity`.
    pub(crate) binaries: PathBuf,
    /// Our binary.
    pub(crate) quantize: PathBuf,
    /// The text.
    pub(crate) text: PathBuf,
    /// Chunks of it.
    pub(crate) chunks: u32,
    /// Tokens of a chunk.
    pub(crate) context: u32,
}

/// File types whose engine-like evaluation is compared. What their activations are
/// rounded to differs, so every rounding is there.
const TYPES: &[&str] = &["f16", "bf16", "q8_0", "q4_0", "q5_1", "q4_k_m", "iq4_xs", "q2_k"];

/// The difference allowed, relative: in f32, where only the order of sums differs, and
/// with rounded activations, where that makes a few of them fall on another level.
const EXACT: f64 = 1e-4;
const ENGINE: f64 = 1e-3;

/// Compares every type of every model.
pub(crate) fn run(settings: &Settings, models: &[PathBuf]) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let mut failed = 0;
    println!("{:<20} {:<8} {:>12} {:>12} {:>10}", "model", "type", "llama.cpp", "ours", "relative");
    for model in models {
        for target in ["f32"].iter().chain(TYPES) {
            let file = scratch.path().join("model.gguf");
            let mut convert = Command::new(&settings.quantize);
            convert.arg("convert").arg(model).args(["--to", target, "--quiet", "--force", "-o"]);
            output(convert.arg(&file))?;
            let exact = *target == "f32";
            let theirs = by_reference(settings, &file, exact)?;
            let ours = by_us(settings, &file, exact)?;
            let relative = (ours / theirs - 1.0).abs();
            let within = relative <= if exact { EXACT } else { ENGINE };
            let verdict = if within { "" } else { "  FAILED" };
            let name = model.file_stem().unwrap_or_default().to_string_lossy();
            println!(
                "{name:<20} {target:<8} {theirs:>12.4} {ours:>12.4} {relative:>10.2e}{verdict}"
            );
            failed += usize::from(!within);
        }
    }
    ensure!(failed == 0, "{failed} perplexities differ from the reference's");
    Ok(())
}

fn output(command: &mut Command) -> Result<(String, String)> {
    let result = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let [out, error] =
        [result.stdout, result.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    ensure!(result.status.success(), "{command:?}:\n{error}");
    Ok((out, error))
}

/// The final estimate. In f32 nothing is rounded: no flash attention, f32 keys and
/// values; otherwise the program's own settings.
fn by_reference(settings: &Settings, file: &Path, exact: bool) -> Result<f64> {
    let mut command = Command::new(settings.binaries.join("llama-perplexity"));
    command.arg("-m").arg(file).arg("-f").arg(&settings.text);
    command.args(["-c", &settings.context.to_string()]);
    command.args(["--chunks", &settings.chunks.to_string()]);
    if exact {
        command.args(["-fa", "off", "-ctk", "f32", "-ctv", "f32"]);
    }
    let (out, error) = output(&mut command)?;
    let log = out + &error;
    let (_, estimate) = log.rsplit_once("PPL = ").context("llama-perplexity gives no estimate")?;
    let number = estimate.split_whitespace().next().unwrap_or_default();
    number.parse().with_context(|| format!("{number:?} is no number"))
}

fn by_us(settings: &Settings, file: &Path, exact: bool) -> Result<f64> {
    let mut command = Command::new(&settings.quantize);
    command.arg("eval").arg(file).arg("--data").arg(&settings.text);
    command.args(["--ctx", &settings.context.to_string()]);
    command.args(["--chunks", &settings.chunks.to_string(), "--json", "--quiet"]);
    command.args(["--activations", if exact { "f32" } else { "engine" }]);
    let report: serde_json::Value = serde_json::from_str(&output(&mut command)?.0)?;
    report["perplexity"]["value"].as_f64().context("no perplexity in our report")
}
