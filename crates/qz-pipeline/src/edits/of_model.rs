//! Edits of a model's tensors, as edits of the stored tensors that they are made of.

use std::collections::BTreeSet;
use std::sync::Arc;

use qz_models::{Change, StackedRows, TensorOrigin, ValueChange};
use qz_tensor::{DataType, TensorIndex};

use super::{Edit, EditedColumns, EditedSource, Edits, Operation};
use crate::error::Error;
use crate::mapped_rows::changed_type;
use crate::model::{Model, ModelTensor, to_usize};

/// What a factor belongs to. Elements of a vector are its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Each row has one.
    Rows,
    /// Each column has one, of all matrices of a stack the same or of each its own.
    Columns,
}

impl Edits {
    /// Scales a tensor of the model, as GGUF has it: rows and columns are counted after the
    /// tensor's map. Other tensors that take the same stored rows are scaled with it.
    ///
    /// # Errors
    /// If the tensor is not stored, follows from stored numbers by more than a shift, or
    /// has not as many rows or columns as there are factors.
    pub fn scale(
        &mut self,
        model: &Model,
        tensor: &ModelTensor,
        axis: Axis,
        factors: &[f32],
    ) -> Result<(), Error> {
        let refused = |why: String| Error::Uneditable { location: model.location(tensor, 0), why };
        let TensorOrigin::Mapped(map) = &tensor.origin else {
            return Err(refused("it is computed from the configuration, not stored".into()));
        };
        let change = map.change();
        let offset = match change.values {
            ValueChange::None | ValueChange::Scaled(_) | ValueChange::Divided(_) => 0.0,
            ValueChange::AddOne => 1.0,
            ValueChange::SubtractOne => -1.0,
            _ => return Err(refused("its values are no multiples of what is stored".into())),
        };
        let (rows, columns) = tensor.grid();
        let matrix_rows = tensor.rows_per_matrix().min(rows.max(1));
        let expected = match axis {
            Axis::Rows => [rows, rows],
            Axis::Columns => [columns, rows / matrix_rows * columns],
        };
        if !expected.contains(&(factors.len() as u64)) {
            let count = factors.len();
            return Err(refused(format!("{count} factors for {} {axis:?}", expected[0])));
        }
        if axis == Axis::Columns && offset != 0.0 {
            return Err(refused("its columns are stored with an offset".into()));
        }
        let shape = MatrixShape { rows: matrix_rows, columns };
        for matrix in 0..rows / matrix_rows {
            let length = match axis {
                Axis::Rows => matrix_rows,
                Axis::Columns => columns,
            };
            let first = if factors.len() as u64 == length { 0 } else { matrix * length };
            let own = &factors[to_usize(first)..][..to_usize(length)];
            self.scale_matrix(&map.rows, change, matrix, shape, (axis, offset), own);
        }
        Ok(())
    }

    /// Scales one of the matrices of a stack.
    fn scale_matrix(
        &mut self,
        stack: &StackedRows,
        change: Change,
        matrix: u64,
        shape: MatrixShape,
        (axis, offset): (Axis, f32),
        factors: &[f32],
    ) {
        let mut factors = factors.to_vec();
        if axis == Axis::Rows {
            for (row, factor) in (0..).zip(factors.clone()) {
                // A row order moves rows within a matrix.
                factors[to_usize(change.order.source_row(row))] = factor;
            }
        }
        let (stored_rows, axis) = match (change.transposed, axis) {
            (None, axis) => (shape.rows, axis),
            (Some(_), Axis::Rows) => (shape.columns, Axis::Columns),
            (Some(_), Axis::Columns) => (shape.columns, Axis::Rows),
        };
        let factors: Arc<[f32]> = factors.into();
        let columns = stack.columns().map_or(EditedColumns::ALL, |picked| EditedColumns {
            first: to_usize(picked.first),
            step: to_usize(picked.step),
            count: to_usize(picked.count),
        });
        let (first, end) = (matrix * stored_rows, (matrix + 1) * stored_rows);
        let mut row = first;
        while row < end {
            let (slice, left) = stack.locate(row);
            let count = left.max(1).min(end - row);
            let operation = match axis {
                Axis::Rows => {
                    let own = to_usize(row - first)..to_usize(row - first + count);
                    Operation::ScaleRows { factors: factors[own].into(), offset }
                }
                Axis::Columns => Operation::ScaleColumns { factors: factors.clone() },
            };
            let rows = slice.first_row..slice.first_row + count;
            self.push(slice.tensor, Edit { rows, columns, operation });
            row += count;
        }
    }
}

/// One of a stack of matrices, after its tensor's map.
#[derive(Clone, Copy)]
struct MatrixShape {
    rows: u64,
    columns: u64,
}

impl Model {
    /// The model with its stored tensors edited. Whoever reads it sees them so.
    ///
    /// # Errors
    /// If an edited tensor cannot be decoded, or would have to be rounded to blocks.
    pub fn edited(mut self, edits: Edits) -> Result<Self, Error> {
        if edits.is_empty() {
            return Ok(self);
        }
        let decoded: Vec<TensorIndex> = self.decoded_with(&edits).into_iter().collect();
        let source = EditedSource::new(self.source, edits, &decoded)?;
        self.edits = Some(match self.edits {
            Some(earlier) => format!("{earlier} {}", source.digest()),
            None => source.digest(),
        });
        self.source = Arc::new(source);
        for tensor in &mut self.tensors {
            let Some(first) = tensor.first_source() else { continue };
            let stored_type = self.source.tensors()[first.0].data_type;
            if stored_type != tensor.stored_type {
                tensor.stored_type = stored_type;
                tensor.source_type = changed_type(stored_type, tensor.change());
                if tensor.unquantized.is_block() {
                    tensor.unquantized = DataType::F32;
                }
            }
        }
        Ok(self)
    }

    /// Stored tensors without an edit that become `F32` all the same: a tensor of the model
    /// takes rows of them and of tensors that do.
    fn decoded_with(&self, edits: &Edits) -> BTreeSet<TensorIndex> {
        let is_widened = |tensor: &TensorIndex| {
            let stored = self.source.tensors()[tensor.0].data_type;
            edits.decoded.contains(tensor)
                || (edits.of.contains_key(tensor)
                    && edits.type_of(stored).is_some_and(|to| to != stored))
        };
        let mut widened: BTreeSet<TensorIndex> =
            edits.of.keys().copied().filter(is_widened).collect();
        let own = &widened - &edits.decoded;
        loop {
            let before = widened.len();
            for rows in self.tensors.iter().filter_map(ModelTensor::stored_rows) {
                let tensors = || rows.slices().iter().map(|slice| slice.tensor);
                if tensors().any(|tensor| widened.contains(&tensor)) {
                    widened.extend(tensors());
                }
            }
            if widened.len() == before {
                return &widened - &own;
            }
        }
    }
}
