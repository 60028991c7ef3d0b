//! The source that carries edits out while rows are read.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use qz_codec::Codec;
use qz_tensor::{
    DataType, FileError, Location, Metadata, SourceFile, TensorIndex, TensorInfo, TensorSource,
};

use super::low_rank::{HeldFactors, LowRank, Stack};
use super::operations::DecodedRows;
use super::{Edits, grid_of};
use crate::error::Error;
use crate::model::to_usize;

/// A source whose tensors are edited.
pub(crate) struct EditedSource {
    inner: Box<dyn TensorSource>,
    /// With the types that they have after their edits.
    tensors: Vec<TensorInfo>,
    edits: Edits,
    /// Factors of the edit that was carried out last: rows of one tensor are read one after
    /// the other.
    held: Mutex<Option<Held>>,
}

struct Held {
    /// The tensor, and which of its edits.
    edit: (TensorIndex, usize),
    factors: Arc<HeldFactors>,
}

impl EditedSource {
    /// `inner` with its edits, and with the tensors of `decoded` as f32 numbers.
    ///
    /// # Errors
    /// If an edited tensor cannot be decoded, or would have to be rounded to blocks.
    pub(super) fn new(
        inner: Box<dyn TensorSource>,
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
        Ok(Self { inner, tensors, edits, held: Mutex::new(None) })
    }

    /// What tells its edits from others.
    pub(super) fn digest(&self) -> String {
        self.edits.digest()
    }

    /// Both factors of an edit, the tensor's `number`th.
    pub(super) fn factors(
        &self,
        tensor: TensorIndex,
        number: usize,
        edit: &LowRank,
        stack: Stack,
    ) -> Result<Arc<HeldFactors>, FileError> {
        let wanted = (tensor, number);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = held.as_ref().filter(|held| held.edit == wanted) {
            return Ok(held.factors.clone());
        }
        let factors = Arc::new(edit.hold(stack)?);
        *held = Some(Held { edit: wanted, factors: factors.clone() });
        Ok(factors)
    }

    /// The bytes of whole rows, edited.
    fn rows(&self, tensor: TensorIndex, rows: Range<u64>) -> Result<Vec<u8>, FileError> {
        let stored_info = &self.inner.tensors()[tensor.0];
        let (stored_type, data_type) = (stored_info.data_type, self.tensors[tensor.0].data_type);
        let (all, columns) = grid_of(stored_info);
        let row_bytes = |data_type: DataType| data_type.byte_size(columns).map_or(0, to_usize);
        let count = to_usize(rows.end - rows.start);
        let mut stored = vec![0; count * row_bytes(stored_type)];
        self.inner.read(tensor, rows.start * row_bytes(stored_type) as u64, &mut stored)?;
        let mut values = vec![0.0; count * to_usize(columns)];
        codec(stored_type).decode(&stored, &mut values);
        let matrix_rows = match stored_info.shape.dimensions() {
            [.., rows, _] => *rows,
            _ => all,
        }
        .max(1);
        let stack = Stack { matrices: all / matrix_rows, rows: matrix_rows, columns };
        let mut decoded = DecodedRows { tensor, stored_type, stack, rows, values: &mut values };
        for (number, edit) in self.edits.of[&tensor].iter().enumerate() {
            decoded.edit(edit, number, self)?;
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
