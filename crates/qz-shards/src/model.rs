//! The weights of a model: one file, or shards under an index.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use qz_tensor::{
    FileError, Location, Metadata, Presence, SourceFile, TensorIndex, TensorInfo, TensorSource,
};

use crate::error::{Error, Fault, NameList};
use crate::folder::Folder;
use crate::index::{self, Index};
use crate::names::find_alike;

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
}

#[derive(Debug)]
struct Shard<R> {
    reader: R,
    /// Its first tensor's place among all.
    first: usize,
}

impl<F: ShardFile> ShardedModel<F> {
    /// True if a model folder has weights in this format.
    ///
    /// # Errors
    /// If the system does not say what is there.
    pub fn is_in(folder: &Path) -> Result<bool, FileError> {
        Ok(is_present(folder, F::INDEX_NAME)? || is_present(folder, F::SINGLE_NAME)?)
    }

    /// Opens what `path` names: a model folder, an index (`*.index.json`), or one
    /// file of any name.
    ///
    /// # Errors
    /// As [`ShardFile::open`] and [`ShardedModel::open_folder`].
    pub fn open_path(path: impl AsRef<Path>) -> Result<Self, F::Error> {
        let path = path.as_ref();
        if Presence::of(path)? == Presence::Folder {
            return Self::open_folder(path);
        }
        if !path.as_os_str().as_encoded_bytes().ends_with(b".index.json") {
            return Ok(Self::assemble([F::open(path)?])?);
        }
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let file = SourceFile::open(path)?;
        let index = index::read(&file)?;
        Self::open_shards(&Folder::new(folder)?, &file, &index)
    }

    /// Opens the weights of a model folder: the shards of the index, else the one
    /// file. Weights in other formats beside them are ignored.
    ///
    /// # Errors
    /// If the folder has neither, or both without one naming the other; if a
    /// shard is missing, lies outside the folder, breaks a rule of the format, or
    /// disagrees with the index.
    pub fn open_folder(path: impl AsRef<Path>) -> Result<Self, F::Error> {
        let path = path.as_ref();
        let folder = Folder::new(path)?;
        match (is_present(path, F::INDEX_NAME)?, is_present(path, F::SINGLE_NAME)?) {
            (false, false) => {
                let (format, index, single) = (F::FORMAT, F::INDEX_NAME, F::SINGLE_NAME);
                Err(Error::new(path, Fault::NoWeights { format, index, single }).into())
            }
            (false, true) => Ok(Self::assemble([F::open(&found(&folder, F::SINGLE_NAME)?)?])?),
            (true, single) => {
                let file = SourceFile::open(found(&folder, F::INDEX_NAME)?)?;
                let index = index::read(&file)?;
                if single && !index.shards.iter().any(|shard| shard == F::SINGLE_NAME) {
                    return Err(Error::new(path, Fault::AmbiguousWeights(F::SINGLE_NAME)).into());
                }
                Self::open_shards(&folder, &file, &index)
            }
        }
    }

    /// The open files, sorted by name.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &SourceFile> {
        self.shards.iter().map(|shard| shard.reader.file())
    }

    fn open_shards(folder: &Folder, file: &SourceFile, index: &Index) -> Result<Self, F::Error> {
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
        let model = Self::assemble(shards)?;
        model.check_index(file, index)?;
        Ok(model)
    }

    /// One model of these files, which are sorted by name.
    fn assemble(files: impl IntoIterator<Item = F>) -> Result<Self, Error> {
        let mut shards = Vec::new();
        let mut tensors = Vec::new();
        let mut all_metadata = Vec::new();
        for shard in files {
            let (reader, metadata, own_tensors) = shard.into_parts();
            shards.push(Shard { reader, first: tensors.len() });
            tensors.extend(own_tensors);
            all_metadata.push(metadata);
        }
        let metadata = merged(&all_metadata);
        let model = Self { shards, metadata, tensors };
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
            Fault::AlikeName(first.name.clone())
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
        (&shard.reader, tensor.0 - shard.first, &self.tensors[tensor.0])
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

/// The entries of all; of those with the same key the first.
fn merged(all: &[Metadata]) -> Metadata {
    let mut keys = HashSet::new();
    let entries = all
        .iter()
        .flat_map(Metadata::iter)
        .filter(|(key, _)| keys.insert(*key))
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .collect();
    // Cannot fail: each key is taken once.
    Metadata::from_unique(entries).unwrap_or_default()
}
