//! The weights of a model: one file, or shards under an index.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use qz_tensor::{
    FileError, Location, Metadata, Presence, SourceFile, TensorIndex, TensorInfo, TensorSource,
    Texts,
};

use crate::error::{Error, Fault, NameList};
use crate::folder::Folder;
use crate::index::{self, Index};
use crate::names::find_alike;
use crate::sets::{self, Place};

/// A format of files that hold weights, in a folder under fixed names.
pub trait ShardFile: Sized {
    /// What opening fails with.
    type Error: From<Error> + From<FileError>;
    /// What reads tensors once the file is open.
    type Reader: ShardReader;

    /// The format's name in messages.
    const FORMAT: &'static str;
    /// The index of a sharded checkpoint.
    const INDEX_NAME: &'static str;
    /// The weights of one that is not sharded.
    const SINGLE_NAME: &'static str;

    /// Opens one file and checks it.
    ///
    /// # Errors
    /// If it cannot be read, or breaks a rule of its format.
    fn open(path: &Path) -> Result<Self, Self::Error>;

    /// The file taken apart: what reads it, its metadata and its tensors.
    fn into_parts(self) -> (Self::Reader, Metadata, Vec<TensorInfo>);
}

/// Reads tensors of one open file.
pub trait ShardReader: Send + Sync {
    /// The open file.
    fn file(&self) -> &SourceFile;

    /// Fills `out` with bytes of `info`, the file's tensor at `place`.
    ///
    /// # Errors
    /// If the file cannot be read or has become shorter since it was opened.
    fn read(
        &self,
        place: usize,
        info: &TensorInfo,
        offset: u64,
        out: &mut [u8],
    ) -> Result<(), FileError>;

    /// Where byte `offset` of `info`, the file's tensor at `place`, lies.
    fn location(&self, _place: usize, info: &TensorInfo, offset: u64) -> Location {
        info.location(offset)
    }
}

/// A file whose tensors' bytes lie together.
impl ShardReader for SourceFile {
    fn file(&self) -> &SourceFile {
        self
    }

    fn read(
        &self,
        _place: usize,
        info: &TensorInfo,
        offset: u64,
        out: &mut [u8],
    ) -> Result<(), FileError> {
        self.read_exact_at(info.offset + offset, out)
    }
}

/// The tensors of all shards of a model. Shards come by name, tensors within one
/// in their file's order. Metadata is that of the shards together; where two have
/// the same key, the first one's.
#[derive(Debug)]
pub struct ShardedModel<F: ShardFile> {
    shards: Vec<Shard<F::Reader>>,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    /// For each tensor its place in its own file.
    places: Vec<usize>,
    notes: Vec<String>,
}

#[derive(Debug)]
struct Shard<R> {
    reader: R,
    /// Its first tensor's place among all.
    first: usize,
}

impl<F: ShardFile> ShardedModel<F> {
    /// True if a model folder has weights in this format, under their usual names.
    ///
    /// # Errors
    /// If the folder cannot be looked into.
    pub fn is_in(folder: &Path) -> Result<bool, FileError> {
        Ok(is_present(folder, F::INDEX_NAME)? || is_present(folder, F::SINGLE_NAME)?)
    }

    /// True if it has files that could be weights in this format, under any names.
    ///
    /// # Errors
    /// As [`ShardedModel::is_in`].
    pub fn may_be_in(folder: &Path) -> Result<bool, FileError> {
        Ok(!sets::names_in(folder, extension::<F>())?.is_empty())
    }

