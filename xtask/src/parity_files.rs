//! Whole files against llama.cpp: for every checkpoint and file type the tensors
//! we write from the checkpoint itself, and those that llama.cpp's converter and
//! quantizer write through an f32 intermediate.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use qz_gguf::GgufFile;
use qz_plan::FILE_TYPES;
use qz_tensor::{TensorIndex, TensorInfo, TensorSource};

/// Where the reference and the subject are.
pub(crate) struct Programs {
    /// Folder with `llama-quantize` and `llama-perplexity`.
    pub(crate) binaries: PathBuf,
    /// llama.cpp's source tree, for its converter.
    pub(crate) source: PathBuf,
    /// A Python with what the converter needs.
    pub(crate) python: PathBuf,
    /// Our binary.
    pub(crate) quantize: PathBuf,
}

/// One checkpoint, or a GGUF file that both quantize.
pub(crate) struct Checkpoint {
    pub(crate) path: PathBuf,
    /// The name of a checkpoint's pre-tokenizer, which the reference must be told
    /// for vocabularies it has not seen.
    pub(crate) pre_tokenizer: String,
    /// An importance matrix of the model.
    pub(crate) importance: Option<PathBuf>,
}

impl Checkpoint {
    fn is_gguf(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == "gguf")
    }
}

/// What is the same for all checkpoints and file types.
#[derive(Default)]
pub(crate) struct Settings {
    /// Perplexities are compared on this text.
    pub(crate) text: Option<PathBuf>,
    /// Given to both quantizers; they are called the same in both.
    pub(crate) options: Vec<String>,
}

/// Compares every file type on every checkpoint.
pub(crate) fn run(
    programs: &Programs,
    checkpoints: &[Checkpoint],
    settings: &Settings,
) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let mut differing = 0;
    println!(
        "{:<16} {:<9} {:>7} {:>9}  metadata that differs",
        "checkpoint", "type", "tensors", "differing"
    );
    for checkpoint in checkpoints {
        let mut intermediate = checkpoint.path.clone();
        if !checkpoint.is_gguf() {
            intermediate = scratch.path().join("reference-f32.gguf");
            convert_by_reference(programs, checkpoint, &intermediate)?;
        }
        for file_type in FILE_TYPES {
            let job = Job { programs, checkpoint, settings, file_type: file_type.name };
            differing += job.compare(&intermediate, scratch.path())?;
        }
    }
    ensure!(differing == 0, "{differing} tensors differ from the reference's");
    Ok(())
}

/// One file type from one checkpoint, by both programs.
struct Job<'a> {
    programs: &'a Programs,
    checkpoint: &'a Checkpoint,
    settings: &'a Settings,
    file_type: &'static str,
}

impl Job<'_> {
    /// How many tensors differ.
    fn compare(&self, intermediate: &Path, scratch: &Path) -> Result<usize> {
        let [ours, theirs] = ["ours.gguf", "theirs.gguf"].map(|name| scratch.join(name));
        let name = self.checkpoint.path.file_stem().unwrap_or_default().to_string_lossy();
        if let Some(rule) = self.convert_by_us(&ours)? {
            let also = rule == "no-codec" || !self.quantize_by_reference(intermediate, &theirs)?.0;
            ensure!(also, "{name} {}: refused ({rule}), not by the reference", self.file_type);
            println!("{name:<16} {:<9} refused: {rule}", self.file_type);
            return Ok(0);
        }
        let (is_written, messages) = self.quantize_by_reference(intermediate, &theirs)?;
        ensure!(is_written, "the reference refuses {name} {}:\n{messages}", self.file_type);
        let comparison = compare(&ours, &theirs)?;
        comparison.print(&name, self.file_type);
        if let Some(text) = &self.settings.text {
            compare_perplexity(self.programs, &ours, &theirs, text)?;
        }
        fs::remove_file(&ours)?;
        fs::remove_file(&theirs)?;
        Ok(comparison.differing.len())
    }

    /// What both programs take, and call the same.
    fn add_options(&self, command: &mut Command) {
        command.args(&self.settings.options);
        if let Some(importance) = &self.checkpoint.importance {
            command.arg("--imatrix").arg(importance);
        }
    }

    /// Whether it wrote the file, and what it said.
    fn quantize_by_reference(&self, input: &Path, output: &Path) -> Result<(bool, String)> {
        let mut command = Command::new(self.programs.binaries.join("llama-quantize"));
        self.add_options(&mut command);
        command.arg(input).arg(output).arg(self.file_type.to_uppercase());
        let result = command.output().context("cannot run llama-quantize")?;
        Ok((result.status.success(), String::from_utf8_lossy(&result.stderr).into_owned()))
    }

    /// The rule by which we refuse, if we do for a reason that can be shared.
    fn convert_by_us(&self, output: &Path) -> Result<Option<String>> {
        const SHARED: [&str; 3] = ["no-codec", "missing-importance", "row-does-not-fit"];
        let mut command = Command::new(&self.programs.quantize);
        command.arg("convert").arg(&self.checkpoint.path);
        command.args(["--to", self.file_type, "--json", "-o"]).arg(output);
        self.add_options(&mut command);
        let result = command.output().context("cannot run our own binary")?;
        if result.status.success() {
            return Ok(None);
        }
        let report: serde_json::Value = serde_json::from_slice(&result.stdout).unwrap_or_default();
        match report["error"]["rule"].as_str() {
            Some(rule) if SHARED.contains(&rule) => Ok(Some(rule.to_owned())),
            _ => bail!("{}", String::from_utf8_lossy(&result.stderr)),
        }
    }
}

