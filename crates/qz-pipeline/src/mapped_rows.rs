//! The one place where a tensor map is carried out: stored rows become those of a
//! tensor, or the other way round.

use std::ops::Range;

use qz_models::{Change, Transposed, TurnedColumns, ValueChange};
use qz_tensor::DataType;

use crate::model::to_usize;

/// The element type that rows have after a change. Values are computed as f32; those
/// that come as f16 go back to f16, as the reference's do.
pub(crate) fn changed_type(stored: DataType, change: Change) -> DataType {
    let has_new_values = change.values != ValueChange::None;
    let is_decoded = has_new_values
        || (change.transposed.is_some() && stored.is_block())
        || change.columns.is_some_and(|columns| splits(stored, columns));
    if is_decoded && stored != DataType::F16 { DataType::F32 } else { stored }
}

/// True if columns that change places are no whole blocks of a type.
fn splits(stored: DataType, columns: TurnedColumns) -> bool {
    !columns.width.is_multiple_of(stored.block_elements() as u64)
}

/// Whole units of rows, on their way through a change.
#[derive(Clone, Copy)]
pub(crate) struct RowsInChange {
    pub(crate) change: Change,
    /// How they are stored.
    pub(crate) stored_type: DataType,
    /// Columns of the rows that come out.
    pub(crate) columns: u64,
    /// The first of the rows that come out.
    pub(crate) first_row: u64,
}

impl RowsInChange {
    /// Carries the change out; `None` if the stored type cannot be decoded and must be.
    pub(crate) fn carry_out(&self, stored: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let Self { change, stored_type, columns, first_row } = *self;
        let mut data_type = stored_type;
        let mut held: Vec<u8>;
        let mut bytes = stored;
        if let Some(matrix) = change.transposed {
            if data_type.is_block() {
                held = decoded(data_type, bytes)?;
                (data_type, bytes) = (DataType::F32, &held);
            }
            held = transposed(matrix, data_type.block_bytes(), bytes);
            bytes = &held;
        }
        if change.columns.is_some_and(|columns| splits(data_type, columns)) {
            held = decoded(data_type, bytes)?;
            (data_type, bytes) = (DataType::F32, &held);
        }
        let row_bytes = data_type.byte_size(columns).map_or(1, to_usize).max(1);
        out.resize(bytes.len(), 0);
        if change.order.is_identity() {
            out.copy_from_slice(bytes);
        } else {
            for (row, out) in (first_row..).zip(out.chunks_exact_mut(row_bytes)) {
                let start = to_usize(change.order.source_row(row) - first_row) * row_bytes;
                out.copy_from_slice(&bytes[start..start + row_bytes]);
            }
        }
        if let Some(columns) = change.columns {
            *out = turned(columns, data_type, row_bytes, out);
        }
        let result_type = changed_type(data_type, change);
        for step in change.values.steps() {
            let mut values = decoded(data_type, out)?;
            let rows = values.chunks_exact_mut(to_usize(columns).max(1) * size_of::<f32>());
            for (row, values) in (first_row..).zip(rows) {
                for value in values.as_chunks_mut().0 {
                    *value = step.of(f32::from_le_bytes(*value), row).to_le_bytes();
                }
            }
            *out = if result_type == DataType::F16 { halves(&values)? } else { values };
            data_type = result_type;
        }
        Some(())
    }
}

