//! `quantize eval --task`

use qz_pipeline::{Share, TaskEvaluation, TaskOptions, eval_tasks};

use super::{print_json, print_line, warn};
use crate::cli::{Eval, Global};
use crate::exit::Outcome;
use crate::interrupt;
use crate::progress::Progress;
use crate::render::{many, markdown_table, table};

pub(crate) fn run(
    arguments: &Eval,
    options: &TaskOptions,
    global: &Global,
) -> anyhow::Result<Outcome> {
    let mut progress = Progress::new(global);
    let cancel = interrupt::install()?;
    let evaluation = eval_tasks(&arguments.model, options, &cancel, &mut progress)?;
    drop(progress);
    warn(&evaluation.warnings);
    if arguments.json {
        print_json(&evaluation);
    } else {
        print_line(&text(&evaluation, arguments.markdown));
    }
    Ok(Outcome::Ok)
}

fn text(evaluation: &TaskEvaluation, markdown: bool) -> String {
    let score = &evaluation.score;
    let header = ["accuracy, %", "value", "standard error", "95 % CI"];
    let chance = vec!["by chance".to_owned(), percent(score.chance), String::new(), String::new()];
    let rows = [
        share("likelihood", &score.accuracy),
        share("likelihood per token", &score.normalized_accuracy),
        chance,
    ];
    let draw = if markdown { markdown_table } else { table };
    let mut lines = vec![format!("{}\n\n{}", draw(&header, &rows), many(score.tasks, "task"))];
    lines.extend(evaluation.rounded_inputs.iter().map(super::eval::rounded_inputs));
    lines.join("\n")
}

fn share(name: &str, share: &Share) -> Vec<String> {
    let interval =
        format!("{} to {}", percent(share.interval.lower), percent(share.interval.upper));
    vec![name.to_owned(), percent(share.value), percent(share.stderr), interval]
}

fn percent(share: f64) -> String {
    format!("{:.3}", 100.0 * share)
}
