//! Artifacts that are either absent, old, or complete.
//!
//! An [`Artifact`] is one file, a folder of files, or a set of files beside each
//! other. It grows in `OUT.partial/` beside its final path: `data/` holds its
//! files under their final names, `journal` the pieces that are done, `lock` the
//! process that writes. `commit` flushes the files and moves them to their final
//! paths; how each kind is moved, and what holds if that is cut short, is in
//! `placing`.
//!
//! Invariants:
//! - At the final path there is the old artifact or the complete new one.
//! - A journal record is appended only after the bytes it speaks of have been
//!   flushed, so it holds after a power cut too.
//! - Of an earlier run only what it can have left is taken over: regular files and folders
//!   of this user, under one name each, in a folder that a lock of ours marks (`own`). No link
//!   is followed. A tensor counts as finished only while its bytes have the checksum that the
//!   journal states (`tensors`).
//! - Dropping a [`StagedArtifact`] removes the staging folder, unless `keep` was
//!   called; a killed process leaves it, and the next one with the same
//!   fingerprint continues from its journal.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::byte_size::ByteSize;
use crate::diagnosis::{Diagnose, Diagnosis, FaultClass, Location};

mod artifact;
mod flusher;
mod options;
mod own;
mod placing;
mod staging;
mod tensors;

pub use artifact::{Artifact, ArtifactFile};
pub use options::OutputOptions;
pub use tensors::{PlacedTensor, StagedSink, StagedTensors};

use flusher::{Batch, Flusher};
use staging::Staging;

/// A fault on the writing side.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// The final path is taken.
    #[error("{}: exists already", .0.display())]
    Exists(PathBuf),
    /// What is at the final path is not an artifact of this kind, and may be
    /// something that nobody wants to lose.
    #[error("{}: cannot be replaced: {found}", path.display())]
    NotReplaceable {
        /// The final path.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// What is at the staging folder's path, or in it, is nothing that a run of this program
    /// can have left there.
    #[error("{}: was not left here by this program: {found}; remove it, or choose another output", path.display())]
    NotOurs {
        /// The file or folder.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// Another process writes the same output.
    #[error("{}: another process{} is writing this output", path.display(), holder.map(|pid| format!(" ({pid})")).unwrap_or_default())]
    Locked {
        /// The output.
        path: PathBuf,
        /// The other process's id, if it could be read.
        holder: Option<u32>,
    },
    /// The disk has no room for the whole output. Found before any work.
    #[error("{}: the disk has no room: the output needs {}{}", path.display(), ByteSize(*needed), available.map(|free| format!(", {} are free", ByteSize(free))).unwrap_or_default())]
    NoSpace {
        /// The output.
        path: PathBuf,
        /// Its size.
        needed: u64,
        /// Bytes that are free, where the system says so.
        available: Option<u64>,
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
            Self::NotReplaceable { path, .. } => (FaultClass::Refused, path, "not-replaceable"),
            Self::NotOurs { path, .. } => (FaultClass::Refused, path, "staging-not-ours"),
            Self::Locked { path, .. } => (FaultClass::Environment, path, "output-locked"),
            Self::NoSpace { path, .. } => (FaultClass::Environment, path, "disk-full"),
            Self::Io { path, .. } => (FaultClass::Environment, path, "io"),
        };
        Diagnosis { class, location: Location::file(path), rule }
    }
}

/// An artifact that grows beside its final path.
#[derive(Debug)]
pub struct StagedArtifact {
    artifact: Artifact,
    staging: Staging,
    files: Vec<Arc<File>>,
    /// The files with bytes that no flush has been asked for.
    dirty: Vec<bool>,
    flusher: Flusher,
    completed: Vec<String>,
    /// What the next flush is to do.
    pending: Batch,
    unflushed: u64,
    options: OutputOptions,
    keep: bool,
    // Its lock ends with the process.
    lock: File,
}

