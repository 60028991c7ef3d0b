//! `hqq`: half-quadratic quantization (Badri and Shaji 2023). Without data it lowers
//! `Σ |w − value|^p`, p below 1, which forgives the few large weights what it asks of the many
//! small ones.
//!
//! What is left of each weight is split into an error `e`, which is forgiven, and a rest whose
//! square counts: shrinking gives the best `e`, least squares on `w − e` the unit's linear
//! parameters (scales and offsets), rounding the codes. Integers that a group stores (zero
//! points, sub-scales) go by steps. It begins with what `rtn` chooses, and takes nothing that
//! is worse: so no unit ends above it.

use std::ops::Range;

use qz_codec::grid::{
    Code, Grid, GroupIndex, LaneIndex, Metric, ParameterIndex, RowBatch, Rows, Unit,
};

use crate::error::Error;
use crate::method::{Method, Needs, Problem, RowSink, check};
use crate::report::TensorReport;
use crate::rounding::{round_rows, round_tiles};
use crate::target::Target;

/// The exponent of the norm (the paper's).
const NORM: f32 = 0.7;
/// What the rest's square counts at first, errors being in steps, and how it grows with each
/// iteration.
const FIRST_WEIGHT: f32 = 10.0;
const GROWTH: f32 = 1.01;
/// Iterations at most; a unit that gets worse ends its own.
const ITERATIONS: usize = 20;
/// How often integers are stepped, and parameters sought again, at most.
const ROUNDS: usize = 3;

/// `hqq`.
pub(crate) struct Hqq;

impl Method for Hqq {
    fn name(&self) -> &'static str {
        "hqq"
    }

    fn needs(&self) -> Needs {
        Needs::Nothing
    }

    fn quantize(
        &self,
        problem: &Problem<'_>,
        out: &mut RowSink<'_>,
    ) -> Result<TensorReport, Error> {
        check(problem)?;
        let grid = problem.target.grid();
        if !has_choice(grid) {
            return Err(Error::Target { method: "hqq", target: problem.target.name().to_owned() });
        }
        let round = |rows: Rows<'_>, first_row: usize| choose(problem.target, rows, first_row);
        round_tiles(problem, &round, out)?;
        Ok(TensorReport::without_inputs(self.name(), problem.weights))
    }
}

/// Whether units have anything of their own beside the codes, which are the nearest anyway.
fn has_choice(grid: &dyn Grid) -> bool {
    let mut steps = Vec::new();
    grid.group_steps(&Unit::default(), GroupIndex(0), &mut steps);
    grid.spec().parameters > 0 || !steps.is_empty()
}

/// Rows that follow each other, from number `first_row` on.
fn choose(target: Target<'_>, rows: Rows<'_>, first_row: usize) -> RowBatch {
    let mut batch = round_rows(target, rows, first_row, None);
    let columns = target.grid().spec().unit_columns;
    for unit in 0..batch.units_per_row() {
        let weights = rows.slice(unit * columns, columns);
        UnitRows::of(target.grid(), weights, unit, &batch).improve(&mut batch);
    }
    batch
}

/// Lanes of a unit of one row, as they could be stored.
#[derive(Clone, Debug)]
struct Trial {
    row: usize,
    unit: Unit,
    codes: Vec<Code>,
    values: Vec<f32>,
    /// `Σ |w − value|^p`, errors in steps.
    loss: f64,
}

/// One unit of many rows.
struct UnitRows<'a> {
    grid: &'a dyn Grid,
    weights: Rows<'a>,
    unit: usize,
    /// What errors of each row are measured in: about the distance of levels, so that the result
    /// does not depend on how large weights are.
    steps: Vec<f32>,
    /// By row, the best that is known.
    best: Vec<Trial>,
}

impl<'a> UnitRows<'a> {
    fn of(grid: &'a dyn Grid, weights: Rows<'a>, unit: usize, batch: &RowBatch) -> Self {
        let columns = weights.columns();
        let trial = |(row, unit_of_row): (usize, &Unit)| Trial {
            row,
            unit: *unit_of_row,
            codes: batch.unit_codes(row, unit).to_vec(),
            values: batch.values(row)[unit * columns..][..columns].to_vec(),
            loss: 0.0,
        };
        let best: Vec<Trial> = batch.units(unit).iter().enumerate().map(trial).collect();
        let steps = best.iter().map(|trial| step(weights.row(trial.row), &trial.values)).collect();
        let mut rows = Self { grid, weights, unit, steps, best };
        for row in 0..rows.best.len() {
            rows.best[row].loss = rows.loss(row, 0..columns, &rows.best[row].values);
        }
        rows
    }

