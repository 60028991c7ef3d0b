//! `quantize eval`

use qz_pipeline::{Evaluation, eval};

use super::{print_json, print_line};
use crate::cli::{Eval, Global};
use crate::exit::Outcome;
use crate::interrupt;
use crate::progress::Progress;

pub(crate) fn run(arguments: &Eval, global: &Global) -> anyhow::Result<Outcome> {
    let mut progress = Progress::new(global);
    let cancel = interrupt::install()?;
    let evaluation = eval(&arguments.model, &arguments.options(global), &cancel, &mut progress)?;
    drop(progress);
    if arguments.json {
        print_json(&evaluation)?;
    } else {
        print_line(&text(&evaluation))?;
    }
    Ok(if evaluation.passed { Outcome::Ok } else { Outcome::CheckFailed })
}

fn text(evaluation: &Evaluation) -> String {
    let found = &evaluation.perplexity;
    let verdict = if evaluation.passed { "" } else { "\nFAILED: the perplexity is too large" };
    format!(
        "perplexity {:.4} +/- {:.5}, {} tokens scored in {} chunks of {}{verdict}",
        found.perplexity.value,
        found.perplexity.stderr,
        found.tokens,
        found.chunks,
        evaluation.context,
    )
}
