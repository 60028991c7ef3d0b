//! A whole method in its simplest form, to see that a grid can carry one: feedback,
//! coordinate descent, refit of parameters, steps of sub-scales.

use qz_codec::grid::{
    Code, Emphasis, FitProblem, Grid, GroupIndex, LaneIndex, Metric, ParameterIndex, RowBatch,
    RowFacts, Rows, Unit, UnitPlace,
};

use crate::data::{Problem, differences, inner, multiply};
use crate::factor;

/// Decreases smaller than this part of the loss do not count.
const LEAST_GAIN: f64 = 1e-9;

pub(crate) struct Driver<'a> {
    pub(crate) grid: &'a dyn Grid,
    pub(crate) problem: &'a Problem,
    pub(crate) batch: RowBatch,
    /// The Hessian's diagonal.
    importance: Vec<f32>,
    /// The errors times the Hessian, row by row; kept by `descend` and `step`.
    pull: Vec<f64>,
}

impl<'a> Driver<'a> {
    pub(crate) fn new(grid: &'a dyn Grid, problem: &'a Problem) -> Self {
        let batch = RowBatch::new(grid.spec(), problem.rows, problem.columns);
        let importance = problem.importance();
        Self { grid, problem, batch, importance, pull: vec![0.0; problem.weights.len()] }
    }

    pub(crate) fn loss(&self) -> f64 {
        self.problem.loss(|row| self.batch.values(row))
    }

    fn facts(&self) -> Vec<RowFacts> {
        (0..self.problem.rows).map(|row| RowFacts::of(self.problem.row(row))).collect()
    }

    /// Fits and rounds every unit by the Hessian's diagonal, without feedback.
    pub(crate) fn fit_and_round(&mut self) {
        let (facts, columns) = (self.facts(), self.grid.spec().unit_columns);
        for unit in 0..self.batch.units_per_row() {
            let first = unit * columns;
            let metric = Metric::Diagonal(&self.importance[first..][..columns]);
            let rows = Rows::new(&self.problem.weights[first..], self.problem.columns, columns);
            let (emphasis, place) = (Emphasis::None, UnitPlace { row: 0, unit });
            let problem = FitProblem { rows, metric, facts: &facts, emphasis, place };
            self.grid.fit(&problem, self.batch.units_mut(unit));
        }
        let rows = Rows::dense(&self.problem.weights, self.problem.columns);
        let hessian: Vec<f32> = self.problem.hessian.iter().map(|entry| *entry as f32).collect();
        let metric = match self.grid.spec().lane_columns {
            1 => Metric::Diagonal(&self.importance),
            _ => Metric::Block(Rows::dense(&hessian, self.problem.columns)),
        };
        self.batch.round(self.grid, rows, metric);
    }

    /// Rounds from left to right, each lane taking up the errors before it; a unit is
    /// fitted to the weights as they are when its first lane comes, and then kept.
    pub(crate) fn feed_back(&mut self, damping: f64) {
        let Problem { rows, columns, ref hessian, .. } = *self.problem;
        let spec = self.grid.spec();
        let damped = factor::damped(hessian, columns, damping);
        let upper = factor::upper(&damped, columns).expect("a damped matrix has a factor");
        let facts = self.facts();
        // For each row, the errors so far times the factor.
        let mut carried = vec![0.0; rows * columns];
        for unit in 0..self.batch.units_per_row() {
            let first = unit * spec.unit_columns;
            let updated = self.updated(&upper, &carried, first, spec.unit_columns);
            // What a column's error still counts once later columns have taken up what
            // they can; a little better than the Hessian's own diagonal.
            let remaining: Vec<f32> = (first..first + spec.unit_columns)
                .map(|column| upper[column * (columns + 1)].powi(2) as f32)
                .collect();
            let problem = FitProblem {
                rows: Rows::dense(&updated, spec.unit_columns),
                metric: Metric::Diagonal(&remaining),
                facts: &facts,
                emphasis: Emphasis::None,
                place: UnitPlace { row: 0, unit },
            };
            self.grid.fit(&problem, self.batch.units_mut(unit));
            for lane in 0..spec.lanes() {
                self.feed_lane(&upper, &mut carried, unit, LaneIndex(lane));
            }
        }
    }