    fn improve(mut self, batch: &mut RowBatch) {
        // A row without errors has nothing to gain, one with errors beyond f32 no measure.
        let mut active: Vec<usize> =
            (0..self.best.len()).filter(|row| self.steps[*row].is_normal()).collect();
        for _ in 0..ROUNDS {
            self.descend(&active);
            active = self.step_groups(&active);
        }
        let (lanes, columns) = (self.grid.spec().lanes(), self.weights.columns());
        for (row, best) in self.best.into_iter().enumerate() {
            batch.units_mut(self.unit)[row] = best.unit;
            batch.codes_mut(row)[self.unit * lanes..][..lanes].copy_from_slice(&best.codes);
            batch.values_mut(row)[self.unit * columns..][..columns].copy_from_slice(&best.values);
        }
    }

    /// Shrinks, solves and rounds while that lowers a row's loss.
    fn descend(&mut self, rows: &[usize]) {
        let (mut active, mut weight) = (rows.to_vec(), FIRST_WEIGHT);
        for _ in 0..ITERATIONS {
            let solved = active.iter().filter_map(|row| Some((*row, self.solved(*row, weight)?)));
            let tried = self.rounded(solved.collect(), 0..self.grid.spec().lanes());
            active.clear();
            for trial in tried {
                let row = trial.row;
                if trial.loss < self.best[row].loss {
                    self.best[row] = trial;
                    active.push(row);
                }
            }
            weight *= GROWTH;
        }
    }

    /// The best unit of a row for its codes and for weights without what is forgiven; none if
    /// it is the one that is there, or cannot be stored.
    fn solved(&self, row: usize, weight: f32) -> Option<Unit> {
        let best = &self.best[row];
        let (weights, step) = (self.weights.row(row), self.steps[row]);
        let pairs = weights.iter().zip(&best.values);
        let targets: Vec<f64> = pairs
            .map(|(own, value)| {
                f64::from(*own) - f64::from(step * shrunk((own - value) / step, weight))
            })
            .collect();
        let count = self.grid.spec().parameters;
        let columns: Vec<Vec<f32>> = (0..count)
            .map(|parameter| {
                let mut column = vec![0.0; weights.len()];
                let parameter = ParameterIndex(parameter);
                self.grid.basis(&best.unit, &best.codes, parameter, &mut column);
                column
            })
            .collect();
        let parameters = least_squares(&columns, &targets)?;
        let mut unit = best.unit;
        self.grid.set_parameters(&parameters, &mut unit).ok()?;
        (unit != best.unit).then_some(unit)
    }

    /// Steps the integers of groups where that lowers the loss; returns the rows that it did.
    fn step_groups(&mut self, rows: &[usize]) -> Vec<usize> {
        let spec = self.grid.spec();
        let (lanes, columns, groups) = (spec.group_lanes(), spec.group_columns, spec.groups());
        let mut changed = vec![false; self.best.len()];
        for group in 0..groups {
            let mut tried = Vec::new();
            for row in rows {
                let mut steps = Vec::new();
                self.grid.group_steps(&self.best[*row].unit, GroupIndex(group), &mut steps);
                tried.extend(steps.into_iter().map(|unit| (*row, unit)));
            }
            let (first_lane, first) = (group * lanes, group * columns);
            let mut least: Vec<f64> = rows
                .iter()
                .map(|row| {
                    let values = &self.best[*row].values[first..][..columns];
                    self.loss(*row, first..first + columns, values)
                })
                .collect();
            let tried = self.rounded(tried, first_lane..first_lane + lanes);
            for (position, row) in rows.iter().enumerate() {
                for trial in tried.iter().filter(|trial| trial.row == *row) {
                    if trial.loss < least[position] {
                        least[position] = trial.loss;
                        changed[*row] = true;
                        let best = &mut self.best[*row];
                        best.unit = trial.unit;
                        best.codes[first_lane..][..lanes].copy_from_slice(&trial.codes);
                        best.values[first..][..columns].copy_from_slice(&trial.values);
                    }
                }
            }
        }
        let changed: Vec<usize> = rows.iter().copied().filter(|row| changed[*row]).collect();
        for row in &changed {
            let columns = self.weights.columns();
            self.best[*row].loss = self.loss(*row, 0..columns, &self.best[*row].values);
        }
        changed
    }

