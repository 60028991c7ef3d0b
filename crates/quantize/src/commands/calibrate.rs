//! `quantize calibrate`

use std::path::Path;

use qz_pipeline::{
    Calibration, ExpertCoverage, LayerSummary, StatisticsSummary, TensorSummary, calibrate,
    merge_statistics, show_statistics,
};
use serde::Serialize;

use super::{print_json, print_line};
use crate::cli::{Calibrate, Global};
use crate::exit::Outcome;
use crate::interrupt;
use crate::progress::Progress;
use crate::render::{many, table};

pub(crate) fn run(arguments: &Calibrate, global: &Global) -> anyhow::Result<Outcome> {
    match (&arguments.show_statistics, &arguments.model, &arguments.output) {
        (Some(file), ..) => show(file, arguments.json)?,
        (None, Some(model), Some(output)) => collect(model, output, arguments, global)?,
        (None, None, Some(output)) => merge(output, arguments)?,
        // The parser asks for an output.
        (None, _, None) => {}
    }
    Ok(Outcome::Ok)
}

fn collect(
    model: &Path,
    output: &Path,
    arguments: &Calibrate,
    global: &Global,
) -> anyhow::Result<()> {
    let mut progress = Progress::new(global).writing([output.to_owned()]);
    let cancel = interrupt::install()?;
    let options = arguments.options(global);
    let calibration = calibrate(model, output, &options, &cancel, &mut progress)?;
    drop(progress);
    match arguments.json {
        true => print_json(&calibration),
        false => print_line(&text(&calibration)),
    }
    Ok(())
}

fn text(calibration: &Calibration) -> String {
    let part = |part: &qz_pipeline::DataPart| {
        let numbers = [part.documents, part.tokens, part.chunks].map(|number| number.to_string());
        [vec![part.name.clone()], numbers.to_vec()].concat()
    };
    let parts: Vec<Vec<String>> = calibration.data.iter().map(part).collect();
    let mut lines = vec![table(&["text", "documents", "tokens", "chunks"], &parts), String::new()];
    if !calibration.experts.is_empty() {
        lines.push(coverage(&calibration.experts));
        lines.push(String::new());
    }
    lines.extend(calibration.warnings.iter().map(|warning| format!("warning: {warning}")));
    let Calibration { output, chunks, context, chunks_in_all, tensors, .. } = calibration;
    let seen = format!("{} of {context}", seen(*tensors, *chunks));
    let all = match *chunks_in_all as usize == *chunks {
        true => String::new(),
        false => format!(", {chunks_in_all} in all"),
    };
    lines.push(format!("{}: {seen}{all}", output.display()));
    lines.join("\n")
}

/// What was seen of how much text.
fn seen(tensors: usize, chunks: impl TryInto<u64>) -> String {
    format!("{}, {}", many(tensors, "matrix"), many(chunks, "chunk"))
}

/// How layers' experts share the tokens.
pub(super) fn coverage(layers: &[ExpertCoverage]) -> String {
    let row = |layer: &ExpertCoverage| {
        let (fewest, most) = (layer.tokens.iter().min(), layer.tokens.iter().max());
        let numbers = [fewest, most].map(|number| number.copied().unwrap_or(0).to_string());
        let own = vec![layer.layer.to_string(), layer.tokens.len().to_string()];
        [own, numbers.to_vec()].concat()
    };
    let rows: Vec<Vec<String>> = layers.iter().map(row).collect();
    table(&["layer", "experts", "fewest tokens", "most"], &rows)
}

/// The same in one line.
pub(super) fn coverage_in_short(layers: &[ExpertCoverage]) -> String {
    let tokens = || layers.iter().flat_map(|layer| layer.tokens.iter().copied());
    let (fewest, most) = (tokens().min().unwrap_or(0), tokens().max().unwrap_or(0));
    format!("experts saw {fewest} to {most} tokens each")
}

fn merge(output: &Path, arguments: &Calibrate) -> anyhow::Result<()> {
    let files = &arguments.in_file;
    let format = arguments.format();
    let merged = merge_statistics(files, output, arguments.reading.ctx, format, arguments.force)?;
    let (tensors, chunks) = (merged.tensors, merged.chunks);
    match arguments.json {
        true => print_json(&merged),
        false => {
            print_line(&format!("{}: {}", output.display(), seen(tensors, chunks)));
        }
    }
    Ok(())
}

/// The summary as it is shown.
#[derive(Serialize)]
struct Shown<'a> {
    tensors: Vec<ShownTensor<'a>>,
    layers: Vec<ShownLayer>,
}

#[derive(Serialize)]
struct ShownTensor<'a> {
    name: &'a str,
    layer: Option<u32>,
    columns: usize,
    sum: f64,
    min: f64,
    max: f64,
    mean: f64,
    standard_deviation: f64,
    active: f64,
    entropy: f64,
    relative_entropy: f64,
    outstanding: f64,
    cosine_to_layer_before: f64,
}

#[derive(Serialize)]
struct ShownLayer {
    layer: u32,
    sum: f64,
    outstanding: f64,
    cosine_to_layer_before: f64,
}

impl<'a> From<&'a TensorSummary> for ShownTensor<'a> {
    fn from(one: &'a TensorSummary) -> Self {
        Self {
            name: &one.name,
            layer: one.layer,
            columns: one.columns,
            sum: one.sum,
            min: one.min,
            max: one.max,
            mean: one.mean,
            standard_deviation: one.deviation,
            active: one.active,
            entropy: one.entropy,
            relative_entropy: one.relative_entropy(),
            outstanding: one.outstanding,
            cosine_to_layer_before: one.cosine,
        }
    }
}

impl From<&LayerSummary> for ShownLayer {
    fn from(one: &LayerSummary) -> Self {
        let LayerSummary { layer, sum, outstanding, cosine } = *one;
        Self { layer, sum, outstanding, cosine_to_layer_before: cosine }
    }
}

fn show(file: &Path, json: bool) -> anyhow::Result<()> {
    let StatisticsSummary { tensors, layers } = show_statistics(file)?;
    if json {
        let (tensors, layers) = (tensors.iter().map(Into::into), layers.iter().map(Into::into));
        print_json(&Shown { tensors: tensors.collect(), layers: layers.collect() });
        return Ok(());
    }
    let header = [
        "matrix",
        "Σ E[x²]",
        "min",
        "max",
        "mean",
        "σ",
        "active",
        "N",
        "entropy",
        "of most",
        "z > 1",
        "cosine",
    ];
    let percent = |share: f64| format!("{:.2} %", 100.0 * share);
    let row = |one: &TensorSummary| {
        vec![
            one.name.clone(),
            format!("{:.2}", one.sum),
            format!("{:.4}", one.min),
            format!("{:.4}", one.max),
            format!("{:.2}", one.mean),
            format!("{:.2}", one.deviation),
            percent(one.active),
            one.columns.to_string(),
            format!("{:.4}", one.entropy),
            percent(one.relative_entropy()),
            percent(one.outstanding),
            format!("{:.4}", one.cosine),
        ]
    };
    let rows: Vec<Vec<String>> = tensors.iter().map(row).collect();
    let layer = |one: &LayerSummary| {
        let figures =
            [format!("{:.2}", one.sum), percent(one.outstanding), format!("{:.4}", one.cosine)];
        [vec![one.layer.to_string()], figures.to_vec()].concat()
    };
    let layers: Vec<Vec<String>> = layers.iter().map(layer).collect();
    print_line(&table(&header, &rows));
    print_line("");
    print_line(&table(&["layer", "mean Σ E[x²]", "mean z > 1", "mean cosine"], &layers));
    Ok(())
}
