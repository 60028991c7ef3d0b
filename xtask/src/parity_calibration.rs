//! Importance matrices against llama-imatrix's, of the same files on the same text.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use qz_gguf::GgufFile;
use qz_tensor::{TensorIndex, TensorSource};

/// What is compared.
pub(crate) struct Settings {
    /// Folder with `llama-imatrix`.
    pub(crate) binaries: PathBuf,
    /// Our binary.
    pub(crate) quantize: PathBuf,
    /// The text.
    pub(crate) text: PathBuf,
    /// Chunks of it.
    pub(crate) chunks: u32,
    /// Tokens of a chunk.
    pub(crate) context: u32,
    /// Threads of both.
    pub(crate) threads: usize,
}

/// The difference allowed, relative: in f32, where only the order of sums differs.
const EXACT: f64 = 1e-4;

/// Compares the matrix of every model, converted to f32.
pub(crate) fn run(settings: &Settings, models: &[PathBuf]) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let at = |name: &str| scratch.path().join(name);
    let mut failed = 0;
    println!(
        "{:<24} {:>8} {:>12} {:>12} {:>10} {:>10}",
        "model", "tensors", "values", "relative", "llama.cpp", "ours"
    );
    for model in models {
        let (file, theirs, ours) = (at("f32.gguf"), at("theirs.gguf"), at("ours.gguf"));
        let mut convert = Command::new(&settings.quantize);
        convert.arg("convert").arg(model).args(["--to", "f32", "--quiet", "--force", "-o"]);
        timed(convert.arg(&file))?;
        let reference = timed(&mut reference(settings, &file, &theirs))?;
        let own = timed(&mut us(settings, &file, &ours))?;
        let (theirs, ours) = (tensors(&theirs)?, tensors(&ours)?);
        ensure!(theirs.keys().eq(ours.keys()), "{}: other tensors", model.display());
        let worst = theirs.iter().zip(ours.values()).map(|((name, theirs), ours)| {
            ensure!(theirs.len() == ours.len(), "{name}: another shape");
            Ok(theirs.iter().zip(ours).map(relative).fold(0.0, f64::max))
        });
        let worst = worst.collect::<Result<Vec<_>>>()?.into_iter().fold(0.0, f64::max);
        let values: usize = theirs.values().map(Vec::len).sum();
        let verdict = if worst <= EXACT { "" } else { "  FAILED" };
        let name = model.file_name().unwrap_or_default().to_string_lossy();
        let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
        println!(
            "{name:<24} {:>8} {values:>12} {worst:>12.2e} {:>10} {:>10}{verdict}",
            theirs.len(),
            seconds(reference),
            seconds(own)
        );
        failed += usize::from(worst > EXACT);
    }
    ensure!(failed == 0, "{failed} importance matrices differ from the reference's");
    Ok(())
}

fn relative((theirs, ours): (&f32, &f32)) -> f64 {
    let (theirs, ours) = (f64::from(*theirs), f64::from(*ours));
    if theirs == ours { 0.0 } else { (ours - theirs).abs() / theirs.abs() }
}

fn reference(settings: &Settings, file: &Path, output: &Path) -> Command {
    let mut command = Command::new(settings.binaries.join("llama-imatrix"));
    command.arg("-m").arg(file).arg("-f").arg(&settings.text).arg("-o").arg(output);
    command.args(["-c", &settings.context.to_string()]);
    command.args(["--chunks", &settings.chunks.to_string()]);
    command.args(["-t", &settings.threads.to_string(), "--process-output", "--no-ppl"]);
    // Nothing is rounded: no flash attention, f32 keys and values.
    command.args(["-fa", "off", "-ctk", "f32", "-ctv", "f32"]);
    command
}

fn us(settings: &Settings, file: &Path, output: &Path) -> Command {
    let mut command = Command::new(&settings.quantize);
    command.arg("calibrate").arg(file).arg("--data").arg(&settings.text).arg("-o").arg(output);
    command.args(["--ctx", &settings.context.to_string()]);
    command.args(["--chunks", &settings.chunks.to_string()]);
    command.args(["--threads", &settings.threads.to_string(), "--process-output", "--quiet"]);
    command.args(["--activations", "f32", "--expert-prior", "0", "--force"]);
    command
}

fn timed(command: &mut Command) -> Result<Duration> {
    let start = Instant::now();
    let result = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let errors = String::from_utf8_lossy(&result.stderr);
    ensure!(result.status.success(), "{command:?}:\n{errors}");
    Ok(start.elapsed())
}

/// Every tensor's numbers.
fn tensors(path: &Path) -> Result<BTreeMap<String, Vec<f32>>> {
    let file = GgufFile::open(path)?;
    let mut tensors = BTreeMap::new();
    for (position, info) in file.tensors().iter().enumerate() {
        let mut bytes = vec![0; usize::try_from(info.bytes)?];
        file.read(TensorIndex(position), 0, &mut bytes)?;
        let numbers = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        tensors.insert(info.name.to_string(), numbers.collect());
    }
    Ok(tensors)
}
