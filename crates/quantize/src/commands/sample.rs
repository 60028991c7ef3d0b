//! `quantize eval --sample`

use std::sync::atomic::{AtomicBool, Ordering};

use qz_pipeline::{Event, Observer, SampleOptions, sample};

use super::{print_json, print_line, warn};
use crate::cli::{Eval, Global};
use crate::exit::Outcome;
use crate::interrupt;
use crate::messages;
use crate::progress::Progress;

pub(crate) fn run(
    arguments: &Eval,
    options: &SampleOptions,
    global: &Global,
) -> anyhow::Result<Outcome> {
    let cancel = interrupt::install()?;
    let mut progress = Progress::new(global);
    if arguments.json {
        let sample = sample(&arguments.model, options, &cancel, &mut progress)?;
        drop(progress);
        warn(&sample.warnings);
        print_json(&sample);
        return Ok(Outcome::Ok);
    }
    let mut writing = Writing { prompt: Some(&options.prompt), progress, cancel: &cancel };
    let outcome = sample(&arguments.model, options, &cancel, &mut writing);
    if messages::lost_report().is_some() {
        return Ok(Outcome::Ok);
    }
    let sample = outcome?;
    print_line("");
    warn(&sample.warnings);
    Ok(Outcome::Ok)
}

/// Writes the prompt, and the text behind it as it comes, to standard output.
struct Writing<'a> {
    prompt: Option<&'a str>,
    progress: Progress,
    cancel: &'a AtomicBool,
}

impl Observer for Writing<'_> {
    fn observe(&mut self, event: Event<'_>) {
        let Event::Text(text) = event else { return self.progress.observe(event) };
        let prompt = self.prompt.take().unwrap_or_default();
        if !messages::print_part(&format!("{prompt}{text}")) {
            // Nobody reads on: the model need not write on.
            self.cancel.store(true, Ordering::Relaxed);
        }
    }
}