struct Comparison {
    tensors: usize,
    differing: Vec<String>,
    metadata: Vec<String>,
}

impl Comparison {
    fn print(&self, checkpoint: &str, file_type: &str) {
        let (tensors, differing) = (self.tensors, self.differing.len());
        let metadata =
            if self.metadata.is_empty() { "none".into() } else { self.metadata.join(", ") };
        println!("{checkpoint:<16} {file_type:<9} {tensors:>7} {differing:>9}  {metadata}");
        self.differing.iter().for_each(|tensor| println!("    {tensor}"));
    }
}

fn compare(ours: &Path, theirs: &Path) -> Result<Comparison> {
    let (ours, theirs) = (GgufFile::open(ours)?, GgufFile::open(theirs)?);
    let (our_tensors, their_tensors) = (by_name(&ours), by_name(&theirs));
    let mut differing = Vec::new();
    for (name, (index, info)) in &their_tensors {
        match our_tensors.get(name) {
            None => differing.push(format!("{name}: missing")),
            Some((_, own)) if own.data_type != info.data_type || own.shape != info.shape => {
                let (own_type, own_shape) = (own.data_type, &own.shape);
                differing.push(format!(
                    "{name}: {own_type} {own_shape}, the reference has {} {}",
                    info.data_type, info.shape
                ));
            }
            Some((own, _)) => {
                if read(&ours, *own)? != read(&theirs, *index)? {
                    differing.push(format!("{name}: other bytes"));
                }
            }
        }
    }
    let extra = our_tensors.keys().filter(|name| !their_tensors.contains_key(*name));
    differing.extend(extra.map(|name| format!("{name}: the reference has no such tensor")));
    let in_order = ours
        .tensors()
        .iter()
        .map(|info| &info.name)
        .eq(theirs.tensors().iter().map(|info| &info.name));
    if !in_order {
        differing.push("the tensors' order".into());
    }
    Ok(Comparison {
        tensors: their_tensors.len(),
        differing,
        metadata: metadata_differences(&ours, &theirs),
    })
}

fn by_name(file: &GgufFile) -> BTreeMap<&str, (TensorIndex, &TensorInfo)> {
    let tensors = file.tensors().iter().enumerate();
    tensors.map(|(position, info)| (info.name.as_str(), (TensorIndex(position), info))).collect()
}

fn read(file: &GgufFile, index: TensorIndex) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(file.tensors()[index.0].bytes)?];
    file.read(index, 0, &mut bytes)?;
    Ok(bytes)
}

fn metadata_differences(ours: &GgufFile, theirs: &GgufFile) -> Vec<String> {
    let (ours, theirs) = (ours.metadata(), theirs.metadata());
    let mut differences: Vec<String> = theirs
        .iter()
        .filter(|(key, value)| ours.get(key) != Some(value))
        .map(|(key, _)| key.to_owned())
        .collect();
    let extra = ours.iter().filter(|(key, _)| theirs.get(key).is_none());
    differences.extend(extra.map(|(key, _)| format!("+{key}")));
    if differences.is_empty()
        && !ours.iter().map(|(key, _)| key).eq(theirs.iter().map(|(key, _)| key))
    {
        differences.push("order".into());
    }
    differences
}

fn convert_by_reference(programs: &Programs, checkpoint: &Checkpoint, output: &Path) -> Result<()> {
    let driver = crate::workspace().join("fixtures/make/reference_convert.py");
    let mut command = Command::new(&programs.python);
    command
        .arg(driver)
        .arg("--llama-cpp")
        .arg(&programs.source)
        .args(["--pre", &checkpoint.pre_tokenizer]);
    command.args(["--outtype", "f32", "--outfile"]).arg(output).arg(&checkpoint.path);
    succeed(command)
}

/// Fewest chunks that say anything.
const MIN_CHUNKS: usize = 8;

fn compare_perplexity(programs: &Programs, ours: &Path, theirs: &Path, text: &Path) -> Result<()> {
    let (ours, theirs) =
        (perplexities(programs, ours, text)?, perplexities(programs, theirs, text)?);
    // The program's log is cut at its exit now and then; what both printed counts.
    let chunks = ours.len().min(theirs.len());
    let last = chunks.checked_sub(1).filter(|_| chunks >= MIN_CHUNKS).context("no perplexity")?;
    println!("    perplexity by llama.cpp over {chunks} chunks: {}, {}", ours[last], theirs[last]);
    ensure!(ours[..chunks] == theirs[..chunks], "llama.cpp gives another perplexity with our file");
    Ok(())
}

/// The running estimates llama-perplexity prints after each chunk (`[3]12.345,`),
/// as it prints them.
fn perplexities(programs: &Programs, model: &Path, text: &Path) -> Result<Vec<String>> {
    let mut command = Command::new(programs.binaries.join("llama-perplexity"));
    command.arg("-m").arg(model).arg("-f").arg(text).args(["-c", "256", "-t", "2"]);
    let result = command.output().context("cannot run llama-perplexity")?;
    ensure!(result.status.success(), "llama.cpp cannot use {}", model.display());
    let output = String::from_utf8_lossy(&result.stdout).into_owned();
    let start = output.find("[1]").context("no perplexity")?;
    let estimates = output[start..].split(',').map_while(|part| {
        let (number, estimate) = part.strip_prefix('[')?.split_once(']')?;
        number.parse::<u32>().ok().map(|_| estimate.to_owned())
    });
    Ok(estimates.collect())
}

fn succeed(mut command: Command) -> Result<()> {
    let result = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(result.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&result.stderr));
    Ok(())
}
