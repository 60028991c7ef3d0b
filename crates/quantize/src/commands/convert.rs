//! `quantize convert`

use std::path::{Path, PathBuf};

use qz_pipeline::{
    ConvertOptions, ConvertReport, FallbackTensor, Model, OpenOptions, Target, convert,
    convert_adapter,
};
use qz_tensor::DataType;
use serde::Serialize;

use super::outputs::{Folders, Job, open, outputs};
use super::{print_json, print_line};
use crate::cli::{Convert, Global};
use crate::exit::{Outcome, UsageError};
use crate::interrupt;
use crate::messages::warning;
use crate::progress::Progress;
use crate::render::{bytes, grouped, many, table};

#[derive(Serialize)]
struct Report {
    source: PathBuf,
    outputs: Vec<ConvertReport>,
}

pub(crate) fn run(arguments: &Convert, global: &Global) -> anyhow::Result<Outcome> {
    if let Some(base) = &arguments.base {
        return adapter(arguments, base, global);
    }
    let (recipe, written) = (&arguments.recipe, &arguments.written);
    let options = ConvertOptions {
        threads: global.thread_count(),
        output: global.output(written.force),
        plan: recipe.options()?,
    };
    let cancel = interrupt::install()?;
    let open_options = OpenOptions {
        projector: arguments.mmproj,
        pruned_layers: arguments.prune_layers.iter().cloned().flatten().collect(),
        ..recipe.open_options()
    };
    let Job { model, targets } = open(recipe, &open_options, &options.plan)?;
    if let Some(other) = targets.iter().find(|target| arguments.mmproj && target.is_folder()) {
        let message =
            format!("{other} is a folder; a projector is written to f32, f16, bf16 or q8_0");
        return Err(UsageError(message).into());
    }
    if arguments.mmproj && recipe.split.is_set() {
        let message = "llama.cpp loads a projector from one file; it is not split".to_owned();
        return Err(UsageError(message).into());
    }
    // As llama.cpp's tools look for it.
    let prefix = if arguments.mmproj { "mmproj-" } else { "" };
    let outputs = outputs(&recipe.source, prefix, &targets, written)?;
    let _folders = Folders::make(&outputs)?;
    let paths = outputs.iter().map(|output| output.path.clone());
    let mut progress = Progress::new(global).writing(paths);
    let reports = convert(&model, &outputs, &options, &cancel, &mut progress)?;
    drop(progress);
    if written.json {
        print_json(&Report { source: recipe.source.clone(), outputs: reports });
    } else {
        print_line(&summary(&reports.iter().collect::<Vec<_>>(), global));
    }
    Ok(Outcome::Ok)
}

/// Writes the adapter that the source is.
fn adapter(arguments: &Convert, base: &Path, global: &Global) -> anyhow::Result<Outcome> {
    const TYPES: [&str; 4] = ["f32", "f16", "bf16", "q8_0"];
    let (recipe, written) = (&arguments.recipe, &arguments.written);
    let data_type = match recipe.to.as_slice() {
        [only] if TYPES.contains(&only.as_str()) => DataType::from_name(only),
        _ => None,
    };
    let Some(data_type) = data_type else {
        let message = "an adapter is written to one of f32, f16, bf16 or q8_0".to_owned();
        return Err(UsageError(message).into());
    };
    let target = recipe.to[0].parse::<Target>()?;
    let outputs = outputs(&recipe.source, "", &[target], written)?;
    let _folders = Folders::make(&outputs)?;
    let model = Model::open(base, &recipe.open_options())?;
    let output = global.output(written.force);
    let report = convert_adapter(&recipe.source, &model, &outputs[0].path, data_type, output)?;
    report.warnings.iter().for_each(|text| warning(text));
    if written.json {
        print_json(&report);
    } else {
        let (tensors, size) = (many(report.tensors, "tensor"), bytes(report.bytes));
        print_line(&format!("{}: {tensors}, {size}", report.path.display()));
    }
    Ok(Outcome::Ok)
}

/// What fell back, then a line for each output.
pub(super) fn summary(reports: &[&ConvertReport], global: &Global) -> String {
    let row = |report: &ConvertReport| {
        vec![
            report.target.clone(),
            bytes(report.bytes),
            format!("{:.3}", report.bits_per_weight),
            types(report.tensors.iter().map(|tensor| (tensor.data_type, tensor.bytes))),
            files(report),
        ]
    };
    let rows: Vec<Vec<String>> = reports.iter().copied().map(row).collect();
    let of = |report: &&ConvertReport| {
        fallbacks(&report.target, &report.fallbacks, report.tensors.len(), global)
    };
    let mut text: String = reports.iter().map(of).collect();
    text.push_str(&table(&["target", "size", "bits per weight", "tensors", "file"], &rows));
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

/// One line for each kind of tensor whose rows do not fill its type's blocks, or for each tensor.
pub(super) fn fallbacks(
    target: &str,
    fallbacks: &[FallbackTensor],
    tensors: usize,
    global: &Global,
) -> String {
    if global.quiet || fallbacks.is_empty() {
        return String::new();
    }
    let why = |fallback: &FallbackTensor| {
        let FallbackTensor { columns, from, to, .. } = fallback;
        format!("rows of {columns} do not fill {from}, {to} instead")
    };
    if global.verbose {
        let line = |one: &FallbackTensor| format!("{target}: {}: {}\n", one.tensor, why(one));
        return fallbacks.iter().map(line).collect();
    }
    let kinds = grouped(fallbacks.iter().map(|fallback| (why(fallback), fallback)));
    let line = |(why, of): (String, Vec<&FallbackTensor>)| {
        format!("{target}: {} of {}: {why}\n", of.len(), many(tensors, "tensor"))
    };
    kinds.into_iter().map(line).collect()
}

/// `Q4_K 96, Q6_K 17, F32 33`: how many tensors of each type, most bytes first.
pub(super) fn types<'a>(tensors: impl Iterator<Item = (&'a str, u64)>) -> String {
    let mut types: Vec<(&str, usize, u64)> = Vec::new();
    for (data_type, bytes) in tensors {
        match types.iter_mut().find(|(name, ..)| *name == data_type) {
            Some((_, tensors, sum)) => {
                *tensors += 1;
                *sum += bytes;
            }
            None => types.push((data_type, 1, bytes)),
        }
    }
    types.sort_by_key(|(.., bytes)| std::cmp::Reverse(*bytes));
    let types: Vec<String> =
        types.iter().map(|(name, tensors, _)| format!("{name} {tensors}")).collect();
    types.join(", ")
}
