//! The source that carries edits out while rows are read.

use std::ops::Range;
use std::sync::Arc;

use qz_codec::Codec;
use qz_tensor::{
    DataType, FileError, Location, Metadata, SourceFile, TensorIndex, TensorInfo, TensorSource,
};

use super::low_rank::Stack;
use super::operand::Kept;
use super::operations::DecodedRows;
use super::{Edits, grid_of, matrix_rows_of};
use crate::error::Error;
use crate::model::to_usize;

/// A source whose tensors are edited.
pub(crate) struct EditedSource {
    inner: Arc<dyn TensorSource>,
    /// With the types that they have after their edits.
    tensors: Vec<TensorInfo>,
    edits: Edits,
    kept: Kept,
}

impl EditedSource {
    /// `inner` with its edits, and with the tensors of `decoded` as f32 numbers.
    ///
    /// # Errors
    /// If an edited tensor cannot be decoded, or would have to be rounded to blocks.
    pub(super) fn new(
        inner: Arc<dyn TensorSource>,
        mut edits: Edits,
        decoded: &[TensorIndex],
    ) -> Result<Self, Error> {
        for tensor in decoded {
            edits.of.entry(*tensor).or_default();
        }
        let mut tensors = inner.tensors().to_vec();
        for index in edits.of.keys() {
            let info = &mut tensors[index.0];
            let (location, stored) = (inner.location(*index, 0), info.data_type);
            let data_type = match decoded.contains(index) {
                true => Some(DataType::F32),
                false => edits.type_of(stored),
            };
            let Some(data_type) = data_type else {
                return Err(Error::EditOfBlocks { location, data_type: stored });
            };
            if let Some(missing) =
                [stored, data_type].into_iter().find(|it| qz_kernels::codec_for(*it).is_none())
            {
                let (data_type, target) = (stored, data_type);
                return Err(Error::NoCodec { location, data_type, target, missing });
            }
            info.data_type = data_type;
            info.bytes = info.shape.byte_size(data_type).unwrap_or(u64::MAX);
        }
        Ok(Self { inner, tensors, edits, kept: Kept::default() })
    }

    /// What tells its edits from others.
    pub(super) fn digest(&self) -> String {
        self.edits.digest()
    }

    /// The bytes of whole rows, edited.
    fn rows(&self, tensor: TensorIndex, rows: Range<u64>) -> Result<Vec<u8>, FileError> {
        let stored_info = &self.inner.tensors()[tensor.0];
        let (stored_type, data_type) = (stored_info.data_type, self.tensors[tensor.0].data_type);
        let (_, columns) = grid_of(stored_info);
        let row_bytes = |data_type: DataType| data_type.byte_size(columns).map_or(0, to_usize);
        let count = to_usize(rows.end - rows.start);
        let mut stored = vec![0; count * row_bytes(stored_type)];
        self.inner.read(tensor, rows.start * row_bytes(stored_type) as u64, &mut stored)?;
        let mut values = vec![0.0; count * to_usize(columns)];
        codec(stored_type).decode(&stored, &mut values);
        let stack = Stack { rows: matrix_rows_of(stored_info), columns };
        let mut decoded = DecodedRows { stored_type, stack, rows, values: &mut values };
        for edit in &self.edits.of[&tensor] {
            decoded.edit(edit, &self.kept)?;
        }
        let mut bytes = vec![0; count * row_bytes(data_type)];
        codec(data_type).encode(&values, to_usize(columns), None, &mut bytes);
        Ok(bytes)
    }
}

/// The codec of a type that an edited tensor has: there is one, that was looked at.
fn codec(data_type: DataType) -> &'static dyn Codec {
    qz_kernels::codec_for(data_type).expect("a codec of edited tensors")
}

impl TensorSource for EditedSource {
    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn metadata(&self) -> &Metadata {
        self.inner.metadata()
    }

    fn files(&self) -> Vec<&SourceFile> {
        let operands = self.edits.operands.iter().flat_map(|source| source.files());
        self.inner.files().into_iter().chain(operands).collect()
    }

    fn read(&self, tensor: TensorIndex, offset: u64, out: &mut [u8]) -> Result<(), FileError> {
        if !self.edits.of.contains_key(&tensor) {
            return self.inner.read(tensor, offset, out);
        }
        let info = &self.tensors[tensor.0];
        info.assert_has(offset, out.len());
        if out.is_empty() {
            return Ok(());
        }
        let (_, columns) = grid_of(info);
        let row_bytes = info.data_type.byte_size(columns).unwrap_or(1).max(1);
        let first = offset / row_bytes;
        let end = (offset + out.len() as u64).div_ceil(row_bytes);
        let rows = self.rows(tensor, first..end)?;
        out.copy_from_slice(&rows[to_usize(offset - first * row_bytes)..][..out.len()]);
        Ok(())
    }

    fn location(&self, tensor: TensorIndex, offset: u64) -> Location {
        let (own, stored) = (self.tensors[tensor.0].data_type, &self.inner.tensors()[tensor.0]);
        let element = offset / own.block_bytes() as u64 * own.block_elements() as u64;
        let block = element / stored.data_type.block_elements() as u64;
        self.inner.location(tensor, block * stored.data_type.block_bytes() as u64)
    }
}
