//! Named tensors, where they come from and where they go.

use std::path::Path;
use std::sync::Arc;

use crate::data_type::DataType;
use crate::diagnosis::Location;
use crate::file::{FileError, SourceFile};
use crate::metadata::Metadata;
use crate::name::Name;
use crate::shape::Shape;

/// A tensor's place in its source's or sink's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorIndex(pub usize);

/// A tensor of a source. `bytes` and `offset` have been checked against the
/// file's length when the source was opened.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// The name in the container.
    pub name: Name,
    /// How its elements are stored.
    pub data_type: DataType,
    /// Its dimensions, outermost first.
    pub shape: Shape,
    /// The file that holds it.
    pub file: Arc<Path>,
    /// Its first byte, from the start of the file.
    pub offset: u64,
    /// How many bytes: `shape.byte_size(data_type)`.
    pub bytes: u64,
}

impl TensorInfo {
    /// The place of the tensor's byte `offset`, for messages.
    pub fn location(&self, offset: u64) -> Location {
        Location::file(self.file.as_ref()).tensor(&self.name).offset(self.offset + offset)
    }

    /// For sources whose tensors lie in one piece: reads its bytes from `offset` on.
    ///
    /// # Errors
    /// If the file cannot be read.
    ///
    /// # Panics
    /// If the tensor does not have the bytes asked for.
    pub fn read_from(
        &self,
        file: &SourceFile,
        offset: u64,
        out: &mut [u8],
    ) -> Result<(), FileError> {
        self.assert_has(offset, out.len());
        file.read_exact_at(self.offset + offset, out)
    }

    /// For sources: what callers promise of the bytes they ask for.
    ///
    /// # Panics
    /// If the tensor does not have `count` bytes from `offset` on.
    pub fn assert_has(&self, offset: u64, count: usize) {
        let inside = offset.checked_add(count as u64).is_some_and(|end| end <= self.bytes);
        assert!(
            inside,
            "{count} bytes from {offset} of {} are outside its {}",
            self.name, self.bytes
        );
    }
}

/// A container opened for reading: a list of tensors, metadata, and bytes by
/// position. Reads are safe from several threads.
pub trait TensorSource: Send + Sync {
    /// The tensors, in the container's order.
    fn tensors(&self) -> &[TensorInfo];

    /// The container's own metadata.
    fn metadata(&self) -> &Metadata;

    /// The files behind it, to tell whether they changed.
    fn files(&self) -> Vec<&SourceFile>;

    /// Fills `out` with the tensor's bytes from `offset` on. Callers ask for row
    /// tiles; a whole large tensor is never wanted at once.
    ///
    /// # Errors
    /// If the file cannot be read or has become shorter since it was opened.
    fn read(&self, tensor: TensorIndex, offset: u64, out: &mut [u8]) -> Result<(), FileError>;

    /// The place of the tensor's byte `offset`, for messages. Sources whose tensors
    /// do not lie in one piece say where it really is.
    fn location(&self, tensor: TensorIndex, offset: u64) -> Location {
        self.tensors()[tensor.0].location(offset)
    }
}

/// A tensor that a sink is going to receive.
#[derive(Clone, Debug)]
pub struct SinkTensor {
    /// The name it will have.
    pub name: String,
    /// How its elements will be stored.
    pub data_type: DataType,
    /// Its dimensions, outermost first.
    pub shape: Shape,
}

/// A container being written. Types, shapes and metadata are fixed when the sink
/// is made; `put` may come in any order; nothing shows at the final path before
/// `finish` returns.
pub trait TensorSink: Send {
    /// What the sink fails with.
    type Error;

    /// Writes bytes of one tensor, from `offset` within the tensor.
    ///
    /// # Errors
    /// If the disk refuses them.
    fn put(&mut self, tensor: TensorIndex, offset: u64, bytes: &[u8]) -> Result<(), Self::Error>;

    /// The tensors that an interrupted run finished, in order. They need not be
    /// put again.
    fn completed(&self) -> &[TensorIndex];

    /// The tensors that an interrupted run finished, and whose bytes have changed since. They
    /// must be put again.
    fn damaged(&self) -> &[TensorIndex];

    /// Notes that all of a tensor has been put: a run that continues this one
    /// need not do it again. That run is told `lost` again, how many of the tensor's weights
    /// the output cannot hold.
    ///
    /// # Panics
    /// If bytes of the tensor are missing.
    fn record_complete(&mut self, tensor: TensorIndex, lost: u64);

    /// How many weights of a tensor were lost, by what the interrupted run that finished it
    /// noted.
    fn lost(&self, tensor: TensorIndex) -> u64;

    /// Begins to write down which tensors are complete, where that would otherwise wait for
    /// more bytes: for jobs to which a tensor is dear.
    fn checkpoint(&mut self);

    /// Reads back bytes of a tensor that is complete, for jobs whose further work depends
    /// on them. False if the sink keeps them in a form that it cannot give back.
    ///
    /// # Errors
    /// If the disk refuses.
    fn read_back(
        &self,
        _tensor: TensorIndex,
        _offset: u64,
        _out: &mut [u8],
    ) -> Result<bool, Self::Error> {
        Ok(false)
    }

    /// Leaves the unfinished artifact for a later run to continue.
    ///
    /// # Errors
    /// If the disk refuses the flush.
    fn keep(self) -> Result<(), Self::Error>;

    /// Completes the artifact and moves it to its final path.
    ///
    /// # Errors
    /// If the disk refuses the last bytes, the flush or the move.
    fn finish(self) -> Result<(), Self::Error>;
}
