//! Output files that are either absent, old, or complete.
//!
//! An output grows in `NAME.partial/` beside its final path: `data` holds the
//! bytes, `journal` the pieces that are done, `lock` the process that writes.
//! `commit` flushes `data`, renames it to the final path and flushes the folder.
//!
//! Invariants:
//! - At the final path there is the old artifact or the complete new one.
//! - A journal record is appended only after the bytes it speaks of have been
//!   flushed, so it holds after a power cut too.
//! - Dropping a [`StagedFile`] removes the staging folder, unless `keep` was
//!   called; a killed process leaves it, and the next one with the same
//!   fingerprint continues from its journal.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use crate::diagnosis::{Diagnose, Diagnosis, FaultClass, Location};

/// Bytes written before a flush of the data, with its journal records, begins.
/// Small enough that the disk is busy from the start and the last flush is short.
const CHECKPOINT_BYTES: u64 = 64 << 20;

/// How an output may be placed.
#[derive(Clone, Copy, Debug, Default)]
pub struct OutputOptions {
    /// Replace an artifact that exists (`--force`).
    pub replace: bool,
}

/// A fault on the writing side.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// The final path is taken.
    #[error("{}: exists already", .0.display())]
    Exists(PathBuf),
    /// Another process writes the same output.
    #[error("{}: another process{} is writing this output", path.display(), holder.map(|pid| format!(" ({pid})")).unwrap_or_default())]
    Locked {
        /// The output.
        path: PathBuf,
        /// The other process's id, if it could be read.
        holder: Option<u32>,
    },
    /// The disk has no room for the whole output. Found before any work.
    #[error("{}: the disk has no room for {needed} bytes", path.display())]
    NoSpace {
        /// The output.
        path: PathBuf,
        /// Its size.
        needed: u64,
    },
    /// Any other refusal of the operating system.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl Diagnose for OutputError {
    fn diagnosis(&self) -> Diagnosis {
        let (class, path, rule) = match self {
            Self::Exists(path) => (FaultClass::Refused, path, "output-exists"),
            Self::Locked { path, .. } => (FaultClass::Environment, path, "output-locked"),
            Self::NoSpace { path, .. } => (FaultClass::Environment, path, "disk-full"),
            Self::Io { path, .. } => (FaultClass::Environment, path, "io"),
        };
        Diagnosis { class, location: Location::file(path), rule }
    }
}

/// A file that grows beside its final path.
#[derive(Debug)]
pub struct StagedFile {
    target: PathBuf,
    folder: PathBuf,
    data: File,
    flusher: Flusher,
    completed: Vec<String>,
    pending: Vec<String>,
    unflushed: u64,
    keep: bool,
    // Held open for its lock, which ends with the process.
    _lock: File,
}

