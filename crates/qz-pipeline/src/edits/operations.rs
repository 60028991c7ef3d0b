//! The arithmetic of edits, on rows that have been decoded.

use std::ops::Range;

use qz_tensor::{DataType, FileError};

use super::low_rank::Stack;
use super::operand::Kept;
use super::{Edit, Operation};
use crate::model::to_usize;

/// Rows of a stored tensor, decoded.
pub(super) struct DecodedRows<'a> {
    /// The type they are stored in.
    pub(super) stored_type: DataType,
    pub(super) stack: Stack,
    /// Which rows they are.
    pub(super) rows: Range<u64>,
    pub(super) values: &'a mut [f32],
}

impl DecodedRows<'_> {
    /// Carries out an edit on those of its rows that are here.
    pub(super) fn edit(&mut self, edit: &Edit, kept: &Kept) -> Result<(), FileError> {
        let rows = edit.rows.start.max(self.rows.start)..edit.rows.end.min(self.rows.end);
        if rows.is_empty() {
            return Ok(());
        }
        let columns = to_usize(self.stack.columns);
        let begin = to_usize(rows.start - self.rows.start) * columns;
        let values = &mut self.values[begin..][..to_usize(rows.end - rows.start) * columns];
        match &edit.operation {
            Operation::ScaleRows { factors, offset } => {
                let factors = &factors[to_usize(rows.start - edit.rows.start)..];
                for (row, factor) in values.chunks_exact_mut(columns).zip(factors) {
                    for value in edit.columns.of(row) {
                        *value = scaled(*value, *factor, *offset);
                    }
                }
            }
            Operation::ScaleColumns { factors } => {
                for row in values.chunks_exact_mut(columns) {
                    let own = edit.columns.of(row);
                    own.zip(factors.iter()).for_each(|(value, factor)| *value *= factor);
                }
            }
            Operation::AddLowRank(added) => {
                let mut product = vec![0.0; values.len()];
                added.product(kept, self.stack, rows.start, &mut product)?;
                if added.is_rounded {
                    round(self.stored_type, &mut product);
                }
                values.iter_mut().zip(&product).for_each(|(value, added)| *value += added);
            }
            Operation::Set(operand) => operand.read_rows(rows.start, values)?,
            Operation::SetLengths { lengths } => {
                let lengths = &lengths[to_usize(rows.start - edit.rows.start)..];
                for (row, length) in values.chunks_exact_mut(columns).zip(lengths) {
                    set_length(row, *length);
                }
            }
        }
        Ok(())
    }
}

fn scaled(value: f32, factor: f32, offset: f32) -> f32 {
    // Adding nothing would lose the sign of a zero.
    if offset == 0.0 { value * factor } else { (value + offset) * factor - offset }
}

/// The factor is a number of its own, as in the reference.
fn set_length(row: &mut [f32], length: f32) {
    let squares: f64 = row.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
    let factor = length / squares.sqrt() as f32;
    row.iter_mut().for_each(|value| *value *= factor);
}

/// Rounds numbers to an element type; those of blocks stay as they are.
fn round(data_type: DataType, values: &mut [f32]) {
    if data_type.is_block() || data_type == DataType::F32 {
        return;
    }
    let Some(codec) = qz_kernels::codec_for(data_type) else { return };
    let mut bytes = vec![0; values.len() * data_type.block_bytes()];
    codec.encode(values, values.len(), None, &mut bytes);
    codec.decode(&bytes, values);
}
