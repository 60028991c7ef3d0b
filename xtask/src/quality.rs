//! The tables of QUALITY.md: models × types × methods, each file made by our own binary and
//! compared with its full model on several held-out texts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// What is made and compared.
pub(crate) struct Settings {
    /// Our binary.
    pub(crate) quantize: PathBuf,
    /// Full models.
    pub(crate) models: Vec<Named>,
    /// Held-out texts.
    pub(crate) texts: Vec<Named>,
    /// Targets of `--to`.
    pub(crate) targets: Vec<String>,
    /// Options of `quantize quantize`; the others are compared with the first.
    pub(crate) methods: Vec<Named>,
    /// Options that all of them get.
    pub(crate) options: Vec<String>,
    /// Chunks of each held-out text.
    pub(crate) chunks: u32,
    /// Tokens of a chunk.
    pub(crate) context: u32,
    /// A folder for the files; those that are there already are taken.
    pub(crate) scratch: PathBuf,
}

/// `NAME=WHAT`.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) what: String,
}

impl std::str::FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, what) = text.split_once('=').ok_or("expected NAME=WHAT")?;
        Ok(Self { name: name.to_owned(), what: what.to_owned() })
    }
}

/// A file that a method made.
struct Made {
    path: PathBuf,
    /// None if it was there already.
    seconds: Option<f64>,
}

/// Prints a table for each model.
pub(crate) fn run(settings: &Settings) -> Result<()> {
    fs::create_dir_all(&settings.scratch)?;
    for model in &settings.models {
        println!("### {}\n", model.name);
        print!("| target | method | MiB | bits/weight | s |");
        settings.texts.iter().for_each(|text| print!(" {} |", text.name));
        println!(" mean change |");
        println!("|---|---|---|---|---|{}---|", "---|".repeat(settings.texts.len()));
        for target in &settings.targets {
            target_rows(settings, model, target)?;
        }
        println!();
    }
    println!(
        "Each text: KLD mean / median / 99 % / 99.9 %, top-1 agreement in %, perplexity over the \
         full model's; change of the mean KLD against the first method, with the p-value of the \
         paired bootstrap over chunks. {} chunks of {} tokens.",
        settings.chunks, settings.context
    );
    Ok(())
}

fn target_rows(settings: &Settings, model: &Named, target: &str) -> Result<()> {
    let made = settings
        .methods
        .iter()
        .map(|method| make(settings, model, target, method))
        .collect::<Result<Vec<_>>>()?;
    let reports = settings
        .texts
        .iter()
        .map(|text| compare(settings, model, &made, Path::new(&text.what)))
        .collect::<Result<Vec<_>>>()?;
    for (at, (method, made)) in settings.methods.iter().zip(&made).enumerate() {
        let own = |report: &Value| report["models"][at].clone();
        let first = own(&reports[0]);
        let mib = first["bytes"].as_f64().context("no size")? / f64::from(1 << 20);
        let bits = first["bits_per_weight"].as_f64().context("no bits per weight")?;
        let seconds = made.seconds.map_or("–".to_owned(), |seconds| format!("{seconds:.0}"));
        print!("| {target} | {} | {mib:.1} | {bits:.2} | {seconds} |", method.name);
        let mut changes = Vec::new();
        for report in &reports {
            print!(" {} |", cell(report, at, &mut changes)?);
        }
        let mean = changes.iter().sum::<f64>() / changes.len().max(1) as f64;
        println!(" {} |", if at == 0 { "–".to_owned() } else { format!("{mean:+.1} %") });
    }
    Ok(())
}

/// One text's figures of a method; `changes` gets the change against the first method.
fn cell(report: &Value, at: usize, changes: &mut Vec<f64>) -> Result<String> {
    let model = &report["models"][at];
    let number = |pointer: &str| {
        model.pointer(pointer).and_then(Value::as_f64).with_context(|| format!("no {pointer}"))
    };
    let kld = number("/kld/mean/value")?;
    let mut cell = format!(
        "{kld:.4} / {:.4} / {:.3} / {:.3}, {:.1}, {:.4}",
        number("/kld/median")?,
        number("/kld/p99")?,
        number("/kld/p999")?,
        100.0 * number("/same_top/value")?,
        number("/perplexity_ratio/value")?,
    );
    if at > 0 {
        let first = report.pointer("/models/0/kld/mean/value").and_then(Value::as_f64);
        let change = 100.0 * (kld / first.context("no KLD of the first method")? - 1.0);
        changes.push(change);
        let p_value = pair(report, at).map_or(String::new(), |p| format!(", p {p:.3}"));
        cell += &format!(" ({change:+.1} %{p_value})");
    }
    Ok(cell)
}

/// The p-value of the first method against another.
fn pair(report: &Value, at: usize) -> Option<f64> {
    let path = |at: usize| report["models"][at]["path"].as_str();
    let (first, own) = (path(0)?, path(at)?);
    let pairs = report["pairs"].as_array()?.iter();
    let mut found = pairs.filter(|pair| {
        let names = [pair["first"].as_str(), pair["second"].as_str()];
        names.contains(&Some(first)) && names.contains(&Some(own))
    });
    found.next()?.get("p_value")?.as_f64()
}

fn make(settings: &Settings, model: &Named, target: &str, method: &Named) -> Result<Made> {
    let stem = format!("{}-{}-{}", model.name, target.replace(':', "-"), method.name);
    let path = settings.scratch.join(stem + if target.contains(':') { "" } else { ".gguf" });
    if path.exists() {
        return Ok(Made { path, seconds: None });
    }
    let mut command = Command::new(&settings.quantize);
    command.arg("quantize").arg(&model.what).args(["--to", target, "--quiet", "-o"]).arg(&path);
    command.args(method.what.split_whitespace()).args(&settings.options);
    let start = Instant::now();
    output(&mut command)?;
    Ok(Made { path, seconds: Some(start.elapsed().as_secs_f64()) })
}

fn compare(settings: &Settings, model: &Named, made: &[Made], text: &Path) -> Result<Value> {
    let mut command = Command::new(&settings.quantize);
    command.arg("compare").arg(&model.what).args(made.iter().map(|made| &made.path));
    command.arg("--data").arg(text).args(["--ctx", &settings.context.to_string()]);
    command.args(["--chunks", &settings.chunks.to_string(), "--json", "--quiet"]);
    Ok(serde_json::from_str(&output(&mut command)?)?)
}

fn output(command: &mut Command) -> Result<String> {
    let result = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let error = String::from_utf8_lossy(&result.stderr);
    ensure!(result.status.success(), "{command:?}:\n{error}");
    Ok(String::from_utf8(result.stdout)?)
}
