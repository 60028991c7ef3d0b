//! A checkpoint folder's small files: the one door through which they are read.

use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::{fs, io};

use qz_tensor::{FileError, FileStates, Presence, SideFiles, SourceFile};

use crate::error::Error;

/// A checkpoint folder. A link of it is followed where one of a file with weights is: within
/// the folder, and into the blobs of the hub's cache that it is part of.
pub(crate) struct Folder {
    folder: qz_shards::Folder,
    name: Option<String>,
    /// What was read, as it was then.
    read: Mutex<FileStates>,
}

/// No configuration or tokenizer comes near this; a larger one is not read.
const SIDE_FILE_LIMIT: u64 = 256 << 20;

impl Folder {
    pub(crate) fn new(path: &Path) -> Result<Self, Error> {
        let folder = qz_shards::Folder::new(path)?;
        let name = crate::container::name_of(path);
        Ok(Self { folder, name, read: Mutex::default() })
    }

    /// Fails if a file that was read is another one now.
    pub(crate) fn check_unchanged(&self) -> Result<(), Error> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        crate::convert::check_states(&read)
    }

    fn note(&self, file: &SourceFile) {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).note(file);
    }
}

/// Names come from our own code, but one day one may not.
fn is_inside(name: &str) -> bool {
    Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
}

impl SideFiles for Folder {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, FileError> {
        if !is_inside(name) {
            return Ok(None);
        }
        let Some(file) = self.folder.open(name)? else { return Ok(None) };
        if file.len() > SIDE_FILE_LIMIT {
            let (path, length) = (self.path(name), file.len());
            return Err(FileError::TooLarge { path, length, limit: SIDE_FILE_LIMIT });
        }
        let mut bytes = vec![0; usize::try_from(file.len()).unwrap_or(usize::MAX)];
        file.read_exact_at(0, &mut bytes)?;
        self.note(&file);
        Ok(Some(bytes))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, FileError> {
        let path = self.path(folder);
        if !is_inside(folder) || Presence::of(&path)? != Presence::Folder {
            return Ok(Vec::new());
        }
        let io_error =
            |source: io::Error| FileError::Io { path: path.clone(), action: "list", source };
        let mut names = Vec::new();
        for entry in fs::read_dir(&path).map_err(io_error)? {
            let entry = entry.map_err(io_error)?;
            let kind = entry.file_type().map_err(io_error)?;
            // Where a link leads is found out, and told, when it is read. One that leads
            // nowhere is no reason to leave its file out in silence.
            let is_file = match kind.is_symlink() {
                true => {
                    matches!(Presence::of(&entry.path())?, Presence::File | Presence::DanglingLink)
                }
                false => kind.is_file(),
            };
            if is_file {
                names.extend(entry.file_name().into_string());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn folder_name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}
