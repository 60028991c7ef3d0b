//! What faults leave behind. Jobs run while calls of the system fail or the process is killed at
//! one of them, inputs change, several writers meet, and disks and limits are small. After each
//! fault the same contract is checked:
//!
//! - at the output's path there is nothing, what was there before, or the complete new output;
//! - the exit code is a documented one, and 0 only if the output is complete;
//! - the same job, run again, makes the expected bytes and leaves nothing else.
//!
//! `strace` makes the faults. It counts calls thread by thread, so one point may fail a call of
//! several threads.

mod inject;
mod jobs;
mod surroundings;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Result, ensure};

use jobs::{Job, State};

/// How to run it.
pub(crate) struct Settings {
    /// The binary.
    pub(crate) quantize: PathBuf,
    /// Some points of each kind instead of all.
    pub(crate) short: bool,
    /// Only jobs and kinds whose name contains this.
    pub(crate) only: String,
}

/// Runs everything, and prints how often which fault was survived.
pub(crate) fn run(settings: &Settings) -> Result<()> {
    if !inject::is_possible() {
        println!("faults: skipped, strace is not installed or may not trace here");
        return Ok(());
    }
    let begun = Instant::now();
    let quantize = settings.quantize.canonicalize()?;
    let scratch = tempfile::tempdir()?;
    let jobs = Job::all(&quantize, scratch.path())?;
    let tally = Tally::default();
    for job in &jobs {
        inject::run(job, settings, scratch.path(), &tally)?;
    }
    surroundings::run(&jobs, settings, scratch.path(), &tally)?;
    tally.print();
    println!("{:.0} s", begun.elapsed().as_secs_f64());
    let failures = tally.failures.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(failures.is_empty(), "{} faults broke the contract", failures.len());
    Ok(())
}

/// How a run under a fault ended.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) stderr: String,
}

/// What came of all points.
#[derive(Default)]
pub(crate) struct Tally {
    /// By kind of fault: points, and how many of them ended with a complete output.
    kinds: Mutex<BTreeMap<String, (usize, usize)>>,
    failures: Mutex<Vec<String>>,
    points: AtomicUsize,
}

impl Tally {
    /// Notes a point: whether its output was complete, or how the contract was broken.
    pub(crate) fn note(&self, kind: &str, point: &str, verdict: Result<bool, String>) {
        self.points.fetch_add(1, Ordering::Relaxed);
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let (points, complete) = kinds.entry(kind.to_owned()).or_default();
        *points += 1;
        *complete += usize::from(verdict == Ok(true));
        if let Err(problem) = verdict {
            let text = format!("FAIL {kind}, {point}: {problem}");
            println!("{text}");
            self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(text);
        }
    }

    fn print(&self) {
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        println!("{:<44} {:>7} {:>9}", "fault", "points", "complete");
        for (kind, (points, complete)) in kinds.iter() {
            println!("{kind:<44} {points:>7} {complete:>9}");
        }
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner).len();
        println!("{} points, {failures} broke the contract", self.points.load(Ordering::Relaxed));
    }
}

/// Checks the contract after a fault, and then by a run without one. True if the faulty run
/// completed its output.
pub(crate) fn check_contract(
    job: &Job,
    folder: &Path,
    before: &State,
    ended: &Ended,
    is_documented: impl Fn(&Ended) -> bool,
) -> Result<bool, String> {
    let found = State::of(folder).map_err(|error| error.to_string())?;
    let is_complete = found == job.expected;
    // Without its first file a set is none.
    let is_none = job.is_set() && !found.has_first_of_set();
    if !is_complete && found != *before && !is_none {
        return Err(format!("the output is neither old nor complete: {}", found.names()));
    }
    if !is_documented(ended) {
        let Ended { code, signal, stderr } = ended;
        let last = stderr.lines().last().unwrap_or_default();
        return Err(format!("code {code:?}, signal {signal:?}: {last}"));
    }
    if ended.code == Some(0) && !is_complete {
        return Err("exit code 0 without a complete output".to_owned());
    }
    let again = job.run(folder).map_err(|error| error.to_string())?;
    if again.code != Some(0) {
        return Err(format!("the next run failed: {:?}: {}", again.code, again.stderr.trim_end()));
    }
    let found = State::of(folder).map_err(|error| error.to_string())?;
    if found != job.expected {
        return Err(format!("the next run made other bytes: {}", found.names()));
    }
    let left = jobs::names(folder).map_err(|error| error.to_string())?;
    match left.iter().find(|name| name.ends_with(".partial")) {
        Some(name) => Err(format!("the next run left {name}")),
        None => Ok(is_complete),
    }
}

/// Does `work` for each item, on as many threads as there are cores.
pub(crate) fn each<T: Sync>(items: &[T], work: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    work(item);
                }
            });
        }
    });
}
