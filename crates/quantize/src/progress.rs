//! Tells a person how far a job is: a bar on a terminal, plain lines otherwise.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use qz_pipeline::{Event, Observer};

use crate::cli::Global;
use crate::render::{bytes, count};

/// Writes a job's events to standard error.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    verbose: bool,
    job: &'static str,
    weights: u64,
    done: u64,
    /// When a plain line last told how far the job is.
    told: Instant,
}

/// Time between plain lines: a log wants to see that a long job lives.
const INTERVAL: Duration = Duration::from_secs(5);

impl Progress {
    pub(crate) fn new(global: &Global) -> Self {
        let wants_bar = !global.quiet && !global.no_progress && std::io::stderr().is_terminal();
        Self {
            bar: wants_bar.then(ProgressBar::hidden),
            quiet: global.quiet,
            verbose: global.verbose,
            job: "",
            weights: 0,
            done: 0,
            told: Instant::now(),
        }
    }

    fn start(&mut self, job: &'static str, tensors: usize, weights: u64) {
        (self.job, self.weights, self.done, self.told) = (job, weights, 0, Instant::now());
        if self.bar.is_some() {
            let bar = ProgressBar::new(weights);
            let template = "{msg} {wide_bar} {percent:>3} %  {eta} left";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_message(job);
            self.bar = Some(bar);
        } else if !self.quiet {
            eprintln!("{job}: {tensors} tensors, {} weights", count(weights));
        }
    }

    fn advance(&mut self, weights: u64) {
        self.done += weights;
        match &self.bar {
            Some(bar) => {
                bar.inc(weights);
                if self.done >= self.weights {
                    bar.finish_and_clear();
                }
            }
            None if !self.quiet && self.told.elapsed() >= INTERVAL => {
                self.told = Instant::now();
                let percent = self.done * 100 / self.weights.max(1);
                eprintln!("{}: {percent} %", self.job);
            }
            None => {}
        }
    }

    fn line(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }
}

impl Observer for Progress {
    fn observe(&mut self, event: Event<'_>) {
        match event {
            Event::Started { job, tensors, weights } => self.start(job, tensors, weights),
            Event::Memory { bound } if !self.quiet => {
                self.line(&format!("memory: at most {}", bytes(bound)));
            }
            Event::Advanced { weights } => self.advance(weights),
            Event::TensorDone { name, from, to } if self.verbose => {
                let to: Vec<&str> = to.iter().map(|data_type| data_type.name()).collect();
                self.line(&format!("{name}: {from} -> {}", to.join(", ")));
            }
            Event::Warning(text) => self.line(&format!("warning: {text}")),
            Event::Resumed { path, tensors } if !self.quiet => {
                self.line(&format!("{}: continuing, {tensors} tensors are done", path.display()));
            }
            Event::Written { path, bytes: size } if !self.quiet => {
                self.line(&format!("wrote {} ({})", path.display(), bytes(size)));
            }
            _ => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
