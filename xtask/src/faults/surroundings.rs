//! Faults of what is around a job: other writers, inputs that change, small disks and limits.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::jobs::{Job, State, command, copy, display, ended};
use super::{Ended, Settings, Tally, check_contract};

pub(crate) fn run(jobs: &[Job], settings: &Settings, scratch: &Path, tally: &Tally) -> Result<()> {
    let rounds = if settings.short { 2 } else { 25 };
    for job in jobs {
        let check = |kind: &str, work: &dyn Fn(&str) -> Result<()>| match kind
            .contains(&settings.only)
            || job.name.contains(&settings.only)
        {
            true => work(kind),
            false => Ok(()),
        };
        check("several writers", &|kind| writers(job, scratch, rounds, kind, tally))?;
        check("changed inputs", &|kind| inputs(job, scratch, rounds, kind, tally))?;
        check("limits", &|kind| limits(job, scratch, settings.short, kind, tally))?;
        check("small disk", &|kind| disks(job, scratch, settings.short, kind, tally))?;
    }
    Ok(())
}

/// A command that failed as it should: bad input, the environment, or a refusal.
fn is_failure(ended: &Ended) -> bool {
    matches!(ended.code, Some(0 | 3 | 4 | 5))
}

fn environment(ended: &Ended) -> bool {
    matches!(ended.code, Some(0 | 4))
}

/// Of several writers at once each ends well or is refused, and nothing is mixed.
fn writers(job: &Job, scratch: &Path, rounds: usize, kind: &str, tally: &Tally) -> Result<()> {
    for round in 0..rounds {
        let folder = tempfile::tempdir_in(scratch)?;
        let words = job.words(folder.path());
        let children = (0..2 + round % 3)
            .map(|_| command(&[], &words).stderr(Stdio::null()).spawn())
            .collect::<Result<Vec<_>, _>>()?;
        let mut codes = Vec::new();
        for mut child in children {
            codes.push(child.wait()?.code());
        }
        let code = if codes.contains(&Some(0)) { Some(0) } else { None };
        let ended = Ended { code, signal: None, stderr: format!("{codes:?}") };
        let all = |ended: &Ended| {
            environment(ended) && codes.iter().all(|code| matches!(code, Some(0 | 4 | 5)))
        };
        let verdict = check_contract(job, folder.path(), &State::default(), &ended, all);
        tally.note(kind, &format!("{}, {codes:?}", job.name), verdict);
    }
    Ok(())
}