    /// Rounds lanes of rows to units.
    fn rounded(&self, tried: Vec<(usize, Unit)>, lanes: Range<usize>) -> Vec<Trial> {
        let lane_columns = self.grid.spec().lane_columns;
        let units: Vec<Unit> = tried.iter().map(|(_, unit)| *unit).collect();
        let mut trials: Vec<Trial> = tried
            .into_iter()
            .map(|(row, unit)| Trial {
                row,
                unit,
                codes: Vec::with_capacity(lanes.len()),
                values: Vec::with_capacity(lanes.len() * lane_columns),
                loss: 0.0,
            })
            .collect();
        let ones = vec![1.0; lane_columns];
        let mut targets = vec![0.0; trials.len() * lane_columns];
        let mut values = targets.clone();
        let mut codes = vec![Code::default(); trials.len()];
        for lane in lanes.clone() {
            if trials.is_empty() {
                break;
            }
            for (target, trial) in targets.chunks_mut(lane_columns).zip(&trials) {
                let row = self.weights.row(trial.row);
                target.copy_from_slice(&row[lane * lane_columns..][..lane_columns]);
            }
            self.grid.nearest(
                &units,
                LaneIndex(lane),
                Rows::dense(&targets, lane_columns),
                Metric::Diagonal(&ones),
                &mut codes,
                &mut values,
            );
            for ((trial, code), values) in
                trials.iter_mut().zip(&codes).zip(values.chunks(lane_columns))
            {
                trial.codes.push(*code);
                trial.values.extend_from_slice(values);
            }
        }
        let columns = lanes.start * lane_columns..lanes.end * lane_columns;
        for trial in &mut trials {
            trial.loss = self.loss(trial.row, columns.clone(), &trial.values);
        }
        trials
    }

    /// What some columns of a row lose.
    fn loss(&self, row: usize, columns: Range<usize>, values: &[f32]) -> f64 {
        let (weights, step) = (&self.weights.row(row)[columns], self.steps[row]);
        let pairs = weights.iter().zip(values);
        pairs.map(|(own, value)| f64::from(libm::powf(((own - value) / step).abs(), NORM))).sum()
    }
}

/// The distance of levels at which errors that are spread evenly would have this mean square.
fn step(weights: &[f32], values: &[f32]) -> f32 {
    let square = |(own, value): (&f32, &f32)| (f64::from(*own) - f64::from(*value)).powi(2);
    let sum: f64 = weights.iter().zip(values).map(square).sum();
    (12.0 * sum / weights.len().max(1) as f64).sqrt() as f32
}

/// What is forgiven of an error: the generalized soft threshold for the norm.
fn shrunk(error: f32, weight: f32) -> f32 {
    let size = error.abs();
    let threshold = libm::powf(size, NORM - 1.0) / weight;
    // At zero the threshold is infinite.
    if size > threshold { (size - threshold).copysign(error) } else { 0.0 }
}

