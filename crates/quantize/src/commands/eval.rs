//! `quantize eval`

use qz_pipeline::{Estimate, Evaluation, Figures, RoundedInputs, Spread, eval};

use super::{print_json, print_line, sample, tasks, warn};
use crate::cli::{Eval, Global};
use crate::exit::Outcome;
use crate::interrupt;
use crate::progress::Progress;
use crate::render::{many, markdown_table, table};

pub(crate) fn run(arguments: &Eval, global: &Global) -> anyhow::Result<Outcome> {
    if let Some(options) = arguments.task_options(global) {
        return tasks::run(arguments, &options, global);
    }
    if let Some(options) = arguments.sample_options(global) {
        return sample::run(arguments, &options, global);
    }
    arguments.check_text()?;
    let mut progress = Progress::new(global);
    let cancel = interrupt::install()?;
    let evaluation = eval(&arguments.model, &arguments.options(global), &cancel, &mut progress)?;
    drop(progress);
    warn(&evaluation.warnings);
    if arguments.json {
        print_json(&evaluation);
    } else {
        print_line(&text(&evaluation, arguments.markdown));
    }
    Ok(Outcome::of_check(evaluation.passed))
}

fn text(evaluation: &Evaluation, markdown: bool) -> String {
    let (tokens, chunks, figures) = match &evaluation.figures {
        Figures::Alone(found) => {
            let figures = vec![estimate("perplexity", &found.perplexity, 1.0)];
            (found.tokens, found.chunks, figures)
        }
        Figures::Compared(found) => (found.tokens, found.chunks, compared(found)),
        Figures::Similar(found) => (found.tokens, found.chunks, similar(found)),
    };
    let verb = match evaluation.figures {
        Figures::Similar(_) => "compared",
        _ => "scored",
    };
    let figures = if tokens > FEW_TOKENS { figures } else { without_errors(figures) };
    let header = ["figure", "value", "standard error", "95 % CI"];
    let draw = if markdown { markdown_table } else { table };
    let context = evaluation.context;
    let mut lines = vec![
        draw(&header, &figures),
        format!("\n{} {verb} in {} of {context}", many(tokens, "token"), many(chunks, "chunk")),
    ];
    lines.extend(evaluation.rounded_inputs.iter().map(rounded_inputs));
    lines.extend(evaluation.failures.iter().map(|failure| format!("FAILED: {failure}")));
    lines.join("\n")
}

/// `DIR: inputs of 28 matrices are rounded as engines do: to NVFP4`
pub(super) fn rounded_inputs(found: &RoundedInputs) -> String {
    let name = found.path.file_name().unwrap_or(found.path.as_os_str()).to_string_lossy();
    let (count, to) = (many(found.matrices, "matrix"), &found.activations);
    format!("{name}: inputs of {count} are rounded, as its configuration says: {to}")
}

/// So few values have no standard error, as in llama.cpp.
const FEW_TOKENS: usize = 10;

fn without_errors(rows: Vec<Vec<String>>) -> Vec<Vec<String>> {
    rows.into_iter().map(|row| row.into_iter().take(2).collect()).collect()
}

/// An encoder beside its reference.
fn similar(found: &qz_pipeline::Similarity) -> Vec<Vec<String>> {
    let mut rows = spread("cosine of texts", &found.cosine, 1.0);
    rows.extend(spread("cosine of tokens", &found.token_cosine, 1.0));
    if let Some(same) = &found.same_nearest {
        rows.push(estimate("same nearest text, %", same, 100.0));
    }
    rows
}

/// What llama-perplexity prints, in its order.
fn compared(found: &qz_pipeline::Comparison) -> Vec<Vec<String>> {
    let correlation = format!("{:.2} %", 100.0 * found.perplexity_correlation);
    let mut rows = vec![
        estimate("perplexity", &found.perplexity, 1.0),
        estimate("perplexity of the reference", &found.reference_perplexity, 1.0),
        vec!["correlation of their logarithms".to_owned(), correlation],
        estimate("ln of their ratio", &found.log_perplexity_ratio, 1.0),
        estimate("ratio", &found.perplexity_ratio, 1.0),
        estimate("difference", &found.perplexity_difference, 1.0),
    ];
    match &found.kld_upper {
        None => rows.extend(spread("KL divergence", &found.kld, 1.0)),
        Some(upper) => {
            rows.extend(spread("KL divergence, at least", &found.kld, 1.0));
            rows.extend(spread("KL divergence, at most", upper, 1.0));
        }
    }
    rows.extend(spread("change of probability, %", &found.probability_change, 100.0));
    rows.push(estimate("root mean square of it, %", &found.rms_probability_change, 100.0));
    rows.push(estimate("top-1 agreement, %", &found.same_top, 100.0));
    rows
}

fn spread(name: &str, spread: &Spread, scale: f64) -> Vec<Vec<String>> {
    let Spread { max, p999, p99, p95, p90, p75, median, .. } = *spread;
    let Spread { p25, p10, p05, p01, p001, min, .. } = *spread;
    let places = [
        ("maximum", max),
        ("99.9 %", p999),
        ("99 %", p99),
        ("95 %", p95),
        ("90 %", p90),
        ("75 %", p75),
        ("median", median),
        ("25 %", p25),
        ("10 %", p10),
        ("5 %", p05),
        ("1 %", p01),
        ("0.1 %", p001),
        ("minimum", min),
    ];
    let places = places.map(|(place, value)| vec![format!("  {place}"), number(value * scale)]);
    [estimate(&format!("{name}: mean"), &spread.mean, scale)].into_iter().chain(places).collect()
}

fn estimate(name: &str, estimate: &Estimate, scale: f64) -> Vec<String> {
    let interval = estimate.interval.map(|interval| {
        format!("{} to {}", number(interval.lower * scale), number(interval.upper * scale))
    });
    vec![
        name.to_owned(),
        number(estimate.value * scale),
        number(estimate.stderr * scale),
        interval.unwrap_or_default(),
    ]
}

fn number(value: f64) -> String {
    format!("{value:.6}")
}