impl StagedFile {
    /// Prepares an output of exactly `size` bytes at `target`. `fingerprint`
    /// (one line) names the inputs and the recipe: if a staging folder with the
    /// same fingerprint is found, its finished pieces are kept
    /// ([`StagedFile::completed`]); one with another is discarded.
    ///
    /// # Errors
    /// If `target` exists and may not be replaced, another process writes it, or
    /// the disk refuses or lacks the room.
    pub fn create(
        target: &Path,
        size: u64,
        fingerprint: &str,
        options: OutputOptions,
    ) -> Result<Self, OutputError> {
        if !options.replace && fs::symlink_metadata(target).is_ok() {
            return Err(OutputError::Exists(target.to_owned()));
        }
        let folder = staging_folder(target);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result.map_err(io_error(&folder, "create the folder"))?,
        }
        let lock_path = folder.join("lock");
        let lock = take_lock(target, &lock_path)?;
        let staged = name_holder(&lock)
            .map_err(io_error(&lock_path, "write"))
            .and_then(|()| Self::open_data(target, folder.clone(), size, fingerprint, lock));
        if staged.is_err() {
            // The folder is ours: the lock is held.
            let _ = fs::remove_dir_all(&folder);
        }
        staged
    }

    fn open_data(
        target: &Path,
        folder: PathBuf,
        size: u64,
        fingerprint: &str,
        lock: File,
    ) -> Result<Self, OutputError> {
        let data_path = folder.join("data");
        let journal_path = folder.join("journal");
        let completed = fs::metadata(&data_path)
            .ok()
            .filter(|metadata| metadata.len() == size)
            .and_then(|_| read_journal(&journal_path, fingerprint))
            .unwrap_or_default();
        let data = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(completed.is_empty())
            .open(&data_path)
            .map_err(io_error(&data_path, "create"))?;
        reserve(&data, size).map_err(|source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                OutputError::NoSpace { path: target.to_owned(), needed: size }
            }
            _ => OutputError::Io { path: target.to_owned(), action: "reserve the space", source },
        })?;
        let mut journal = File::create(&journal_path).map_err(io_error(&journal_path, "create"))?;
        let mut text = format!("{fingerprint}\n");
        completed.iter().for_each(|record| text.extend([record.as_str(), "\n"]));
        journal.write_all(text.as_bytes()).map_err(io_error(&journal_path, "write"))?;
        Ok(Self {
            target: target.to_owned(),
            folder,
            flusher: Flusher::start(target, &data, journal)?,
            data,
            completed,
            pending: Vec::new(),
            unflushed: 0,
            keep: false,
            _lock: lock,
        })
    }

    /// Records of the pieces that an interrupted run finished.
    pub fn completed(&self) -> &[String] {
        &self.completed
    }

    /// Writes bytes at a position of the file to be.
    ///
    /// # Errors
    /// If the disk refuses them.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), OutputError> {
        positioned_write(&self.data, offset, bytes).map_err(io_error(&self.target, "write"))?;
        self.unflushed += bytes.len() as u64;
        if self.unflushed >= CHECKPOINT_BYTES {
            self.checkpoint();
        }
        Ok(())
    }

    /// Notes (one line) that a piece is complete. It reaches the journal after the
    /// next flush.
    pub fn record(&mut self, piece: String) {
        self.pending.push(piece);
    }

    /// Begins a flush unless one is under way; then the next call tries again.
    fn checkpoint(&mut self) {
        match self.flusher.begin(std::mem::take(&mut self.pending)) {
            Ok(()) => self.unflushed = 0,
            Err(pending) => self.pending = pending,
        }
    }

    /// Flushes the file and moves it to its final path.
    ///
    /// # Errors
    /// If the disk refuses the flush or the move.
    pub fn commit(mut self) -> Result<(), OutputError> {
        self.flusher.finish(Vec::new())?;
        self.data.sync_all().map_err(io_error(&self.target, "flush"))?;
        fs::rename(self.folder.join("data"), &self.target)
            .map_err(io_error(&self.target, "move the finished file here"))?;
        sync_folder_of(&self.target)
        // Dropping removes the staging folder.
    }

    /// Leaves the staging folder for a later run to continue from.
    ///
    /// # Errors
    /// If the disk refuses the flush.
    pub fn keep(mut self) -> Result<(), OutputError> {
        self.keep = true;
        let pending = std::mem::take(&mut self.pending);
        self.flusher.finish(pending)
    }
}

