//! Input files, read by position. Never mapped: a file that is cut short while
//! it is mapped kills the process, a positioned read returns an error.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::diagnosis::{Diagnose, Diagnosis, FaultClass, Location};

/// A regular file opened for reading.
#[derive(Debug)]
pub struct SourceFile {
    path: Arc<Path>,
    file: File,
    identity: FileIdentity,
}

/// What tells one state of a file from another without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    /// Bytes.
    pub length: u64,
    /// Last change of the content, if the file system knows.
    pub modified: Option<SystemTime>,
    /// Last change of the content, name or rights: nobody can set it back. Seconds and
    /// nanoseconds, where the platform has them.
    pub changed: Option<(i64, i64)>,
    /// Device and inode, where the platform has them.
    pub inode: Option<(u64, u64)>,
}

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Nothing, not even a link.
    Absent,
    /// A link that leads nowhere.
    DanglingLink,
    /// A regular file, or a link to one.
    File,
    /// A folder, or a link to one.
    Folder,
    /// A pipe, socket or device.
    Other,
}

impl Presence {
    /// What is at `path`. Only the system's word for it counts as absence: a path that
    /// cannot be looked at is an error.
    ///
    /// # Errors
    /// If the file system does not answer.
    pub fn of(path: &Path) -> Result<Self, FileError> {
        let is_absence = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        };
        let io_error =
            |source| FileError::Io { path: path.to_owned(), action: "look at it", source };
        match fs::metadata(path) {
            Ok(found) if found.is_file() => Ok(Self::File),
            Ok(found) if found.is_dir() => Ok(Self::Folder),
            Ok(_) => Ok(Self::Other),
            Err(error) if is_absence(&error) => match fs::symlink_metadata(path) {
                Ok(_) => Ok(Self::DanglingLink),
                Err(error) if is_absence(&error) => Ok(Self::Absent),
                Err(error) => Err(io_error(error)),
            },
            Err(error) => Err(io_error(error)),
        }
    }

    /// True if there is anything, be it a link that leads nowhere.
    pub fn is_there(self) -> bool {
        self != Self::Absent
    }
}

/// Files that were read, as they were then.
#[derive(Clone, Debug, Default)]
pub struct FileStates(Vec<(Arc<Path>, FileIdentity)>);

impl FileStates {
    /// Notes a file.
    pub fn note(&mut self, file: &SourceFile) {
        self.0.push((file.path().clone(), file.identity().clone()));
    }

    /// The first of them that is another file now, or gone.
    ///
    /// # Errors
    /// If the file system does not answer.
    pub fn changed(&self) -> Result<Option<&Path>, FileError> {
        for (path, then) in &self.0 {
            match SourceFile::open(path) {
                Ok(now) if now.identity() == then => {}
                Ok(_) | Err(FileError::Missing(_) | FileError::NotRegular(_)) => {
                    return Ok(Some(path));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// A fault of an input file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// Opening or reading failed.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// No such file.
    #[error("{}: no such file", .0.display())]
    Missing(PathBuf),
    /// A link to a file that is not there.
    #[error("{}: a link that leads nowhere", .0.display())]
    DanglingLink(PathBuf),
    /// A link to a file outside of the folder that it is in.
    #[error("{}: a link that leads outside the model folder, to {end}", path.display())]
    LinkOutside {
        /// The link.
        path: PathBuf,
        /// Where it leads, as a message may show it.
        end: String,
    },
    /// A folder, pipe, socket or device where a file is needed.
    #[error("{}: not a regular file", .0.display())]
    NotRegular(PathBuf),
    /// A file that is read whole is larger than any real one of its kind.
    #[error("{}: {length} bytes, at most {limit} are read", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The file's length.
        length: u64,
        /// The most that is read.
        limit: u64,
    },
    /// The file ends before bytes that it had when it was opened.
    #[error("{}: at byte {offset}: the file ends at byte {length}, {wanted} bytes are needed here", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Where the read began.
        offset: u64,
        /// How many bytes were to be read.
        wanted: u64,
        /// The file's length.
        length: u64,
    },
}

impl Diagnose for FileError {
    fn diagnosis(&self) -> Diagnosis {
        let (class, location, rule) = match self {
            Self::Io { path, .. } => (FaultClass::Environment, Location::file(path), "io"),
            Self::Missing(path) => (FaultClass::BadInput, Location::file(path), "file-missing"),
            Self::DanglingLink(path) => {
                (FaultClass::BadInput, Location::file(path), "dangling-link")
            }
            Self::LinkOutside { path, .. } => {
                (FaultClass::Refused, Location::file(path), "outside-folder")
            }
            Self::NotRegular(path) => {
                (FaultClass::BadInput, Location::file(path), "not-a-regular-file")
            }
            Self::TooLarge { path, .. } => {
                (FaultClass::BadInput, Location::file(path), "too-large")
            }
            Self::Truncated { path, offset, .. } => {
                (FaultClass::BadInput, Location::file(path).offset(*offset), "truncated")
            }
        };
        Diagnosis { class, location, rule }
    }
}

impl SourceFile {
    /// Opens a regular file. A pipe or device is refused without blocking on it.
    ///
    /// # Errors
    /// If there is no such file, it is not a regular one, or it cannot be opened.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FileError> {
        let path = path.as_ref();
        Self::opened(path, open_without_blocking(path, true))
    }

    /// Opens the file that links at `path` were found to lead to, for one that is allowed to
    /// be there only: no link is followed any more.
    ///
    /// # Errors
    /// As [`SourceFile::open`].
    pub fn open_resolved(path: &Path, real: &Path) -> Result<Self, FileError> {
        Self::opened(path, open_without_blocking(real, false))
    }

    fn opened(path: &Path, file: io::Result<File>) -> Result<Self, FileError> {
        let io_error =
            |action| move |source| FileError::Io { path: path.to_owned(), action, source };
        let file = file.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => FileError::Missing(path.to_owned()),
            _ => io_error("open")(source),
        })?;
        let identity = FileIdentity::of(&file)
            .map_err(io_error("read the length"))?
            .ok_or_else(|| FileError::NotRegular(path.to_owned()))?;
        Ok(Self { path: path.into(), file, identity })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Arc<Path> {
        &self.path
    }

