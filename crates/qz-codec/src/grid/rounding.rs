//! Plain rounding to a grid, without data: each unit is fitted to its weights, each
//! lane goes to its nearest value. For grids of no element type, which no reference
//! encoder exists for; and what a method has to beat.

use std::fmt;

use super::{Code, Emphasis, FitProblem, Grid, Metric, RowBatch, RowFacts, Rows, UnitPlace};

/// Rows that are rounded together. A grid rounds one lane of many rows at a call; the
/// result does not depend on how many.
const ROWS_AT_ONCE: usize = 16;

/// A weight that is infinite or not a number: no grid has a value near it, and a
/// fit would spoil its whole unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NonFiniteWeight {
    /// The weight's row.
    pub row: usize,
    /// The weight's column.
    pub column: usize,
}

impl fmt::Display for NonFiniteWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the weight in row {}, column {} is not finite", self.row, self.column)
    }
}

impl std::error::Error for NonFiniteWeight {}

/// Rounds rows of `columns` weights and packs them. `importance` is what the square of
/// each column's error counts, the same for all rows; without it all count the same.
/// Weights beyond the largest value that a unit can hold become that value.
///
/// # Errors
/// If a weight is not finite, the first one. Nothing is written then.
///
/// # Panics
/// If the columns do not fill whole units, or the lengths do not fit them.
pub fn encode(
    grid: &dyn Grid,
    weights: &[f32],
    columns: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), NonFiniteWeight> {
    let spec = grid.spec();
    assert!(columns > 0 && columns.is_multiple_of(spec.unit_columns), "units are not whole");
    assert!(weights.len().is_multiple_of(columns), "the last row is cut");
    let row_bytes = columns / spec.unit_columns * spec.unit_bytes;
    assert_eq!(out.len(), weights.len() / columns * row_bytes, "bytes for the weights");
    assert!(importance.is_none_or(|importance| importance.len() == columns), "importance");
    check_finite(weights, columns)?;
    let ones = if importance.is_none() { vec![1.0; columns] } else { Vec::new() };
    let importance = importance.unwrap_or(&ones);
    let tiles =
        weights.chunks(ROWS_AT_ONCE * columns).zip(out.chunks_mut(ROWS_AT_ONCE * row_bytes));
    for (tile, (weights, out)) in tiles.enumerate() {
        let rows = Rows::dense(weights, columns);
        let batch = round(grid, rows, tile * ROWS_AT_ONCE, importance);
        for (row, out) in out.chunks_mut(row_bytes).enumerate() {
            batch.pack(grid, row, out);
        }
    }
    Ok(())
}

fn check_finite(weights: &[f32], columns: usize) -> Result<(), NonFiniteWeight> {
    match weights.iter().position(|weight| !weight.is_finite()) {
        Some(position) => {
            Err(NonFiniteWeight { row: position / columns, column: position % columns })
        }
        None => Ok(()),
    }
}

/// Unpacks whole units.
///
/// # Panics
/// If the bytes are not whole units, or `out` does not hold exactly their weights.
pub fn decode(grid: &dyn Grid, bytes: &[u8], out: &mut [f32]) {
    let spec = grid.spec();
    assert!(bytes.len().is_multiple_of(spec.unit_bytes), "the last unit is cut");
    assert_eq!(
        out.len(),
        bytes.len() / spec.unit_bytes * spec.unit_columns,
        "weights of the bytes"
    );
    let mut codes = vec![Code::default(); spec.lanes()];
    for (bytes, out) in bytes.chunks(spec.unit_bytes).zip(out.chunks_mut(spec.unit_columns)) {
        let unit = grid.unpack(bytes, &mut codes);
        grid.values(&unit, &codes, out);
    }
}

/// Fits every unit of rows of finite weights, then rounds to them. `first_row` is the
/// first one's number in the matrix, `importance` what the square of each column's error
/// counts.
///
/// # Panics
/// If the columns do not fill whole units.
pub fn round(grid: &dyn Grid, rows: Rows<'_>, first_row: usize, importance: &[f32]) -> RowBatch {
    let facts: Vec<RowFacts> = rows.iter().map(RowFacts::of).collect();
    let mut batch = RowBatch::new(grid.spec(), rows.count(), rows.columns());
    let columns = grid.spec().unit_columns;
    for unit in 0..batch.units_per_row() {
        let first = unit * columns;
        let metric = Metric::Diagonal(&importance[first..][..columns]);
        let rows = rows.slice(first, columns);
        let place = UnitPlace { row: first_row, unit };
        let emphasis = Emphasis::None;
        let problem = FitProblem { rows, metric, facts: &facts, emphasis, place };
        grid.fit(&problem, batch.units_mut(unit));
    }
    batch.round(grid, rows, Metric::Diagonal(importance));
    batch
}
