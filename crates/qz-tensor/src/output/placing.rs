//! Moves a finished artifact to its final path, so that a kill or a power cut at
//! any moment leaves the old artifact, the new one, or none: never a mixture.
//!
//! - **A file** takes one rename, which the file system makes atomic.
//! - **A folder** takes one rename if nothing is in its place, else one exchange
//!   of the two folders. Where the system cannot exchange, the old one goes to
//!   `previous` first; a run that is killed between the two renames leaves no
//!   folder, and the next one puts the old one back. `moves` says which one that is.
//! - **A set** of several files takes as many renames. Nothing opens a set
//!   without its first file, so that goes first when the old set is moved to
//!   `previous`, and comes last when the new one is placed: in between there is no
//!   artifact. `moves`, flushed before the first rename, names the new files and the old
//!   ones; with it the next run (or this one, if a rename fails) undoes all of them in the
//!   opposite order. The folder is flushed where the order must outlast a
//!   power cut: after the old first file is gone and before the new one comes.
//!
//! An artifact counts as placed once its first file has left `data`; from then on
//! only the staging folder is left to be removed.

use std::fs::{self, Metadata};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::artifact::Kind;
use super::own::{found_at, open_file, strange};
use super::staging::remove;
use super::{Artifact, OutputError, Staging, io_error, rename, sync_folder};

/// Fails if something is at a final path that may not be replaced.
pub(super) fn check_free(artifact: &Artifact, replace: bool) -> Result<(), OutputError> {
    if artifact.kind() == Kind::Folder {
        return check_folder_free(artifact, replace);
    }
    for position in 0..artifact.files().len() {
        let path = artifact.path_of(position);
        match found_at(&path)? {
            // Said first: no option replaces it.
            Some(metadata) if metadata.is_dir() => {
                return Err(OutputError::NotReplaceable { path, found: "it is a folder" });
            }
            Some(metadata) if !is_file_or_link_to_one(&path, &metadata) => {
                return Err(OutputError::NotReplaceable { path, found: "it is no regular file" });
            }
            Some(_) if !replace => return Err(OutputError::Exists(path)),
            _ => {}
        }
    }
    Ok(())
}

/// A device, a pipe or a socket is no output of ours, be it behind a link; a link that leads
/// nowhere, or to a folder, is replaced itself.
fn is_file_or_link_to_one(path: &Path, metadata: &fs::Metadata) -> bool {
    metadata.is_file()
        || metadata.is_symlink()
            && fs::metadata(path).map_or(true, |found| found.is_file() || found.is_dir())
}

