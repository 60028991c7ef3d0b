//! Where a tensor's rows lie in the source, and reading them.
//!
//! Rows are counted before their row order is applied: as stored in the one
//! tensor they come from, or in the order of the runs that make them up.

use std::ops::Range;

use qz_models::{RowOrder, RowSlice, StackedRows, TensorOrigin};
use qz_tensor::{DataType, Location, TensorIndex};

use crate::error::Error;
use crate::mapped_rows::{RowsInChange, units_around};
use crate::model::{Model, ModelTensor, to_usize};

impl ModelTensor {
    /// The order that its rows are still to be put in.
    pub(crate) fn row_order(&self) -> RowOrder {
        self.change().order
    }

    /// Bytes of a stored row.
    fn stored_row_bytes(&self) -> u64 {
        self.stored_type.byte_size(self.stored_columns()).unwrap_or(1).max(1)
    }

    /// Bytes of rows of the grid as they are stored.
    pub(crate) fn stored_bytes_of(&self, rows: u64) -> usize {
        let (_, columns) = self.grid();
        self.stored_type.byte_size(rows * columns).map_or(0, to_usize)
    }
}

impl Model {
    /// Fills `out` with the bytes of `rows`, as they are stored: whole units of them.
    pub(crate) fn read_rows(
        &self,
        tensor: &ModelTensor,
        rows: Range<u64>,
        out: &mut [u8],
    ) -> Result<(), Error> {
        let columns = tensor.grid().1;
        let stack = match &tensor.origin {
            TensorOrigin::Mapped(map) => &map.rows,
            TensorOrigin::Computed(values) => {
                let start = to_usize(rows.start * columns);
                for (out, value) in out.chunks_exact_mut(4).zip(&values[start..]) {
                    out.copy_from_slice(&value.to_le_bytes());
                }
                return Ok(());
            }
        };
        let stored_columns = tensor.stored_columns().max(1);
        let stored = |row: u64| row * columns / stored_columns;
        let (mut row, end, mut rest) = (stored(rows.start), stored(rows.end), out);
        let row_bytes = tensor.stored_row_bytes();
        while row < end && !rest.is_empty() {
            let (slice, left) = stack.locate(row);
            let count = left.max(1).min(end - row);
            let (run, after) = rest.split_at_mut(to_usize(count * row_bytes));
            self.read_run(stack, slice, tensor.stored_type, row_bytes, run)?;
            (row, rest) = (row + count, after);
        }
        Ok(())
    }

    /// Bytes of a tensor of the source.
    pub(crate) fn stored_bytes(&self, tensor: TensorIndex) -> u64 {
        let info = &self.source.tensors()[tensor.0];
        info.shape.byte_size(info.data_type).unwrap_or(u64::MAX)
    }

    /// Rows of one run. Where some columns are taken, all are read.
    fn read_run(
        &self,
        stack: &StackedRows,
        slice: RowSlice,
        stored_type: DataType,
        row_bytes: u64,
        out: &mut [u8],
    ) -> Result<(), Error> {
        let Some(columns) = stack.columns() else {
            let first = slice.first_row * row_bytes;
            let there = self.stored_bytes(slice.tensor).saturating_sub(first);
            // Rows that the tensor lacks are padding.
            let (own, padding) = out.split_at_mut(to_usize(there).min(out.len()));
            padding.fill(0);
            return match own.is_empty() {
                true => Ok(()),
                false => Ok(self.source.read(slice.tensor, first, own)?),
            };
        };
        let size = stored_type.block_bytes() as u64;
        let all_bytes = columns.of * size;
        let mut rows = vec![0; to_usize(out.len() as u64 / row_bytes * all_bytes)];
        self.source.read(slice.tensor, slice.first_row * all_bytes, &mut rows)?;
        let rows = rows.chunks_exact(to_usize(all_bytes));
        for (row, out) in rows.zip(out.chunks_exact_mut(to_usize(row_bytes))) {
            let picked = columns.of_row(row, to_usize(size));
            for (element, out) in picked.zip(out.chunks_exact_mut(to_usize(size))) {
                out.copy_from_slice(element);
            }
        }
        Ok(())
    }

    /// Fills `out` with the bytes of `rows` of the tensor itself: those of whole units
    /// are read, wherever `rows` begin and end in them, and changed.
    pub(crate) fn read_ordered_rows(
        &self,
        tensor: &ModelTensor,
        rows: Range<u64>,
        out: &mut [u8],
    ) -> Result<(), Error> {
        let change = tensor.change();
        if change.is_none() {
            return self.read_rows(tensor, rows, out);
        }
        let (all, columns) = tensor.grid();
        let units = units_around(change, &rows, [all, columns]);
        let mut stored = vec![0; tensor.stored_bytes_of(units.end - units.start)];
        self.read_rows(tensor, units.clone(), &mut stored)?;
        let stored_type = tensor.stored_type;
        let in_change = RowsInChange { change, stored_type, columns, first_row: units.start };
        let mut changed = Vec::new();
        in_change.carry_out(&stored, &mut changed).ok_or_else(|| self.no_decoder(tensor))?;
        let row_bytes = tensor.row_bytes(tensor.source_type);
        let begin = to_usize(rows.start - units.start) * row_bytes;
        out.copy_from_slice(&changed[begin..][..out.len()]);
        Ok(())
    }

    /// The error that a tensor's stored rows cannot be decoded, and have to be.
    pub(crate) fn no_decoder(&self, tensor: &ModelTensor) -> Error {
        Error::NoCodec {
            location: self.location(tensor, 0),
            data_type: tensor.stored_type,
            target: tensor.source_type,
            missing: tensor.stored_type,
        }
    }

    /// The tensor of the source, and the byte in it, that byte `offset` of a
    /// tensor's stored rows is; none for a computed one.
    pub(crate) fn source_of(
        &self,
        tensor: &ModelTensor,
        offset: u64,
    ) -> Option<(TensorIndex, u64)> {
        let stack = tensor.stored_rows()?;
        let row_bytes = tensor.stored_row_bytes();
        let (slice, _) = stack.locate(offset / row_bytes);
        let within = offset % row_bytes;
        Some(match stack.columns() {
            None => (slice.tensor, slice.first_row * row_bytes + within),
            Some(columns) => {
                let size = tensor.stored_type.block_bytes() as u64;
                let column = columns.first + within / size * columns.step;
                (slice.tensor, (slice.first_row * columns.of + column) * size + within % size)
            }
        })
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
