//! What layouts take from a batch of rows on a grid.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "loops over rows of a matrix whose size was checked, in groups that are not empty"
)]

use qz_codec::grid::{Grid, GroupIndex, ParameterIndex, RowBatch, Rows, Unit, rounding};

use crate::layout::{ChosenRows, Layout, Put, Rounding, RowBlock, Whole};

/// Fits and rounds rows to a grid, by importance where that is wanted and there is some.
pub(crate) fn searched(grid: &dyn Grid, rows: &RowBlock<'_>) -> RowBatch {
    let columns = rows.columns();
    let importance = rows.importance.filter(|_| rows.rounding == Rounding::Importance);
    let ones = vec![1.0; if importance.is_none() { columns } else { 0 }];
    let weights = Rows::dense(rows.weights, columns);
    rounding::round(grid, weights, rows.first_row as usize, importance.unwrap_or(&ones))
}

/// Writes rows with the scales that leave the least error, if a search is wanted and the
/// layout has a grid; false if not.
pub(crate) fn write_searched(layout: &dyn Layout, rows: &RowBlock<'_>, put: &mut Put<'_>) -> bool {
    let RowBlock { matrix, measure, first_row, rounding, .. } = *rows;
    if rounding == Rounding::Nearest {
        return false;
    }
    let Some(grid) = layout.grid(&Whole { matrix, weights: &[], measure }) else { return false };
    let batch = &searched(&*grid, rows);
    layout.write(&ChosenRows { matrix, measure, first_row, batch }, put);
    true
}

/// The codes, row by row. They have at most eight bits.
pub(crate) fn codes(batch: &RowBatch) -> Vec<u8> {
    let rows = (0..batch.rows()).flat_map(|row| batch.codes(row));
    rows.map(|code| code.0 as u8).collect()
}

/// What is stored for each unit, row by row.
pub(crate) fn of_units<T>(batch: &RowBatch, of: impl Fn(&Unit) -> T) -> Vec<T> {
    let units = |row| (0..batch.units_per_row()).map(move |unit| &batch.units(unit)[row]);
    (0..batch.rows()).flat_map(units).map(of).collect()
}

/// One of the linear parameters of each unit, row by row.
pub(crate) fn parameters(batch: &RowBatch, parameter: ParameterIndex) -> Vec<f32> {
    of_units(batch, |unit| unit.parameter_values()[parameter.0])
}

/// The bytes that name each unit's scale, row by row.
pub(crate) fn scale_bytes(batch: &RowBatch) -> Vec<u8> {
    of_units(batch, |unit| unit.scale(GroupIndex(0)) as u8)
}
