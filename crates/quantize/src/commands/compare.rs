//! `quantize compare`

use std::path::{Path, PathBuf};

use anyhow::Context;
use qz_pipeline::{
    CompareOptions, CompareReport, Compared, FEWEST_CHUNKS, Inputs, LEAST_P_VALUE, compare,
};
use qz_report::{Chart, Page, Point, Table};
use qz_tensor::{Artifact, OutputOptions, StagedArtifact};

use super::{print_json, print_line, warn};
use crate::cli::{Compare, Global};
use crate::exit::{Outcome, UsageError};
use crate::interrupt;
use crate::names::{named, shared_name, shortened};
use crate::progress::Progress;
use crate::render::{bytes, many, markdown_table, table};

pub(crate) fn run(arguments: &Compare, global: &Global) -> anyhow::Result<Outcome> {
    arguments.check_text()?;
    let options = arguments.options(global).context("no text to compare on")?;
    let (names, models) = named(&arguments.reference, &arguments.models);
    if let Some(name) = shared_name(&names, &models) {
        let problem = format!("two models are called {name:?}: give each a name of its own");
        return Err(UsageError(problem).into());
    }
    if let Some(page) = &arguments.output {
        check_page(page, &models, arguments.force, &options)?;
    }
    let mut progress = Progress::new(global);
    let cancel = interrupt::install()?;
    let report = compare(&models[0], &models[1..], &options, &cancel, &mut progress)?;
    drop(progress);
    warn(&report.warnings);
    let shown = Shown { report: &report, names: &names };
    if let Some(path) = &arguments.output {
        write_page(path, &shown.page(), arguments.force)?;
    }
    if arguments.json {
        print_json(&report);
    } else if arguments.markdown {
        print_line(&format!("{}\n\n{}", shown.whole(markdown_table), shown.notes()));
    } else if global.verbose {
        print_line(&format!("{}\n\n{}", shown.whole(table), shown.notes()));
    } else {
        print_line(&format!("{}\n\n{}", shown.narrow(), shown.notes()));
    }
    Ok(Outcome::Ok)
}

/// Fails before the work if the page could not be written after it.
fn check_page(
    page: &Path,
    models: &[PathBuf],
    replace: bool,
    options: &CompareOptions,
) -> Result<(), qz_pipeline::Error> {
    let inputs = models.iter().fold(Inputs::default(), |inputs, model| inputs.with_model(model));
    inputs.with_file(options.text.data.path()).check(page)?;
    let replace = OutputOptions::default().replacing(replace);
    Ok(StagedArtifact::check(&Artifact::file(page, 0), replace)?)
}

/// A report with the models' names: the reference's, then the others'.
struct Shown<'a> {
    report: &'a CompareReport,
    names: &'a [String],
}

const HEADER: [&str; 9] = [
    "model",
    "size",
    "bits/weight",
    "perplexity",
    "KLD mean",
    "KLD median",
    "KLD 99 %",
    "top-1 agreement, %",
    "tokens/s",
];

/// Columns of the table that fits a terminal of 80.
const NARROW: [&str; 7] = ["model", "size", "bits", "PPL", "KLD", "± SE", "top-1, %"];

/// What its other columns leave for names.
const NAME_WIDTH: usize = 21;

