//! `quantize inspect`

use qz_pipeline::{InspectedTensor, Inspection, TypeShare, inspect};

use super::{print_json, print_line};
use crate::cli::{Global, Inspect};
use crate::exit::Outcome;
use crate::messages::on_one_line;
use crate::render::{bytes, count, table};

pub(crate) fn run(arguments: &Inspect, _: &Global) -> anyhow::Result<Outcome> {
    let inspection = inspect(&arguments.model, &arguments.read.options())?;
    if arguments.json {
        print_json(&inspection);
    } else {
        print_line(&text(&inspection, arguments.tensors));
    }
    Ok(Outcome::Ok)
}

fn text(inspection: &Inspection, with_tensors: bool) -> String {
    let unknown = || "unknown".to_owned();
    let mut facts = vec![
        ("model", inspection.name.clone().unwrap_or_else(unknown)),
        ("architecture", inspection.architecture.clone().unwrap_or_else(unknown)),
        ("container", inspection.container.to_owned()),
    ];
    if let Some(quantization) = &inspection.quantization {
        facts.push(("quantization", quantization.summary.clone()));
        facts.extend(quantization.chosen_by().map(|method| ("quantized by", method)));
    }
    facts.extend([
        ("weights", count(inspection.weights)),
        ("size", bytes(inspection.tensor_bytes)),
        ("bits per weight", format!("{:.3}", inspection.bits_per_weight)),
    ]);
    let facts = facts.into_iter().map(|(key, value)| format!("{key:<16}{value}"));
    let mut parts = vec![facts.collect::<Vec<_>>().join("\n")];
    parts.push(types(&inspection.types));
    parts.push(metadata(&inspection.metadata));
    if with_tensors {
        parts.push(tensors(&inspection.tensors));
    }
    parts.extend(inspection.warnings.iter().map(|warning| format!("warning: {warning}")));
    parts.join("\n\n")
}

fn types(shares: &[TypeShare]) -> String {
    let row = |share: &TypeShare| {
        vec![
            share.data_type.to_string(),
            share.tensors.to_string(),
            count(share.weights),
            bytes(share.bytes),
        ]
    };
    let rows: Vec<Vec<String>> = shares.iter().map(row).collect();
    table(&["type", "tensors", "weights", "size"], &rows)
}

/// Metadata in one line each; long values (a chat template) are cut.
fn metadata(entries: &[(String, String)]) -> String {
    const WIDTH: usize = 100;
    let mut lines = String::new();
    for (key, value) in entries {
        let value = on_one_line(value);
        let end = value.char_indices().nth(WIDTH).map_or(value.len(), |(end, _)| end);
        let cut = if end < value.len() { "…" } else { "" };
        let between = if lines.is_empty() { "" } else { "\n" };
        lines.extend([between, &on_one_line(key), " = ", &value[..end], cut]);
    }
    lines
}

fn tensors(tensors: &[InspectedTensor]) -> String {
    let row = |tensor: &InspectedTensor| {
        let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
        vec![
            tensor.name.clone(),
            tensor.data_type.to_string(),
            shape.join(" x "),
            bytes(tensor.bytes),
        ]
    };
    let rows: Vec<Vec<String>> = tensors.iter().map(row).collect();
    table(&["tensor", "type", "shape", "size"], &rows)
}