/// Flushes data beside the work that writes it, and journals what the flushed
/// data completes.
#[derive(Debug)]
struct Flusher {
    target: PathBuf,
    /// Holds one request: a thread that is behind is not asked again.
    requests: Option<SyncSender<Vec<String>>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Flusher {
    fn start(target: &Path, data: &File, mut journal: File) -> Result<Self, OutputError> {
        let data = data.try_clone().map_err(io_error(target, "flush"))?;
        let (requests, received) = sync_channel::<Vec<String>>(0);
        let thread = thread::spawn(move || {
            for records in received {
                data.sync_data()?;
                let text: String =
                    records.iter().flat_map(|record| [record.as_str(), "\n"]).collect();
                journal.write_all(text.as_bytes())?;
            }
            Ok(())
        });
        Ok(Self { target: target.to_owned(), requests: Some(requests), thread: Some(thread) })
    }

    /// Begins a flush after which `records` hold; gives them back if the thread is
    /// busy. A thread that failed is found out by `finish`.
    fn begin(&self, records: Vec<String>) -> Result<(), Vec<String>> {
        match &self.requests {
            Some(requests) => requests.try_send(records).map_err(|error| match error {
                TrySendError::Full(records) | TrySendError::Disconnected(records) => records,
            }),
            None => Err(records),
        }
    }

    /// Flushes a last time if there are records, and waits for the thread.
    fn finish(&mut self, records: Vec<String>) -> Result<(), OutputError> {
        let requests = self.requests.take();
        if let (Some(requests), false) = (&requests, records.is_empty()) {
            // Fails only if the thread has failed, which is reported below.
            let _ = requests.send(records);
        }
        drop(requests);
        let outcome = self.thread.take().map_or(Ok(Ok(())), JoinHandle::join);
        let outcome =
            outcome.unwrap_or_else(|_| Err(io::Error::other("the flushing thread failed")));
        outcome.map_err(io_error(&self.target, "flush"))
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        let _ = self.flusher.finish(Vec::new());
        if !self.keep {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// Where an output grows until it is complete.
fn staging_folder(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

fn take_lock(target: &Path, path: &Path) -> Result<File, OutputError> {
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(io_error(path, "create"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let _ = lock.read_to_string(&mut text);
            return Err(OutputError::Locked {
                path: target.to_owned(),
                holder: text.trim().parse().ok(),
            });
        }
        Err(TryLockError::Error(source)) => return Err(io_error(path, "lock")(source)),
    }
    Ok(lock)
}

/// Writes who holds the lock, for those who do not get it.
fn name_holder(mut lock: &File) -> io::Result<()> {
    lock.set_len(0)?;
    write!(lock, "{}", std::process::id())
}

/// The records of a journal that was begun for `fingerprint`. A last line
/// without its line feed was cut by a crash and does not count.
fn read_journal(path: &Path, fingerprint: &str) -> Option<Vec<String>> {
    let text = fs::read_to_string(path).ok()?;
    let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    (lines.next() == Some(fingerprint)).then(|| lines.map(str::to_owned).collect())
}

/// Claims `size` bytes of disk before work starts, so that a full disk is found
/// now. File systems without reservation get a sparse file.
fn reserve(file: &File, size: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if size > 0 {
        use rustix::io::Errno;
        match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, size) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            result => return result.map_err(io::Error::from),
        }
    }
    file.set_len(size)
}

#[cfg(unix)]
fn positioned_write(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn positioned_write(file: &File, mut offset: u64, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        bytes = &bytes[count..];
        offset += count as u64;
    }
    Ok(())
}

/// Makes a rename in the file's folder last.
fn sync_folder_of(path: &Path) -> Result<(), OutputError> {
    #[cfg(unix)]
    {
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(io_error(folder, "flush"))?;
    }
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

fn io_error<'a>(
    path: &'a Path,
    action: &'static str,
) -> impl FnOnce(io::Error) -> OutputError + 'a {
    move |source| OutputError::Io { path: path.to_owned(), action, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(target: &Path, fingerprint: &str) -> Result<StagedFile, OutputError> {
        StagedFile::create(target, 8, fingerprint, OutputOptions::default())
    }

    #[test]
    fn shows_only_when_complete() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let target = folder.path().join("out");
        let mut staged = create(&target, "a").expect("created");
        staged.write_at(4, b"5678").expect("written");
        staged.write_at(0, b"1234").expect("written");
        assert!(!target.exists());
        staged.commit().expect("committed");
        assert_eq!(fs::read(&target).expect("read"), b"12345678");
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 1);
    }

    #[test]
    fn a_dropped_output_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        drop(create(&folder.path().join("out"), "a").expect("created"));
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 0);
    }

    #[test]
    fn an_existing_output_is_kept() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let target = folder.path().join("out");
        fs::write(&target, "old").expect("written");
        assert!(matches!(create(&target, "a"), Err(OutputError::Exists(_))));
        let replace = OutputOptions { replace: true };
        drop(StagedFile::create(&target, 8, "a", replace).expect("created"));
        assert_eq!(fs::read(&target).expect("read"), b"old");
    }

    #[test]
    fn a_second_writer_is_told_of_the_first() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let target = folder.path().join("out");
        let _first = create(&target, "a").expect("created");
        let Err(OutputError::Locked { holder, .. }) = create(&target, "a") else {
            panic!("two writers at once")
        };
        assert_eq!(holder, Some(std::process::id()));
    }

    #[test]
    fn a_kept_output_is_continued_by_the_same_job_only() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let target = folder.path().join("out");
        let begin = |fingerprint| {
            let mut staged = create(&target, fingerprint).expect("created");
            let found = staged.completed().to_vec();
            staged.write_at(0, b"1234").expect("written");
            staged.record("first half".to_owned());
            staged.keep().expect("kept");
            found
        };
        assert!(begin("a").is_empty());
        assert_eq!(begin("a"), ["first half"]);
        assert!(begin("b").is_empty());
    }
}
