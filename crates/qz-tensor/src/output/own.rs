//! What may be used of a staging folder that is there already. Its name is no secret, and
//! archives and other people can put anything there: a link would let us write to, or remove,
//! what lies elsewhere.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::path::Path;

use super::{OutputError, io_error};

/// Opens a regular file to read and write it, without following a link; makes it if `make`
/// says so, else there is `None` if it is not there. One that is there already must be ours
/// alone.
pub(super) fn open_file(path: &Path, make: bool) -> Result<Option<File>, OutputError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(make).truncate(false);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt;
        // Without O_NONBLOCK a pipe would be waited for.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        options.custom_flags(flags.bits().cast_signed());
    }
    let opened = match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !make => return Ok(None),
        Err(error) => {
            // Whatever the system says of a link or a folder: this says it better.
            check_file_at(path)?;
            return Err(io_error(path, "create")(error));
        }
        Ok(opened) => opened,
    };
    let found = opened.metadata().map_err(io_error(path, "read the length"))?;
    check_file(path, &found)?;
    Ok(Some(opened))
}

/// Fails if something is at `path` that is no regular file of ours.
pub(super) fn check_file_at(path: &Path) -> Result<(), OutputError> {
    found_at(path)?.map_or(Ok(()), |found| check_file(path, &found))
}

/// Fails if something is at `path` that is no folder of ours. True if one is.
pub(super) fn check_folder_at(path: &Path) -> Result<bool, OutputError> {
    let Some(found) = found_at(path)? else { return Ok(false) };
    if !found.is_dir() {
        return Err(strange(path, kind(&found)));
    }
    check_owner(path, &found)?;
    Ok(true)
}

/// What is at `path`; links are not followed.
pub(super) fn found_at(path: &Path) -> Result<Option<Metadata>, OutputError> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error(path, "look at it")(error)),
    }
}

pub(super) fn strange(path: &Path, found: &'static str) -> OutputError {
    OutputError::NotOurs { path: path.to_owned(), found }
}

fn check_file(path: &Path, found: &Metadata) -> Result<(), OutputError> {
    if !found.is_file() {
        return Err(strange(path, kind(found)));
    }
    check_owner(path, found)?;
    #[cfg(unix)]
    if std::os::unix::fs::MetadataExt::nlink(found) > 1 {
        return Err(strange(path, "it is a file that has another name, too (a hard link)"));
    }
    Ok(())
}

fn check_owner(path: &Path, found: &Metadata) -> Result<(), OutputError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        if found.uid() != rustix::process::geteuid().as_raw() {
            return Err(strange(path, "it belongs to another user"));
        }
    }
    #[cfg(not(unix))]
    let _ = (path, found);
    Ok(())
}

fn kind(found: &Metadata) -> &'static str {
    if found.is_symlink() {
        "it is a link"
    } else if found.is_dir() {
        "it is a folder"
    } else if found.is_file() {
        "it is a file"
    } else {
        "it is a pipe, a socket or a device"
    }
}