/// What happens to a file of the model.
type Change = (&'static str, fn(&Path) -> Result<()>);

const CHANGES: &[Change] = &[
    ("cut", |path| {
        let file = OpenOptions::new().write(true).open(path)?;
        Ok(file.set_len(file.metadata()?.len() / 2)?)
    }),
    ("grown", |path| Ok(OpenOptions::new().append(true).open(path)?.write_all(&[7; 4096])?)),
    ("rewritten, with its old time", |path| {
        use std::os::unix::fs::FileExt;
        let file = OpenOptions::new().write(true).open(path)?;
        let (length, modified) = (file.metadata()?.len(), file.metadata()?.modified()?);
        file.write_all_at(&vec![0x11; (length / 3) as usize], length / 2)?;
        Ok(file.set_modified(modified)?)
    }),
    ("replaced", |path| {
        let mut bytes = fs::read(path)?;
        let middle = bytes.len() / 2;
        bytes[middle..].fill(0x22);
        let beside = path.with_extension("new");
        fs::write(&beside, bytes)?;
        Ok(fs::rename(beside, path)?)
    }),
];

/// An input that changes while it is read is an error, or comes too late, or early enough for
/// the whole run.
fn inputs(job: &Job, scratch: &Path, rounds: usize, kind: &str, tally: &Tally) -> Result<()> {
    for round in 0..rounds {
        for (position, (change, apply)) in CHANGES.iter().enumerate() {
            let space = tempfile::tempdir_in(scratch)?;
            let [model, folder] = ["model", "out"].map(|name| space.path().join(name));
            copy(job.model(), &model)?;
            fs::create_dir(&folder)?;
            let changed = job.with_model(&model);
            let words = changed.words(&folder);
            let mut child = command(&[], &words).stderr(Stdio::piped()).spawn()?;
            // Over the time that a run takes, at other moments for each change.
            let moment = (round * CHANGES.len() + position) % 20;
            thread::sleep(Duration::from_millis(2 * moment as u64));
            apply(&model.join("model.safetensors"))?;
            let stderr = child.stderr.take().map(std::io::read_to_string).transpose()?;
            let status = child.wait()?;
            let ended = Ended {
                code: status.code(),
                signal: status.signal(),
                stderr: stderr.unwrap_or_default(),
            };
            // With a whole file that was changed before the run began, its output is right.
            let found = State::of(&folder)?;
            let is_new = ended.code == Some(0) && {
                let again = tempfile::tempdir_in(scratch)?;
                changed.run(again.path())?.code == Some(0) && State::of(again.path())? == found
            };
            fs::remove_dir_all(&model)?;
            copy(job.model(), &model)?;
            if is_new {
                fs::remove_dir_all(&folder)?;
                fs::create_dir(&folder)?;
            }
            let verdict = match is_new {
                true => Ok(true),
                false => check_contract(&changed, &folder, &State::default(), &ended, is_failure),
            };
            tally.note(&format!("{kind}: {change}"), &format!("{}, {moment}", job.name), verdict);
        }
    }
    Ok(())
}

/// Limits of the shell: bytes of a file and of memory (in kilobytes), open files.
fn limits(job: &Job, scratch: &Path, short: bool, kind: &str, tally: &Tally) -> Result<()> {
    let kilobytes = job.expected.bytes() / 1024;
    let sizes = (0..if short { 3 } else { 20 }).map(|step| step * kilobytes / 16);
    let files = (3..if short { 6 } else { 24 }).map(|files| ("-n", files));
    // From what the program itself needs to what the job does.
    let memory = (0..if short { 4 } else { 60 }).map(|step| ("-v", 26_000 + step * 3000));
    for (option, limit) in sizes.map(|size| ("-f", size)).chain(files).chain(memory) {
        let folder = tempfile::tempdir_in(scratch)?;
        let script = format!("ulimit {option} {limit}; ulimit -c 0; exec \"$@\"");
        let ended = ended(&["bash", "-c", &script, "bash"], &job.words(folder.path()))?;
        let is_documented =
            |ended: &Ended| environment(ended) || (option != "-f" && ended.code == Some(127));
        let verdict = check_contract(job, folder.path(), &State::default(), &ended, is_documented);
        tally.note(&format!("{kind}: ulimit {option}"), &format!("{}, {limit}", job.name), verdict);
    }
    Ok(())
}

/// A file system of few bytes, and one that is for reading only: where we may make one.
fn disks(job: &Job, scratch: &Path, short: bool, kind: &str, tally: &Tally) -> Result<()> {
    let kilobytes = job.expected.bytes() / 1024 + 64;
    let steps = if short { 3 } else { 20 };
    for step in 0..steps {
        let size = kilobytes * (step + 1) / steps;
        let Some(disk) = Disk::new(scratch, size)? else { return Ok(()) };
        let ended = job.run(&disk.0)?;
        disk.remount(&format!("size={}k", 4 * kilobytes))?;
        let verdict = check_contract(job, &disk.0, &State::default(), &ended, environment);
        tally.note(kind, &format!("{}, {size} kB", job.name), verdict);
    }
    for before in [State::default(), job.old.clone()] {
        let Some(disk) = Disk::new(scratch, 8 * kilobytes)? else { return Ok(()) };
        before.put(&disk.0)?;
        disk.remount("ro")?;
        let ended = job.run(&disk.0)?;
        disk.remount("rw")?;
        let verdict = check_contract(job, &disk.0, &before, &ended, |ended| ended.code == Some(4));
        tally.note("read-only folder", job.name, verdict);
    }
    Ok(())
}

/// A file system in memory, mounted until it is dropped.
struct Disk(PathBuf);

impl Disk {
    /// `None` where we may mount nothing.
    fn new(scratch: &Path, kilobytes: usize) -> Result<Option<Self>> {
        let path = tempfile::tempdir_in(scratch)?.keep();
        let size = format!("size={kilobytes}k");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path).stderr(Stdio::null());
        Ok(mount.status().is_ok_and(|status| status.success()).then_some(Self(path)))
    }

    fn remount(&self, option: &str) -> Result<()> {
        let option = format!("remount,{option}");
        let status = Command::new("mount").args(["-o", &option]).arg(&self.0).status()?;
        anyhow::ensure!(status.success(), "mount -o {option} {}", display(&self.0));
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
