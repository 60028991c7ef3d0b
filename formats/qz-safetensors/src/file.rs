//! One opened safetensors file.

use std::path::Path;

use qz_shards::ShardFile;
use qz_tensor::{FileError, Metadata, SourceFile, TensorIndex, TensorInfo, TensorSource};

use crate::error::{Error, Fault};
use crate::header::{self, Header};

/// A safetensors file. Its header is in memory; its tensors, in the order of
/// their data, are read by position. Metadata is the header's `__metadata__`.
#[derive(Debug)]
pub struct SafetensorsFile {
    file: SourceFile,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
}

impl SafetensorsFile {
    /// Opens `path` and checks its whole structure: when this returns, every
    /// tensor's bytes lie inside the file.
    ///
    /// # Errors
    /// If the file cannot be read, or breaks a rule of the format ([`Fault`]).
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let file = SourceFile::open(path)?;
        let Header { metadata, mut tensors, data_start } = header::read(&file)?;
        // An empty tensor lies before the one that begins where it does.
        tensors.sort_unstable_by(|a, b| {
            (a.offset, a.bytes, &a.name).cmp(&(b.offset, b.bytes, &b.name))
        });
        let end = check_order(&file, &tensors, data_start)?;
        check_end(&file, data_start, end, tensors.last())?;
        // Cannot overflow: the data is inside the file.
        for tensor in &mut tensors {
            tensor.offset = tensor.offset.saturating_add(data_start);
        }
        Ok(Self { file, metadata, tensors })
    }

    /// The open file.
    pub fn file(&self) -> &SourceFile {
        &self.file
    }
}

impl ShardFile for SafetensorsFile {
    type Error = Error;
    type Reader = SourceFile;

    const FORMAT: &'static str = "safetensors";
    const INDEX_NAME: &'static str = "model.safetensors.index.json";
    const SINGLE_NAME: &'static str = "model.safetensors";

    fn open(path: &Path) -> Result<Self, Error> {
        Self::open(path)
    }

    fn into_parts(self) -> (SourceFile, Metadata, Vec<TensorInfo>) {
        (self.file, self.metadata, self.tensors)
    }
}

impl TensorSource for SafetensorsFile {
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

/// Checks that each tensor begins where the one before ends, and returns where
/// the last one does. Offsets count from the header's end.
fn check_order(file: &SourceFile, tensors: &[TensorInfo], data_start: u64) -> Result<u64, Error> {
    let mut end = 0;
    let mut previous: Option<&TensorInfo> = None;
    for tensor in tensors {
        let begin = tensor.offset;
        if begin != end {
            let fault = match previous {
                Some(previous) if begin < end => {
                    Fault::Overlap { begin, end, other: previous.name.to_string() }
                }
                _ => Fault::Hole { begin, end },
            };
            let place = data_start.saturating_add(begin.min(end));
            return Err(Error::at(file.path(), place, fault).inside(Some(tensor.name.to_string())));
        }
        // Cannot overflow: it is the tensor's second data offset.
        end = begin.saturating_add(tensor.bytes);
        previous = Some(tensor);
    }
    Ok(end)
}

/// Checks that data and file end together.
fn check_end(
    file: &SourceFile,
    data_start: u64,
    end: u64,
    last: Option<&TensorInfo>,
) -> Result<(), Error> {
    let expected = data_start.saturating_add(end);
    let found = file.len();
    let fail = |fault| Err(Error::at(file.path(), expected.min(found), fault));
    if expected < found {
        let mut rest = vec![0; found.saturating_sub(expected).min(64) as usize];
        file.read_exact_at(expected, &mut rest)?;
        fail(match header::is_start(&rest) {
            true => Fault::JoinedFiles,
            false => Fault::TrailingBytes { expected, found },
        })
    } else if expected > found {
        fail(Fault::DataMissing { expected, found })
            .map_err(|error| error.inside(last.map(|tensor| tensor.name.to_string())))
    } else {
        Ok(())
    }
}
