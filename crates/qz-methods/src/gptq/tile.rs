//! Some rows on their way.

use std::ops::Range;

use qz_codec::grid::{
    Code, Emphasis, FitProblem, Grid, LaneIndex, Metric, RowBatch, RowFacts, Rows, Unit, UnitPlace,
};
use qz_kernels::gemm::add_row_products;
use qz_kernels::tile::{TILE_ROWS, TileColumn};

use super::prepare::Prepared;
use crate::method::Problem;
use crate::rounding::differences;

/// Rows on their way. Steps work on [`TILE_ROWS`] of them side by side.
pub(crate) struct Tile<'a> {
    pub(super) prepared: &'a Prepared,
    pub(super) grid: &'a dyn Grid,
    /// The first row's number in the matrix.
    first_row: usize,
    pub(super) columns: usize,
    /// What the values should be, row by row.
    pub(super) targets: Vec<f32>,
    /// Targets less values, row by row.
    pub(super) errors: Vec<f32>,
    pub(super) facts: Vec<RowFacts>,
    pub(crate) batch: RowBatch,
}

impl<'a> Tile<'a> {
    pub(super) fn new(prepared: &'a Prepared, problem: &Problem<'a>, rows: Range<usize>) -> Self {
        let grid = problem.target.grid();
        let columns = problem.weights.columns();
        let own = rows.clone().map(|row| problem.weights.row(row));
        let mut targets: Vec<f32> = own.flatten().copied().collect();
        let mut moved = targets.clone();
        if let Some(moves) = &prepared.moves {
            let weights = Rows::dense(&targets, columns);
            add_row_products(weights, Rows::dense(moves, columns), &mut moved);
        }
        if let Some(additions) = &prepared.additions {
            let own = &additions[rows.start * columns..rows.end * columns];
            moved.iter_mut().zip(own).for_each(|(target, addition)| *target += addition);
        }
        if moved.iter().all(|target| target.is_finite()) {
            targets = moved;
        }
        let facts = targets.chunks(columns).map(RowFacts::of).collect();
        Self {
            prepared,
            grid,
            first_row: rows.start,
            columns,
            errors: targets.clone(),
            targets,
            facts,
            batch: RowBatch::new(grid.spec(), rows.len(), columns),
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.batch.rows()
    }

    /// Ranges of rows that stand side by side.
    pub(super) fn strips(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let rows = self.rows();
        (0..rows).step_by(TILE_ROWS).map(move |first| first..rows.min(first + TILE_ROWS))
    }

    /// Blocks of columns, or of visits, that are worked on together.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (columns, block) = (self.columns, self.prepared.block);
        (0..columns).step_by(block).map(move |first| first..columns.min(first + block))
    }

    /// Targets less values, after rows were changed.
    pub(super) fn measure_errors(&mut self, rows: Range<usize>, columns: Range<usize>) {
        for row in rows {
            let begin = row * self.columns + columns.start;
            let own = begin..begin + columns.len();
            let values = &self.batch.values(row)[columns.clone()];
            let found = differences(&self.targets[own.clone()], values);
            self.errors[own].copy_from_slice(&found);
        }
    }

    /// Fits one unit of a strip to weights, given row by row.
    pub(super) fn fit(
        &mut self,
        strip: Range<usize>,
        unit: usize,
        weights: &[f32],
        metric: &[f32],
    ) {
        let columns = self.grid.spec().unit_columns;
        let problem = FitProblem {
            rows: Rows::dense(weights, columns),
            metric: Metric::Diagonal(metric),
            facts: &self.facts[strip.clone()],
            emphasis: self.emphasis(),
            place: UnitPlace { row: self.first_row + strip.start, unit },
        };
        self.grid.fit(&problem, &mut self.batch.units_mut(unit)[strip]);
    }

    fn emphasis(&self) -> Emphasis {
        self.prepared.options().emphasis
    }

    /// Stores one lane of a strip's rows.
    pub(super) fn set_lane(
        &mut self,
        strip: Range<usize>,
        lane: usize,
        codes: &[Code],
        values: &[f32],
    ) {
        let width = self.grid.spec().lane_columns;
        for ((row, code), values) in strip.zip(codes).zip(values.chunks(width)) {
            self.batch.codes_mut(row)[lane] = *code;
            self.batch.values_mut(row)[lane * width..][..width].copy_from_slice(values);
        }
    }

    /// A lane's unit, and its number in it.
    pub(super) fn place(&self, column: usize) -> (usize, LaneIndex) {
        let spec = self.grid.spec();
        let unit = column / spec.unit_columns;
        (unit, LaneIndex((column - unit * spec.unit_columns) / spec.lane_columns))
    }
}

/// One lane of some rows: what is rounded, and what it becomes.
pub(super) struct LaneRoom {
    pub(super) targets: Vec<f32>,
    pub(super) codes: Vec<Code>,
    pub(super) values: Vec<f32>,
    width: usize,
}

impl LaneRoom {
    pub(super) fn new(rows: usize, width: usize) -> Self {
        Self {
            targets: vec![0.0; rows * width],
            codes: vec![Code::default(); rows],
            values: vec![0.0; rows * width],
            width,
        }
    }

    /// Takes targets from columns.
    pub(super) fn set_targets(&mut self, columns: &[TileColumn]) {
        for (position, column) in columns.iter().enumerate() {
            let own = self.targets.iter_mut().skip(position).step_by(self.width);
            for (target, value) in own.zip(column) {
                *target = *value;
            }
        }
    }

    /// Rounds the targets.
    pub(super) fn round(
        &mut self,
        grid: &dyn Grid,
        units: &[Unit],
        lane: LaneIndex,
        block: &[f32],
    ) {
        let metric = match self.width {
            1 => Metric::Diagonal(&[1.0]),
            width => Metric::Block(Rows::dense(block, width)),
        };
        let targets = Rows::dense(&self.targets, self.width);
        grid.nearest(units, lane, targets, metric, &mut self.codes, &mut self.values);
    }

    /// One of the lane's columns of values; zeros beyond the rows.
    pub(super) fn column(&self, position: usize) -> TileColumn {
        let mut column = [0.0; TILE_ROWS];
        let own = self.values.iter().skip(position).step_by(self.width);
        for (entry, value) in column.iter_mut().zip(own) {
            *entry = *value;
        }
        column
    }
}

/// Rows' numbers as columns; zeros beyond the rows.
pub(super) fn columns_of(rows: &[f32], width: usize) -> Vec<TileColumn> {
    let mut columns = vec![[0.0; TILE_ROWS]; width];
    for (position, row) in rows.chunks(width).enumerate() {
        for (column, value) in columns.iter_mut().zip(row) {
            column[position] = *value;
        }
    }
    columns
}