    /// The weights of some columns that would take up all errors of earlier columns.
    fn updated(&self, upper: &[f64], carried: &[f64], first: usize, count: usize) -> Vec<f32> {
        let columns = self.problem.columns;
        let mut updated = Vec::with_capacity(self.problem.rows * count);
        for (row, carried) in carried.chunks(columns).enumerate() {
            let mut taken = vec![0.0; count];
            for k in 0..count {
                let earlier: f64 =
                    (0..k).map(|i| taken[i] * upper[(first + i) * columns + first + k]).sum();
                taken[k] = (carried[first + k] - earlier) / upper[(first + k) * (columns + 1)];
                updated.push((f64::from(self.problem.row(row)[first + k]) + taken[k]) as f32);
            }
        }
        updated
    }

    fn feed_lane(&mut self, upper: &[f64], carried: &mut [f64], unit: usize, lane: LaneIndex) {
        let columns = self.problem.columns;
        let spec = self.grid.spec();
        let (width, rows) = (spec.lane_columns, self.problem.rows);
        let first = unit * spec.unit_columns + lane.0 * width;
        let targets = self.updated(upper, carried, first, width);
        // What the lane's errors count once later lanes have taken up what they can.
        let corner = |i: usize, j: usize| upper[(first + i) * columns + first + j];
        let block: Vec<f32> = (0..width * width)
            .map(|at| {
                let (i, j) = (at / width, at % width);
                (0..width).map(|k| corner(i, k) * corner(j, k)).sum::<f64>() as f32
            })
            .collect();
        let mut codes = vec![Code::default(); rows];
        let mut values = vec![0.0; rows * width];
        self.grid.nearest(
            self.batch.units(unit),
            lane,
            Rows::dense(&targets, width),
            Metric::Block(Rows::dense(&block, width)),
            &mut codes,
            &mut values,
        );
        self.batch.set_lane(first / width, &codes, &values);
        for row in 0..rows {
            let weights = &self.problem.row(row)[first..];
            for (position, value) in values[row * width..][..width].iter().enumerate() {
                let error = f64::from(weights[position]) - f64::from(*value);
                let factors = &upper[(first + position) * columns..][..columns];
                let carried = &mut carried[row * columns..][..columns];
                for (carried, factor) in carried.iter_mut().zip(factors).skip(first) {
                    *carried += error * factor;
                }
            }
        }
    }

    fn measure_pull(&mut self) {
        for (row, pull) in self.pull.chunks_mut(self.problem.columns).enumerate() {
            let errors = differences(self.problem.row(row), self.batch.values(row));
            pull.copy_from_slice(&multiply(&self.problem.hessian, &errors));
        }
    }

    /// Visits every lane and moves it to the best code with all others kept.
    pub(crate) fn descend(&mut self, cycles: usize) {
        self.measure_pull();
        for _ in 0..cycles {
            for row in 0..self.problem.rows {
                for unit in 0..self.batch.units_per_row() {
                    let stored = self.batch.units(unit)[row];
                    self.descend_lanes(row, unit, &stored, 0..self.grid.spec().lanes());
                }
            }
        }
    }

    /// The same for some lanes of one unit. Gives the change of the loss.
    fn descend_lanes(
        &mut self,
        row: usize,
        unit: usize,
        stored: &Unit,
        lanes: std::ops::Range<usize>,
    ) -> f64 {
        lanes.map(|lane| self.move_lane(row, unit, stored, LaneIndex(lane))).sum()
    }

