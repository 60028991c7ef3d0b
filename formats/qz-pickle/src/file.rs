//! One opened PyTorch checkpoint.

use std::path::Path;

use qz_shards::{ShardFile, ShardReader};
use qz_tensor::{
    FileError, Location, Metadata, SourceFile, TensorIndex, TensorInfo, TensorSource, recognise,
};

use crate::archive::Archive;
use crate::cursor::Cursor;
use crate::error::{Error, Fault};
use crate::legacy;
use crate::machine::{self, MAX_PICKLE};
use crate::state::{Found, State, StorageData};
use crate::strided::{Bands, Strided, View};

/// A PyTorch checkpoint: its tensors in the order of its state_dict. Their bytes
/// are read by position, those of views in the order of their elements.
#[derive(Debug)]
pub struct TorchFile {
    reader: TorchReader,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
}

/// Reads the tensors of one open file.
#[derive(Debug)]
pub struct TorchReader {
    file: SourceFile,
    /// For each tensor how its elements lie, if not in a row.
    layouts: Vec<Option<Strided>>,
    bands: Bands,
}

impl TorchFile {
    /// Opens `path` and checks its whole structure: when this returns, every
    /// element of every tensor lies inside the file.
    ///
    /// # Errors
    /// If the file cannot be read, breaks a rule of the format, or wants anything
    /// executed ([`Fault`]).
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let file = SourceFile::open(path)?;
        let found = match kind(&file)? {
            Kind::Zip => read_zip(&file)?,
            Kind::Legacy => legacy::read(&file)?,
        };
        let (tensors, layouts) = found.into_iter().unzip();
        let reader = TorchReader { file, layouts, bands: Bands::default() };
        Ok(Self { reader, metadata: Metadata::default(), tensors })
    }

    /// The open file.
    pub fn file(&self) -> &SourceFile {
        &self.reader.file
    }
}

enum Kind {
    Zip,
    Legacy,
}

/// Which of the two layouts a file has, by its first bytes.
fn kind(file: &SourceFile) -> Result<Kind, Error> {
    // At most 512, so the cast is exact.
    let mut start = vec![0; file.len().min(512) as usize];
    file.read_exact_at(0, &mut start)?;
    let fault = if start.starts_with(b"PK\x03\x04") {
        return Ok(Kind::Zip);
    } else if start.starts_with(legacy::MAGIC) {
        return Ok(Kind::Legacy);
    } else if start.get(257..262) == Some(b"ustar") {
        Fault::OldLayout("a tar archive, as PyTorch wrote before 0.1.10")
    } else if start.is_empty() {
        Fault::NotPyTorch("an empty file")
    } else {
        Fault::NotPyTorch(recognise(&start).unwrap_or("nothing we know"))
    };
    Err(Error::at(file.path(), 0, fault))
}

/// Reads the tensors of a zip archive: `NAME/data.pkl` is the pickle,
/// `NAME/data/KEY` the storages.
fn read_zip(file: &SourceFile) -> Result<Vec<Found>, Error> {
    let archive = Archive::open(file)?;
    let fail = |at, fault| Error::at(file.path(), at, fault);
    let folder_of_pickle = |name: &str| {
        name.strip_suffix("/data.pkl").filter(|folder| !folder.contains('/')).map(str::to_owned)
    };
    let mut folders = archive.names().filter_map(folder_of_pickle);
    let (Some(folder), None) = (folders.next(), folders.next()) else {
        return Err(fail(0, Fault::NoPickle));
    };
    let inside = |name: &str| name.strip_prefix(&folder).is_some_and(|rest| rest.starts_with('/'));
    if !archive.names().all(inside) {
        return Err(fail(0, Fault::NoPickle));
    }
    let entry = |name: &str| {
        let name = format!("{folder}/{name}");
        archive.get(&name).copied().map(|entry| (name, entry))
    };
    if let Some((_, program)) = entry("constants.pkl") {
        return Err(fail(program.offset, Fault::TorchScript));
    }
    if let Some((name, order)) = entry("byteorder") {
        archive.check_data(&name, &order)?;
        // At most 7, so the cast is exact.
        let mut text = vec![0; order.bytes.min(7) as usize];
        file.read_exact_at(order.offset, &mut text)?;
        if text != b"little" {
            return Err(fail(order.offset, Fault::BigEndian));
        }
    }
    let Some((name, data)) = entry("data.pkl") else { return Err(fail(0, Fault::NoPickle)) };
    if data.bytes > MAX_PICKLE {
        return Err(fail(data.offset, Fault::PickleTooLong(data.bytes)));
    }
    archive.check_data(&name, &data)?;
    let mut cursor = Cursor::new(file, data.range());
    let pickle = machine::run(&mut cursor)?;
    if cursor.left() > 0 {
        return Err(cursor.fail(cursor.position(), Fault::TrailingPickle(cursor.left())));
    }
    let prefix = format!("{folder}/data/");
    let storage = |name: &str| {
        let key = name.strip_prefix(&prefix)?;
        let entry = archive.get(name)?;
        Some((key.to_owned(), StorageData { offset: entry.offset, bytes: entry.bytes }))
    };
    let storages = archive.names().filter_map(storage).collect();
    State { file, pickle: &pickle, at: data.offset }.tensors(&storages)
}

impl ShardReader for TorchReader {
    fn file(&self) -> &SourceFile {
        &self.file
    }

    fn read(
        &self,
        place: usize,
        info: &TensorInfo,
        offset: u64,
        out: &mut [u8],
    ) -> Result<(), FileError> {
        let Some(layout) = self.layouts.get(place).and_then(Option::as_ref) else {
            return info.read_from(&self.file, offset, out);
        };
        info.assert_has(offset, out.len());
        let view = View { file: &self.file, tensor: place, origin: info.offset, layout };
        view.read(offset, out, &self.bands)
    }

    fn location(&self, place: usize, info: &TensorInfo, offset: u64) -> Location {
        let offset = self
            .layouts
            .get(place)
            .and_then(Option::as_ref)
            .map_or(offset, |layout| layout.byte(offset));
        info.location(offset)
    }
}

impl ShardFile for TorchFile {
    type Error = Error;
    type Reader = TorchReader;

    const FORMAT: &'static str = "PyTorch";
    const INDEX_NAME: &'static str = "pytorch_model.bin.index.json";
    const SINGLE_NAME: &'static str = "pytorch_model.bin";

    fn open(path: &Path) -> Result<Self, Error> {
        Self::open(path)
    }

    fn into_parts(self) -> (TorchReader, Metadata, Vec<TensorInfo>) {
        (self.reader, self.metadata, self.tensors)
    }
}

impl TensorSource for TorchFile {
    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn files(&self) -> Vec<&SourceFile> {
        vec![&self.reader.file]
    }

    /// # Panics
    /// If there is no such tensor, or it does not have the bytes asked for; of a
    /// view also if these are not whole elements.
    #[allow(clippy::indexing_slicing, reason = "what the trait says of a tensor that is not there")]
    fn read(&self, tensor: TensorIndex, offset: u64, out: &mut [u8]) -> Result<(), FileError> {
        self.reader.read(tensor.0, &self.tensors[tensor.0], offset, out)
    }

    /// # Panics
    /// If there is no such tensor.
    #[allow(clippy::indexing_slicing, reason = "what the trait says of a tensor that is not there")]
    fn location(&self, tensor: TensorIndex, offset: u64) -> Location {
        self.reader.location(tensor.0, &self.tensors[tensor.0], offset)
    }
}
