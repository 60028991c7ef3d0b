//! A source of tensors that are in memory, for what is made rather than read.

use std::path::Path;
use std::sync::Arc;

use crate::data_type::DataType;
use crate::file::{FileError, SourceFile};
use crate::metadata::Metadata;
use crate::shape::{Shape, SizeError};
use crate::tensor::{TensorIndex, TensorInfo, TensorSource};

/// A tensor in memory: name, type, dimensions (outermost first), bytes.
pub type MemoryTensor<'a> = (&'a str, DataType, &'a [u64], Vec<u8>);

/// Tensors in memory. For messages they lie in `model.safetensors`, at byte 0.
#[derive(Debug)]
pub struct MemorySource {
    tensors: Vec<TensorInfo>,
    bytes: Vec<Vec<u8>>,
    metadata: Metadata,
}

impl MemorySource {
    /// Of these tensors.
    ///
    /// # Errors
    /// If one's size cannot be.
    ///
    /// # Panics
    /// If one has another number of bytes than its type and dimensions say.
    pub fn new(tensors: Vec<MemoryTensor<'_>>) -> Result<Self, SizeError> {
        let file: Arc<Path> = Path::new("model.safetensors").into();
        let info = |(name, data_type, dimensions, bytes): &MemoryTensor<'_>| {
            let (name, data_type, shape) = ((*name).into(), *data_type, Shape::new(dimensions)?);
            let size = shape.byte_size(data_type)?;
            assert_eq!(size, bytes.len() as u64, "{name}");
            Ok(TensorInfo { name, data_type, shape, file: file.clone(), offset: 0, bytes: size })
        };
        Ok(Self {
            tensors: tensors.iter().map(info).collect::<Result<_, _>>()?,
            bytes: tensors.into_iter().map(|(.., bytes)| bytes).collect(),
            metadata: Metadata::new(),
        })
    }
}

impl TensorSource for MemorySource {
    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn files(&self) -> Vec<&SourceFile> {
        Vec::new()
    }

    /// # Panics
    /// If there is no such tensor, or it does not have the bytes asked for.
    fn read(&self, tensor: TensorIndex, offset: u64, out: &mut [u8]) -> Result<(), FileError> {
        self.tensors[tensor.0].assert_has(offset, out.len());
        // Inside the tensor, which is in memory, so the cast is exact.
        out.copy_from_slice(&self.bytes[tensor.0][offset as usize..][..out.len()]);
        Ok(())
    }
}
