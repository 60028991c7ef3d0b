//! Moves a finished artifact to its final path, so that a kill or a power cut at
//! any moment leaves the old artifact, the new one, or none: never a mixture.
//!
//! - **A file** takes one rename, which the file system makes atomic.
//! - **A folder** takes one rename if nothing is in its place, else one exchange
//!   of the two folders. Where the system cannot exchange, the old one goes to
//!   `previous` first; a run that is killed between the two renames leaves no
//!   folder, and the next one puts the old one back.
//! - **A set** of several files takes as many renames. Nothing opens a set
//!   without its first file, so that goes first when the old set is moved to
//!   `previous`, and comes last when the new one is placed: in between there is no
//!   artifact. `moves`, flushed before the first rename, names the new files; with
//!   it the next run (or this one, if a rename fails) undoes all of them in the
//!   opposite order. The folder is flushed where the order must outlast a
//!   power cut: after the old first file is gone and before the new one comes.
//!
//! An artifact counts as placed once its first file has left `data`; from then on
//! only the staging folder is left to be removed.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use super::artifact::Kind;
use super::staging::remove;
use super::{Artifact, OutputError, Staging, io_error, rename, sync_folder};

/// Fails if something is at a final path that may not be replaced.
pub(super) fn check_free(artifact: &Artifact, replace: bool) -> Result<(), OutputError> {
    if artifact.kind() == Kind::Folder {
        return check_folder_free(artifact, replace);
    }
    for position in 0..artifact.files().len() {
        let path = artifact.path_of(position);
        match fs::symlink_metadata(&path) {
            // Said first: no option replaces it.
            Ok(metadata) if metadata.is_dir() => {
                return Err(OutputError::NotReplaceable { path, found: "it is a folder" });
            }
            Ok(_) if !replace => return Err(OutputError::Exists(path)),
            _ => {}
        }
    }
    Ok(())
}

/// An empty folder is free. One with files is replaced if it can be an artifact
/// of the same kind: a mistyped path must not cost anyone a folder of other things.
fn check_folder_free(artifact: &Artifact, replace: bool) -> Result<(), OutputError> {
    let path = artifact.target();
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    let refuse = |found| Err(OutputError::NotReplaceable { path: path.to_owned(), found });
    if !metadata.is_dir() {
        return refuse("it is a file, and the output is a folder");
    }
    let (mut is_empty, mut has_first, mut has_others) = (true, false, false);
    for entry in fs::read_dir(path).map_err(io_error(path, "list"))? {
        let entry = entry.map_err(io_error(path, "list"))?;
        is_empty = false;
        has_first |= entry.file_name() == *artifact.files()[0].name;
        has_others |= !entry.file_type().is_ok_and(|kind| kind.is_file());
    }
    // What no option replaces is said first.
    match replace {
        _ if is_empty => Ok(()),
        _ if has_others => refuse("it holds folders or links"),
        _ if !has_first => refuse("it holds files, but not those of a model like this one"),
        true => Ok(()),
        false => exists(path),
    }
}

fn exists(path: &Path) -> Result<(), OutputError> {
    Err(OutputError::Exists(path.to_owned()))
}

/// Moves the flushed files of `staging` to their final paths.
pub(super) fn place(
    artifact: &Artifact,
    staging: &Staging,
    replace: bool,
) -> Result<(), OutputError> {
    match artifact.kind() {
        Kind::File => {
            rename(&staging.data().join(&artifact.files()[0].name), artifact.target())?;
        }
        Kind::Folder => place_folder(artifact, staging, replace)?,
        Kind::Set => place_set(artifact, staging, replace)?,
    }
    sync_folder(artifact.parent())
}

fn place_folder(artifact: &Artifact, staging: &Staging, replace: bool) -> Result<(), OutputError> {
    let (data, target) = (staging.data(), artifact.target());
    sync_folder(&data)?;
    check_folder_free(artifact, replace)?;
    let is_occupied = fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_some());
    if !is_occupied {
        // Some systems rename no folder onto an empty one.
        let _ = fs::remove_dir(target);
        return rename(&data, target);
    }
    // After the exchange `data` holds the old files: no run may take them for new.
    remove(&staging.journal())?;
    sync_folder(staging.folder())?;
    if exchange(&data, target).is_ok() {
        return Ok(());
    }
    rename(target, &staging.previous())?;
    rename(&data, target)
}

/// Lets two paths change places in one step.
#[cfg(target_os = "linux")]
fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
}

