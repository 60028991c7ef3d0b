//! Rows of a checkpoint's tensors that a GGUF file has no place for, while it has one for
//! others of the same tensor: vectors of positions that no token has. A checkpoint that is
//! written again keeps them.

use std::collections::BTreeMap;
use std::ops::Range;

use qz_models::{RowSlice, StackedRows, TensorMap, TensorOrigin};
use qz_tensor::{Shape, TensorIndex, TensorInfo};

use crate::edits::grid_of;
use crate::model::ModelTensor;

/// The unread rows of `stored`, of which `tensors` are made: a tensor for each run of them,
/// named by its tensor and its rows.
pub(crate) fn unread_rows(tensors: &[ModelTensor], stored: &[TensorInfo]) -> Vec<ModelTensor> {
    let mut unread = Vec::new();
    for (index, mut runs) in read_in_part(tensors, stored) {
        let info = &stored[index];
        let (rows, columns) = grid_of(info);
        runs.sort_unstable_by_key(|run| run.start);
        runs.push(rows..rows);
        let mut first = 0;
        for run in runs {
            if first < run.start {
                let slice = RowSlice { tensor: TensorIndex(index), first_row: first };
                let mut dimensions = vec![run.start - first, columns];
                dimensions.truncate(info.shape.rank());
                // Less than what a file has.
                let Ok(shape) = Shape::new(&dimensions) else { continue };
                unread.push(ModelTensor {
                    name: format!("{}[{first}..{}]", info.name, run.start).into(),
                    shape,
                    origin: TensorOrigin::Mapped(TensorMap::of(StackedRows::one(slice))),
                    is_beside: true,
                    ..ModelTensor::as_stored(index, info)
                });
            }
            first = first.max(run.end);
        }
    }
    unread
}

/// The rows that are read of each stored tensor of which no tensor reads all.
fn read_in_part(
    tensors: &[ModelTensor],
    stored: &[TensorInfo],
) -> BTreeMap<usize, Vec<Range<u64>>> {
    let mut read: BTreeMap<usize, Vec<Range<u64>>> = BTreeMap::new();
    for tensor in tensors {
        let Some(rows) = tensor.stored_rows() else { continue };
        let all = tensor.shape.elements() / tensor.stored_columns().max(1);
        let mut row = 0;
        while row < all {
            let (slice, left) = rows.locate(row);
            let count = left.min(all - row).max(1);
            let (stored_rows, stored_columns) = grid_of(&stored[slice.tensor.0]);
            // A vector that is a matrix in GGUF is read whole, in longer rows.
            let is_counted_alike = tensor.stored_columns() == stored_columns;
            // Most tensors are read whole, and need no entry.
            if is_counted_alike && (slice.first_row > 0 || count < stored_rows) {
                let run = slice.first_row..slice.first_row + count;
                read.entry(slice.tensor.0).or_default().push(run);
            }
            row += count;
        }
    }
    read
}