impl Shown<'_> {
    fn models(&self) -> impl Iterator<Item = (&str, &Compared)> {
        let models = [&self.report.reference].into_iter().chain(&self.report.models);
        self.names.iter().map(String::as_str).zip(models)
    }

    /// All columns.
    fn rows(&self) -> Vec<Vec<String>> {
        let row = |(name, model): (&str, &Compared)| {
            let found = &model.comparison;
            vec![
                format!("{name}{}", mark(model)),
                bytes(model.bytes),
                format!("{:.3}", model.bits_per_weight),
                format!("{:.4} ± {:.4}", found.perplexity.value, found.perplexity.stderr),
                format!("{:.6} ± {:.6}", found.kld.mean.value, found.kld.mean.stderr),
                format!("{:.6}", found.kld.median),
                format!("{:.6}", found.kld.p99),
                format!("{:.3}", 100.0 * found.same_top.value),
                format!("{:.0}", model.tokens_per_second),
            ]
        };
        self.models().map(row).collect()
    }

    fn whole(&self, draw: fn(&[&str], &[Vec<String>]) -> String) -> String {
        draw(&HEADER, &self.rows())
    }

    /// The columns that fit 80.
    fn narrow(&self) -> String {
        let names = shortened(self.names, NAME_WIDTH - 2);
        let row = |(name, (_, model)): (&String, (&str, &Compared))| {
            let found = &model.comparison;
            vec![
                format!("{name}{}", mark(model)),
                bytes(model.bytes),
                format!("{:.2}", model.bits_per_weight),
                format!("{:.3}", found.perplexity.value),
                format!("{:.5}", found.kld.mean.value),
                format!("{:.5}", found.kld.mean.stderr),
                format!("{:.2}", 100.0 * found.same_top.value),
            ]
        };
        let rows: Vec<Vec<String>> = names.iter().zip(self.models()).map(row).collect();
        table(&NARROW, &rows)
    }

    /// What was scored, and how far each model is from the best one.
    fn notes(&self) -> String {
        let found = &self.report.reference.comparison;
        let mut lines = vec![
            format!(
                "{} scored in {} of {}; the first model is the reference",
                many(found.tokens, "token"),
                many(found.chunks, "chunk"),
                self.report.context
            ),
            "* Pareto front: no other model is both smaller and nearer to the reference".to_owned(),
        ];
        lines.extend(self.report.rounded_inputs.iter().map(super::eval::rounded_inputs));
        let differences = self.differences();
        if differences.is_empty() && self.report.models.len() > 1 {
            lines.push(format!(
                "no differences between models: their bootstrap needs {FEWEST_CHUNKS} chunks"
            ));
        }
        lines.extend(differences);
        lines.join("\n")
    }

    /// `A − B: KLD +0.0321 (+0.0312 to +0.0330), p ≤ 0.002`: of each model and the one nearest
    /// to the reference.
    fn differences(&self) -> Vec<String> {
        let models = &self.report.models;
        let divergence = |at: &usize| models[*at].comparison.kld.mean.value;
        let best = (0..models.len()).min_by(|a, b| divergence(a).total_cmp(&divergence(b)));
        let Some(best) = best else { return Vec::new() };
        let name = |at: usize| &self.names[1 + at];
        let mut lines = Vec::new();
        // Pairs come in the order in which they were made: of each model with those before it.
        let places =
            (0..models.len()).flat_map(|second| (0..second).map(move |first| (first, second)));
        for ((first, second), pair) in places.zip(&self.report.pairs) {
            if first != best && second != best {
                continue;
            }
            let (other, sign) = if first == best { (second, -1.0) } else { (first, 1.0) };
            let (Some(interval), Some(p)) = (pair.test.interval, pair.test.p_value) else {
                continue;
            };
            let ends = [sign * interval.lower, sign * interval.upper];
            lines.push(format!(
                "{} − {}: KLD {:+.5} ({:+.5} to {:+.5}), {}",
                name(other),
                name(best),
                sign * pair.test.kld_difference,
                ends[0].min(ends[1]),
                ends[0].max(ends[1]),
                probability(p),
            ));
        }
        lines
    }
}

fn mark(model: &Compared) -> &'static str {
    if model.on_pareto_front { " *" } else { "" }
}

/// The bootstrap's smallest probability is a bound, no figure.
fn probability(p: f64) -> String {
    if p <= LEAST_P_VALUE { format!("p ≤ {LEAST_P_VALUE:.3}") } else { format!("p = {p:.3}") }
}

impl Shown<'_> {
    fn page(&self) -> Page {
        let point = |(name, model): (&str, &Compared)| Point {
            name: name.to_owned(),
            x: model.bytes as f64 / (1u64 << 20) as f64,
            y: model.comparison.kld.mean.value,
            error: model.comparison.kld.mean.interval.map(|found| (found.lower, found.upper)),
            emphasized: model.on_pareto_front,
        };
        Page {
            title: format!("{} and its quantizations", self.names[0]),
            chart: Chart {
                x_label: "size, MiB".to_owned(),
                y_label: "mean KL divergence, nats".to_owned(),
                points: self.models().skip(1).map(point).collect(),
            },
            table: Table { header: HEADER.map(str::to_owned).to_vec(), rows: self.rows() },
            notes: self.notes().lines().map(str::to_owned).collect(),
        }
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
