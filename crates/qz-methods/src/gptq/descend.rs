//! Coordinate descent: each lane moves to the value that is best with all others as they
//! are (QuantEase, arXiv 2309.01885). No move raises the loss.

use std::ops::Range;

use qz_codec::grid::Rows;
use qz_kernels::gemm::add_row_products;
use qz_kernels::stop;
use qz_kernels::tile::{TILE_ROWS, TileColumn, add_weighted_columns};

use super::tile::{LaneRoom, Tile, columns_of};

/// A strip in one block of columns.
pub(super) struct Moves {
    pub(super) rows: Range<usize>,
    pub(super) block: Range<usize>,
    /// The errors times the objective, with all moves so far.
    pub(super) pull: Vec<TileColumn>,
}

impl Tile<'_> {
    /// Visits every lane once; then, if `refit`, fits each unit's parameters again and
    /// tries steps of its sub-scales.
    pub(super) fn descend(&mut self, refit: bool) {
        let mut pull = Vec::new();
        for block in self.blocks() {
            let width = block.len();
            pull.clear();
            pull.resize(self.rows() * width, 0.0);
            let errors = Rows::dense(&self.errors, self.columns);
            let objective = self.prepared.objective.block(block.clone(), 0..self.columns);
            add_row_products(errors, objective, &mut pull);
            for rows in self.strips() {
                if stop::is_requested() {
                    return;
                }
                let own = &pull[rows.start * width..rows.end * width];
                let pull = columns_of(own, width);
                let mut moves = Moves { rows: rows.clone(), block: block.clone(), pull };
                self.move_lanes(&mut moves);
                if refit && self.grid.spec().unit_columns <= width {
                    self.refit_units(&mut moves);
                }
                self.measure_errors(rows, block.clone());
            }
        }
        if refit && self.grid.spec().unit_columns > self.prepared.block {
            self.refit_wide_units();
        }
    }

    /// Moves the block's lanes one after the other.
    fn move_lanes(&mut self, moves: &mut Moves) {
        let width = self.grid.spec().lane_columns;
        let first = moves.block.start;
        let mut room = LaneRoom::new(moves.rows.len(), width);
        // Old values less new ones.
        let mut moved: Vec<TileColumn> = Vec::with_capacity(moves.block.len());
        for at in (0..moves.block.len()).step_by(width) {
            for column in at..at + width {
                let weights = &self.prepared.objective.row(first + column)[first..];
                add_weighted_columns(&mut moves.pull[column..=column], &moved, weights, 0);
            }
            if width == 1 {
                moved.push(self.move_column(first + at, &moves.pull[at], &moves.rows, &mut room));
                continue;
            }
            let pull = &moves.pull[at..at + width];
            let old = self.move_lane(first + at, pull, &moves.rows, &mut room);
            moved.extend(old);
        }
        for at in 0..moves.block.len() {
            let lane = at / width * width;
            let weights = &self.prepared.objective.row(first + at)[first + lane..];
            add_weighted_columns(&mut moves.pull[at..=at], &moved[lane..], weights, 0);
        }
    }

    /// Moves one column of a strip, where that is a lane. Gives old values less new ones.
    fn move_column(
        &mut self,
        column: usize,
        pull: &TileColumn,
        rows: &Range<usize>,
        room: &mut LaneRoom,
    ) -> TileColumn {
        let entry = self.prepared.objective.row(column)[column];
        let inverse = 1.0 / entry;
        let (unit, lane) = self.place(column);
        let mut old = [0.0; TILE_ROWS];
        for (position, row) in rows.clone().enumerate() {
            old[position] = self.batch.values(row)[column];
            room.targets[position] = old[position] + pull[position] * inverse;
        }
        room.round(self.grid, &self.batch.units(unit)[rows.clone()], lane, &[]);
        let mut moved = [0.0; TILE_ROWS];
        for (position, row) in rows.clone().enumerate() {
            let step = old[position] - room.values[position];
            if step * (step * entry + 2.0 * pull[position]) < 0.0 {
                moved[position] = step;
                self.batch.codes_mut(row)[column] = room.codes[position];
                self.batch.values_mut(row)[column] = room.values[position];
            }
        }
        moved
    }

    /// Moves one lane of a strip. Gives old values less new ones.
    fn move_lane(
        &mut self,
        column: usize,
        pull: &[TileColumn],
        rows: &Range<usize>,
        room: &mut LaneRoom,
    ) -> Vec<TileColumn> {
        let width = pull.len();
        let objective = &self.prepared.objective;
        let (unit, lane) = self.place(column);
        let old = self.values_of(rows.clone(), column..column + width);
        let mut targets = old.clone();
        let span = column..column + width;
        let block: Vec<f32> =
            objective.block(span.clone(), span).iter().flatten().copied().collect();
        let inverses = &self.prepared.lane_inverses[column * width..][..width * width];
        add_weighted_columns(&mut targets, pull, inverses, width);
        room.set_targets(&targets);
        room.round(self.grid, &self.batch.units(unit)[rows.clone()], lane, &block);
        let mut moved = old;
        for (position, moved) in moved.iter_mut().enumerate() {
            for (moved, new) in moved.iter_mut().zip(room.column(position)) {
                *moved -= new;
            }
        }
        for (position, row) in rows.clone().enumerate() {
            let own: Vec<f32> = moved.iter().map(|column| column[position]).collect();
            let pulled = pull.iter().map(|column| column[position]);
            let product = |row: &[f32]| own.iter().zip(row).map(|(a, b)| a * b).sum::<f32>();
            let products = block.chunks(width).map(product);
            let change: f32 = own
                .iter()
                .zip(products)
                .zip(pulled)
                .map(|((m, p), pull)| m * (p + 2.0 * pull))
                .sum();
            if change < 0.0 {
                self.batch.codes_mut(row)[column / width] = room.codes[position];
                self.batch.values_mut(row)[column..column + width]
                    .copy_from_slice(&room.values[position * width..][..width]);
            } else {
                moved.iter_mut().for_each(|column| column[position] = 0.0);
            }
        }
        moved
    }

    /// Values of a strip, as columns; zeros beyond the rows.
    pub(super) fn values_of(&self, rows: Range<usize>, columns: Range<usize>) -> Vec<TileColumn> {
        let mut found = vec![[0.0; TILE_ROWS]; columns.len()];
        for (position, row) in rows.enumerate() {
            for (column, value) in found.iter_mut().zip(&self.batch.values(row)[columns.clone()]) {
                column[position] = *value;
            }
        }
        found
    }
}
