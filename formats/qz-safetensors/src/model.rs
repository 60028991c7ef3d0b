//! The weights of a model: one file, or shards under an index.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use qz_tensor::{FileError, Metadata, SourceFile, TensorIndex, TensorInfo, TensorSource};

use crate::error::{Error, Fault, NameList};
use crate::file::{SafetensorsFile, read_tensor};
use crate::folder::Folder;
use crate::index::{self, Index};
use crate::names::find_alike;

/// The index of a sharded checkpoint.
pub(crate) const INDEX_NAME: &str = "model.safetensors.index.json";

/// The weights of one that is not sharded.
pub(crate) const SINGLE_NAME: &str = "model.safetensors";

/// The tensors of all shards of a model. Shards come by name, tensors within one
/// by their data: reading them in order reads each file from front to back.
/// Metadata is that of the shards together; where two have the same key, the
/// first one's.
#[derive(Debug)]
pub struct SafetensorsModel {
    shards: Vec<Shard>,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
}

#[derive(Debug)]
struct Shard {
    file: SourceFile,
    /// Its first tensor's place among all.
    first: usize,
}

impl SafetensorsModel {
    /// Opens what `path` names: a model folder, an index (`*.index.json`), or one
    /// safetensors file of any name.
    ///
    /// # Errors
    /// As [`SafetensorsFile::open`] and [`SafetensorsModel::open_folder`].
    pub fn open_path(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        if path.is_dir() {
            return Self::open_folder(path);
        }
        if !path.as_os_str().as_encoded_bytes().ends_with(b".index.json") {
            return Self::assemble([SafetensorsFile::open(path)?]);
        }
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let file = SourceFile::open(path)?;
        let index = index::read(&file)?;
        Self::open_shards(&Folder::new(folder)?, &file, &index)
    }

    /// Opens the weights of a model folder: the shards of
    /// `model.safetensors.index.json`, else `model.safetensors`. Weights in other
    /// formats beside them are ignored.
    ///
    /// # Errors
    /// If the folder has neither, or both without one naming the other; if a
    /// shard is missing, lies outside the folder, breaks a rule of the format, or
    /// disagrees with the index.
    pub fn open_folder(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let folder = Folder::new(path)?;
        let present = |name: &str| path.join(name).symlink_metadata().is_ok();
        match (present(INDEX_NAME), present(SINGLE_NAME)) {
            (false, false) => Err(Error::new(path, Fault::NoWeights)),
            (false, true) => Self::assemble([SafetensorsFile::open(folder.file(SINGLE_NAME)?)?]),
            (true, single) => {
                let file = SourceFile::open(folder.file(INDEX_NAME)?)?;
                let index = index::read(&file)?;
                if single && !index.shards.iter().any(|shard| shard == SINGLE_NAME) {
                    return Err(Error::new(path, Fault::AmbiguousWeights));
                }
                Self::open_shards(&folder, &file, &index)
            }
        }
    }

    /// The open files, sorted by name.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &SourceFile> {
        self.shards.iter().map(|shard| &shard.file)
    }

    fn open_shards(folder: &Folder, file: &SourceFile, index: &Index) -> Result<Self, Error> {
        let paths =
            index.shards.iter().map(|name| folder.file(name)).collect::<Result<Vec<_>, Error>>()?;
        let missing = index.shards.iter().zip(&paths).filter(|(_, path)| !path.exists());
        let missing = NameList::new(missing.map(|(name, _)| name.clone()));
        if !missing.is_empty() {
            return Err(Error::new(file.path(), Fault::MissingShards(missing)));
        }
        let shards = paths.iter().map(SafetensorsFile::open).collect::<Result<Vec<_>, Error>>()?;
        let model = Self::assemble(shards)?;
        model.check_index(file, index)?;
        Ok(model)
    }

    /// One model of these files, which are sorted by name.
    fn assemble(files: impl IntoIterator<Item = SafetensorsFile>) -> Result<Self, Error> {
        let mut shards = Vec::new();
        let mut tensors = Vec::new();
        let mut all_metadata = Vec::new();
        for shard in files {
            let (file, metadata, own_tensors) = shard.into_parts();
            shards.push(Shard { file, first: tensors.len() });
            tensors.extend(own_tensors);
            all_metadata.push(metadata);
        }
        let metadata = merged(&all_metadata);
        let model = Self { shards, metadata, tensors };
        model.check_names()?;
        Ok(model)
    }

    /// Checks that names differ, in more than case.
    fn check_names(&self) -> Result<(), Error> {
        let names: Vec<&str> = self.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let Some((first, second)) = find_alike(&names) else { return Ok(()) };
        let (first, second) = (&self.tensors[first], &self.tensors[second]);
        let fault = if first.name == second.name {
            Fault::TensorInTwoShards(first.file.display().to_string())
        } else {
            Fault::CaseOnly(first.name.clone())
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
}

impl TensorSource for SafetensorsModel {
    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn files(&self) -> Vec<&SourceFile> {
        self.shards.iter().map(|shard| &shard.file).collect()
    }

    /// # Panics
    /// If there is no such tensor, or it does not have the bytes asked for.
    fn read(&self, tensor: TensorIndex, offset: u64, out: &mut [u8]) -> Result<(), FileError> {
        let info = &self.tensors[tensor.0];
        read_tensor(&self.shards[self.shard_of(tensor.0)].file, info, offset, out)
    }
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
