//! `quantize compare`

use std::path::Path;

use anyhow::Context;
use qz_pipeline::{CompareOptions, CompareReport, Compared, Inputs, compare};
use qz_report::{Chart, Page, Point, Table};
use qz_tensor::{Artifact, OutputOptions, StagedArtifact};

use super::{print_json, print_line, warn};
use crate::cli::{Compare, Global};
use crate::exit::Outcome;
use crate::interrupt;
use crate::progress::Progress;
use crate::render::{bytes, file_name, markdown_table, table};

const HEADER: [&str; 9] = [
    "model",
    "size",
    "bits/weight",
    "perplexity",
    "KLD mean",
    "KLD median",
    "KLD 99 %",
    "same top, %",
    "tokens/s",
];

pub(crate) fn run(arguments: &Compare, global: &Global) -> anyhow::Result<Outcome> {
    let options = arguments.options(global).context("no text to compare on")?;
    if let Some(page) = &arguments.output {
        check_page(page, arguments, &options)?;
    }
    let mut progress = Progress::new(global);
    let cancel = interrupt::install()?;
    let report =
        compare(&arguments.reference, &arguments.models, &options, &cancel, &mut progress)?;
    drop(progress);
    warn(&report.warnings);
    if let Some(path) = &arguments.output {
        write_page(path, &page(&report), arguments.force)?;
    }
    if arguments.json {
        print_json(&report);
    } else {
        let draw = if arguments.markdown { markdown_table } else { table };
        print_line(&format!("{}\n\n{}", draw(&HEADER, &rows(&report)), notes(&report)));
    }
    Ok(Outcome::Ok)
}

/// Fails before the work if the page could not be written after it.
fn check_page(
    page: &Path,
    arguments: &Compare,
    options: &CompareOptions,
) -> Result<(), qz_pipeline::Error> {
    let models = [&arguments.reference].into_iter().chain(&arguments.models);
    let inputs = models.fold(Inputs::default(), |inputs, model| inputs.with_model(model));
    inputs.with_file(options.text.data.path()).check(page)?;
    let replace = OutputOptions { replace: arguments.force };
    Ok(StagedArtifact::check(&Artifact::file(page, 0), replace)?)
}

fn rows(report: &CompareReport) -> Vec<Vec<String>> {
    let models = report.models.iter().map(row);
    [row(&report.reference)].into_iter().chain(models).collect()
}

fn row(model: &Compared) -> Vec<String> {
    let found = &model.comparison;
    let mark = if model.on_pareto_front { " *" } else { "" };
    vec![
        format!("{}{mark}", file_name(&model.path)),
        bytes(model.bytes),
        format!("{:.3}", model.bits_per_weight),
        format!("{:.4} ± {:.4}", found.perplexity.value, found.perplexity.stderr),
        format!("{:.6} ± {:.6}", found.kld.mean.value, found.kld.mean.stderr),
        format!("{:.6}", found.kld.median),
        format!("{:.6}", found.kld.p99),
        format!("{:.3}", 100.0 * found.same_top.value),
        format!("{:.0}", model.tokens_per_second),
    ]
}

fn notes(report: &CompareReport) -> String {
    let found = &report.reference.comparison;
    let mut lines = vec![
        format!(
            "{} tokens scored in {} chunks of {}; the first model is the reference",
            found.tokens, found.chunks, report.context
        ),
        "* no other is both smaller and nearer to the reference".to_owned(),
    ];
    for pair in &report.pairs {
        let (Some(interval), Some(p)) = (pair.test.interval, pair.test.p_value) else { continue };
        lines.push(format!(
            "{} less {}: KLD {:+.6} ({:+.6} to {:+.6}), p = {p:.3}",
            file_name(&pair.first),
            file_name(&pair.second),
            pair.test.kld_difference,
            interval.lower,
            interval.upper,
        ));
    }
    lines.join("\n")
}

fn page(report: &CompareReport) -> Page {
    let points = report.models.iter().map(|model| Point {
        name: file_name(&model.path),
        x: model.bytes as f64 / (1u64 << 20) as f64,
        y: model.comparison.kld.mean.value,
        error: model.comparison.kld.mean.interval.map(|interval| (interval.lower, interval.upper)),
        emphasized: model.on_pareto_front,
    });
    Page {
        title: format!("{} and its quantizations", file_name(&report.reference.path)),
        chart: Chart {
            x_label: "size, MiB".to_owned(),
            y_label: "mean KL divergence, nats".to_owned(),
            points: points.collect(),
        },
        table: Table { header: HEADER.map(str::to_owned).to_vec(), rows: rows(report) },
        notes: notes(report).lines().map(str::to_owned).collect(),
    }
}

fn write_page(path: &Path, page: &Page, replace: bool) -> Result<(), qz_pipeline::Error> {
    let html = page.to_html();
    let artifact = Artifact::file(path, html.len() as u64);
    let mut staged =
        StagedArtifact::create(artifact, "page", OutputOptions::default().replacing(replace))?;
    staged.write_at(0, 0, html.as_bytes())?;
    Ok(staged.commit()?)
}
