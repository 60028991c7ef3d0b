//! Paired timings against the reference: our command and theirs in turn, so that
//! a drifting machine moves both; the ratio of each pair, and its median.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::parity_files::Programs;

/// What to convert.
pub(crate) struct Inputs {
    /// A Hugging Face folder of at least 1B parameters (`fixtures/make/big_random.py`).
    pub(crate) checkpoint: PathBuf,
    /// The same weights as a bf16 GGUF file.
    pub(crate) gguf: PathBuf,
    /// The pre-tokenizer's name, for the reference converter.
    pub(crate) pre_tokenizer: String,
    /// A folder with room for the outputs.
    pub(crate) scratch: PathBuf,
    /// Encoding threads of both sides.
    pub(crate) threads: usize,
    /// Pairs per case.
    pub(crate) pairs: usize,
    /// Only cases whose name contains this.
    pub(crate) only: String,
}

const GGUF_TO_Q4_K_M: &str = "bf16 GGUF -> q4_k_m";
const CHECKPOINT_TO_Q4_K_M: &str = "checkpoint -> q4_k_m";
const THREE_TARGETS: &str = "checkpoint -> q6_k,q5_k_m,q4_k_m";
const CHECKPOINT_TO_BF16: &str = "checkpoint -> bf16, against cp+sync";

/// One run: how long, and the largest resident set of any of its processes.
#[derive(Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) time: Duration,
    pub(crate) peak_kib: i64,
}

/// Runs every case and prints a table.
pub(crate) fn run(programs: &Programs, inputs: &Inputs) -> Result<()> {
    fs::create_dir_all(&inputs.scratch)?;
    println!(
        "{:<34} {:>9} {:>9} {:>16} {:>22}",
        "case", "ours s", "theirs s", "theirs/ours", "peak MiB ours/theirs"
    );
    type Case = fn(&Programs, &Inputs) -> Result<()>;
    let cases: [(&str, Case); 4] = [
        (GGUF_TO_Q4_K_M, gguf_to_q4_k_m),
        (CHECKPOINT_TO_Q4_K_M, checkpoint_to_q4_k_m),
        (THREE_TARGETS, three_targets),
        (CHECKPOINT_TO_BF16, checkpoint_to_bf16),
    ];
    let wanted = cases.iter().filter(|(name, _)| name.contains(&inputs.only));
    wanted.into_iter().try_for_each(|(_, case)| case(programs, inputs))
}

fn gguf_to_q4_k_m(programs: &Programs, inputs: &Inputs) -> Result<()> {
    let [ours, theirs] = outputs(inputs);
    pairs(inputs, GGUF_TO_Q4_K_M, |side| match side {
        Side::Ours => measure(&mut convert(programs, inputs, &inputs.gguf, "q4_k_m", &ours)),
        Side::Theirs => measure(&mut llama_quantize(programs, inputs, &inputs.gguf, &theirs)),
    })?;
    ensure!(same_tensors(&ours, &theirs)?, "the files differ");
    println!("{:<34} same tensor bytes", "");
    remove(&[&ours, &theirs])
}

fn checkpoint_to_q4_k_m(programs: &Programs, inputs: &Inputs) -> Result<()> {
    let [ours, theirs] = outputs(inputs);
    let between = inputs.scratch.join("between-bf16.gguf");
    pairs(inputs, CHECKPOINT_TO_Q4_K_M, |side| match side {
        Side::Ours => measure(&mut convert(programs, inputs, &inputs.checkpoint, "q4_k_m", &ours)),
        Side::Theirs => {
            let first = measure(&mut reference_convert(programs, inputs, &between))?;
            let second = measure(&mut llama_quantize(programs, inputs, &between, &theirs))?;
            remove(&[&between])?;
            let peak_kib = first.peak_kib.max(second.peak_kib);
            Ok(Measured { time: first.time + second.time, peak_kib })
        }
    })?;
    remove(&[&ours, &theirs])
}

/// Three targets from one read, against each alone, less two of the three reads that
/// those make.
fn three_targets(programs: &Programs, inputs: &Inputs) -> Result<()> {
    const TARGETS: [&str; 3] = ["q6_k", "q5_k_m", "q4_k_m"];
    let [single, _] = outputs(inputs);
    let folder = single.with_extension("three");
    let together = |folder: &Path| {
        let mut command =
            convert(programs, inputs, &inputs.checkpoint, "q6_k,q5_k_m,q4_k_m", folder);
        let measured = measure(&mut command)?;
        fs::remove_dir_all(folder)?;
        Ok(measured)
    };
    pairs(inputs, THREE_TARGETS, |side| match side {
        Side::Ours => together(&folder),
        Side::Theirs => {
            let script = format!("cat '{}'/*.safetensors > /dev/null", inputs.checkpoint.display());
            let read = measure(Command::new("sh").args(["-c", &script]))?;
            let (mut time, mut peak_kib) = (Duration::ZERO, 0);
            for target in TARGETS {
                let alone =
                    measure(&mut convert(programs, inputs, &inputs.checkpoint, target, &single))?;
                (time, peak_kib) = (time + alone.time, peak_kib.max(alone.peak_kib));
            }
            Ok(Measured { time: time.saturating_sub(2 * read.time), peak_kib })
        }
    })?;
    remove(&[&single])
}

