//! The staging folder: `OUT.partial/` with its lock, journal and data.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{Artifact, OutputError, io_error};

/// Where an artifact grows until it is complete.
#[derive(Clone, Debug)]
pub(super) struct Staging {
    folder: PathBuf,
}

impl Staging {
    pub(super) fn beside(target: &Path) -> Self {
        let mut name = target.as_os_str().to_owned();
        name.push(".partial");
        Self { folder: name.into() }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The artifact's files, under their final names.
    pub(super) fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Which pieces are complete.
    pub(super) fn journal(&self) -> PathBuf {
        self.folder.join("journal")
    }

    /// What was at the final path, while the new artifact is moved there.
    pub(super) fn previous(&self) -> PathBuf {
        self.folder.join("previous")
    }

    /// Which files are being moved to their final paths.
    pub(super) fn moves(&self) -> PathBuf {
        self.folder.join("moves")
    }

    pub(super) fn exists(&self) -> bool {
        self.folder.is_dir()
    }

    /// True if nothing here is of use to a later run.
    pub(super) fn is_spent(&self) -> bool {
        let is_empty = |folder: &Path| {
            fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none())
        };
        is_empty(&self.data())
    }

    /// Removes everything; the lock must be held. The lock goes last, so that no
    /// other process can believe to have it while there are other files.
    pub(super) fn remove(&self) {
        let contents = [self.data(), self.previous(), self.moves(), self.journal()];
        if contents.iter().all(|path| remove(path).is_ok()) {
            let _ = fs::remove_file(self.lock_path());
            let _ = fs::remove_dir(&self.folder);
        }
    }

    fn lock_path(&self) -> PathBuf {
        self.folder.join("lock")
    }

    /// Makes the folder if need be and takes its lock, or says who has it.
    pub(super) fn lock(&self, target: &Path) -> Result<File, OutputError> {
        let path = self.lock_path();
        loop {
            self.make()?;
            let opened =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            let lock = match opened {
                // Whoever had it has just removed the folder.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !self.exists() => continue,
                opened => opened.map_err(io_error(&path, "create"))?,
            };
            match lock.try_lock() {
                Ok(()) if !is_at(&lock, &path) => {}
                Ok(()) => return self.name_holder(lock),
                Err(TryLockError::WouldBlock) => {
                    let holder = fs::read_to_string(&path).ok();
                    return Err(OutputError::Locked {
                        path: target.to_owned(),
                        holder: holder.and_then(|text| text.trim().parse().ok()),
                    });
                }
                Err(TryLockError::Error(source)) => return Err(io_error(&path, "lock")(source)),
            }
        }
    }

    fn make(&self) -> Result<(), OutputError> {
        match fs::create_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result.map_err(io_error(&self.folder, "create the folder")),
        }
    }

    /// Writes who holds the lock, for those who do not get it.
    fn name_holder(&self, mut lock: File) -> Result<File, OutputError> {
        let written = lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id()));
        match written {
            Ok(()) => Ok(lock),
            Err(source) => {
                if self.is_spent() {
                    self.remove();
                }
                Err(io_error(&self.lock_path(), "write")(source))
            }
        }
    }

    /// True if every file of `artifact` is here with its full size.
    pub(super) fn holds_files_of(&self, artifact: &Artifact) -> bool {
        artifact.files().iter().all(|file| {
            fs::symlink_metadata(self.data().join(&file.name))
                .is_ok_and(|metadata| metadata.is_file() && metadata.len() == file.size)
        })
    }

    /// The records of a journal that was begun with `title`. A last line without its
    /// line feed was cut by a crash and does not count.
    pub(super) fn read_journal(&self, title: &str) -> Option<Vec<String>> {
        let text = fs::read_to_string(self.journal()).ok()?;
        let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        (lines.next() == Some(title)).then(|| lines.map(str::to_owned).collect())
    }

    /// Removes what earlier runs left, its data only if `data` says so, and makes
    /// the folder for the data.
    pub(super) fn clear(&self, data: bool) -> Result<(), OutputError> {
        remove(&self.previous())?;
        remove(&self.moves())?;
        if data {
            remove(&self.data())?;
        }
        let folder = self.data();
        match fs::create_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result.map_err(io_error(&folder, "create the folder")),
        }
    }
}

/// True if the open file is the one at `path`: a lock on a file that was removed
/// since it was opened is worth nothing.
fn is_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let inode = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        match (file.metadata(), fs::symlink_metadata(path)) {
            (Ok(opened), Ok(found)) => inode(opened) == inode(found),
            _ => false,
        }
    }
    // Elsewhere an open file cannot be removed.
    #[cfg(not(unix))]
    {
        let _ = (file, path);
        true
    }
}

/// Removes a file or a folder, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), OutputError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.map_err(io_error(path, "remove"))
}