    /// Its length in bytes when it was opened.
    pub fn len(&self) -> u64 {
        self.identity.length
    }

    /// True for a file of no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its identity when it was opened.
    pub fn identity(&self) -> &FileIdentity {
        &self.identity
    }

    /// True if the file has been written to, cut or replaced since it was opened.
    ///
    /// # Errors
    /// If the file system does not answer.
    pub fn has_changed(&self) -> Result<bool, FileError> {
        let now = FileIdentity::of(&self.file).map_err(|source| FileError::Io {
            path: self.path.to_path_buf(),
            action: "read the length",
            source,
        })?;
        Ok(now.as_ref() != Some(&self.identity))
    }

    /// Fills `out` from byte `offset` on.
    ///
    /// # Errors
    /// If the file ends before, or cannot be read.
    pub fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<(), FileError> {
        positioned_read(&self.file, offset, out).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => FileError::Truncated {
                path: self.path.to_path_buf(),
                offset,
                wanted: out.len() as u64,
                length: self.file.metadata().map_or(self.len(), |metadata| metadata.len()),
            },
            _ => FileError::Io { path: self.path.to_path_buf(), action: "read", source },
        })
    }
}

impl FileIdentity {
    /// The identity of an open file; `None` if it is not a regular file.
    fn of(file: &File) -> io::Result<Option<Self>> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(None);
        }
        #[cfg(unix)]
        let (changed, inode) = {
            use std::os::unix::fs::MetadataExt;
            let changed = (metadata.ctime(), metadata.ctime_nsec());
            (Some(changed), Some((metadata.dev(), metadata.ino())))
        };
        #[cfg(not(unix))]
        let (changed, inode) = (None, None);
        let (length, modified) = (metadata.len(), metadata.modified().ok());
        Ok(Some(Self { length, modified, changed, inode }))
    }
}

fn open_without_blocking(path: &Path, follow: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt;
        // Opening a pipe for reading waits for a writer; with O_NONBLOCK it
        // returns, and the type check then refuses it. No effect on files.
        let last = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
        options.custom_flags((OFlags::NONBLOCK | last).bits().cast_signed());
    }
    #[cfg(not(unix))]
    let _ = follow;
    options.open(path)
}

#[cfg(unix)]
fn positioned_read(file: &File, offset: u64, out: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

#[cfg(windows)]
fn positioned_read(file: &File, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
    while !out.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, out, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                out = &mut out[count..];
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_by_position_and_notices_a_cut() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("data");
        std::fs::write(&path, b"0123456789").expect("written");
        let file = SourceFile::open(&path).expect("opened");
        let mut out = [0; 4];
        file.read_exact_at(3, &mut out).expect("read");
        assert_eq!(&out, b"3456");
        assert!(!file.has_changed().expect("answered"));

        std::fs::write(&path, b"01234").expect("written");
        assert!(file.has_changed().expect("answered"));
        let error = file.read_exact_at(3, &mut out).expect_err("too short");
        assert_eq!(error.diagnosis().location.offset, Some(3));
        assert_eq!(error.diagnosis().class, FaultClass::BadInput);
    }

    /// The modification time can be set back; the change time tells.
    #[cfg(unix)]
    #[test]
    fn notices_a_change_that_hides_its_time() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("data");
        fs::write(&path, b"0123456789").expect("written");
        let file = SourceFile::open(&path).expect("opened");
        let mut states = FileStates::default();
        states.note(&file);
        assert_eq!(states.changed().expect("answered"), None);
        let modified = fs::metadata(&path).and_then(|found| found.modified()).expect("a time");
        // The clock of the file system's times ticks every few milliseconds.
        while !file.has_changed().expect("answered") {
            fs::write(&path, b"9876543210").expect("written");
            let written = OpenOptions::new().write(true).open(&path).expect("opened");
            written.set_modified(modified).expect("set back");
        }
        assert_eq!(states.changed().expect("answered"), Some(&*path));
    }

    #[cfg(unix)]
    #[test]
    fn absence_is_told_from_what_cannot_be_looked_at() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        fs::write(path("file"), b"").expect("written");
        for (link, end) in [("nowhere", "absent"), ("to-file", "file"), ("circle", "circle")] {
            std::os::unix::fs::symlink(end, path(link)).expect("linked");
        }
        let check = |name: &str, expected| {
            assert_eq!(Presence::of(&path(name)).expect("answered"), expected, "{name}");
        };
        check("file", Presence::File);
        check("to-file", Presence::File);
        check("nowhere", Presence::DanglingLink);
        check("absent", Presence::Absent);
        check("file/inside", Presence::Absent);
        check("", Presence::Folder);
        assert!(Presence::of(&path("circle")).is_err());
    }

    #[test]
    fn refuses_what_is_no_file() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let check = |path: &Path, rule: &str| {
            let error = SourceFile::open(path).expect_err("refused");
            assert_eq!(error.diagnosis().rule, rule);
        };
        check(folder.path(), "not-a-regular-file");
        check(&folder.path().join("absent"), "file-missing");
    }
}