    fn move_lane(&mut self, row: usize, unit: usize, stored: &Unit, lane: LaneIndex) -> f64 {
        let (columns, width) = (self.problem.columns, self.grid.spec().lane_columns);
        let first = unit * self.grid.spec().unit_columns + lane.0 * width;
        let pull = &self.pull[row * columns + first..][..width];
        let block: Vec<f64> = (0..width * width)
            .map(|at| self.problem.hessian[(first + at / width) * columns + first + at % width])
            .collect();
        let old = self.batch.values(row)[first..][..width].to_vec();
        let change = |values: &[f32]| {
            let moved = differences(values, &old);
            inner(&moved, &multiply(&block, &moved)) - 2.0 * inner(&moved, pull)
        };
        let mut best = (0.0, Code::default(), old.clone());
        let mut consider = |code: Code, values: &[f32]| {
            let change = change(values);
            if change < best.0 {
                best = (change, code, values.to_vec());
            }
        };
        if let Some(wanted) = factor::solve(&block, pull) {
            let target: Vec<f32> =
                old.iter().zip(wanted).map(|(old, by)| (f64::from(*old) + by) as f32).collect();
            let metric: Vec<f32> = block.iter().map(|entry| *entry as f32).collect();
            let metric = Metric::Block(Rows::dense(&metric, width));
            let (mut code, mut values) = ([Code::default()], vec![0.0; width]);
            let target = Rows::dense(&target, width);
            let units = std::slice::from_ref(stored);
            self.grid.nearest(units, lane, target, metric, &mut code, &mut values);
            consider(code[0], &values);
        }
        let code = self.batch.codes(row)[first / width];
        self.grid.neighbours(stored, lane, code, &mut consider);
        let (change, code, values) = best;
        if change < 0.0 {
            self.set(row, first, code, &values);
        }
        change
    }

    /// Stores one lane of one row, and what follows.
    fn set(&mut self, row: usize, first: usize, code: Code, values: &[f32]) {
        let columns = self.problem.columns;
        let pull = &mut self.pull[row * columns..][..columns];
        for (position, value) in values.iter().enumerate() {
            let old = &mut self.batch.values_mut(row)[first + position];
            let moved = f64::from(*value) - f64::from(*old);
            *old = *value;
            let entries = &self.problem.hessian[(first + position) * columns..][..columns];
            for (pull, entry) in pull.iter_mut().zip(entries) {
                *pull -= moved * entry;
            }
        }
        self.batch.codes_mut(row)[first / values.len()] = code;
    }

    /// Solves for the parameters of all units of a row at once, codes kept. Taken only
    /// if the loss decreases once they are rounded.
    pub(crate) fn refit(&mut self) {
        for row in 0..self.problem.rows {
            let Some(units) = self.refitted(row) else { continue };
            let mut values = vec![0.0; self.problem.columns];
            let columns = self.grid.spec().unit_columns;
            for (unit, values) in values.chunks_mut(columns).enumerate() {
                self.grid.values(&units[unit], self.batch.unit_codes(row, unit), values);
            }
            let before = self.problem.row_loss(row, self.batch.values(row));
            if self.problem.row_loss(row, &values) < before {
                self.batch.values_mut(row).copy_from_slice(&values);
                for (unit, refitted) in units.into_iter().enumerate() {
                    self.batch.units_mut(unit)[row] = refitted;
                }
            }
        }
    }

    fn refitted(&self, row: usize) -> Option<Vec<Unit>> {
        let spec = self.grid.spec();
        let (mut columns, mut owners) = (Vec::new(), Vec::new());
        for unit in 0..self.batch.units_per_row() {
            for parameter in 0..spec.parameters {
                let mut column = vec![0.0; spec.unit_columns];
                let codes = self.batch.unit_codes(row, unit);
                let stored = &self.batch.units(unit)[row];
                self.grid.basis(stored, codes, ParameterIndex(parameter), &mut column);
                let mut whole = vec![0.0; self.problem.columns];
                for (whole, factor) in whole[unit * spec.unit_columns..].iter_mut().zip(column) {
                    *whole = f64::from(factor);
                }
                if whole.iter().any(|factor| *factor != 0.0) {
                    columns.push(whole);
                    owners.push((unit, parameter));
                }
            }
        }
        let pushed: Vec<Vec<f64>> =
            columns.iter().map(|column| multiply(&self.problem.hessian, column)).collect();
        let weights: Vec<f64> = self.problem.row(row).iter().map(|w| f64::from(*w)).collect();
        let right: Vec<f64> = pushed.iter().map(|column| inner(column, &weights)).collect();
        let matrix: Vec<f64> =
            columns.iter().flat_map(|a| pushed.iter().map(move |b| inner(a, b))).collect();
        let solution = factor::solve(&matrix, &right)?;
        let mut units: Vec<Unit> =
            (0..self.batch.units_per_row()).map(|unit| self.batch.units(unit)[row]).collect();
        for (unit, stored) in units.iter_mut().enumerate() {
            let mut parameters = self.grid.parameters(stored).to_vec();
            for ((_, parameter), found) in
                owners.iter().zip(&solution).filter(|((owner, _), _)| *owner == unit)
            {
                parameters[*parameter] = *found as f32;
            }
            // A unit that cannot store its share keeps what it has.
            let _ = self.grid.set_parameters(&parameters, stored);
        }
        Some(units)
    }

