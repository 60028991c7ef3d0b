//! Faults at one call of the system after the other.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::jobs::{Job, State, display, ended};
use super::{Ended, Settings, Tally, check_contract, each};

/// Calls, and what happens at them: the name of an error, or of a signal.
struct Kind {
    calls: &'static [&'static str],
    faults: &'static [&'static str],
}

/// Everything that touches the disk. Reads and writes that move less than they were asked to
/// are those of a full disk and of limits (`surroundings`): here a call fails as a whole.
const KINDS: &[Kind] = &[
    Kind { calls: &["read", "pread64"], faults: &["EIO", "EINTR"] },
    Kind { calls: &["openat"], faults: &["EIO", "EACCES", "EMFILE", "EINTR"] },
    Kind { calls: &["statx"], faults: &["EIO", "EACCES"] },
    Kind { calls: &["getdents64"], faults: &["EIO"] },
    Kind { calls: &["write", "pwrite64"], faults: &["EIO", "ENOSPC", "EDQUOT", "EINTR", "KILL"] },
    Kind { calls: &["pwrite64", "fdatasync"], faults: &["INT", "TERM", "HUP"] },
    Kind { calls: &["fsync", "fdatasync"], faults: &["EIO", "ENOSPC", "EINTR", "KILL"] },
    Kind { calls: &["rename", "renameat2"], faults: &["EIO", "ENOSPC", "EXDEV", "KILL"] },
    Kind { calls: &["fallocate"], faults: &["ENOSPC", "EIO", "EOPNOTSUPP", "EINTR", "KILL"] },
    Kind { calls: &["ftruncate"], faults: &["EIO", "EINTR", "KILL"] },
    Kind { calls: &["mkdir", "unlink", "unlinkat", "rmdir"], faults: &["EIO", "KILL"] },
    Kind { calls: &["flock"], faults: &["EINTR", "ENOLCK"] },
];

/// Signals, and the code that a job ends with that they reach. None for the one that cannot be
/// heard.
const SIGNALS: &[(&str, Option<i32>)] =
    &[("KILL", None), ("INT", Some(130)), ("TERM", Some(143)), ("HUP", Some(129))];

/// Points of a kind in a short run.
const SHORT: usize = 1;

/// True if strace is there and may do what we need.
pub(crate) fn is_possible() -> bool {
    let traced = ["-f", "-qq", "-o", "/dev/null", "-e", "trace=statx", "true"];
    Command::new("strace").args(traced).output().is_ok_and(|output| output.status.success())
}

/// One fault.
struct Point {
    call: &'static str,
    fault: &'static str,
    number: usize,
    has_old: bool,
}

pub(crate) fn run(job: &Job, settings: &Settings, scratch: &Path, tally: &Tally) -> Result<()> {
    let mut points = Vec::new();
    for has_old in [false, true] {
        let counts = counts(job, scratch, has_old)?;
        for kind in KINDS {
            for call in kind.calls {
                let count = counts.get(*call).copied().unwrap_or(0);
                for fault in kind.faults.iter().copied() {
                    let number = |number| Point { call, fault, number, has_old };
                    let name = format!("{} {fault} at {call}", job.name);
                    if name.contains(&settings.only) {
                        let step = if settings.short { count.div_ceil(SHORT).max(1) } else { 1 };
                        // From the end, where placing is.
                        points.extend((1..=count).rev().step_by(step).map(number));
                    }
                }
            }
        }
    }
    each(&points, |point| {
        let Point { call, fault, number, has_old } = point;
        let verdict = check(job, scratch, point).unwrap_or_else(|error| Err(error.to_string()));
        let old = if *has_old { ", over an old output" } else { "" };
        tally.note(
            &format!("{fault} at {call}"),
            &format!("{}, call {number}{old}", job.name),
            verdict,
        );
    });
    Ok(())
}

/// How often each call is made, by the thread that makes it most.
fn counts(job: &Job, scratch: &Path, has_old: bool) -> Result<BTreeMap<String, usize>> {
    let folder = tempfile::tempdir_in(scratch)?;
    if has_old {
        job.old.put(folder.path())?;
    }
    let log = scratch.join("counts");
    ended(&["strace", "-f", "-qq", "-o", &display(&log)], &job.words(folder.path()))?;
    let mut by_thread = BTreeMap::<(String, String), usize>::new();
    for line in fs::read_to_string(&log)?.lines() {
        let (thread, rest) = line.split_once(' ').context("a line of strace's")?;
        if let Some((call, _)) = rest.trim_start().split_once('(') {
            *by_thread.entry((call.to_owned(), thread.to_owned())).or_default() += 1;
        }
    }
    let mut counts = BTreeMap::new();
    for ((call, _), count) in by_thread {
        let most = counts.entry(call).or_default();
        *most = count.max(*most);
    }
    Ok(counts)
}

fn check(job: &Job, scratch: &Path, point: &Point) -> Result<Result<bool, String>> {
    let Point { call, fault, number, has_old } = point;
    let folder = tempfile::tempdir_in(scratch)?;
    let before = if *has_old { job.old.clone() } else { State::default() };
    before.put(folder.path())?;
    let signal = SIGNALS.iter().find(|(name, _)| name == fault);
    let what = if signal.is_some() { "signal" } else { "error" };
    let [trace, inject] =
        [format!("trace={call}"), format!("inject={call}:{what}={fault}:when={number}")];
    let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
    let ended = ended(&strace, &job.words(folder.path()))?;
    let is_documented = |ended: &Ended| match signal {
        // strace ends as what it traced did; `timeout` says so in its own way.
        Some((_, None)) => ended.signal == Some(9) || matches!(ended.code, Some(0 | 137)),
        Some((_, Some(code))) => ended.code == Some(0) || ended.code == Some(*code),
        // Before the program's first instruction its loader reports.
        None => matches!(ended.code, Some(0 | 4)) || is_of_loader(ended),
    };
    Ok(check_contract(job, folder.path(), &before, &ended, is_documented))
}

fn is_of_loader(ended: &Ended) -> bool {
    ended.code == Some(127) && ended.stderr.contains("error while loading shared libraries")
}
