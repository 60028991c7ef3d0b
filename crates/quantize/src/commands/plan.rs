//! `quantize plan`

use std::path::PathBuf;

use qz_pipeline::{Model, PlanReport, PlannedOutput, TensorPlan, Uncovered, plan};
use serde::Serialize;

use super::convert::fallbacks;
use super::{print_json, print_line, warn};
use crate::cli::{Global, Plan};
use crate::exit::Outcome;
use crate::render::{bytes, duration, table};

#[derive(Serialize)]
struct Report {
    source: PathBuf,
    #[serde(flatten)]
    plan: PlanReport,
}

pub(crate) fn run(arguments: &Plan, global: &Global) -> anyhow::Result<Outcome> {
    let recipe = &arguments.recipe;
    let model = Model::open(&recipe.source, &recipe.read.options())?;
    let plan = plan(&model, &recipe.to, &recipe.options()?, global.thread_count())?;
    warn(&plan.warnings);
    if arguments.json {
        print_json(&Report { source: recipe.source.clone(), plan });
    } else {
        print_line(&text(&plan));
    }
    Ok(Outcome::Ok)
}

fn text(plan: &PlanReport) -> String {
    let mut parts: Vec<String> = Vec::new();
    for output in &plan.outputs {
        parts.push(format!("{}\n{}", output.target, tensors(&output.tensors)));
    }
    let PlanReport { threads, seconds, peak_memory_bytes, .. } = plan;
    let unit = if *threads == 1 { "thread" } else { "threads" };
    parts.push(summary(&plan.outputs));
    parts.push(format!(
        "encoding {} on {threads} {unit}, by trial on this machine; the disk may take longer\n\
         memory   {} at most, estimated from the buffers",
        duration(seconds.value),
        bytes(*peak_memory_bytes)
    ));
    if !plan.missing_importance.is_empty() {
        parts.push(uncovered(&plan.missing_importance));
    }
    parts.join("\n\n")
}

fn tensors(tensors: &[TensorPlan]) -> String {
    let row = |tensor: &TensorPlan| {
        let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
        vec![
            tensor.name.escape_debug().to_string(),
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
            output.fallbacks.len().to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = outputs.iter().map(row).collect();
    let mut text = table(&["target", "size", "bits per weight", "fallbacks"], &rows);
    for output in outputs {
        text.push_str(&fallbacks(&output.target, &output.fallbacks));
    }
    text
}

fn uncovered(tensors: &[Uncovered]) -> String {
    let mut text = "these need importance weights (--imatrix), convert refuses without:".to_owned();
    for Uncovered { tensor, data_type } in tensors {
        text.push_str(&format!("\n  {tensor} ({data_type})"));
    }
    text
}
