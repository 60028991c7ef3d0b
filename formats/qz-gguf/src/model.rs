//! A model in one file or several.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use qz_tensor::{
    FileError, Location, Metadata, Presence, SourceFile, TensorIndex, TensorInfo, TensorSource,
};

use crate::error::{Error, Fault};
use crate::reader::GgufFile;
use crate::rules::{MAX_HEADER, check_entries};
use crate::split::{COUNT_KEY, NUMBER_KEY, Split, TENSORS_KEY};

/// A GGUF model: a file, or all files of a split set as one. Its metadata is the
/// first file's; its tensors are in the order of the files.
#[derive(Debug)]
pub struct GgufModel {
    files: Vec<SourceFile>,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    /// Where the tensors of each file end in the list.
    ends: Vec<usize>,
    notes: Vec<String>,
}

impl GgufModel {
    /// Opens the model that the file at `path` is, or is a part of. Of a set any
    /// part may be named, the others are found by their names beside it; llama.cpp
    /// wants the first, but nothing can be meant by another part than its model.
    ///
    /// # Errors
    /// If a file cannot be read or is malformed, or the files are not one whole
    /// set ([`Fault`]).
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let named = GgufFile::open(path)?;
        let Some(split) = named.split()? else { return Self::of_files(vec![named]) };
        let paths = part_paths(&named, split)?;
        let mut header_bytes = named.data_offset();
        let (mut tensors, mut pairs) = entries(&named);
        let mut named = Some(named);
        let mut files = Vec::new();
        for (number, path) in (0..split.count).zip(paths) {
            let file = match named.take_if(|_| number == split.number) {
                Some(named) => named,
                None => GgufFile::open(path)?,
            };
            if number != split.number {
                check_part(&file, number, split)?;
                header_bytes = header_bytes.saturating_add(file.data_offset());
                let own = entries(&file);
                (tensors, pairs) = (tensors.saturating_add(own.0), pairs.saturating_add(own.1));
                check_entries(tensors, pairs).map_err(|fault| about(&file, None, fault))?;
            }
            if header_bytes > MAX_HEADER {
                return Err(about(&file, None, Fault::HeaderTooLong));
            }
            files.push(file);
        }
        let model = Self::of_files(files)?;
        model.check_total(split)?;
        Ok(model)
    }

    /// Gives the metadata away; the model has none from then on.
    pub fn take_metadata(&mut self) -> Metadata {
        std::mem::take(&mut self.metadata)
    }

    fn of_files(parts: Vec<GgufFile>) -> Result<Self, Error> {
        let (mut files, mut tensors, mut ends) = (Vec::new(), Vec::<TensorInfo>::new(), Vec::new());
        let mut first_metadata = None;
        let mut notes = Vec::new();
        for part in parts {
            notes.extend(part.notes());
            let (file, metadata, own) = part.into_parts();
            first_metadata.get_or_insert(metadata);
            files.push(file);
            // Lists are long where somebody wants them to be: the first is not copied.
            match tensors.is_empty() {
                true => tensors = own,
                false => tensors.extend(own),
            }
            ends.push(tensors.len());
        }
        let metadata = first_metadata.unwrap_or_default();
        let model = Self { files, metadata, tensors, ends, notes };
        model.check_names()?;
        Ok(model)
    }

    /// What is odd about the files, though they can be read.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// A name may occur in one file only; within a file that has been checked.
    fn check_names(&self) -> Result<(), Error> {
        if self.files.len() == 1 {
            return Ok(());
        }
        let mut places = HashMap::new();
        for (position, info) in self.tensors.iter().enumerate() {
            if let Some(first) = places.insert(&*info.name, self.file_of(position)) {
                let first = first.path().to_path_buf();
                let location = Location::file(info.file.as_ref()).tensor(&info.name);
                let fault = Box::new(Fault::DuplicateInParts { first });
                return Err(Error::Malformed { location, fault });
            }
        }
        Ok(())
    }

    /// The file that a tensor of the list is in.
    #[allow(clippy::indexing_slicing, reason = "`ends` has an entry for each file")]
    fn file_of(&self, position: usize) -> &SourceFile {
        &self.files[self.ends.partition_point(|end| *end <= position)]
    }

    fn check_total(&self, split: Split) -> Result<(), Error> {
        let found = self.tensors.len() as u64;
        match split.tensors {
            Some(expected) if expected != found => {
                let first = self.files.first().map(|file| file.path().to_path_buf());
                let location = Location::file(first.unwrap_or_default()).tensor(TENSORS_KEY);
                let fault = Box::new(Fault::SplitTensors { found, expected });
                Err(Error::Malformed { location, fault })
            }
            _ => Ok(()),
        }
    }
}

/// How many tensors and metadata pairs a file has.
fn entries(file: &GgufFile) -> (u64, u64) {
    (file.tensors().len() as u64, file.metadata().len() as u64)
}

/// The paths of all parts, by the name of one of them.
fn part_paths(named: &GgufFile, split: Split) -> Result<Vec<PathBuf>, Error> {
    let own = named.file().path();
    let sibling = |number| {
        let fault = Fault::SplitName { number: split.number.saturating_add(1), count: split.count };
        split.sibling(own, number).ok_or_else(|| about(named, Some(NUMBER_KEY), fault))
    };
    let paths = (0..split.count).map(sibling).collect::<Result<Vec<_>, _>>()?;
    let mut missing = Vec::new();
    for path in &paths {
        if matches!(Presence::of(path)?, Presence::Absent | Presence::DanglingLink) {
            missing.push(path);
        }
    }
    match missing.first() {
        None => Ok(paths),
        Some(first) => {
            let names = missing.iter().filter_map(|path| path.file_name());
            let names = names.map(|name| name.to_string_lossy().into_owned()).collect();
            let fault = Fault::PartsMissing { names, count: split.count };
            Err(Error::Malformed { location: Location::file(*first), fault: Box::new(fault) })
        }
    }
}

/// Compares a part's own keys with its name and with those of the part `named`.
fn check_part(file: &GgufFile, number: u64, named: Split) -> Result<(), Error> {
    let Some(split) = file.split()? else {
        return Err(about(file, Some(COUNT_KEY), Fault::SplitKeyMissing));
    };
    if split.count != named.count {
        let fault = Fault::SplitCount { found: split.count, expected: named.count };
        return Err(about(file, Some(COUNT_KEY), fault));
    }
    if split.number != number {
        let fault = Fault::SplitNumber { found: split.number, expected: number };
        return Err(about(file, Some(NUMBER_KEY), fault));
    }
    match (split.tensors, named.tensors) {
        (Some(found), Some(expected)) if found != expected => {
            let fault = Fault::SplitTensors { found, expected };
            Err(about(file, Some(TENSORS_KEY), fault))
        }
        _ => Ok(()),
    }
}

fn about(file: &GgufFile, key: Option<&str>, fault: Fault) -> Error {
    let location =
        Location { tensor: key.map(str::to_owned), ..Location::file(file.file().path().as_ref()) };
    Error::Malformed { location, fault: Box::new(fault) }
}

impl TensorSource for GgufModel {
    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn files(&self) -> Vec<&SourceFile> {
        self.files.iter().collect()
    }

    /// # Panics
    /// If there is no such tensor, or it does not have the bytes asked for.
    #[allow(clippy::indexing_slicing, reason = "what the trait says of a tensor that is not there")]
    fn read(&self, tensor: TensorIndex, offset: u64, out: &mut [u8]) -> Result<(), FileError> {
        self.tensors[tensor.0].read_from(self.file_of(tensor.0), offset, out)
    }
}
