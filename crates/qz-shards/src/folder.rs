//! Which files of a model folder may be opened.
//!
//! Names are checked by [`crate::names`]; here links are. A folder may hold links
//! to files of its own. A folder of the hub's download cache holds links to
//! `REPOSITORY/blobs/HASH`, and these may be links to `CACHE/blobs/XX/HASH`,
//! which all repositories of the cache share (`huggingface_hub` 1.32 on).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use qz_tensor::{FileError, Presence, SourceFile};

use crate::error::{Error, Fault, shown};

/// A model folder with the places its links may lead to.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
    /// Its own real path first.
    allowed: Vec<PathBuf>,
}

impl Folder {
    /// The folder at `path`.
    ///
    /// # Errors
    /// If it is not there, is no folder, or cannot be looked at.
    pub fn new(path: &Path) -> Result<Self, Error> {
        match Presence::of(path)? {
            Presence::Folder => {}
            Presence::Absent => return Err(FileError::Missing(path.to_owned()).into()),
            Presence::DanglingLink => return Err(FileError::DanglingLink(path.to_owned()).into()),
            Presence::File | Presence::Other => return Err(Error::new(path, Fault::NotAFolder)),
        }
        let real = path.canonicalize().map_err(|source| FileError::Io {
            path: path.to_owned(),
            action: "open",
            source,
        })?;
        let blobs = blob_folders(&real);
        Ok(Self { path: path.to_owned(), allowed: [vec![real], blobs].concat() })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file `name`, a path without `..`, unless it leads to somewhere that is not
    /// allowed; `None` if there is nothing of this name.
    ///
    /// # Errors
    /// If it is a link out of the folder or to nowhere, or no regular file, or the system
    /// does not answer.
    pub fn open(&self, name: &str) -> Result<Option<SourceFile>, FileError> {
        let Some(real) = self.resolve(name)? else { return Ok(None) };
        SourceFile::open_resolved(&self.path.join(name), &real).map(Some)
    }

    /// The path of the file `name`, a plain file name, if there is one. As [`Folder::open`],
    /// for those who open it themselves.
    pub(crate) fn file(&self, name: &str) -> Result<Option<PathBuf>, FileError> {
        Ok(self.resolve(name)?.map(|_| self.path.join(name)))
    }

    /// Where `name` leads.
    fn resolve(&self, name: &str) -> Result<Option<PathBuf>, FileError> {
        let path = self.path.join(name);
        let real = match fs::canonicalize(&path) {
            Ok(real) => real,
            Err(error) => match Presence::of(&path)? {
                Presence::Absent => return Ok(None),
                Presence::DanglingLink => return Err(FileError::DanglingLink(path)),
                _ => return Err(io_error(path, error)),
            },
        };
        if !self.allowed.iter().any(|folder| real.starts_with(folder)) {
            let end = shown(&real.display().to_string());
            return Err(FileError::LinkOutside { path, end });
        }
        Ok(Some(real))
    }
}

fn io_error(path: PathBuf, source: io::Error) -> FileError {
    FileError::Io { path, action: "open", source }
}

/// Where the links of a hub cache's snapshot lead: `REPOSITORY/snapshots/REVISION`
/// or a folder inside. Only the cache's own names count; that of a folder which
/// merely looks like it gives access to nothing but its own `blobs`.
fn blob_folders(folder: &Path) -> Vec<PathBuf> {
    let named = |path: &Path, wanted: &str| path.file_name().is_some_and(|name| name == wanted);
    let Some(snapshots) = folder.ancestors().skip(1).find(|parent| named(parent, "snapshots"))
    else {
        return Vec::new();
    };
    let Some(repository) = snapshots.parent() else { return Vec::new() };
    let mut folders = vec![repository.join("blobs")];
    let in_cache =
        repository.file_name().is_some_and(|name| name.to_string_lossy().starts_with("models--"));
    folders.extend(repository.parent().filter(|_| in_cache).map(|cache| cache.join("blobs")));
    folders
}
