//! `quantize quantize`

use std::path::PathBuf;

use qz_pipeline::qz_methods::TensorReport;
use qz_pipeline::{MethodTensor, Model, QuantizeOptions, QuantizeReport, quantize};
use serde::Serialize;

use super::calibrate::coverage;
use super::convert::{outputs, summary};
use super::{print_json, print_line};
use crate::cli::{Global, Quantize};
use crate::exit::Outcome;
use crate::interrupt;
use crate::memory::peak_bytes;
use crate::progress::Progress;
use crate::render::{bytes, table};

#[derive(Serialize)]
struct Report {
    source: PathBuf,
    /// What the process used of memory at most, where the system tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_memory_bytes: Option<u64>,
    outputs: Vec<QuantizeReport>,
}

pub(crate) fn run(arguments: &Quantize, global: &Global) -> anyhow::Result<Outcome> {
    let recipe = &arguments.recipe;
    let outputs = outputs(&recipe.source, &recipe.to, &arguments.output)?;
    let cancel = interrupt::install()?;
    let model = Model::open(&recipe.source, &recipe.read.options())?;
    let options: QuantizeOptions = arguments.options(global)?;
    let paths = outputs.iter().map(|output| output.path.clone());
    let mut progress = Progress::new(global).writing(paths);
    let reports = quantize(&model, &outputs, &options, &cancel, &mut progress)?;
    drop(progress);
    if arguments.json {
        let peak_memory_bytes = peak_bytes();
        let source = recipe.source.clone();
        print_json(&Report { source, peak_memory_bytes, outputs: reports });
    } else if !global.quiet {
        print_line(&text(&reports));
        let bound = reports.iter().map(|report| report.memory_bound_bytes).max();
        if let (Some(peak), Some(bound)) = (peak_bytes(), bound) {
            print_line(&format!("\nmemory: {} of at most {}", bytes(peak), bytes(bound)));
        }
    }
    Ok(Outcome::Ok)
}

fn text(reports: &[QuantizeReport]) -> String {
    let artifacts: Vec<_> = reports.iter().map(|report| &report.artifact).collect();
    let mut lines = vec![summary(&artifacts)];
    for report in reports.iter().filter(|report| !report.methods.is_empty()) {
        let header = ["tensor", "type", "loss by rounding, ‰", "loss, ‰", "damping", "remarks"];
        let rows: Vec<Vec<String>> = report
            .methods
            .iter()
            .map(|tensor| {
                let TensorReport { losses, damping, .. } = &tensor.report;
                let name = match tensor.expert {
                    Some(expert) => format!("{} [{expert}]", tensor.tensor),
                    None => tensor.tensor.clone(),
                };
                let loss = |value: Option<f64>| {
                    value.map_or_else(String::new, |value| format!("{:.4}", 1000.0 * value))
                };
                vec![
                    name,
                    tensor.data_type.to_owned(),
                    loss(losses.map(|losses| losses.rounding)),
                    loss(losses.map(|losses| losses.result)),
                    damping.map_or_else(String::new, |damping| format!("{damping}")),
                    remarks(tensor),
                ]
            })
            .collect();
        lines.push(format!("\n{}: {}", report.artifact.target, report.method));
        lines.push(table(&header, &rows));
        if !report.experts.is_empty() {
            lines.extend([String::new(), coverage(&report.experts)]);
        }
    }
    lines.join("\n")
}

fn remarks(tensor: &MethodTensor) -> String {
    let mut remarks = Vec::new();
    if let (Some(tokens), Some(_)) = (tensor.tokens, tensor.filled_up_to) {
        remarks.push(match tokens {
            0 => "no token: the mean of all experts stands in".to_owned(),
            _ => format!("{tokens} tokens: drawn toward the mean of all experts"),
        });
    }
    if let Some(fallback) = &tensor.report.fallback {
        remarks.push(format!("rounded with importance instead: {fallback}"));
    }
    if tensor.report.dead_columns > 0 {
        remarks.push(format!("{} columns without input", tensor.report.dead_columns));
    }
    remarks.join("; ")
}