    /// Opens what `path` names: a model folder, an index (`*.index.json`), one file of
    /// any name, or the set of shards that a file is one of.
    ///
    /// # Errors
    /// As [`ShardFile::open`] and [`ShardedModel::open_folder`].
    pub fn open_path(path: impl AsRef<Path>) -> Result<Self, F::Error> {
        let path = path.as_ref();
        if Presence::of(path)? == Presence::Folder {
            return Self::open_folder(path);
        }
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".index.json") {
            return Self::open_index(&Folder::new(parent)?, path);
        }
        match Place::of(&name, extension::<F>()) {
            Some(place) if place.count > 1 => {
                let folder = Folder::new(parent)?;
                let ending = extension::<F>();
                let index_path = parent.join(format!("{}{ending}.index.json", place.stem));
                if index_path.symlink_metadata().is_ok() {
                    return Self::open_index(&folder, &index_path);
                }
                let names = sets::complete(parent, place, extension::<F>())?;
                Self::open_named(&folder, &names)
            }
            _ => Ok(Self::assemble([F::open(path)?], None)?),
        }
    }

    /// Opens the weights of a model folder: the shards of the index, else the one file,
    /// else a whole set of shards, else a file of another name that is the only one.
    /// Weights in other formats beside them are ignored.
    ///
    /// # Errors
    /// If the folder has none of them, or several without an index; if a shard is
    /// missing, lies outside the folder, breaks a rule of the format, or disagrees with
    /// the index.
    pub fn open_folder(path: impl AsRef<Path>) -> Result<Self, F::Error> {
        let path = path.as_ref();
        let folder = Folder::new(path)?;
        let has_single = is_present(path, F::SINGLE_NAME)?;
        if is_present(path, F::INDEX_NAME)? {
            let mut model = Self::open_index(&folder, &found(&folder, F::INDEX_NAME)?)?;
            let is_named = |name: &OsStr| name == F::SINGLE_NAME;
            let named = model.files().any(|file| file.path().file_name().is_some_and(is_named));
            if has_single && !named {
                model.notes.push(format!(
                    "{}: two sets of weights are here, `{}` and the shards of its index; the \
                     shards are read",
                    path.display(),
                    F::SINGLE_NAME
                ));
            }
            return Ok(model);
        }
        if has_single {
            return Self::open_named(&folder, &[F::SINGLE_NAME.to_owned()]);
        }
        let names = sets::names_in(path, extension::<F>())?;
        if names.is_empty() {
            let (format, index, single) = (F::FORMAT, F::INDEX_NAME, F::SINGLE_NAME);
            return Err(Error::new(path, Fault::NoWeights { format, index, single }).into());
        }
        Self::open_named(&folder, &sets::choose(path, &names, extension::<F>())?)
    }

    /// What a person should know about the weights that were chosen.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The open files, sorted by name.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &SourceFile> {
        self.shards.iter().map(|shard| shard.reader.file())
    }

    /// Opens these files of a folder.
    fn open_named(folder: &Folder, names: &[String]) -> Result<Self, F::Error> {
        let open = |name: &String| F::open(&found(folder, name)?);
        let files = names.iter().map(open).collect::<Result<Vec<_>, F::Error>>()?;
        Ok(Self::assemble(files, None)?)
    }

    /// Opens the shards of an index.
    fn open_index(folder: &Folder, path: &Path) -> Result<Self, F::Error> {
        let file = SourceFile::open(path)?;
        let index = &index::read(&file)?;
        let (mut paths, mut missing) = (Vec::new(), Vec::new());
        for name in &index.shards {
            match folder.file(name) {
                Ok(Some(path)) => paths.push(path),
                Ok(None) | Err(FileError::DanglingLink(_)) => missing.push(name.clone()),
                Err(error) => return Err(error.into()),
            }
        }
        let missing = NameList::new(missing);
        if !missing.is_empty() {
            return Err(Error::new(file.path(), Fault::MissingShards(missing)).into());
        }
        let shards =
            paths.iter().map(|path| F::open(path)).collect::<Result<Vec<_>, F::Error>>()?;
        let model = Self::assemble(shards, Some(index))?;
        model.check_index(&file, index)?;
        Ok(model)
    }

    /// One model of these files, which are sorted by name. A tensor that several hold is
    /// that of the file which the index names.
    fn assemble(files: impl IntoIterator<Item = F>, index: Option<&Index>) -> Result<Self, Error> {
        let (mut shards, mut tensors, mut places) = (Vec::new(), Vec::new(), Vec::new());
        let (mut all_metadata, mut dropped) = (Vec::new(), Vec::new());
        let mut parts: Vec<_> = files.into_iter().map(F::into_parts).collect();
        let holders = match index {
            Some(index) => index.holders(parts.iter().map(|(_, _, own)| own.as_slice())),
            None => HashSet::new(),
        };
        for (number, (reader, metadata, own_tensors)) in parts.drain(..).enumerate() {
            shards.push(Shard { reader, first: tensors.len() });
            all_metadata.push(metadata);
            for (place, tensor) in own_tensors.into_iter().enumerate() {
                let named = index.and_then(|index| index.tensors.get(&*tensor.name));
                // Only where the file that is named really has it.
                if named.is_some_and(|shard| *shard != number) && holders.contains(&*tensor.name) {
                    dropped.push(tensor.name.into());
                } else {
                    tensors.push(tensor);
                    places.push(place);
                }
            }
        }
        let metadata = merged(&all_metadata);
        let mut notes = Vec::new();
        if !dropped.is_empty() {
            notes.push(format!(
                "tensors are in two shards, those of the shards that the index names are read: {}",
                NameList::new(dropped)
            ));
        }
        let model = Self { shards, metadata, tensors, places, notes };
        model.check_names()?;
        Ok(model)
    }

    /// Checks that names differ, in more than case or Unicode form.
    fn check_names(&self) -> Result<(), Error> {
        let names: Vec<&str> = self.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let Some((first, second)) = find_alike(&names) else { return Ok(()) };
        let (first, second) = (&self.tensors[first], &self.tensors[second]);
        let fault = if first.name == second.name {
            Fault::TensorInTwoShards(first.file.display().to_string())
        } else {
            Fault::AlikeName(first.name.to_string())
        };
        Err(Error::Malformed { location: second.location(0), fault: Box::new(fault) })
    }

    /// Checks that index and shards name the same tensors for the same files.
    fn check_index(&self, file: &SourceFile, index: &Index) -> Result<(), Error> {
        let found: HashMap<&str, usize> = self
            .tensors
            .iter()
            .enumerate()
            .map(|(place, tensor)| (tensor.name.as_str(), self.shard_of(place)))
            .collect();
        let describe = |name: &str, shard: usize| format!("{name} ({})", index.shards[shard]);
        let mut absent: Vec<String> = index
            .tensors
            .iter()
            .filter(|(name, shard)| found.get(name.as_str()) != Some(*shard))
            .map(|(name, shard)| describe(name, *shard))
            .collect();
        let mut unlisted: Vec<String> = found
            .iter()
            .filter(|(name, shard)| index.tensors.get(**name) != Some(*shard))
            .map(|(name, shard)| describe(name, *shard))
            .collect();
        if absent.is_empty() && unlisted.is_empty() {
            return Ok(());
        }
        absent.sort_unstable();
        unlisted.sort_unstable();
        let fault = Fault::IndexMismatch {
            absent: NameList::new(absent),
            unlisted: NameList::new(unlisted),
        };
        Err(Error::new(file.path(), fault))
    }

    /// Which shard holds the tensor at `place`.
    fn shard_of(&self, place: usize) -> usize {
        self.shards.partition_point(|shard| shard.first <= place) - 1
    }

    /// What reads a tensor, its place in its own file, and what it is.
    fn locate(&self, tensor: TensorIndex) -> (&F::Reader, usize, &TensorInfo) {
        let shard = &self.shards[self.shard_of(tensor.0)];
        (&shard.reader, self.places[tensor.0], &self.tensors[tensor.0])
    }
}

