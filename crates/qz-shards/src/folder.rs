//! Which files of a model folder may be opened.
//!
//! Names are checked by [`crate::names`]; here links are. A folder may hold links
//! to files of its own. A folder of the hub's download cache holds links to
//! `REPOSITORY/blobs/HASH`, and these may be links to `CACHE/blobs/XX/HASH`,
//! which all repositories of the cache share (`huggingface_hub` 1.32 on).

use std::path::{Path, PathBuf};

use crate::error::{Error, Fault, shown};

/// A model folder with the places its links may lead to.
pub(crate) struct Folder {
    path: PathBuf,
    allowed: Vec<PathBuf>,
}

impl Folder {
    /// The folder at `path`.
    pub(crate) fn new(path: &Path) -> Result<Self, Error> {
        let io_error = |source| match path.try_exists() {
            Ok(false) => qz_tensor::FileError::Missing(path.to_owned()),
            _ => qz_tensor::FileError::Io { path: path.to_owned(), action: "open", source },
        };
        let real = path.canonicalize().map_err(io_error)?;
        if !real.is_dir() {
            return Err(Error::new(path, Fault::NotAFolder));
        }
        let mut allowed = blob_folders(&real);
        allowed.push(real);
        Ok(Self { path: path.to_owned(), allowed })
    }

    /// The path of `name`, a plain file name, unless it is a link to somewhere
    /// that is not allowed. A file that is not there has a path too.
    pub(crate) fn file(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.path.join(name);
        match path.canonicalize() {
            Ok(real) if !self.allowed.iter().any(|folder| real.starts_with(folder)) => {
                let end = shown(&real.display().to_string());
                Err(Error::new(&path, Fault::LinkOutside(end)))
            }
            _ => Ok(path),
        }
    }
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
