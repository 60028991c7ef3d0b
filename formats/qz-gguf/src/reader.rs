//! An opened GGUF file.

use std::path::Path;

use qz_tensor::{
    Array, FileError, Location, Metadata, SourceFile, TensorIndex, TensorInfo, TensorSource, Value,
    recognise,
};

use crate::cursor::Cursor;
use crate::error::{Error, Fault};
use crate::rules::{ALIGNMENT_KEY, MAGIC, VERSION, alignment, beginning, check_entries, padded};
use crate::split::Split;
use crate::{metadata, tensors};

/// Where the numbers of tensors and pairs are: behind magic and version.
const COUNTS: u64 = 8;

/// A GGUF file, version 2 or 3, little-endian. Its header is in memory; its
/// tensors are read by position.
#[derive(Debug)]
pub struct GgufFile {
    file: SourceFile,
    version: u32,
    alignment: u32,
    data_offset: u64,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    /// Where bytes begin that belong to no tensor.
    trailing: Option<u64>,
}

impl GgufFile {
    /// Opens `path` and checks its whole structure: when this returns, every
    /// tensor's bytes lie inside the file.
    ///
    /// # Errors
    /// If the file cannot be read, or breaks a rule of the format ([`Fault`]).
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let file = SourceFile::open(path)?;
        let mut cursor = Cursor::new(&file);
        check_magic(&mut cursor, &file)?;
        let version = read_version(&mut cursor)?;
        let tensor_count = read_count(&mut cursor, tensors::MIN_TENSOR, "tensors")?;
        let pair_count = read_count(&mut cursor, metadata::MIN_PAIR, "metadata pairs")?;
        check_entries(tensor_count as u64, pair_count as u64)
            .map_err(|fault| cursor.error(COUNTS, fault))?;
        let (metadata, key_offsets) = metadata::read(&mut cursor, pair_count)?;
        let alignment = alignment(&metadata).map_err(|fault| {
            let number = metadata.iter().position(|(key, _)| key == ALIGNMENT_KEY);
            let offset = number.and_then(|number| key_offsets.get(number).copied());
            let offset = offset.unwrap_or_default();
            cursor.error(offset, fault).inside(ALIGNMENT_KEY)
        })?;
        drop(key_offsets);
        let list = tensors::read(&mut cursor, &file, tensor_count)?;
        // Cannot overflow: the header is inside the file.
        let data_offset = padded(cursor.position(), alignment).unwrap_or(u64::MAX);
        let (tensors, trailing) = list.placed(&file, data_offset, alignment)?;
        Ok(Self { version, alignment, data_offset, metadata, tensors, file, trailing })
    }

    /// The format's version: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Tensor data begins at multiples of this many bytes.
    pub fn alignment(&self) -> u32 {
        self.alignment
    }

    /// Where the tensor data begins, in bytes from the start of the file.
    pub fn data_offset(&self) -> u64 {
        self.data_offset
    }

    /// The open file.
    pub fn file(&self) -> &SourceFile {
        &self.file
    }

    /// The file's place in a set of more than one file, by its `split.*` keys.
    /// Such a file holds a part of a model only: [`crate::GgufModel`] opens them all.
    ///
    /// # Errors
    /// If the keys contradict each other.
    pub fn split(&self) -> Result<Option<Split>, Error> {
        Split::of(&self.metadata).map_err(|(key, fault)| {
            let location = Location::file(self.file.path().as_ref()).tensor(key);
            Error::Malformed { location, fault: Box::new(fault) }
        })
    }

    /// What is odd about the file, though it can be read.
    pub(crate) fn notes(&self) -> Vec<String> {
        let path = self.file.path().display();
        let mut notes = Vec::new();
        if let Some(end) = self.trailing {
            let bytes = self.file.len().saturating_sub(end);
            notes.push(format!(
                "{path}: at byte {end}: {bytes} bytes behind the last tensor are passed over"
            ));
        }
        for (key, value) in self.metadata.iter() {
            let shown = match value {
                Value::Bytes(bytes) => shown(bytes),
                Value::Array(Array::Bytes(list)) => {
                    let broken = list.iter().filter(|bytes| str::from_utf8(bytes).is_err());
                    match broken.clone().next() {
                        Some(first) => {
                            format!("{} of its strings, first {}", broken.count(), shown(first))
                        }
                        None => continue,
                    }
                }
                _ => continue,
            };
            notes.push(format!("{path}: {key}: not UTF-8, kept byte for byte: {shown}"));
        }
        notes
    }

    /// The open file, the metadata, and the tensors.
    pub(crate) fn into_parts(self) -> (SourceFile, Metadata, Vec<TensorInfo>) {
        (self.file, self.metadata, self.tensors)
    }
}

impl TensorSource for GgufFile {
    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn files(&self) -> Vec<&SourceFile> {
        vec![&self.file]
    }

    /// # Panics
    /// If there is no such tensor, or it does not have the bytes asked for.
    #[allow(clippy::indexing_slicing, reason = "what the trait says of a tensor that is not there")]
    fn read(&self, tensor: TensorIndex, offset: u64, out: &mut [u8]) -> Result<(), FileError> {
        self.tensors[tensor.0].read_from(&self.file, offset, out)
    }
}

/// The first bytes of a text, escaped.
fn shown(bytes: &[u8]) -> String {
    format!("\"{}\"", beginning(bytes).escape_ascii())
}

fn check_magic(cursor: &mut Cursor<'_>, file: &SourceFile) -> Result<(), Error> {
    // No longer than the file, so the cast is exact.
    let mut start = vec![0; file.len().min(64) as usize];
    file.read_exact_at(0, &mut start)?;
    if start.starts_with(&MAGIC) {
        return cursor.take(MAGIC.len() as u64).map(|_| ());
    }
    let looks_like = recognise(&start);
    start.truncate(MAGIC.len());
    Err(cursor.error(0, Fault::NotGguf { start, looks_like }))
}

fn read_version(cursor: &mut Cursor<'_>) -> Result<u32, Error> {
    let offset = cursor.position();
    let version = cursor.u32()?;
    let fault = match version {
        2 | VERSION => return Ok(version),
        // No version needs more than 16 bits: these are swapped.
        1.. if version & 0xFFFF == 0 => Fault::BigEndian { version: version.swap_bytes() },
        _ => Fault::Version(version),
    };
    Err(cursor.error(offset, fault))
}

fn read_count(cursor: &mut Cursor<'_>, minimum: u64, items: &'static str) -> Result<usize, Error> {
    let offset = cursor.position();
    let count = cursor.u64()?;
    cursor.count(offset, count, minimum, items)
}
