//! Tells a person how far a job is: a bar on a terminal, plain lines otherwise; and where
//! it was when it was interrupted.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use qz_pipeline::{Event, Observer};
use qz_tensor::StagedArtifact;

use crate::cli::Global;
use crate::messages::{say, set_bar, warning};
use crate::render::{bytes, count, many};

/// Writes a job's events to standard error.
pub(crate) struct Progress {
    wants_bar: bool,
    quiet: bool,
    verbose: bool,
    /// When a plain line last told how far the job is, and what it told.
    told: (Instant, u64),
}

/// Time between plain lines: a log wants to see that a long job lives.
const INTERVAL: Duration = Duration::from_secs(5);

/// A pace that was observed for less says little.
const OBSERVED: Duration = Duration::from_secs(1);

/// Where the process is: for the bar, and for the thread that answers signals.
static RUN: Mutex<Run> = Mutex::new(Run::new());

fn run() -> MutexGuard<'static, Run> {
    RUN.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Run {
    /// What the command writes.
    outputs: Vec<PathBuf>,
    bar: Option<ProgressBar>,
    job: &'static str,
    /// A target's name, which one it is and of how many.
    target: Option<(String, usize, usize)>,
    /// Targets after this one that are runs of their own.
    later: usize,
    /// Which part of how many.
    part: Option<(&'static str, u64, u64)>,
    weights: u64,
    done: u64,
    /// Tokens of the text that is read.
    tokens: Option<u64>,
    begun: Option<Instant>,
    /// Since when, and since how much was done, all goes at one pace; none while it does not.
    steady: Option<(Instant, u64)>,
    told_end: bool,
}

impl Run {
    const fn new() -> Self {
        Self {
            outputs: Vec::new(),
            bar: None,
            job: "",
            target: None,
            later: 0,
            part: None,
            weights: 0,
            done: 0,
            tokens: None,
            begun: None,
            steady: None,
            told_end: false,
        }
    }

    fn start(&mut self, job: &'static str, weights: u64) {
        let now = Instant::now();
        (self.job, self.weights, self.done, self.part) = (job, weights, 0, None);
        (self.begun, self.steady) = (Some(now), Some((now, 0)));
        // Those that begin while this goes on are parts of it.
        self.later = self.target.as_ref().map_or(0, |(_, number, of)| of.saturating_sub(*number));
    }

    fn at(&mut self, part: (&'static str, u64, u64), steady: bool) {
        let is_other = self.part.is_none_or(|(name, ..)| name != part.0);
        self.part = Some(part).filter(|(_, _, count)| *count > 0);
        if is_other {
            self.steady = steady.then(|| (Instant::now(), self.done));
        }
    }

    fn percent(&self) -> u64 {
        (u128::from(self.done) * 100 / u128::from(self.weights.max(1))).min(100) as u64
    }

    /// `quantize gptq:w4g64 (1/2), layer 7/30`
    fn place(&self) -> String {
        let mut text = self.job.to_owned();
        if let Some((name, number, of)) = &self.target {
            let _ = write!(text, " {name}");
            if *of > 1 {
                let _ = write!(text, " ({number}/{of})");
            }
        }
        if let Some((part, number, of)) = self.part {
            let _ = write!(text, ", {part} {number}/{of}");
        }
        text
    }

    /// `24 %, 3.1 M weights/s, 0:41, 2:10 left`
    fn figures(&self) -> String {
        let mut text = format!("{:>2} %", self.percent());
        let Some(begun) = self.begun else { return text };
        let elapsed = begun.elapsed();
        if self.done > 0 && elapsed >= OBSERVED {
            let per_second = |amount: f64| count((amount / elapsed.as_secs_f64()) as u64);
            let share = self.done as f64 / self.weights.max(1) as f64;
            let _ = match self.tokens {
                Some(tokens) => write!(text, ", {} tokens/s", per_second(tokens as f64 * share)),
                None => write!(text, ", {} weights/s", per_second(self.done as f64)),
            };
        }
        let _ = write!(text, ", {}", clock(elapsed));
        if let Some(left) = self.left(elapsed) {
            let _ = write!(text, ", {} left", clock(left));
        }
        text
    }

    /// How long the rest takes at the pace of the work that is like it; later targets as long
    /// as this one.
    fn left(&self, elapsed: Duration) -> Option<Duration> {
        let (since, before) = self.steady?;
        let (time, done) = (since.elapsed(), self.done.saturating_sub(before));
        if time < OBSERVED || done == 0 {
            return None;
        }
        let rest = self.weights.saturating_sub(self.done) as f64 / done as f64;
        let own = time.as_secs_f64() * rest;
        let all = own + self.later as f64 * (elapsed.as_secs_f64() + own);
        Duration::try_from_secs_f64(all).ok()
    }

    fn draw(&self) {
        if let Some(bar) = &self.bar {
            bar.set_position(self.done.min(self.weights));
            bar.set_message(self.place());
            bar.set_prefix(self.figures());
        }
    }
}

/// `2:05`, `1:02:05`
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// Draws the bar again: time passes in long stages, too.
pub(crate) fn tick() {
    run().draw();
}

/// Answers the first signal.
pub(crate) fn say_stopping() {
    let place = run().place();
    let of = if place.is_empty() { String::new() } else { format!(" {place}") };
    say(&format!("stopping{of} …, again to quit at once"));
}

/// Says where the job was when it was stopped, and how it goes on. Once.
pub(crate) fn say_stopped() {
    let (place, percent, outputs, is_later) = {
        let mut run = run();
        if std::mem::replace(&mut run.told_end, true) || run.job.is_empty() {
            return;
        }
        let is_later = run.target.as_ref().is_some_and(|(_, number, _)| *number > 1);
        (run.place(), run.percent(), run.outputs.clone(), is_later)
    };
    // A finished output is refused as one that exists.
    let without = if is_later { ", without the targets that are finished" } else { "" };
    say(&format!("interrupted: {place}, {percent} %"));
    for output in outputs {
        let folder = StagedArtifact::folder_beside(&output);
        if folder.is_dir() {
            let (folder, size) = (folder.display(), bytes(size_of_folder(&folder)));
            say(&format!(
                "{folder} ({size}) holds what is done; the same command continues{without}"
            ));
        }
    }
}

fn size_of_folder(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size_of_folder(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}

impl Progress {
    pub(crate) fn new(global: &Global) -> Self {
        Self {
            wants_bar: !global.quiet && !global.no_progress && std::io::stderr().is_terminal(),
            quiet: global.quiet,
            verbose: global.verbose,
            told: (Instant::now(), 0),
        }
    }

    /// The same, of a command that writes these.
    pub(crate) fn writing(self, outputs: impl IntoIterator<Item = PathBuf>) -> Self {
        run().outputs = outputs.into_iter().collect();
        self
    }

    fn start(&mut self, job: &'static str, tensors: usize, weights: u64) {
        self.told = (Instant::now(), 0);
        let mut run = run();
        run.start(job, weights);
        if self.wants_bar {
            let bar = run.bar.get_or_insert_with(|| ProgressBar::new(weights)).clone();
            bar.set_length(weights);
            if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {prefix}") {
                bar.set_style(style);
            }
            run.draw();
            drop(run);
            set_bar(Some(bar));
        } else if !self.quiet {
            let place = run.place();
            drop(run);
            say(&format!("{place}: {}, {} weights", many(tensors, "tensor"), count(weights)));
        }
    }

    fn advance(&mut self, weights: u64) {
        let mut run = run();
        run.done += weights;
        run.draw();
        if run.bar.is_some() || self.quiet {
            return;
        }
        let (last, percent) = self.told;
        let is_new = run.percent() > percent && run.done < run.weights;
        if is_new && last.elapsed() >= INTERVAL {
            self.told = (Instant::now(), run.percent());
            let line = format!("{}: {}", run.place(), run.figures());
            drop(run);
            say(&line);
        }
    }

    fn say(&self, line: &str) {
        if !self.quiet {
            say(line);
        }
    }
}

impl Observer for Progress {
    fn observe(&mut self, event: Event<'_>) {
        match event {
            Event::Target { name, number, count } => {
                run().target = Some((name.to_owned(), number, count));
            }
            Event::Reading { chunks, context } => {
                let tokens = chunks as u64 * context as u64;
                run().tokens = Some(tokens);
                let chunks = many(chunks, "chunk");
                self.say(&format!("text: {chunks} of {context} tokens, {tokens} in all"));
            }
            Event::Started { job, tensors, weights } => self.start(job, tensors, weights),
            Event::At { part, number, count, steady } => {
                let mut run = run();
                run.at((part, number, count), steady);
                run.draw();
            }
            Event::Memory { bound } => self.say(&format!("memory: at most {}", bytes(bound))),
            Event::Advanced { weights } => self.advance(weights),
            Event::TensorDone { name, from, to } if self.verbose => {
                let to: Vec<&str> = to.iter().map(|data_type| data_type.name()).collect();
                say(&format!("{name}: {from} -> {}", to.join(", ")));
            }
            Event::Warning(text) => warning(text),
            Event::Resumed { path, tensors } => {
                let are = if tensors == 1 { "is" } else { "are" };
                let tensors = many(tensors, "tensor");
                self.say(&format!("{}: continuing, {tensors} {are} done", path.display()));
            }
            Event::There { path } => {
                self.say(&format!("{}: is there already, made by this job", path.display()));
            }
            Event::Written { path, bytes: size } => {
                self.say(&format!("wrote {} ({})", path.display(), bytes(size)));
            }
            _ => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        set_bar(None);
        if let Some(bar) = run().bar.take() {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn since(seconds: u64) -> Instant {
        Instant::now().checked_sub(Duration::from_secs(seconds)).expect("a machine that is up")
    }

    #[test]
    fn where_a_job_is() {
        let mut run = Run::new();
        run.start("quantize", 1000);
        assert_eq!(run.place(), "quantize");
        run.target = Some(("gptq:w4g64".to_owned(), 1, 2));
        run.at(("layer", 7, 30), true);
        assert_eq!(run.place(), "quantize gptq:w4g64 (1/2), layer 7/30");
        run.target = Some(("q4_k_m".to_owned(), 1, 1));
        assert_eq!(run.place(), "quantize q4_k_m, layer 7/30");
    }

    #[test]
    fn time_left_follows_the_pace_of_like_work() {
        let mut run = Run::new();
        run.start("quantize", 1000);
        run.begun = Some(since(110));
        run.done = 500;
        // Half of it took ten seconds; what came before went at another pace.
        run.steady = Some((since(10), 250));
        assert_eq!(run.left(Duration::from_secs(110)).map(|left| left.as_secs()), Some(20));
        assert_eq!(run.figures(), "50 %, 4 weights/s, 1:50, 0:20 left");
        run.tokens = Some(51_200);
        assert_eq!(run.figures(), "50 %, 232 tokens/s, 1:50, 0:20 left");
        // Another target takes as long as this one in all.
        run.later = 1;
        let left = run.left(Duration::from_secs(110)).map(|left| left.as_secs());
        assert_eq!(left, Some(20 + 110 + 20));
        // A pace that will change says nothing.
        run.at(("replayed layer", 1, 30), false);
        assert_eq!(run.left(Duration::from_secs(110)), None);
    }

    #[test]
    fn clocks() {
        let check = |seconds, expected| assert_eq!(clock(Duration::from_secs(seconds)), expected);
        check(5, "0:05");
        check(125, "2:05");
        check(3725, "1:02:05");
    }
}
