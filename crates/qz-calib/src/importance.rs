//! Importance matrices: for every matrix of a model the mean square of what is
//! multiplied with each of its columns.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::arithmetic_side_effects)
)]

use std::collections::BTreeMap;
use std::path::Path;

use qz_tensor::{FileError, Location, SourceFile};
use sha2::{Digest, Sha256};

use crate::error::{Error, Fault};
use crate::sums::TensorSums;
use crate::{gguf, legacy};

/// An importance matrix in a file. Its values are read when they are asked for.
#[derive(Debug)]
pub struct ImportanceMatrix {
    pub(crate) file: SourceFile,
    pub(crate) entries: BTreeMap<String, Entry>,
    pub(crate) datasets: Vec<String>,
    pub(crate) chunks: u32,
    pub(crate) digest: String,
    pub(crate) is_legacy: bool,
}

/// The statistics of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Where its sums begin.
    pub(crate) offset: u64,
    /// How many sums: columns, times experts.
    pub(crate) values: u64,
    /// The sums are divided by these, each by its share of them in order; where
    /// nothing was counted (an expert that was never chosen) all are 1.
    pub(crate) divisors: Vec<Option<f32>>,
}

impl Entry {
    /// Where the value at this position lies in the file.
    fn place(&self, position: u64) -> u64 {
        self.offset.saturating_add(position.saturating_mul(size_of::<f32>() as u64))
    }
}

impl Entry {
    /// How many values: columns, times experts.
    pub fn len(&self) -> u64 {
        self.values
    }

    /// True without values; no file that opens has such entries.
    pub fn is_empty(&self) -> bool {
        self.values == 0
    }
}

/// What a reader of one of the two kinds of file finds.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Contents {
    pub(crate) entries: BTreeMap<String, Entry>,
    pub(crate) datasets: Vec<String>,
    pub(crate) chunks: u32,
}

/// Values checked or bytes hashed at a time.
const CHUNK: usize = 256 * 1024;

impl ImportanceMatrix {
    /// Opens a file written by llama-imatrix, of either kind, and checks every
    /// value in it.
    ///
    /// # Errors
    /// If there is no such file, it is neither kind, contradicts itself, or holds
    /// a value that is not finite.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = SourceFile::open(path)?;
        let mut magic = [0; 4];
        let is_gguf = file.read_exact_at(0, &mut magic).is_ok() && &magic == b"GGUF";
        let contents = if is_gguf { gguf::read(path)? } else { legacy::read(&file)? };
        if contents.entries.is_empty() {
            let location = Location::file(path);
            return Err(Error::Malformed { location, fault: Fault::NoEntries });
        }
        let digest = digest(&file)?;
        let Contents { entries, datasets, chunks } = contents;
        let matrix = Self { file, entries, datasets, chunks, digest, is_legacy: !is_gguf };
        matrix.check_values()?;
        Ok(matrix)
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The file behind it, to tell whether it changed.
    pub fn file(&self) -> &SourceFile {
        &self.file
    }

    /// The statistics of the tensor that GGUF calls `name`.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// The tensors it knows, by name.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// How many tensors it knows.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if it knows none; no file that opens is so.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The texts it was computed on.
    pub fn datasets(&self) -> &[String] {
        &self.datasets
    }

    /// Chunks of text it was computed on; 0 if the file does not say.
    pub fn chunks(&self) -> u32 {
        self.chunks
    }

    /// The SHA-256 of the file, in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Fills `out` with an entry's values from position `start` on, as
    /// llama-quantize uses them.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(&self, entry: &Entry, start: u64, out: &mut [f32]) -> Result<(), FileError> {
        let mut bytes = vec![0; size_of_val(out)];
        self.file.read_exact_at(entry.place(start), &mut bytes)?;
        let share = entry.values.checked_div(entry.divisors.len() as u64).unwrap_or(0).max(1);
        for ((position, value), bytes) in (start..).zip(out).zip(bytes.as_chunks().0) {
            let divisor =
                position.checked_div(share).and_then(|number| usize::try_from(number).ok());
            let divisor = divisor.and_then(|divisor| *entry.divisors.get(divisor)?);
            *value = divisor.map_or(1.0, |divisor| f32::from_le_bytes(*bytes) / divisor);
        }
        Ok(())
    }

    /// An entry's sums and counts: as they are stored, or, in a legacy file, as they were
    /// for chunks of `chunk_size` tokens.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn sums(&self, name: &str, chunk_size: u32) -> Result<TensorSums, FileError> {
        let Some(entry) = self.entries.get(name) else { return Ok(TensorSums::default()) };
        let scale = if self.is_legacy { chunk_size } else { 1 };
        let mut bytes =
            vec![0; usize::try_from(entry.values).unwrap_or(usize::MAX).saturating_mul(4)];
        self.file.read_exact_at(entry.offset, &mut bytes)?;
        let squares = bytes.as_chunks().0.iter();
        let squares = squares.map(|bytes| f32::from_le_bytes(*bytes) * scale as f32).collect();
        let count = |divisor: &Option<f32>| divisor.map_or(0, |count| count as u64);
        let counts =
            entry.divisors.iter().map(|one| count(one).saturating_mul(scale.into())).collect();
        Ok(TensorSums { squares, counts })
    }

    fn check_values(&self) -> Result<(), Error> {
        let mut values = Vec::new();
        for (name, entry) in &self.entries {
            let mut start = 0u64;
            while start < entry.values {
                values.resize(at_once(entry.values, start), 0.0);
                self.read(entry, start, &mut values)?;
                let mut numbered = (start..).zip(values.iter().copied());
                let bad = numbered.find(|(_, value)| !value.is_finite() || *value < 0.0);
                if let Some((index, value)) = bad {
                    let fault = match value.is_finite() {
                        false => Fault::NonFinite { index, value },
                        true => Fault::Negative { index, value },
                    };
                    let location = Location::file(self.path()).tensor(name);
                    let location = location.offset(entry.place(index));
                    return Err(Error::Malformed { location, fault });
                }
                start = start.saturating_add(values.len() as u64);
            }
        }
        Ok(())
    }
}

fn digest(file: &SourceFile) -> Result<String, FileError> {
    let mut digest = Sha256::new();
    let mut bytes = Vec::new();
    let mut start = 0u64;
    while start < file.len() {
        bytes.resize(at_once(file.len(), start), 0);
        file.read_exact_at(start, &mut bytes)?;
        digest.update(&bytes);
        start = start.saturating_add(bytes.len() as u64);
    }
    Ok(format!("{:x}", digest.finalize()))
}

/// How many of `all` are taken at once, from `start` on.
fn at_once(all: u64, start: u64) -> usize {
    usize::try_from(all.saturating_sub(start)).map_or(CHUNK, |left| left.min(CHUNK))
}

#[cfg(test)]
mod tests;