/// The factors of one or two columns whose sum is nearest to the targets; none if that does
/// not say what they are.
fn least_squares(columns: &[Vec<f32>], targets: &[f64]) -> Option<Vec<f32>> {
    let product = |one: &[f32], other: &[f32]| -> f64 {
        one.iter().zip(other).map(|(one, other)| f64::from(*one) * f64::from(*other)).sum()
    };
    let with_targets = |column: &[f32]| -> f64 {
        column.iter().zip(targets).map(|(own, target)| f64::from(*own) * target).sum()
    };
    match columns {
        [only] => {
            let square = product(only, only);
            (square > 0.0).then(|| vec![(with_targets(only) / square) as f32])
        }
        [first, second] => {
            let (aa, ab, bb) =
                (product(first, first), product(first, second), product(second, second));
            let (ta, tb) = (with_targets(first), with_targets(second));
            let determinant = aa * bb - ab * ab;
            (determinant > 1e-9 * aa * bb).then(|| {
                let solved = [bb * ta - ab * tb, aa * tb - ab * ta];
                solved.map(|number| (number / determinant) as f32).to_vec()
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use qz_codec::grid::{
        GRIDS, GivenScales, IntegerFormat, LevelFormat, StoredNumber, affine, given_scales,
        integers,
    };

    use super::*;
    use crate::method::Options;
    use crate::statistics::Statistics;
    use crate::testing::DEVICE;

    const ROWS: usize = 35;
    const COLUMNS: usize = 512;

    /// Weights that look drawn from a normal distribution, some of them larger.
    fn weights() -> Vec<f32> {
        let mut state = 7u64;
        let mut uniform = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        let mut weight = |at: usize| {
            let normal: f32 = (0..12).map(|_| uniform()).sum::<f32>() - 6.0;
            0.02 * normal * if at.is_multiple_of(37) { 4.0 } else { 1.0 }
        };
        (0..ROWS * COLUMNS).map(&mut weight).collect()
    }

    fn run(target: Target<'_>, weights: &[f32]) -> Result<(Vec<u8>, Vec<f32>), Error> {
        let problem = Problem {
            weights: Rows::dense(weights, COLUMNS),
            statistics: Statistics::default(),
            target,
            device: &*DEVICE,
            options: &Options::default(),
        };
        let spec = target.grid().spec();
        let row_bytes = COLUMNS / spec.unit_columns * spec.unit_bytes;
        let (mut bytes, mut values) = (Vec::new(), Vec::new());
        let report = Hqq.quantize(&problem, &mut |_, batch| {
            for row in 0..batch.rows() {
                let mut own = vec![0; row_bytes];
                batch.pack(target.grid(), row, &mut own);
                bytes.extend(own);
                values.extend_from_slice(batch.values(row));
            }
            ControlFlow::Continue(())
        })?;
        assert_eq!((report.rows, report.columns, report.losses), (ROWS, COLUMNS, None));
        Ok((bytes, values))
    }

    /// Losses by the norm of each unit, the weights in units of their own.
    fn losses(grid: &dyn Grid, weights: &[f32], values: &[f32]) -> Vec<f64> {
        let columns = grid.spec().unit_columns;
        let units = weights.chunks(columns).zip(values.chunks(columns));
        units
            .map(|(weights, values)| {
                let pairs = weights.iter().zip(values);
                pairs.map(|(own, value)| libm::pow(f64::from((own - value).abs()), 0.7)).sum()
            })
            .collect()
    }

    fn check(target: Target<'_>) {
        let (grid, weights) = (target.grid(), weights());
        let name = &grid.spec().name;
        let rounded = round_rows(target, Rows::dense(&weights, COLUMNS), 0, None);
        let rounded: Vec<f32> = (0..ROWS).flat_map(|row| rounded.values(row).to_vec()).collect();
        let (bytes, values) = run(target, &weights).expect("done");
        let before = losses(grid, &weights, &rounded);
        let after = losses(grid, &weights, &values);
        for (unit, (before, after)) in before.iter().zip(&after).enumerate() {
            assert!(*after <= before * (1.0 + 1e-5), "{name}, {unit}: {before} -> {after}");
        }
        let [before, after] = [before, after].map(|losses| losses.iter().sum::<f64>());
        assert!(after < before, "{name}: {before} -> {after}");
        // What is packed is what was chosen.
        let spec = grid.spec();
        let mut codes = vec![Code::default(); spec.lanes()];
        let mut decoded = vec![0.0; spec.unit_columns];
        let units = bytes.chunks(spec.unit_bytes).zip(values.chunks(spec.unit_columns));
        for (bytes, values) in units {
            let unit = grid.unpack(bytes, &mut codes);
            grid.values(&unit, &codes, &mut decoded);
            assert_eq!(decoded, values, "{name}");
        }
    }

    #[test]
    fn no_unit_loses_more_than_by_rounding() {
        for grid in GRIDS {
            let data_type = grid().spec().data_type.expect("an element type");
            check(Target::of_type(data_type).expect("a grid"));
        }
        for (bits, symmetric) in [(4, false), (4, true), (3, false), (8, true)] {
            let format = IntegerFormat { bits, symmetric, group_columns: 64 };
            check(Target::of_grid(&integers(format)));
        }
        check(Target::of_grid(&affine(4, 64, StoredNumber::BF16)));
    }

    #[test]
    fn threads_and_scales_of_weights_change_no_code() {
        let grid = affine(4, 64, StoredNumber::F32);
        let target = Target::of_grid(&grid);
        let weights = weights();
        let on = |threads: usize, weights: &[f32]| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.expect("a pool").install(|| run(target, weights).expect("done"))
        };
        let one = on(1, &weights);
        assert_eq!(on(3, &weights), one);
        let larger: Vec<f32> = weights.iter().map(|weight| 64.0 * weight).collect();
        let expected: Vec<f32> = one.1.iter().map(|value| 64.0 * value).collect();
        assert_eq!(on(2, &larger).1, expected);
    }

    #[test]
    fn shrinking_finds_the_least() {
        let cost = |rest: f32, error: f32, weight: f32| {
            f64::from(libm::powf(rest.abs(), NORM))
                + f64::from(weight / 2.0 * (rest - error).powi(2))
        };
        for weight in [10.0, 12.0] {
            assert_eq!(shrunk(0.0, weight), 0.0);
            for error in [-0.5f32, 0.3, 0.45, 1.0] {
                let found = shrunk(error, weight);
                assert!(found.abs() <= error.abs() && found * error >= 0.0);
                // The threshold is that of the paper, a first-order one: not above doing nothing.
                assert!(cost(found, error, weight) <= cost(error, error, weight));
            }
        }
    }

    #[test]
    fn given_scales_leave_no_choice() {
        let levels: Vec<f32> = (0..16).map(|code| code as f32 - 8.0).collect();
        let format = LevelFormat { name: "given", levels: &levels, unit_columns: 64 };
        let scales = vec![0.01];
        let scales = GivenScales { scales, rows: ROWS, columns: COLUMNS, across: 1 };
        let grid = given_scales(format, scales);
        let expected = Error::Target { method: "hqq", target: "given".to_owned() };
        assert_eq!(run(Target::of_grid(&grid), &weights()), Err(expected));
    }
}