/// An empty folder is free. One with files is replaced if it can be an artifact
/// of the same kind: a mistyped path must not cost anyone a folder of other things.
fn check_folder_free(artifact: &Artifact, replace: bool) -> Result<(), OutputError> {
    let path = artifact.target();
    let Some(metadata) = found_at(path)? else { return Ok(()) };
    let refuse = |found| Err(OutputError::NotReplaceable { path: path.to_owned(), found });
    if !metadata.is_dir() {
        return refuse("it is a file, and the output is a folder");
    }
    let (mut is_empty, mut has_first, mut has_others) = (true, false, false);
    for entry in fs::read_dir(path).map_err(io_error(path, "list"))? {
        let entry = entry.map_err(io_error(path, "list"))?;
        is_empty = false;
        has_first |= entry.file_name() == *artifact.files()[0].name;
        has_others |= !entry.file_type().map_err(io_error(path, "list"))?.is_file();
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
    let is_occupied = match fs::read_dir(target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        entries => entries.map_err(io_error(target, "list"))?.next().is_some(),
    };
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
    write_moves(artifact, staging)?;
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
    let previous = staging.previous();
    fs::create_dir(&previous).map_err(io_error(&previous, "create the folder"))?;
    steps_of_set(artifact, staging)?.iter().try_for_each(Step::take)
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
pub(super) fn steps_of_set(
    artifact: &Artifact,
    staging: &Staging,
) -> Result<Vec<Step>, OutputError> {
    let (data, previous) = (staging.data(), staging.previous());
    let sync_folders = || {
        let folders = [&*previous, artifact.parent()];
        folders.map(|folder| Step::SyncFolder(folder.to_owned()))
    };
    let mut steps = Vec::new();
    for (position, file) in artifact.files().iter().enumerate() {
        let path = artifact.path_of(position);
        if !is_absent(&path)? {
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
    Ok(steps)
}

/// What is moved, with what tells it from others that might take its name.
#[derive(Debug, Default)]
struct Moves {
    /// The new files of a set: marks and names.
    new: Vec<(String, String)>,
    /// The old files of a set; of a folder the old one, without a name.
    old: Vec<(String, String)>,
}

/// Notes what is about to be moved.
pub(super) fn write_moves(artifact: &Artifact, staging: &Staging) -> Result<(), OutputError> {
    let mut text = String::new();
    let mut note = |kind: &str, mark: &str, name: &str| {
        text.extend([kind, " ", mark, " ", name, END]);
    };
    if artifact.kind() == Kind::Folder {
        let old = metadata(artifact.target())?;
        note("old", &mark_of_folder(&old), "");
    } else {
        for (position, file) in artifact.files().iter().enumerate() {
            note("new", &mark(&metadata(&staging.data().join(&file.name))?), &file.name);
            if let Some(old) = found_at(&artifact.path_of(position))? {
                note("old", &mark(&old), &file.name);
            }
        }
    }
    let path = staging.moves();
    let Some(mut moves) = open_file(&path, true)? else {
        return Err(strange(&path, "it was just removed"));
    };
    let written = moves.write_all(text.as_bytes());
    written.and_then(|()| moves.sync_all()).map_err(io_error(&path, "write"))?;
    sync_folder(staging.folder())
}

fn metadata(path: &Path) -> Result<Metadata, OutputError> {
    fs::symlink_metadata(path).map_err(io_error(path, "look at it"))
}

/// Ends a line of `moves`: no name has it.
const END: &str = "\0";

/// What a file keeps when it is renamed, and no other file has. No blanks.
fn mark(metadata: &Metadata) -> String {
    let modified = metadata.modified().ok();
    let since = modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    let nanoseconds = since.map_or(0, |since| since.as_nanos());
    format!("{}:{nanoseconds}:{}", metadata.len(), inode(metadata))
}

/// The same for a folder, whose length and time may change with its place.
fn mark_of_folder(metadata: &Metadata) -> String {
    inode(metadata).to_string()
}

fn inode(metadata: &Metadata) -> u64 {
    #[cfg(unix)]
    return std::os::unix::fs::MetadataExt::ino(metadata);
    #[cfg(not(unix))]
    {
        let _ = metadata;
        0
    }
}

/// Undoes the moves of a run that did not finish them: the new files go back to
/// `data`, the old ones to their places. Does nothing, safely, at any other time.
pub(super) fn take_back(artifact: &Artifact, staging: &Staging) -> Result<(), OutputError> {
    let Some(moves) = read_moves(staging)? else { return Ok(()) };
    match artifact.kind() {
        Kind::Folder => take_back_folder(artifact, staging, &moves),
        Kind::File | Kind::Set => take_back_set(artifact, staging, &moves),
    }
}

fn take_back_folder(
    artifact: &Artifact,
    staging: &Staging,
    moves: &Moves,
) -> Result<(), OutputError> {
    let (previous, target) = (staging.previous(), artifact.target());
    let Some(found) = found_at(&previous)? else { return Ok(()) };
    let is_between = found_at(&staging.data())?.is_some() && is_absent(target)?;
    if !is_between {
        return Ok(());
    }
    let is_old = |(mark, _): &(String, String)| *mark == mark_of_folder(&found);
    if !moves.old.first().is_some_and(is_old) {
        return Err(strange(&previous, STRANGE_PREVIOUS));
    }
    rename(&previous, target)?;
    sync_folder(artifact.parent())
}

/// Nobody's work may be lost: neither put in the artifact's place nor removed.
const STRANGE_PREVIOUS: &str = "it is not what was in the output's place";

fn take_back_set(artifact: &Artifact, staging: &Staging, moves: &Moves) -> Result<(), OutputError> {
    let (data, previous) = (staging.data(), staging.previous());
    let is_placed = match moves.new.first() {
        Some((_, first)) => is_absent(&data.join(first))?,
        None => true,
    };
    if is_placed {
        return Ok(());
    }
    for (mark_of_new, name) in &moves.new {
        let (new, path) = (data.join(name), artifact.parent().join(name));
        let is_new = found_at(&path)?.is_some_and(|found| mark(&found) == *mark_of_new);
        if is_new && is_absent(&new)? {
            rename(&path, &new)?;
        }
    }
    for (mark_of_old, name) in moves.old.iter().rev() {
        let (old, path) = (previous.join(name), artifact.parent().join(name));
        match found_at(&old)? {
            Some(_) if !is_absent(&path)? => {}
            Some(found) if mark(&found) == *mark_of_old => rename(&old, &path)?,
            Some(_) => return Err(strange(&old, STRANGE_PREVIOUS)),
            None => {}
        }
    }
    sync_folder(artifact.parent())
}

fn is_absent(path: &Path) -> Result<bool, OutputError> {
    Ok(found_at(path)?.is_none())
}

/// What `moves` says; nothing before it was written whole, when nothing had been moved yet.
fn read_moves(staging: &Staging) -> Result<Option<Moves>, OutputError> {
    let path = staging.moves();
    let Some(mut file) = open_file(&path, false)? else { return Ok(None) };
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(io_error(&path, "read"))?;
    Ok(String::from_utf8(text).ok().and_then(|text| parse_moves(&text)))
}

fn parse_moves(text: &str) -> Option<Moves> {
    let mut moves = Moves::default();
    for line in text.strip_suffix(END)?.split(END) {
        let mut words = line.splitn(3, ' ');
        let (kind, mark, name) = (words.next()?, words.next()?, words.next()?);
        if !name.is_empty() && Path::new(name).file_name() != Some(name.as_ref()) {
            return None;
        }
        let list = match kind {
            "new" => &mut moves.new,
            "old" => &mut moves.old,
            _ => return None,
        };
        list.push((mark.to_owned(), name.to_owned()));
    }
    Some(moves)
}
