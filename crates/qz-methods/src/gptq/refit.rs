//! Scales and offsets fitted again, with codes kept: least squares under the whole
//! objective, jointly for the parameters of a unit, unit after unit (the second stage of
//! arXiv 2602.02126). A unit keeps what it has unless the rounded parameters lower the
//! loss.

use std::ops::Range;

use qz_codec::grid::{ParameterIndex, Rows, Unit};
use qz_kernels::gemm::add_row_products;
use qz_kernels::stop;

use super::descend::Moves;
use super::tile::Tile;

impl Tile<'_> {
    /// Fits the units of a block again, and tries steps of their sub-scales.
    pub(super) fn refit_units(&mut self, moves: &mut Moves) {
        let columns = self.grid.spec().unit_columns;
        for first in (0..moves.block.len()).step_by(columns) {
            self.refit_unit(moves, first);
            self.step_groups(moves, first);
        }
    }

    /// Fits one unit of a strip; it begins `at` columns into the block.
    fn refit_unit(&mut self, moves: &mut Moves, at: usize) {
        let columns = self.grid.spec().unit_columns;
        let first = moves.block.start + at;
        let rows = moves.rows.len();
        let mut pull = vec![0.0; rows * columns];
        for (column, pulls) in moves.pull[at..at + columns].iter().enumerate() {
            for (row, value) in pull.chunks_mut(columns).zip(pulls) {
                row[column] = *value;
            }
        }
        let pushed = self.refit_rows(moves.rows.clone(), first / columns, &pull);
        for (row, pushed) in pushed.chunks(columns).enumerate() {
            for (column, pushed) in moves.pull[at..at + columns].iter_mut().zip(pushed) {
                column[row] -= pushed;
            }
        }
    }

    /// Fits units that no block holds, with their pull measured anew.
    pub(super) fn refit_wide_units(&mut self) {
        let columns = self.grid.spec().unit_columns;
        for unit in 0..self.batch.units_per_row() {
            if stop::is_requested() {
                return;
            }
            let own = unit * columns..(unit + 1) * columns;
            let mut pull = vec![0.0; self.rows() * columns];
            let errors = Rows::dense(&self.errors, self.columns);
            let objective = self.prepared.objective.block(own.clone(), 0..self.columns);
            add_row_products(errors, objective, &mut pull);
            self.refit_rows(0..self.rows(), unit, &pull);
            self.measure_errors(0..self.rows(), own);
        }
    }

    /// Fits one unit of some rows, given the pull on its columns. Gives the moves of its
    /// values times the objective's block, row by row.
    fn refit_rows(&mut self, rows: Range<usize>, unit: usize, pull: &[f32]) -> Vec<f32> {
        let columns = self.grid.spec().unit_columns;
        let mut result = vec![0.0; rows.len() * columns];
        let own = unit * columns..(unit + 1) * columns;
        let block = self.prepared.objective.block(own.clone(), own.clone());
        let bases: Vec<(Vec<f32>, Vec<f32>)> = (0..self.grid.spec().parameters)
            .map(|parameter| {
                let basis = self.basis(rows.clone(), unit, ParameterIndex(parameter));
                let mut products = vec![0.0; basis.len()];
                add_row_products(Rows::dense(&basis, columns), block, &mut products);
                (basis, products)
            })
            .collect();
        if bases.is_empty() {
            return result;
        }
        let mut values = vec![0.0; columns];
        for (position, row) in rows.enumerate() {
            let span = position * columns..(position + 1) * columns;
            let pull = &pull[span.clone()];
            let bases: Vec<(&[f32], &[f32])> = bases
                .iter()
                .map(|(basis, products)| (&basis[span.clone()], &products[span.clone()]))
                .collect();
            let stored = self.batch.units(unit)[row];
            let Some(refitted) = self.solved(&stored, &bases, pull) else { continue };
            self.grid.values(&refitted, self.batch.unit_codes(row, unit), &mut values);
            let parameters =
                self.grid.parameters(&refitted).iter().zip(self.grid.parameters(&stored));
            let steps: Vec<f64> =
                parameters.map(|(new, old)| f64::from(*new) - f64::from(*old)).collect();
            let pushed = &mut result[span];
            for (pushed, at) in pushed.iter_mut().zip(0..columns) {
                let sum: f64 = steps
                    .iter()
                    .zip(&bases)
                    .map(|(step, basis)| step * f64::from(basis.1[at]))
                    .sum();
                *pushed = sum as f32;
            }
            let old = &self.batch.values(row)[own.clone()];
            let change: f64 = (0..columns)
                .map(|at| {
                    let moved = f64::from(values[at]) - f64::from(old[at]);
                    moved * (f64::from(pushed[at]) - 2.0 * f64::from(pull[at]))
                })
                .sum();
            if change < 0.0 {
                self.batch.values_mut(row)[own.clone()].copy_from_slice(&values);
                self.batch.units_mut(unit)[row] = refitted;
            } else {
                pushed.fill(0.0);
            }
        }
        result
    }

    /// What a parameter is multiplied by in each value, row by row.
    fn basis(&self, rows: Range<usize>, unit: usize, parameter: ParameterIndex) -> Vec<f32> {
        let columns = self.grid.spec().unit_columns;
        let mut basis = vec![0.0; rows.len() * columns];
        for (row, basis) in rows.zip(basis.chunks_mut(columns)) {
            let stored = &self.batch.units(unit)[row];
            self.grid.basis(stored, self.batch.unit_codes(row, unit), parameter, basis);
        }
        basis
    }

    /// A unit with the parameters that lower the loss most, rounded; none if there are
    /// none, or no unit can store them.
    fn solved(&self, stored: &Unit, bases: &[(&[f32], &[f32])], pull: &[f32]) -> Option<Unit> {
        let used: Vec<usize> = (0..bases.len())
            .filter(|parameter| bases[*parameter].0.iter().any(|b| *b != 0.0))
            .collect();
        let mut right: Vec<f64> = used.iter().map(|a| inner(bases[*a].0, pull)).collect();
        let mut matrix: Vec<f64> = used
            .iter()
            .flat_map(|a| used.iter().map(|b| inner(bases[*a].0, bases[*b].1)))
            .collect();
        if used.is_empty() || !qz_linalg::solve(&mut matrix, &mut right) {
            return None;
        }
        let mut parameters = self.grid.parameters(stored).to_vec();
        for (parameter, step) in used.iter().zip(&right) {
            parameters[*parameter] = (f64::from(parameters[*parameter]) + step) as f32;
        }
        let mut unit = *stored;
        self.grid.set_parameters(&parameters, &mut unit).ok()?;
        (unit != *stored).then_some(unit)
    }
}

fn inner(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0.0; 4];
    for (a, b) in a.chunks(4).zip(b.chunks(4)) {
        for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
            *sum += f64::from(*a) * f64::from(*b);
        }
    }
    sums.iter().sum()
}