#[cfg(not(target_os = "linux"))]
fn exchange(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn place_set(artifact: &Artifact, staging: &Staging, replace: bool) -> Result<(), OutputError> {
    check_free(artifact, replace)?;
    write_moves(artifact, staging)?;
    steps_of_set(artifact, staging).iter().try_for_each(Step::take)
}

/// One thing to do for a set of files.
#[derive(Debug)]
pub(super) enum Step {
    Rename(PathBuf, PathBuf),
    SyncFolder(PathBuf),
}

impl Step {
    pub(super) fn take(&self) -> Result<(), OutputError> {
        match self {
            Self::Rename(from, to) => rename(from, to),
            Self::SyncFolder(folder) => sync_folder(folder),
        }
    }
}

/// All steps that place a set, once `moves` is written.
pub(super) fn steps_of_set(artifact: &Artifact, staging: &Staging) -> Vec<Step> {
    let (data, previous) = (staging.data(), staging.previous());
    let sync_folders = || {
        let folders = [&*previous, artifact.parent()];
        folders.map(|folder| Step::SyncFolder(folder.to_owned()))
    };
    let mut steps = Vec::new();
    for (position, file) in artifact.files().iter().enumerate() {
        let path = artifact.path_of(position);
        if !is_absent(&path) {
            steps.push(Step::Rename(path, previous.join(&file.name)));
        }
        if position == 0 {
            steps.extend(sync_folders());
        }
    }
    for (position, file) in artifact.files().iter().enumerate().rev() {
        if position == 0 {
            steps.extend(sync_folders());
        }
        steps.push(Step::Rename(data.join(&file.name), artifact.path_of(position)));
    }
    steps
}

/// Notes which files are about to be moved, and what tells them from others that
/// might take their names.
pub(super) fn write_moves(artifact: &Artifact, staging: &Staging) -> Result<(), OutputError> {
    let mut text = String::new();
    for file in artifact.files() {
        let path = staging.data().join(&file.name);
        let metadata = fs::symlink_metadata(&path).map_err(io_error(&path, "read the length"))?;
        text.extend([&*mark(&metadata), " ", &*file.name, END]);
    }
    let path = staging.moves();
    fs::write(&path, text).map_err(io_error(&path, "write"))?;
    let moves = fs::File::open(&path).map_err(io_error(&path, "open"))?;
    moves.sync_all().map_err(io_error(&path, "flush"))?;
    let previous = staging.previous();
    fs::create_dir(&previous).map_err(io_error(&previous, "create the folder"))?;
    sync_folder(staging.folder())
}

/// Ends a line of `moves`: no name has it.
const END: &str = "\0";

/// What a file keeps when it is renamed, and no other file has. No blanks.
fn mark(metadata: &Metadata) -> String {
    let modified = metadata.modified().ok();
    let since = modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    let nanoseconds = since.map_or(0, |since| since.as_nanos());
    #[cfg(unix)]
    let inode = {
        use std::os::unix::fs::MetadataExt;
        (metadata.dev(), metadata.ino())
    };
    #[cfg(not(unix))]
    let inode = (0, 0);
    format!("{}:{nanoseconds}:{}:{}", metadata.len(), inode.0, inode.1)
}

/// Undoes the moves of a run that did not finish them: the new files go back to
/// `data`, the old ones to their places. Does nothing, safely, at any other time.
pub(super) fn take_back(artifact: &Artifact, staging: &Staging) -> Result<(), OutputError> {
    let previous = staging.previous();
    let Some(moves) = read_moves(staging) else {
        let is_between =
            previous.is_dir() && staging.data().is_dir() && is_absent(artifact.target());
        if is_between {
            rename(&previous, artifact.target())?;
            sync_folder(artifact.parent())?;
        }
        return Ok(());
    };
    let is_placed = moves.first().is_none_or(|(_, first)| is_absent(&staging.data().join(first)));
    if is_placed {
        return Ok(());
    }
    for (mark_of_new, name) in &moves {
        let (new, path) = (staging.data().join(name), artifact.parent().join(name));
        let is_new = fs::symlink_metadata(&path).is_ok_and(|found| mark(&found) == *mark_of_new);
        if is_new && is_absent(&new) {
            rename(&path, &new)?;
        }
    }
    for (_, name) in moves.iter().rev() {
        let (old, path) = (previous.join(name), artifact.parent().join(name));
        if !is_absent(&old) && is_absent(&path) {
            rename(&old, &path)?;
        }
    }
    sync_folder(artifact.parent())
}

fn is_absent(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// The marks and names in `moves`; none before it was written whole, when nothing
/// had been moved yet.
fn read_moves(staging: &Staging) -> Option<Vec<(String, String)>> {
    let text = fs::read_to_string(staging.moves()).ok()?;
    let text = text.strip_suffix(END)?;
    let line =
        |line: &str| line.split_once(' ').map(|(mark, name)| (mark.to_owned(), name.to_owned()));
    let moves = text.split(END).map(line).collect::<Option<Vec<_>>>()?;
    let is_base = |name: &str| Path::new(name).file_name() == Some(name.as_ref());
    moves.iter().all(|(_, name)| is_base(name)).then_some(moves)
}
