//! Rounding without feedback: what the reference's encoders do, and on grids without one
//! the grid's own fit.

use qz_codec::grid::{Grid, RowBatch, Rows, rounding};
use qz_kernels::stop;
use rayon::prelude::*;

use crate::error::Error;
use crate::method::{Method, Needs, Problem, RowSink, check};
use crate::report::{Losses, TensorReport};
use crate::target::Target;

/// Rows that one thread rounds at a time.
const TILE: usize = 16;
/// Tiles that are rounded before they are handed out.
const TILES: usize = 64;

/// `rtn`: rounding without data.
pub(crate) struct Plain;

/// `imatrix`: rounding with each column's importance.
pub(crate) struct Importance;

impl Method for Plain {
    fn name(&self) -> &'static str {
        "rtn"
    }

    fn needs(&self) -> Needs {
        Needs::Nothing
    }

    fn is_encoding(&self) -> bool {
        true
    }

    fn quantize(
        &self,
        problem: &Problem<'_>,
        out: &mut RowSink<'_>,
    ) -> Result<TensorReport, Error> {
        check(problem)?;
        round_all(self.name(), problem, None, out)
    }
}

impl Method for Importance {
    fn name(&self) -> &'static str {
        "imatrix"
    }

    fn needs(&self) -> Needs {
        Needs::Importance
    }

    fn quantize(
        &self,
        problem: &Problem<'_>,
        out: &mut RowSink<'_>,
    ) -> Result<TensorReport, Error> {
        check(problem)?;
        let importance = problem.statistics.importance();
        round_all(self.name(), problem, importance.as_deref(), out)
    }
}

/// Rounds all rows with importance, or without where none can be used.
pub(crate) fn round_all(
    method: &'static str,
    problem: &Problem<'_>,
    importance: Option<&[f32]>,
    out: &mut RowSink<'_>,
) -> Result<TensorReport, Error> {
    let round = |rows: Rows<'_>, first: usize| round_rows(problem.target, rows, first, importance);
    round_tiles(problem, &round, out)?;
    let errors = rounding_errors(problem, importance);
    let losses = lost_parts(problem, [&errors]);
    if stop::is_requested() {
        return Err(Error::Stopped);
    }
    let losses = losses.map(|[loss]| Losses { rounding: loss, result: loss });
    Ok(TensorReport { losses, ..TensorReport::without_inputs(method, problem.weights) })
}

/// Rounds all rows, some at a time: `round` gets those that follow each other, and the first
/// one's number.
pub(crate) fn round_tiles(
    problem: &Problem<'_>,
    round: &(dyn Fn(Rows<'_>, usize) -> RowBatch + Sync),
    out: &mut RowSink<'_>,
) -> Result<(), Error> {
    let (rows, columns) = (problem.weights.count(), problem.weights.columns());
    for first in (0..rows).step_by(TILE * TILES) {
        let end = rows.min(first + TILE * TILES);
        let starts: Vec<usize> = (first..end).step_by(TILE).collect();
        let tiles: Vec<RowBatch> = starts
            .par_iter()
            .map(|start| {
                if stop::is_requested() {
                    return RowBatch::new(problem.target.grid().spec(), 0, columns);
                }
                let own = (*start..end.min(start + TILE)).map(|row| problem.weights.row(row));
                let weights: Vec<f32> = own.flatten().copied().collect();
                round(Rows::dense(&weights, columns), *start)
            })
            .collect();
        if stop::is_requested() {
            return Err(Error::Stopped);
        }
        for (start, tile) in starts.iter().zip(&tiles) {
            if out(*start..start + tile.rows(), tile).is_break() {
                return Err(Error::Stopped);
            }
        }
    }
    Ok(())
}

/// Rounds rows that follow each other, from number `first_row` on.
pub(crate) fn round_rows(
    target: Target<'_>,
    rows: Rows<'_>,
    first_row: usize,
    importance: Option<&[f32]>,
) -> RowBatch {
    match target.codec() {
        Some(codec) => {
            let grid = target.grid();
            let spec = grid.spec();
            let columns = rows.columns();
            let row_bytes = columns / spec.unit_columns * spec.unit_bytes;
            let mut bytes = vec![0; row_bytes];
            let mut batch = RowBatch::new(spec, rows.count(), columns);
            for (row, weights) in rows.iter().enumerate() {
                codec.encode(weights, columns, importance, &mut bytes);
                unpack_row(grid, &bytes, row, &mut batch);
            }
            batch
        }
        None => {
            let ones = vec![1.0; if importance.is_none() { rows.columns() } else { 0 }];
            rounding::round(target.grid(), rows, first_row, importance.unwrap_or(&ones))
        }
    }
}

/// A row from the bytes it is packed to.
fn unpack_row(grid: &dyn Grid, bytes: &[u8], row: usize, batch: &mut RowBatch) {
    let (unit_columns, unit_bytes) = (grid.spec().unit_columns, grid.spec().unit_bytes);
    let lanes = grid.spec().lanes();
    for (unit, bytes) in bytes.chunks(unit_bytes).enumerate() {
        let codes = &mut batch.codes_mut(row)[unit * lanes..][..lanes];
        let stored = grid.unpack(bytes, codes);
        let codes = codes.to_vec();
        grid.values(
            &stored,
            &codes,
            &mut batch.values_mut(row)[unit * unit_columns..][..unit_columns],
        );
        batch.units_mut(unit)[row] = stored;
    }
}

/// Some rows, spread evenly: 16, or a sixteenth of them up to 64.
pub(crate) fn sampled_rows(rows: usize) -> impl Iterator<Item = usize> {
    let count = (rows / 16).clamp(16, 64).min(rows);
    (0..count).map(move |position| position * rows / count)
}

/// The errors of rounding the sampled rows, one row after the other.
pub(crate) fn rounding_errors(problem: &Problem<'_>, importance: Option<&[f32]>) -> Vec<f32> {
    let columns = problem.weights.columns();
    let rows: Vec<usize> = sampled_rows(problem.weights.count()).collect();
    let errors = rows.par_iter().map(|row| {
        let weights = problem.weights.row(*row);
        let rows = Rows::dense(weights, columns);
        let rounded = round_rows(problem.target, rows, *row, importance);
        differences(weights, rounded.values(0))
    });
    errors.collect::<Vec<_>>().concat()
}

/// The parts of the sampled rows' squared output that are lost with these errors.
pub(crate) fn lost_parts<const COUNT: usize>(
    problem: &Problem<'_>,
    errors: [&[f32]; COUNT],
) -> Option<[f64; COUNT]> {
    let gram = problem.statistics.gram.filter(|gram| gram.is_finite())?;
    let rows = sampled_rows(problem.weights.count());
    let weights: Vec<f32> = rows.flat_map(|row| problem.weights.row(row)).copied().collect();
    let whole: f64 = gram.losses(&weights).iter().sum();
    let lost = |errors| gram.losses(errors).iter().sum::<f64>() / whole;
    (whole > 0.0).then(|| errors.map(lost))
}

pub(crate) fn differences(weights: &[f32], values: &[f32]) -> Vec<f32> {
    weights.iter().zip(values).map(|(weight, value)| weight - value).collect()
}
