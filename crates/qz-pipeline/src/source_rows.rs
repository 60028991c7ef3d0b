//! Where a tensor's rows lie in the source, and reading them.
//!
//! Rows are counted before their row order is applied: as stored in the one
//! tensor they come from, or in the order of the runs that make them up.

use std::ops::Range;

use qz_models::{RowOrder, TensorOrigin};
use qz_tensor::{Location, TensorIndex};

use crate::error::Error;
use crate::model::{Model, ModelTensor, to_usize};

impl ModelTensor {
    /// The order that its rows are still to be put in.
    pub(crate) fn row_order(&self) -> RowOrder {
        match &self.origin {
            TensorOrigin::Source { row_order, .. } => *row_order,
            TensorOrigin::Stacked(_) | TensorOrigin::Computed(_) => RowOrder::AsStored,
        }
    }
}

impl Model {
    /// Fills `out` with the bytes of `rows`, as they are stored.
    pub(crate) fn read_rows(
        &self,
        tensor: &ModelTensor,
        rows: Range<u64>,
        out: &mut [u8],
    ) -> Result<(), Error> {
        let row_bytes = tensor.row_bytes(tensor.source_type);
        match &tensor.origin {
            TensorOrigin::Source { tensor, .. } => {
                self.source.read(*tensor, rows.start * row_bytes as u64, out)?;
            }
            TensorOrigin::Stacked(stack) => {
                let (mut row, mut rest) = (rows.start, out);
                while row < rows.end && !rest.is_empty() {
                    let (slice, left) = stack.locate(row);
                    let count = left.max(1).min(rows.end - row);
                    let (run, after) = rest.split_at_mut(to_usize(count) * row_bytes);
                    self.source.read(slice.tensor, slice.first_row * row_bytes as u64, run)?;
                    (row, rest) = (row + count, after);
                }
            }
            TensorOrigin::Computed(values) => {
                let start = to_usize(rows.start * tensor.grid().1);
                for (out, value) in out.chunks_exact_mut(4).zip(&values[start..]) {
                    out.copy_from_slice(&value.to_le_bytes());
                }
            }
        }
        Ok(())
    }

    /// Fills `out` with the bytes of `rows`, which are counted in the tensor's own order:
    /// those of whole units are read, wherever `rows` begin and end in them.
    pub(crate) fn read_ordered_rows(
        &self,
        tensor: &ModelTensor,
        rows: Range<u64>,
        out: &mut [u8],
    ) -> Result<(), Error> {
        let row_order = tensor.row_order();
        if row_order.is_identity() {
            return self.read_rows(tensor, rows, out);
        }
        let unit = row_order.unit();
        let end = rows.end.next_multiple_of(unit).min(tensor.grid().0);
        let units = rows.start / unit * unit..end;
        let row_bytes = tensor.row_bytes(tensor.source_type);
        let mut stored = vec![0; to_usize(units.end - units.start) * row_bytes];
        self.read_rows(tensor, units.clone(), &mut stored)?;
        for (row, out) in rows.zip(out.chunks_exact_mut(row_bytes)) {
            let start = to_usize(row_order.source_row(row) - units.start) * row_bytes;
            out.copy_from_slice(&stored[start..start + row_bytes]);
        }
        Ok(())
    }

    /// The tensor of the source, and the byte in it, that byte `offset` of a
    /// tensor is; none for a computed one.
    pub(crate) fn source_of(
        &self,
        tensor: &ModelTensor,
        offset: u64,
    ) -> Option<(TensorIndex, u64)> {
        match &tensor.origin {
            TensorOrigin::Source { tensor, .. } => Some((*tensor, offset)),
            TensorOrigin::Stacked(stack) => {
                let row_bytes = tensor.row_bytes(tensor.source_type).max(1) as u64;
                let (slice, _) = stack.locate(offset / row_bytes);
                Some((slice.tensor, slice.first_row * row_bytes + offset % row_bytes))
            }
            TensorOrigin::Computed(_) => None,
        }
    }

    /// Where byte `offset` of a tensor lies, for messages; a computed one lies
    /// nowhere.
    pub(crate) fn location(&self, tensor: &ModelTensor, offset: u64) -> Location {
        match self.source_of(tensor, offset) {
            Some((index, offset)) => self.source.location(index, offset),
            None => Location::file(&self.path).tensor(&tensor.name),
        }
    }
}