impl<F: ShardFile> TensorSource for ShardedModel<F> {
    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn files(&self) -> Vec<&SourceFile> {
        self.shards.iter().map(|shard| shard.reader.file()).collect()
    }

    /// # Panics
    /// If there is no such tensor, or it does not have the bytes asked for.
    fn read(&self, tensor: TensorIndex, offset: u64, out: &mut [u8]) -> Result<(), FileError> {
        let (reader, place, info) = self.locate(tensor);
        info.assert_has(offset, out.len());
        reader.read(place, info, offset, out)
    }

    fn location(&self, tensor: TensorIndex, offset: u64) -> Location {
        let (reader, place, info) = self.locate(tensor);
        reader.location(place, info, offset)
    }
}

/// A link that leads nowhere is there, too: it is an error, not an absence.
fn is_present(folder: &Path, name: &str) -> Result<bool, FileError> {
    Ok(Presence::of(&folder.join(name))?.is_there())
}

/// The path of a file that was seen in the folder.
fn found(folder: &Folder, name: &str) -> Result<PathBuf, FileError> {
    folder.file(name)?.ok_or_else(|| FileError::Missing(folder.path().join(name)))
}

/// What the format's files end with, dot included.
fn extension<F: ShardFile>() -> &'static str {
    F::SINGLE_NAME.rfind('.').map_or("", |dot| &F::SINGLE_NAME[dot..])
}

/// The entries of all; of those with the same key the first.
fn merged(all: &[Metadata]) -> Metadata {
    let mut seen = HashSet::new();
    let (mut keys, mut values) = (Texts::default(), Vec::new());
    for (key, value) in all.iter().flat_map(Metadata::iter).filter(|(key, _)| seen.insert(*key)) {
        keys.push(key);
        values.push(value.clone());
    }
    // Cannot fail: each key is taken once.
    Metadata::from_unique(keys, values).unwrap_or_default()
}
