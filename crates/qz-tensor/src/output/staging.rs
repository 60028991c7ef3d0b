//! The staging folder: `OUT.partial/` with its lock, journal and data.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::own::{check_file_at, check_folder_at, found_at, open_file, strange};
use super::{Artifact, OutputError, io_error, positioned_write};

/// Where an artifact grows until it is complete.
#[derive(Clone, Debug)]
pub(super) struct Staging {
    folder: PathBuf,
}

/// Begins the text of a lock, which ends with the process that has it. It tells a staging
/// folder from any other that has this name.
const MARK: &str = "quantize ";

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

    /// Which files are being moved to their final paths, and from there.
    pub(super) fn moves(&self) -> PathBuf {
        self.folder.join("moves")
    }

    /// What a job has written down of its other outputs.
    fn notes_path(&self) -> PathBuf {
        self.folder.join("notes")
    }

    /// Adds a line to the notes, if the folder is there.
    pub(super) fn add_note(&self, line: &str) -> Result<(), OutputError> {
        let path = self.notes_path();
        if !check_folder_at(&self.folder)? || self.notes()?.iter().any(|known| known == line) {
            return Ok(());
        }
        let Some(mut file) = open_file(&path, true)? else { return Ok(()) };
        file.seek(SeekFrom::End(0))
            .and_then(|_| file.write_all(format!("{line}\n").as_bytes()))
            .and_then(|()| file.sync_all())
            .map_err(io_error(&path, "write"))
    }

    /// The notes, if there are any. A last line that was cut by a crash does not count.
    pub(super) fn notes(&self) -> Result<Vec<String>, OutputError> {
        /// A line has a hundred bytes, and a job few outputs.
        const LONGEST: u64 = 64 << 10;
        let path = self.notes_path();
        if !check_folder_at(&self.folder)? {
            return Ok(Vec::new());
        }
        let Some(file) = open_file(&path, false)? else { return Ok(Vec::new()) };
        let mut text = Vec::new();
        file.take(LONGEST).read_to_end(&mut text).map_err(io_error(&path, "read"))?;
        let text = String::from_utf8_lossy(&text);
        let lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        Ok(lines.map(str::to_owned).collect())
    }

    pub(super) fn lock_path(&self) -> PathBuf {
        self.folder.join("lock")
    }

    /// True if something is there, whatever it is.
    pub(super) fn exists(&self) -> Result<bool, OutputError> {
        Ok(found_at(&self.folder)?.is_some())
    }

    /// True if nothing here is of use to a later run.
    pub(super) fn is_spent(&self) -> bool {
        match fs::read_dir(self.data()) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Removes everything, if `lock` is still the folder's. The lock goes last, so that no
    /// other process can believe to have it while there are other files.
    pub(super) fn remove(&self, lock: &File) {
        let contents =
            [self.data(), self.previous(), self.moves(), self.journal(), self.notes_path()];
        let is_ours = check_folder_at(&self.folder).is_ok() && is_at(lock, &self.lock_path());
        if is_ours && contents.iter().all(|path| remove(path).is_ok()) {
            self.remove_lock();
        }
    }

    fn remove_lock(&self) {
        let _ = fs::remove_file(self.lock_path());
        let _ = fs::remove_dir(&self.folder);
    }

    /// Makes the folder if need be and takes its lock, or says who has it. A folder that
    /// no run of ours can have left is refused, and stays as it is.
    pub(super) fn lock(&self, target: &Path) -> Result<File, OutputError> {
        loop {
            let is_new = self.make()?;
            let opened = self.open_lock().inspect_err(|_| {
                if is_new {
                    let _ = fs::remove_dir(&self.folder);
                }
            })?;
            // Whoever had it has just removed the folder, or made the lock.
            let Some(lock) = opened else { continue };
            match lock.try_lock() {
                Ok(()) if !is_at(&lock, &self.lock_path()) => {}
                Ok(()) => {
                    self.check_ours(&lock)?;
                    return self.name_holder(lock);
                }
                Err(TryLockError::WouldBlock) => {
                    let holder = read_text(&lock).and_then(|text| holder(&text));
                    return Err(OutputError::Locked { path: target.to_owned(), holder });
                }
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(TryLockError::Error(source)) => {
                    if is_new {
                        self.remove_lock();
                    }
                    return Err(io_error(&self.lock_path(), "lock")(source));
                }
            }
        }
    }

    /// Makes the folder; false if it is there already, and may be ours.
    fn make(&self) -> Result<bool, OutputError> {
        match make_private(&self.folder) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                check_folder_at(&self.folder)?;
                Ok(false)
            }
            Err(error) => Err(io_error(&self.folder, "create the folder")(error)),
        }
    }

    /// The lock, which is made only in a folder that is empty: it is what comes first and
    /// goes last. `None` if another process is making or removing it.
    fn open_lock(&self) -> Result<Option<File>, OutputError> {
        if let Some(lock) = open_file(&self.lock_path(), false)? {
            return Ok(Some(lock));
        }
        let listing = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            listing => listing.map_err(io_error(&self.folder, "list"))?,
        };
        let names = listing
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(io_error(&self.folder, "list"))?;
        if names.iter().any(|name| name == "lock") {
            return Ok(None);
        }
        if !names.is_empty() {
            return Err(strange(&self.folder, "it holds files, and no lock"));
        }
        match open_file(&self.lock_path(), true) {
            Err(OutputError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            lock => lock,
        }
    }

    /// Fails if anything in the folder, whose lock is held, cannot be what a run of ours left.
    fn check_ours(&self, lock: &File) -> Result<(), OutputError> {
        [self.journal(), self.moves(), self.notes_path()]
            .iter()
            .try_for_each(|path| check_file_at(path))?;
        let mut is_used =
            found_at(&self.journal())?.is_some() || found_at(&self.moves())?.is_some();
        for folder in [self.data(), self.previous()] {
            is_used |= check_folder_at(&folder)?;
        }
        let text = read_text(lock).unwrap_or_default();
        if (is_used || !text.is_empty()) && !text.starts_with(MARK) {
            return Err(strange(&self.lock_path(), "it is not the lock of a run of this program"));
        }
        // From here on nobody else can change what is inside.
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // Some file systems have no rights to change.
            let _ = fs::set_permissions(&self.folder, fs::Permissions::from_mode(0o700));
        }
        Ok(())
    }

    /// Writes who holds the lock, for those who do not get it. The mark is there at any time.
    fn name_holder(&self, lock: File) -> Result<File, OutputError> {
        let text = format!("{MARK}{}\n", std::process::id());
        let written = positioned_write(&lock, 0, text.as_bytes())
            .and_then(|()| lock.set_len(text.len() as u64));
        match written {
            Ok(()) => Ok(lock),
            Err(source) => {
                if self.is_spent() {
                    self.remove(&lock);
                }
                Err(io_error(&self.lock_path(), "write")(source))
            }
        }
    }

    /// True if the files of `artifact` are here, with their full sizes, and nothing else is:
    /// a folder is moved to its place with all that is in it.
    pub(super) fn holds_files_of(&self, artifact: &Artifact) -> Result<bool, OutputError> {
        let path = self.data();
        if !check_folder_at(&path)? {
            return Ok(false);
        }
        for file in artifact.files() {
            let path = path.join(&file.name);
            let is_whole = found_at(&path)?.is_some_and(|found| found.len() == file.size);
            if !is_whole || check_file_at(&path).is_err() {
                return Ok(false);
            }
        }
        let entries = fs::read_dir(&path).map_err(io_error(&path, "list"))?;
        Ok(entries.count() == artifact.files().len())
    }

    /// The records of a journal that was begun with `title`. A last line without its
    /// line feed was cut by a crash and does not count.
    pub(super) fn read_journal(&self, title: &str) -> Result<Option<Vec<String>>, OutputError> {
        let path = self.journal();
        let Some(mut file) = open_file(&path, false)? else { return Ok(None) };
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(io_error(&path, "read"))?;
        // Bytes that are no text are in no record of ours.
        let text = String::from_utf8_lossy(&text);
        let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        Ok((lines.next() == Some(title)).then(|| lines.map(str::to_owned).collect()))
    }

    /// A journal with this text.
    pub(super) fn begin_journal(&self, text: &str) -> Result<File, OutputError> {
        let path = self.journal();
        remove(&path)?;
        let Some(mut journal) = open_file(&path, true)? else {
            return Err(strange(&path, "it was just removed"));
        };
        journal.write_all(text.as_bytes()).map_err(io_error(&path, "write"))?;
        Ok(journal)
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

/// Makes a folder that nobody else can look into or change.
fn make_private(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// The text of a lock; `None` if it cannot be read.
fn read_text(lock: &File) -> Option<String> {
    /// A mark and a number are shorter; what another program left may be long.
    const LONGEST: u64 = 64;
    let mut text = Vec::new();
    lock.take(LONGEST).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// The process that a lock names.
fn holder(text: &str) -> Option<u32> {
    text.strip_prefix(MARK)?.lines().next()?.parse().ok()
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

/// Removes a file or a folder, if it is there. Of a link the link alone.
pub(super) fn remove(path: &Path) -> Result<(), OutputError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.map_err(io_error(path, "remove"))
}