/// Rows as the bytes of f32 numbers.
fn decoded(data_type: DataType, bytes: &[u8]) -> Option<Vec<u8>> {
    let codec = qz_kernels::codec_for(data_type)?;
    let blocks = bytes.len() / data_type.block_bytes();
    let mut values = vec![0.0; blocks * data_type.block_elements()];
    codec.decode(bytes, &mut values);
    Some(values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

/// f32 numbers as f16.
fn halves(values: &[u8]) -> Option<Vec<u8>> {
    let numbers: Vec<f32> =
        values.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let mut bytes = vec![0; numbers.len() * 2];
    let codec = qz_kernels::codec_for(DataType::F16)?;
    codec.encode(&numbers, numbers.len(), None, &mut bytes);
    Some(bytes)
}

/// Rows whose blocks of columns have changed places.
fn turned(columns: TurnedColumns, data_type: DataType, row_bytes: usize, rows: &[u8]) -> Vec<u8> {
    let size = data_type.byte_size(columns.width).map_or(1, to_usize).max(1);
    let mut out = vec![0; rows.len()];
    for (out, row) in out.chunks_exact_mut(row_bytes).zip(rows.chunks_exact(row_bytes)) {
        for (block, out) in (0u64..).zip(out.chunks_exact_mut(size)) {
            out.copy_from_slice(&row[to_usize(columns.source_block(block)) * size..][..size]);
        }
    }
    out
}

/// Matrices with their rows as columns. `matrix` is what comes out.
fn transposed(matrix: Transposed, size: usize, stored: &[u8]) -> Vec<u8> {
    let (rows, columns) = (to_usize(matrix.rows), to_usize(matrix.columns));
    let mut out = vec![0; stored.len()];
    let all = (rows * columns * size).max(1);
    for (stored, out) in stored.chunks_exact(all).zip(out.chunks_exact_mut(all)) {
        for (column, stored) in stored.chunks_exact(rows * size).enumerate() {
            for (row, element) in stored.chunks_exact(size).enumerate() {
                out[(row * columns + column) * size..][..size].copy_from_slice(element);
            }
        }
    }
    out
}

/// The rows of whole units around `rows`, of `all` rows of so many columns.
pub(crate) fn units_around(
    change: Change,
    rows: &Range<u64>,
    [all, columns]: [u64; 2],
) -> Range<u64> {
    let unit = change.unit(columns);
    rows.start / unit * unit..rows.end.next_multiple_of(unit).min(all)
}

#[cfg(test)]
mod tests {
    use qz_models::{RowFactors, RowOrder};

    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    /// What comes out of a change, and of its inverse after that.
    fn there_and_back(change: Change, columns: [u64; 2], values: &[f32]) -> [Vec<u8>; 2] {
        let carry = |change, columns, stored: &[u8]| {
            let rows = RowsInChange { change, stored_type: DataType::F32, columns, first_row: 0 };
            let mut out = Vec::new();
            rows.carry_out(stored, &mut out).expect("f32 is decoded");
            out
        };
        let there = carry(change, columns[0], &bytes(values));
        let back = carry(change.inverse(), columns[1], &there);
        [there, back]
    }

    #[test]
    fn changes_are_carried_out_and_undone() {
        let check = |change, columns, values: &[f32], expected: &[f32]| {
            let found = there_and_back(change, columns, values);
            assert_eq!(found, [bytes(expected), bytes(values)], "{change:?}");
        };
        let values = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
        check(Change::NONE, [2, 2], &values, &values);
        let transposed = Some(Transposed { rows: 4, columns: 2 });
        let turned = [0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0];
        check(Change { transposed, ..Change::NONE }, [2, 4], &values, &turned);
        let halves = [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0];
        let order = RowOrder::InterleavedHalves { head_rows: 4 };
        check(Change::ordered(order), [1, 1], &values, &halves);
        let values_change = Change { values: ValueChange::AddOne, ..Change::NONE };
        check(values_change, [8, 8], &values, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        let factors = RowFactors::new(0.5, &[(1, 4.0), (3, 2.0)]);
        let scaled = Change { values: ValueChange::Scaled(factors), ..Change::NONE };
        check(scaled, [2, 2], &values, &[0.0, 2.0, 2.0, 3.0, 4.0, 5.0, 3.0, 3.5]);
    }

    /// torch rounds each product of halves.
    #[test]
    fn products_of_halves_are_rounded_one_by_one() {
        let half = |value: f32| halves(&bytes(&[value])).expect("a half");
        let factors = RowFactors::new(1.1, &[(9, 0.7)]);
        let change = Change { values: ValueChange::Scaled(factors), ..Change::NONE };
        let rows = RowsInChange { change, stored_type: DataType::F16, columns: 1, first_row: 8 };
        let mut out = Vec::new();
        rows.carry_out(&half(1.0), &mut out).expect("halves are decoded");
        // numpy: float16(float32(float16(float32(1.1))) * float32(0.7)).
        assert_eq!(out, half(0.769_531_25));
        assert_ne!(out, half(1.1f32 * 0.7));
    }

    #[test]
    fn matrices_of_a_stack_are_transposed_one_by_one() {
        let matrix = Transposed { rows: 2, columns: 1 };
        let stored: Vec<u8> = (0..4).collect();
        assert_eq!(transposed(matrix, 1, &stored), stored);
        let matrix = Transposed { rows: 2, columns: 2 };
        let stored: Vec<u8> = (0..8).collect();
        assert_eq!(transposed(matrix, 1, &stored), [0, 2, 1, 3, 4, 6, 5, 7]);
    }

    #[test]
    fn blocks_of_columns_change_places() {
        let columns = Some(TurnedColumns { outer: 2, inner: 3, width: 2 });
        let change = Change { columns, ..Change::NONE };
        // numpy: arange(12).reshape(2, 3, 2).swapaxes(0, 1).reshape(12)
        let expected = [0.0, 1.0, 6.0, 7.0, 2.0, 3.0, 8.0, 9.0, 4.0, 5.0, 10.0, 11.0];
        let values: Vec<f32> = (0u8..12).map(f32::from).collect();
        assert_eq!(there_and_back(change, [12, 12], &values), [bytes(&expected), bytes(&values)]);
        assert_eq!(changed_type(DataType::Q8_0, change), DataType::F32);
        let columns = Some(TurnedColumns { outer: 2, inner: 3, width: 64 });
        assert_eq!(changed_type(DataType::Q8_0, Change { columns, ..change }), DataType::Q8_0);
    }

    #[test]
    fn types_follow_from_changes() {
        let transposed =
            Change { transposed: Some(Transposed { rows: 1, columns: 1 }), ..Change::NONE };
        let values = Change { values: ValueChange::AddOne, ..Change::NONE };
        let check = |stored, change, expected| assert_eq!(changed_type(stored, change), expected);
        check(DataType::BF16, Change::NONE, DataType::BF16);
        check(DataType::BF16, transposed, DataType::BF16);
        check(DataType::Q8_0, transposed, DataType::F32);
        check(DataType::BF16, values, DataType::F32);
        check(DataType::F16, values, DataType::F16);
    }
}