impl StagedArtifact {
    /// Prepares `artifact`. `fingerprint` (one line) names the inputs and the
    /// recipe: if a staging folder with the same fingerprint is found, its finished
    /// pieces are kept ([`StagedArtifact::completed`]); one with another is
    /// discarded.
    ///
    /// # Errors
    /// If something is at the final path that may not be replaced, another process
    /// writes there, something that is not ours is in the staging folder's place, or the
    /// disk refuses or lacks the room.
    pub fn create(
        artifact: Artifact,
        fingerprint: &str,
        options: OutputOptions,
    ) -> Result<Self, OutputError> {
        let staging = Staging::beside(artifact.target());
        if !staging.exists()? {
            placing::check_free(&artifact, options.replace)?;
        }
        let lock = staging.lock(artifact.target())?;
        // An earlier run may have been killed while it moved its files.
        let free = placing::take_back(&artifact, &staging)
            .and_then(|()| placing::check_free(&artifact, options.replace));
        if let Err(error) = free {
            // What an earlier run left may yet be continued, or be the old artifact.
            if staging.is_spent() {
                staging.remove(&lock);
            }
            return Err(error);
        }
        let begun = Parts::open(&artifact, &staging, fingerprint, options).and_then(|parts| {
            let Parts { files, journal, completed } = parts;
            // Opened anew: a copy of the descriptor would hold the lock as long as the thread lives.
            let to_flush = File::open(staging.lock_path()).ok();
            let flusher = Flusher::start(artifact.target(), journal, to_flush)?;
            Ok((files, completed, flusher))
        });
        match begun {
            Ok((files, completed, flusher)) => Ok(Self {
                flusher,
                dirty: vec![false; files.len()],
                files,
                completed,
                pending: Batch::default(),
                unflushed: 0,
                options,
                keep: false,
                lock,
                staging,
                artifact,
            }),
            Err(error) => {
                // The folder is ours: the lock is held.
                staging.remove(&lock);
                Err(error)
            }
        }
    }

    /// Fails if something is at the final path that may not be replaced: for jobs that write
    /// only at their end.
    ///
    /// # Errors
    /// As [`Self::create`] in this case.
    pub fn check(artifact: &Artifact, options: OutputOptions) -> Result<(), OutputError> {
        match Staging::beside(artifact.target()).exists()? {
            // What is at the path may be put back yet.
            true => Ok(()),
            false => placing::check_free(artifact, options.replace),
        }
    }

    /// The folder in which what will be at `target` grows, and which an interrupted run
    /// leaves.
    pub fn folder_beside(target: &Path) -> PathBuf {
        Staging::beside(target).folder().to_owned()
    }

    /// Leaves a line for a later run in the staging folder of what will be at `target`, if
    /// there is one: what a job knows of its other outputs. The folder must be this process'
    /// own; the line goes with it.
    ///
    /// # Errors
    /// If the disk refuses, or something that is not ours is there.
    pub fn leave_note(target: &Path, line: &str) -> Result<(), OutputError> {
        Staging::beside(target).add_note(line)
    }

    /// The lines that an interrupted run has left so.
    ///
    /// # Errors
    /// If they cannot be read, or something that is not ours is there.
    pub fn notes(target: &Path) -> Result<Vec<String>, OutputError> {
        Staging::beside(target).notes()
    }

    /// Records of the pieces that an interrupted run finished.
    pub fn completed(&self) -> &[String] {
        &self.completed
    }

    /// What it will be.
    pub fn artifact(&self) -> &Artifact {
        &self.artifact
    }

    /// Writes bytes at a position of the file to be, the `file`th of the artifact.
    ///
    /// # Errors
    /// If the disk refuses them.
    ///
    /// # Panics
    /// If the artifact has no such file.
    pub fn write_at(&mut self, file: usize, offset: u64, bytes: &[u8]) -> Result<(), OutputError> {
        positioned_write(&self.files[file], offset, bytes)
            .map_err(|source| io_error(&self.artifact.path_of(file), "write")(source))?;
        if !std::mem::replace(&mut self.dirty[file], true) {
            self.pending.files.push(self.files[file].clone());
        }
        self.unflushed += bytes.len() as u64;
        if self.unflushed >= self.options.journal_every {
            self.try_checkpoint();
        }
        Ok(())
    }

    /// Reads what is at a position of the file to be.
    ///
    /// # Errors
    /// If the disk refuses.
    ///
    /// # Panics
    /// If the artifact has no such file.
    pub fn read_at(&self, file: usize, offset: u64, out: &mut [u8]) -> Result<(), OutputError> {
        positioned_read(&self.files[file], offset, out)
            .map_err(|source| io_error(&self.artifact.path_of(file), "read")(source))
    }

    /// Notes (one line) that a piece is complete. It reaches the journal after the
    /// next flush ([`Self::checkpoint`]).
    pub fn record(&mut self, piece: String) {
        self.pending.records.push(piece);
    }

    /// Begins a flush after which all records so far are in the journal, however few bytes
    /// they speak of: for pieces that are dear. Waits for a flush that is under way.
    pub fn checkpoint(&mut self) {
        if !self.pending.records.is_empty() {
            self.flusher.begin_next(std::mem::take(&mut self.pending));
            self.unflushed = 0;
            self.dirty.fill(false);
        }
    }

