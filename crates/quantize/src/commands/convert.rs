//! `quantize convert`

use std::path::{Path, PathBuf};

use qz_pipeline::{
    ConvertOptions, ConvertReport, FallbackTensor, Model, Output, Target, base_name, convert,
};
use serde::Serialize;

use super::{print_json, print_line};
use crate::cli::{Convert, Global};
use crate::exit::{Outcome, UsageError};
use crate::interrupt;
use crate::progress::Progress;
use crate::render::{bytes, table};

#[derive(Serialize)]
struct Report {
    source: PathBuf,
    outputs: Vec<ConvertReport>,
}

pub(crate) fn run(arguments: &Convert, global: &Global) -> anyhow::Result<Outcome> {
    let recipe = &arguments.recipe;
    let outputs = outputs(&recipe.source, &recipe.to, &arguments.output)?;
    let cancel = interrupt::install()?;
    let model = Model::open(&recipe.source, &recipe.read.options())?;
    let options = ConvertOptions {
        threads: global.thread_count(),
        output: global.output(arguments.force),
        plan: recipe.options()?,
    };
    let paths = outputs.iter().map(|output| output.path.clone());
    let mut progress = Progress::new(global).writing(paths);
    let reports = convert(&model, &outputs, &options, &cancel, &mut progress)?;
    drop(progress);
    if arguments.json {
        print_json(&Report { source: recipe.source.clone(), outputs: reports });
    } else if !global.quiet {
        print_line(&summary(&reports.iter().collect::<Vec<_>>()));
    }
    Ok(Outcome::Ok)
}

/// One target: the path as given. Several: files and folders in a folder of that
/// path.
pub(super) fn outputs(
    source: &Path,
    targets: &[Target],
    output: &Path,
) -> anyhow::Result<Vec<Output>> {
    if let [target] = targets {
        return Ok(vec![Output { target: target.clone(), path: output.to_owned() }]);
    }
    let mut names: Vec<String> = targets.iter().map(Target::to_string).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(UsageError(format!("target {} is given twice", pair[0])).into());
    }
    std::fs::create_dir_all(output).map_err(|error| {
        anyhow::anyhow!("{}: cannot create the folder: {error}", output.display())
    })?;
    let stem = stem(source);
    let path = |target: &Target| output.join(target.artifact_name(&stem));
    Ok(targets.iter().map(|target| Output { target: target.clone(), path: path(target) }).collect())
}

/// The source's own name: a folder's, or a file's without `.gguf` and its place in
/// a split set.
fn stem(source: &Path) -> String {
    let resolved = source.canonicalize().unwrap_or_else(|_| source.to_owned());
    let name = if resolved.is_dir() { resolved.file_name() } else { resolved.file_stem() };
    match name.map(|name| name.to_string_lossy()) {
        Some(name) if resolved.is_dir() => name.into_owned(),
        Some(name) => base_name(&name).to_owned(),
        None => "model".to_owned(),
    }
}

/// A line for each output.
pub(super) fn summary(reports: &[&ConvertReport]) -> String {
    let row = |report: &ConvertReport| {
        vec![
            report.target.clone(),
            bytes(report.bytes),
            format!("{:.3}", report.bits_per_weight),
            types(report),
            files(report),
        ]
    };
    let rows: Vec<Vec<String>> = reports.iter().copied().map(row).collect();
    let mut text = table(&["target", "size", "bits per weight", "tensors", "file"], &rows);
    for report in reports {
        text.push_str(&fallbacks(&report.target, &report.fallbacks));
    }
    text
}

/// The path of the file or folder, or of the first of several files.
fn files(report: &ConvertReport) -> String {
    if report.path.is_dir() {
        return report.path.display().to_string();
    }
    match report.files.as_slice() {
        [first, _, ..] => format!("{} and {} more", first.display(), report.files.len() - 1),
        [only] => only.display().to_string(),
        [] => report.path.display().to_string(),
    }
}

/// One line for each tensor whose rows do not fill its type's blocks.
pub(super) fn fallbacks(target: &str, fallbacks: &[FallbackTensor]) -> String {
    let line = |fallback: &FallbackTensor| {
        let FallbackTensor { tensor, columns, from, to } = fallback;
        format!("\n{target}: {tensor}: rows of {columns} do not fill {from}, {to} instead")
    };
    fallbacks.iter().map(line).collect()
}

/// `Q4_K 96, Q6_K 17, F32 33`: how many tensors of each type, most bytes first.
fn types(report: &ConvertReport) -> String {
    let mut types: Vec<(&str, usize, u64)> = Vec::new();
    for tensor in &report.tensors {
        match types.iter_mut().find(|(name, ..)| *name == tensor.data_type) {
            Some((_, tensors, bytes)) => {
                *tensors += 1;
                *bytes += tensor.bytes;
            }
            None => types.push((tensor.data_type, 1, tensor.bytes)),
        }
    }
    types.sort_by_key(|(.., bytes)| std::cmp::Reverse(*bytes));
    let types: Vec<String> =
        types.iter().map(|(name, tensors, _)| format!("{name} {tensors}")).collect();
    types.join(", ")
}
