//! Error feedback: columns are rounded one after the other, each to a target that has
//! taken up what earlier ones lost.

use std::ops::Range;

use qz_codec::grid::Rows;
use qz_kernels::gemm::add_row_products;
use qz_kernels::stop;
use qz_kernels::tile::{TILE_ROWS, TileColumn, add_weighted_columns};

use super::Weighing;
use super::tile::{LaneRoom, Tile, columns_of};

/// A strip in one block of visits.
struct Strip {
    rows: Range<usize>,
    block: Range<usize>,
    /// What each column takes up of the errors before the block.
    carried: Vec<TileColumn>,
    weights: Vec<TileColumn>,
    /// Of the columns that are rounded.
    errors: Vec<TileColumn>,
}

impl Tile<'_> {
    /// Rounds all columns in the order of visits.
    pub(super) fn feed(&mut self) {
        // In the order of visits.
        let mut errors = vec![0.0; self.errors.len()];
        if self.prepared.visits.is_static {
            self.fit_all();
        }
        let mut carried = Vec::new();
        for block in self.blocks() {
            if stop::is_requested() {
                return;
            }
            let width = block.len();
            carried.clear();
            carried.resize(self.rows() * width, 0.0);
            if block.start > 0 {
                let before = Rows::dense(&errors, self.columns).slice(0, block.start);
                let weights = self.prepared.feedback.block(block.clone(), 0..block.start);
                add_row_products(before, weights, &mut carried);
            }
            for rows in self.strips() {
                if stop::is_requested() {
                    return;
                }
                let own = &carried[rows.start * width..rows.end * width];
                let mut strip = Strip {
                    carried: columns_of(own, width),
                    weights: self.visited(rows.clone(), block.clone()),
                    errors: Vec::with_capacity(width),
                    rows,
                    block: block.clone(),
                };
                self.feed_block(&mut strip);
                for (position, row) in strip.rows.enumerate() {
                    let own = &mut errors[row * self.columns..][block.clone()];
                    for (error, column) in own.iter_mut().zip(&strip.errors) {
                        *error = column[position];
                    }
                }
            }
        }
        self.measure_errors(0..self.rows(), 0..self.columns);
    }

    /// Fits all units to the weights as they are.
    fn fit_all(&mut self) {
        let columns = self.grid.spec().unit_columns;
        for unit in 0..self.batch.units_per_row() {
            if stop::is_requested() {
                return;
            }
            let own = unit * columns..(unit + 1) * columns;
            let metric = self.prepared.importance[own.clone()].to_vec();
            for rows in self.strips() {
                let weights: Vec<f32> = rows
                    .clone()
                    .flat_map(|row| &self.targets[row * self.columns..][own.clone()])
                    .copied()
                    .collect();
                self.fit(rows, unit, &weights, &metric);
            }
        }
    }

    /// The targets of some visits, as columns.
    fn visited(&self, rows: Range<usize>, visits: Range<usize>) -> Vec<TileColumn> {
        let mut columns = vec![[0.0; TILE_ROWS]; visits.len()];
        for (position, row) in rows.enumerate() {
            let targets = &self.targets[row * self.columns..][..self.columns];
            for (column, from) in
                columns.iter_mut().zip(&self.prepared.visits.columns[visits.clone()])
            {
                column[position] = targets[*from];
            }
        }
        columns
    }

    fn feed_block(&mut self, strip: &mut Strip) {
        let spec = self.grid.spec();
        let (unit_columns, width) = (spec.unit_columns, spec.lane_columns);
        let mut room = LaneRoom::new(strip.rows.len(), width);
        while strip.errors.len() < strip.block.len() {
            let at = strip.errors.len();
            if !self.prepared.visits.is_static && at.is_multiple_of(unit_columns) {
                self.fit_unit(strip);
            }
            let visit = strip.block.start + at;
            let mut taken = std::mem::take(&mut strip.errors);
            let targets = self.targets_of(strip, &mut taken, width);
            taken.truncate(at);
            let column = self.prepared.visits.columns[visit];
            let (unit, lane) = self.place(column);
            room.set_targets(&targets);
            let block = match width {
                1 => &[][..],
                _ => &self.prepared.lane_blocks[visit * width..][..width * width],
            };
            room.round(self.grid, &self.batch.units(unit)[strip.rows.clone()], lane, block);
            for position in 0..width {
                let mut error = strip.weights[at + position];
                for (error, value) in error.iter_mut().zip(room.column(position)) {
                    *error -= value;
                }
                taken.push(error);
            }
            strip.errors = taken;
            self.set_lane(strip.rows.clone(), column / width, &room.codes, &room.values);
        }
    }

    /// Where the next columns would take up all errors so far, if they could take any
    /// value. Appends the errors that these values would be to `errors`.
    fn targets_of(
        &self,
        strip: &Strip,
        errors: &mut Vec<TileColumn>,
        count: usize,
    ) -> Vec<TileColumn> {
        (0..count)
            .map(|_| {
                let at = errors.len();
                let mut taken = [strip.carried[at]];
                let weights = &self.prepared.feedback.weights(strip.block.start + at);
                let weights = &weights[strip.block.start..];
                add_weighted_columns(&mut taken, errors, weights, 0);
                let mut target = strip.weights[at];
                for (target, taken) in target.iter_mut().zip(&taken[0]) {
                    *target += taken;
                }
                errors.push(taken[0].map(|taken| -taken));
                target
            })
            .collect()
    }

    /// Fits the unit of the next columns to what they would be.
    fn fit_unit(&mut self, strip: &mut Strip) {
        let columns = self.grid.spec().unit_columns;
        let at = strip.errors.len();
        let mut errors = std::mem::take(&mut strip.errors);
        let updated = self.targets_of(strip, &mut errors, columns);
        errors.truncate(at);
        strip.errors = errors;
        let visits = strip.block.start + at..strip.block.start + at + columns;
        let prepared = self.prepared;
        let unit = prepared.visits.columns[visits.start] / columns;
        let mut metric = vec![0.0; columns];
        let mut weights = vec![0.0; strip.rows.len() * columns];
        for (visit, updated) in visits.zip(&updated) {
            let column = prepared.visits.columns[visit];
            let position = column - unit * columns;
            metric[position] = match prepared.options().weighing {
                Weighing::Importance => prepared.importance[column],
                Weighing::Remaining => prepared.feedback.remaining(visit),
            };
            for (row, value) in weights.chunks_mut(columns).zip(updated) {
                row[position] = *value;
            }
        }
        self.fit(strip.rows.clone(), unit, &weights, &metric);
    }
}