fn checkpoint_to_bf16(programs: &Programs, inputs: &Inputs) -> Result<()> {
    let [ours, theirs] = outputs(inputs);
    let folder = theirs.with_extension("copy");
    pairs(inputs, CHECKPOINT_TO_BF16, |side| match side {
        Side::Ours => measure(&mut convert(programs, inputs, &inputs.checkpoint, "bf16", &ours)),
        Side::Theirs => {
            let script = format!(
                "mkdir -p '{to}' && cp '{from}'/*.safetensors '{to}' && sync '{to}'/*",
                from = inputs.checkpoint.display(),
                to = folder.display()
            );
            let copied = measure(Command::new("sh").args(["-c", &script]))?;
            fs::remove_dir_all(&folder)?;
            Ok(copied)
        }
    })?;
    remove(&[&ours])
}

enum Side {
    Ours,
    Theirs,
}

fn pairs(inputs: &Inputs, name: &str, mut run: impl FnMut(Side) -> Result<Measured>) -> Result<()> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..inputs.pairs {
        ours.push(run(Side::Ours)?);
        theirs.push(run(Side::Theirs)?);
    }
    let ratios = ours.iter().zip(&theirs).map(|(a, b)| b.time.as_secs_f64() / a.time.as_secs_f64());
    let ratios = sorted(ratios);
    let seconds =
        |runs: &[Measured]| median(&sorted(runs.iter().map(|run| run.time.as_secs_f64())));
    let peak = |runs: &[Measured]| runs.iter().map(|run| run.peak_kib).max().unwrap_or(0) / 1024;
    println!(
        "{name:<34} {:>9.2} {:>9.2} {:>16} {:>22}",
        seconds(&ours),
        seconds(&theirs),
        format!("{:.2} ({:.2}-{:.2})", median(&ratios), ratios[0], ratios[ratios.len() - 1]),
        format!("{}/{}", peak(&ours), peak(&theirs)),
    );
    Ok(())
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

fn outputs(inputs: &Inputs) -> [PathBuf; 2] {
    ["ours.gguf", "theirs.gguf"].map(|name| inputs.scratch.join(name))
}

fn convert(
    programs: &Programs,
    inputs: &Inputs,
    source: &Path,
    target: &str,
    output: &Path,
) -> Command {
    let mut command = Command::new(&programs.quantize);
    command.arg("convert").arg(source).args(["--to", target, "--force", "--quiet", "--threads"]);
    command.arg(inputs.threads.to_string()).arg("-o").arg(output);
    command
}

/// llama-quantize does not flush its output; `sync` makes both sides' files last.
fn llama_quantize(programs: &Programs, inputs: &Inputs, source: &Path, output: &Path) -> Command {
    let script = format!(
        "'{}' '{}' '{out}' Q4_K_M {} && sync '{out}'",
        programs.binaries.join("llama-quantize").display(),
        source.display(),
        inputs.threads,
        out = output.display(),
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script]);
    command
}

fn reference_convert(programs: &Programs, inputs: &Inputs, output: &Path) -> Command {
    let driver = crate::workspace().join("fixtures/make/reference_convert.py");
    let mut command = Command::new(&programs.python);
    command.arg(driver).arg("--llama-cpp").arg(&programs.source);
    command.args(["--pre", &inputs.pre_tokenizer, "--outtype", "bf16", "--outfile"]);
    command.arg(output).arg(&inputs.checkpoint);
    command
}

/// Runs a command to its end.
pub(crate) fn measure(command: &mut Command) -> Result<Measured> {
    let started = Instant::now();
    let log = tempfile::tempfile()?;
    let child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot run {command:?}"))?;
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: both pointers are to live values of the types wait4 fills, and an
    // all-zero rusage is a valid one.
    let usage = unsafe {
        libc::wait4(i32::try_from(child.id())?, &raw mut status, 0, usage.as_mut_ptr());
        usage.assume_init()
    };
    ensure!(status == 0, "{command:?} failed");
    Ok(Measured { time: started.elapsed(), peak_kib: usage.ru_maxrss })
}

fn same_tensors(ours: &Path, theirs: &Path) -> Result<bool> {
    use qz_gguf::GgufFile;
    let (ours, theirs) = (GgufFile::open(ours)?, GgufFile::open(theirs)?);
    let data = |file: &GgufFile| -> Result<(File, u64, u64)> {
        let offset = file.data_offset();
        let path = file.file().path();
        Ok((File::open(path)?, offset, fs::metadata(path)?.len() - offset))
    };
    let (mut a, mut b) = (data(&ours)?, data(&theirs)?);
    if a.2 != b.2 {
        return Ok(false);
    }
    use std::io::{BufRead, BufReader, Seek, SeekFrom};
    a.0.seek(SeekFrom::Start(a.1))?;
    b.0.seek(SeekFrom::Start(b.1))?;
    let (mut a, mut b) =
        (BufReader::with_capacity(1 << 20, a.0), BufReader::with_capacity(1 << 20, b.0));
    loop {
        let (left, right) = (a.fill_buf()?, b.fill_buf()?);
        let length = left.len().min(right.len());
        if left[..length] != right[..length] {
            return Ok(false);
        }
        if length == 0 {
            return Ok(left.is_empty() && right.is_empty());
        }
        a.consume(length);
        b.consume(length);
    }
}

fn remove(paths: &[&Path]) -> Result<()> {
    for path in paths {
        fs::remove_file(path)?;
    }
    Ok(())
}
