//! `quantize plan`

use std::path::PathBuf;

use qz_pipeline::{PlanReport, PlannedOutput, TensorPlan, Uncovered, plan};
use serde::Serialize;

use super::convert::{fallbacks, types};
use super::outputs::{Job, open};
use super::{print_json, print_line, warn};
use crate::cli::{Global, Plan};
use crate::exit::Outcome;
use crate::render::{bytes, duration, grouped, table};

#[derive(Serialize)]
struct Report {
    source: PathBuf,
    #[serde(flatten)]
    plan: PlanReport,
}

pub(crate) fn run(arguments: &Plan, global: &Global) -> anyhow::Result<Outcome> {
    let recipe = &arguments.recipe;
    let options = recipe.options()?;
    let Job { model, targets } = open(recipe, &recipe.open_options(), &options)?;
    let plan = plan(&model, &targets, &options, global.thread_count())?;
    warn(&plan.warnings);
    if arguments.json {
        print_json(&Report { source: recipe.source.clone(), plan });
    } else {
        print_line(&text(&plan, global));
    }
    Ok(Outcome::Ok)
}

/// Each tensor where details are wanted; sizes, time and memory last.
fn text(plan: &PlanReport, global: &Global) -> String {
    let mut parts: Vec<String> = Vec::new();
    if global.verbose {
        let of =
            |output: &PlannedOutput| format!("{}\n{}", output.target, tensors(&output.tensors));
        parts.extend(plan.outputs.iter().map(of));
    }
    if !plan.missing_importance.is_empty() {
        parts.push(uncovered(&plan.missing_importance, global));
    }
    let of = |output: &PlannedOutput| {
        fallbacks(&output.target, &output.fallbacks, output.tensors.len(), global)
    };
    let fallbacks: String = plan.outputs.iter().map(of).collect();
    if !fallbacks.is_empty() {
        parts.push(fallbacks.trim_end().to_owned());
    }
    parts.push(summary(&plan.outputs));
    let PlanReport { threads, seconds, peak_memory_bytes, .. } = plan;
    let unit = if *threads == 1 { "thread" } else { "threads" };
    parts.push(format!(
        "encoding {} on {threads} {unit}, by trial on this machine; the disk may take longer\n\
         memory   {} at most, estimated from the buffers",
        duration(seconds.value),
        bytes(*peak_memory_bytes)
    ));
    parts.join("\n\n")
}

fn tensors(tensors: &[TensorPlan]) -> String {
    let row = |tensor: &TensorPlan| {
        let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
        vec![
            tensor.name.clone(),
            shape.join(" x "),
            tensor.from.to_owned(),
            tensor.data_type.to_owned(),
            bytes(tensor.bytes),
            why(tensor),
        ]
    };
    let rows: Vec<Vec<String>> = tensors.iter().map(row).collect();
    table(&["tensor", "shape", "from", "to", "size", "why"], &rows)
}

/// `rule (attn_v: first 2), instead of Q4_K`
fn why(tensor: &TensorPlan) -> String {
    let detail = tensor.detail.as_ref().map(|detail| format!(" ({detail})")).unwrap_or_default();
    let instead = tensor.fallback_from.map(|from| format!(", instead of {from}"));
    let weighed = if tensor.importance { ", weighed" } else { "" };
    format!("{}{detail}{}{weighed}", tensor.reason, instead.unwrap_or_default())
}

fn summary(outputs: &[PlannedOutput]) -> String {
    let row = |output: &PlannedOutput| {
        vec![
            output.target.clone(),
            bytes(output.bytes),
            format!("{:.3}", output.bits_per_weight),
            types(output.tensors.iter().map(|tensor| (tensor.data_type, tensor.bytes))),
            output.fallbacks.len().to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = outputs.iter().map(row).collect();
    table(&["target", "size", "bits per weight", "tensors", "fallbacks"], &rows)
}

fn uncovered(tensors: &[Uncovered], global: &Global) -> String {
    let mut text = "these need importance weights (--imatrix), convert refuses without:".to_owned();
    for (data_type, of) in grouped(tensors.iter().map(|one| (one.data_type.to_string(), one))) {
        if global.verbose {
            of.iter().for_each(|one| text.push_str(&format!("\n  {} ({data_type})", one.tensor)));
            continue;
        }
        let more = if of.len() > 1 { format!(" and {} more", of.len() - 1) } else { String::new() };
        let first = of.first().map_or("", |one| &one.tensor);
        text.push_str(&format!("\n  {first} ({data_type}){more}"));
    }
    text
}