    /// Begins a flush unless one is under way; then the next call tries again.
    fn try_checkpoint(&mut self) {
        match self.flusher.begin(std::mem::take(&mut self.pending)) {
            Ok(()) => {
                self.unflushed = 0;
                self.dirty.fill(false);
            }
            Err(pending) => self.pending = pending,
        }
    }

    /// Flushes the files and moves them to their final paths.
    ///
    /// # Errors
    /// If the disk refuses the flush or a move; then the old artifact, if there was
    /// one, is in its place again.
    pub fn commit(mut self) -> Result<(), OutputError> {
        self.flusher.finish(Batch::default())?;
        for (position, file) in self.files.drain(..).enumerate() {
            let path = self.artifact.path_of(position);
            // Closed as well: some systems move no folder that has open files.
            file.sync_all().map_err(|source| io_error(&path, "flush")(source))?;
        }
        self.pending = Batch::default();
        placing::place(&self.artifact, &self.staging, self.options.replace).inspect_err(|_| {
            // If that fails too, the staging folder may hold the only copy of the
            // old artifact; the next run tries again.
            self.keep = placing::take_back(&self.artifact, &self.staging).is_err();
        })
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

impl Drop for StagedArtifact {
    fn drop(&mut self) {
        let _ = self.flusher.finish(Batch::default());
        if !self.keep {
            self.staging.remove(&self.lock);
        }
    }
}

/// What is open of a staging folder.
struct Parts {
    files: Vec<Arc<File>>,
    journal: File,
    /// What the journal says, if it was begun for the same.
    completed: Vec<String>,
}

impl Parts {
    fn open(
        artifact: &Artifact,
        staging: &Staging,
        fingerprint: &str,
        options: OutputOptions,
    ) -> Result<Self, OutputError> {
        // The program and the files are part of what the journal was begun for.
        let title = format!("{fingerprint} {} {}", options.program, artifact.summary());
        let is_whole = staging.holds_files_of(artifact)?;
        let completed = match is_whole {
            true => staging.read_journal(&title)?.unwrap_or_default(),
            false => Vec::new(),
        };
        staging.clear(completed.is_empty())?;
        let files = artifact
            .files()
            .iter()
            .map(|file| open_file(artifact, staging, file))
            .collect::<Result<Vec<_>, _>>()?;
        let mut text = format!("{title}\n");
        completed.iter().for_each(|record| text.extend([record.as_str(), "\n"]));
        let journal = staging.begin_journal(&text)?;
        Ok(Self { files, journal, completed })
    }
}

/// Opens a file of the artifact to be, with its room reserved.
fn open_file(
    artifact: &Artifact,
    staging: &Staging,
    file: &ArtifactFile,
) -> Result<Arc<File>, OutputError> {
    let path = staging.data().join(&file.name);
    let Some(opened) = own::open_file(&path, true)? else {
        return Err(own::strange(&path, "it was just removed"));
    };
    reserve(&opened, file.size).map_err(|source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => OutputError::NoSpace {
            path: artifact.target().to_owned(),
            needed: artifact.size(),
            available: available(staging.folder()),
        },
        _ => io_error(artifact.target(), "reserve the space")(source),
    })?;
    Ok(Arc::new(opened))
}

/// Claims `size` bytes of disk before work starts, so that a full disk is found
/// now. File systems without reservation get a sparse file.
fn reserve(file: &File, size: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if size > 0 {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::{Errno, retry_on_intr};
        match retry_on_intr(|| fallocate(file, FallocateFlags::empty(), 0, size)) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            result => return result.map_err(io::Error::from),
        }
    }
    file.set_len(size)
}

/// Bytes that this process may still write in the file system of `folder`.
#[cfg(target_os = "linux")]
fn available(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    found.f_bavail.checked_mul(found.f_frsize)
}

#[cfg(not(target_os = "linux"))]
fn available(_: &Path) -> Option<u64> {
    None
}

#[cfg(unix)]
fn positioned_read(file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

#[cfg(windows)]
fn positioned_read(file: &File, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
    while !out.is_empty() {
        let count = std::os::windows::fs::FileExt::seek_read(file, out, offset)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        out = &mut out[count..];
        offset += count as u64;
    }
    Ok(())
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

/// Makes renames in a folder last.
fn sync_folder(folder: &Path) -> Result<(), OutputError> {
    #[cfg(unix)]
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error(folder, "flush"))?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

fn rename(from: &Path, to: &Path) -> Result<(), OutputError> {
    fs::rename(from, to).map_err(io_error(to, "move the finished file here"))
}

fn io_error<'a>(
    path: &'a Path,
    action: &'static str,
) -> impl FnOnce(io::Error) -> OutputError + 'a {
    move |source| OutputError::Io { path: path.to_owned(), action, source }
}

#[cfg(test)]
mod tests;