    /// Tries every step of every group's sub-scales, each with its codes rounded again;
    /// kept if the loss decreases.
    pub(crate) fn step(&mut self) {
        self.measure_pull();
        let mut steps = Vec::new();
        for row in 0..self.problem.rows {
            for unit in 0..self.batch.units_per_row() {
                for group in 0..self.grid.spec().groups() {
                    let stored = self.batch.units(unit)[row];
                    steps.clear();
                    self.grid.group_steps(&stored, GroupIndex(group), &mut steps);
                    for stepped in &steps {
                        self.try_step(row, unit, GroupIndex(group), stepped);
                    }
                }
            }
        }
    }

    fn try_step(&mut self, row: usize, unit: usize, group: GroupIndex, stepped: &Unit) {
        let spec = self.grid.spec();
        let (columns, width) = (self.problem.columns, spec.lane_columns);
        let lanes = group.0 * spec.group_lanes()..(group.0 + 1) * spec.group_lanes();
        let first = unit * spec.unit_columns + group.0 * spec.group_columns;
        let codes = self.batch.codes(row)[first / width..][..spec.group_lanes()].to_vec();
        let values = self.batch.values(row)[first..][..spec.group_columns].to_vec();
        let pull = self.pull[row * columns..][..columns].to_vec();
        let mut change = 0.0;
        for lane in lanes.clone() {
            change += self.follow_lane(row, unit, stepped, LaneIndex(lane));
        }
        change += self.descend_lanes(row, unit, stepped, lanes);
        if change < -LEAST_GAIN * inner(&pull, &pull).sqrt() * 1e-3 {
            self.batch.units_mut(unit)[row] = *stepped;
            return;
        }
        self.batch.codes_mut(row)[first / width..][..codes.len()].copy_from_slice(&codes);
        self.batch.values_mut(row)[first..][..values.len()].copy_from_slice(&values);
        self.pull[row * columns..][..columns].copy_from_slice(&pull);
    }

    /// Moves a lane to the value in a changed unit that is nearest to its present one.
    fn follow_lane(&mut self, row: usize, unit: usize, stepped: &Unit, lane: LaneIndex) -> f64 {
        let (columns, width) = (self.problem.columns, self.grid.spec().lane_columns);
        let first = unit * self.grid.spec().unit_columns + lane.0 * width;
        let old = self.batch.values(row)[first..][..width].to_vec();
        let block: Vec<f64> = (0..width * width)
            .map(|at| self.problem.hessian[(first + at / width) * columns + first + at % width])
            .collect();
        let metric: Vec<f32> = block.iter().map(|entry| *entry as f32).collect();
        let metric = Metric::Block(Rows::dense(&metric, width));
        let (mut code, mut values) = ([Code::default()], vec![0.0; width]);
        let units = std::slice::from_ref(stepped);
        self.grid.nearest(units, lane, Rows::dense(&old, width), metric, &mut code, &mut values);
        let moved = differences(&values, &old);
        let pull = &self.pull[row * columns + first..][..width];
        let change = inner(&moved, &multiply(&block, &moved)) - 2.0 * inner(&moved, pull);
        self.set(row, first, code[0], &values);
        change
    }
}
