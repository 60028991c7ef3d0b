//! `quantize inspect`

use std::iter;

use qz_pipeline::{
    InspectedTensor, InspectedTensors, Inspection, ShownMetadata, TypeShare, inspect,
};

use super::{print_json, print_lines};
use crate::cli::{Global, Inspect};
use crate::exit::Outcome;
use crate::messages::on_one_line;
use crate::render::{bytes, count, table, table_lines};

pub(crate) fn run(arguments: &Inspect, _: &Global) -> anyhow::Result<Outcome> {
    let inspection = inspect(&arguments.model, &arguments.read.options())?;
    if arguments.json {
        print_json(&inspection);
    } else {
        let warnings = inspection.warnings.iter().map(|warning| format!("\nwarning: {warning}"));
        let tensors = arguments.tensors.then(|| tensors(&inspection.tensors));
        let tensors = tensors.into_iter().flat_map(|lines| blank().chain(lines));
        let metadata = blank().chain(metadata(&inspection.metadata));
        print_lines(facts(&inspection).into_iter().chain(metadata).chain(tensors).chain(warnings));
    }
    Ok(Outcome::Ok)
}

fn blank() -> impl Iterator<Item = String> {
    iter::once(String::new())
}

fn facts(inspection: &Inspection) -> [String; 3] {
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
    [facts.collect::<Vec<_>>().join("\n"), String::new(), types(&inspection.types)]
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
fn metadata(metadata: &ShownMetadata) -> impl Iterator<Item = String> {
    const WIDTH: usize = 100;
    metadata.iter().map(|(key, value)| {
        let value = on_one_line(&value);
        let end = value.char_indices().nth(WIDTH).map_or(value.len(), |(end, _)| end);
        let cut = if end < value.len() { "…" } else { "" };
        format!("{} = {}{cut}", on_one_line(key), &value[..end])
    })
}

fn tensors(tensors: &InspectedTensors) -> impl Iterator<Item = String> {
    let row = |tensor: InspectedTensor<'_>| {
        let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
        vec![
            tensor.name.to_owned(),
            tensor.data_type.into_owned(),
            shape.join(" x "),
            bytes(tensor.bytes),
        ]
    };
    table_lines(&["tensor", "type", "shape", "size"], move || tensors.iter().map(row))
}
