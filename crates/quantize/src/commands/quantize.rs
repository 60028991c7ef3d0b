//! `quantize quantize`

use std::path::PathBuf;

use qz_pipeline::qz_methods::TensorReport;
use qz_pipeline::{MethodTensor, QuantizeOptions, QuantizeReport, UnseenInputs, quantize};
use serde::Serialize;

use super::calibrate::{coverage, coverage_in_short};
use super::convert::summary;
use super::outputs::{Folders, Job, open, outputs};
use super::{print_json, print_line};
use crate::cli::{Global, Quantize};
use crate::exit::Outcome;
use crate::interrupt;
use crate::memory::peak_bytes;
use crate::progress::Progress;
use crate::render::{bytes, grouped, many, table};

#[derive(Serialize)]
struct Report {
    source: PathBuf,
    /// What the process used of memory at most, where the system says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_memory_bytes: Option<u64>,
    outputs: Vec<QuantizeReport>,
}

pub(crate) fn run(arguments: &Quantize, global: &Global) -> anyhow::Result<Outcome> {
    let (recipe, written) = (&arguments.recipe, &arguments.written);
    let options: QuantizeOptions = arguments.options(global)?;
    let cancel = interrupt::install()?;
    let Job { model, targets } = open(recipe, &recipe.open_options(), &options.convert.plan)?;
    let outputs = outputs(&recipe.source, "", &targets, written)?;
    let _folders = Folders::make(&outputs)?;
    let paths = outputs.iter().map(|output| output.path.clone());
    let mut progress = Progress::new(global).writing(paths);
    let reports = quantize(&model, &outputs, &options, &cancel, &mut progress)?;
    drop(progress);
    if written.json {
        let peak_memory_bytes = peak_bytes();
        let source = recipe.source.clone();
        print_json(&Report { source, peak_memory_bytes, outputs: reports });
    } else {
        print_line(&text(&reports, global));
    }
    Ok(Outcome::Ok)
}

/// What the method did, with each matrix where details are wanted; the outputs last.
fn text(reports: &[QuantizeReport], global: &Global) -> String {
    let mut parts: Vec<String> = Vec::new();
    let asked = reports.iter().filter(|_| !global.quiet);
    parts.extend(asked.filter_map(unseen_inputs));
    for report in reports.iter().filter(|report| !report.methods.is_empty() && !global.quiet) {
        parts.push(if global.verbose { matrices(report) } else { in_short(report) });
        match report.experts.is_empty() {
            true => {}
            false if global.verbose => parts.push(coverage(&report.experts)),
            false => parts.push(coverage_in_short(&report.experts)),
        }
    }
    let bound = reports.iter().map(|report| report.memory_bound_bytes).max();
    if let (Some(peak), Some(bound), false) = (peak_bytes(), bound, global.quiet) {
        parts.push(format!("memory: {} of at most {}", bytes(peak), bytes(bound)));
    }
    let artifacts: Vec<_> = reports.iter().map(|report| &report.artifact).collect();
    parts.push(summary(&artifacts, global));
    let separator = if global.verbose { "\n\n" } else { "\n" };
    parts.join(separator)
}

/// Experts that were given no token, where the target has numbers of what they are given.
fn unseen_inputs(report: &QuantizeReport) -> Option<String> {
    let name = |own: &UnseenInputs| format!("{} [{}]", own.tensor, own.expert);
    let names: Vec<String> = report.unseen_inputs.iter().map(name).collect();
    (!names.is_empty()).then(|| {
        format!(
            "{}: {} saw no token, and got the largest input of their siblings: {}",
            report.artifact.target,
            many(names.len(), "matrix"),
            names.join(", ")
        )
    })
}

/// Every matrix.
fn matrices(report: &QuantizeReport) -> String {
    let of_method = format!("error {}, ‰", report.method.to_uppercase());
    let header = ["tensor", "type", "error RTN, ‰", &of_method, "damping", "remarks"];
    let row = |tensor: &MethodTensor| {
        let TensorReport { losses, damping, .. } = &tensor.report;
        let name = match tensor.expert {
            Some(expert) => format!("{} [{expert}]", tensor.tensor),
            None => tensor.tensor.clone(),
        };
        vec![
            name,
            tensor.data_type.to_owned(),
            losses.map_or_else(String::new, |losses| per_mille(losses.rounding)),
            losses.map_or_else(String::new, |losses| per_mille(losses.result)),
            damping.map_or_else(String::new, |damping| format!("{damping}")),
            remarks(tensor).join("; "),
        ]
    };
    let rows: Vec<Vec<String>> = report.methods.iter().map(row).collect();
    format!("{}: {}\n{}", report.artifact.target, report.method, table(&header, &rows))
}

/// The mean error of all matrices, and one line for each kind of remark.
fn in_short(report: &QuantizeReport) -> String {
    let (target, matrices) = (&report.artifact.target, report.methods.len());
    let losses: Vec<_> = report.methods.iter().filter_map(|tensor| tensor.report.losses).collect();
    let mut line = format!("{target}: {} by {}", many(matrices, "matrix"), report.method);
    if !losses.is_empty() {
        let count = losses.len() as f64;
        let mean = |sum: f64| per_mille(sum / count);
        line.push_str(&format!(
            ", mean error {} ‰ after {} ‰ with RTN",
            mean(losses.iter().map(|losses| losses.result).sum()),
            mean(losses.iter().map(|losses| losses.rounding).sum()),
        ));
    }
    let remarks = report.methods.iter().flat_map(remarks).map(|remark| (remark, ()));
    let kinds = grouped(remarks).into_iter();
    let kinds =
        kinds.map(|(remark, of)| format!("\n{target}: {}: {remark}", many(of.len(), "matrix")));
    line + &kinds.collect::<String>()
}

fn per_mille(value: f64) -> String {
    format!("{:.4}", 1000.0 * value)
}

fn remarks(tensor: &MethodTensor) -> Vec<String> {
    let mut remarks = Vec::new();
    if let (Some(tokens), Some(_)) = (tensor.tokens, tensor.filled_up_to) {
        let columns = tensor.report.columns as u64;
        remarks.extend(
            match tokens {
                0 => Some("no token: the mean of all experts stands in"),
                few if few < columns => {
                    Some("fewer tokens than columns: near the mean of all experts")
                }
                _ => None,
            }
            .map(str::to_owned),
        );
    }
    if tensor.is_uncorrected {
        remarks.push("too few tokens to correct for earlier layers".to_owned());
    }
    if let Some(fallback) = &tensor.report.fallback {
        remarks.push(format!("rounded with importance instead: {fallback}"));
    }
    if tensor.report.dead_columns > 0 {
        remarks.push(format!("{} without input", many(tensor.report.dead_columns, "column")));
    }
    remarks
}
