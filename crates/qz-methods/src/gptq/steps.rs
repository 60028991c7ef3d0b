//! Steps of groups' sub-scales, each with the group's codes chosen again. A step is taken
//! only if it lowers the loss.

use qz_codec::grid::{Code, GroupIndex, LaneIndex, Unit};
use qz_kernels::tile::{TILE_ROWS, TileColumn, add_weighted_columns};

use super::descend::Moves;
use super::tile::{LaneRoom, Tile};

/// What a group of a strip would become.
struct Trial {
    /// Of each row.
    units: Vec<Unit>,
    /// Lane by lane, of all rows.
    codes: Vec<Vec<Code>>,
    values: Vec<Vec<f32>>,
    /// Old values less new ones.
    moved: Vec<TileColumn>,
    /// Of each row.
    changes: [f32; TILE_ROWS],
}

impl Tile<'_> {
    /// Tries the steps of a unit's groups; it begins `at` columns into the block.
    pub(super) fn step_groups(&mut self, moves: &mut Moves, at: usize) {
        let spec = self.grid.spec();
        let unit = (moves.block.start + at) / spec.unit_columns;
        for group in 0..spec.groups() {
            self.step_group(moves, at, unit, GroupIndex(group));
        }
    }

    fn step_group(&mut self, moves: &mut Moves, at: usize, unit: usize, group: GroupIndex) {
        let steps: Vec<Vec<Unit>> = self.batch.units(unit)[moves.rows.clone()]
            .iter()
            .map(|stored| {
                let mut steps = Vec::new();
                self.grid.group_steps(stored, group, &mut steps);
                steps
            })
            .collect();
        let most = steps.iter().map(Vec::len).max().unwrap_or(0);
        let mut best: Option<Trial> = None;
        for number in 0..most {
            // A row with fewer steps tries its own unit again.
            let own = self.batch.units(unit)[moves.rows.clone()].iter().zip(&steps);
            let units = own.map(|(own, steps)| *steps.get(number).unwrap_or(own)).collect();
            let trial = self.try_units(moves, at, group, units);
            best = Some(match best {
                None => trial,
                Some(best) => best.or(trial, self.grid.spec().lane_columns),
            });
        }
        if let Some(best) = best {
            self.take(moves, at, unit, group, best);
        }
    }

    /// Chooses a group's codes one after the other in other units.
    fn try_units(&self, moves: &Moves, at: usize, group: GroupIndex, units: Vec<Unit>) -> Trial {
        let spec = self.grid.spec();
        let (width, columns) = (spec.lane_columns, spec.group_columns);
        let first = moves.block.start + at + group.0 * columns;
        let old = self.values_of(moves.rows.clone(), first..first + columns);
        let pull = &moves.pull[first - moves.block.start..][..columns];
        let objective = &self.prepared.objective;
        let mut room = LaneRoom::new(moves.rows.len(), width);
        let mut trial = Trial {
            units,
            codes: Vec::new(),
            values: Vec::new(),
            moved: Vec::with_capacity(columns),
            changes: [0.0; TILE_ROWS],
        };
        let mut block = Vec::new();
        for start in (0..columns).step_by(width) {
            let mut own = pull[start..start + width].to_vec();
            for (position, pull) in own.iter_mut().enumerate() {
                let weights = &objective.row(first + start + position)[first..];
                add_weighted_columns(std::slice::from_mut(pull), &trial.moved, weights, 0);
            }
            let column = first + start;
            let mut targets = old[start..start + width].to_vec();
            if width == 1 {
                let inverse = 1.0 / objective.row(column)[column];
                for (target, pull) in targets[0].iter_mut().zip(own[0]) {
                    *target += pull * inverse;
                }
            } else {
                let lane = column..column + width;
                block.clear();
                block.extend(objective.block(lane.clone(), lane).iter().flatten());
                let inverses = &self.prepared.lane_inverses[column * width..][..width * width];
                add_weighted_columns(&mut targets, &own, inverses, width);
            }
            room.set_targets(&targets);
            let lane = LaneIndex(group.0 * spec.group_lanes() + start / width);
            room.round(self.grid, &trial.units, lane, &block);
            let before = trial.moved.len();
            for position in 0..width {
                let mut moved = old[start + position];
                for (moved, new) in moved.iter_mut().zip(room.column(position)) {
                    *moved -= new;
                }
                trial.moved.push(moved);
            }
            let moved = &trial.moved[before..];
            for (position, own) in own.iter().enumerate() {
                let mut products = [[0.0; TILE_ROWS]];
                let weights = &objective.row(column + position)[column..];
                add_weighted_columns(&mut products, moved, weights, 0);
                for row in 0..TILE_ROWS {
                    trial.changes[row] +=
                        moved[position][row] * (products[0][row] + 2.0 * own[row]);
                }
            }
            trial.codes.push(room.codes.clone());
            trial.values.push(room.values.clone());
        }
        trial
    }

    /// Takes what lowers the loss.
    fn take(
        &mut self,
        moves: &mut Moves,
        at: usize,
        unit: usize,
        group: GroupIndex,
        mut trial: Trial,
    ) {
        let spec = self.grid.spec();
        let (width, columns) = (spec.lane_columns, spec.group_columns);
        let first = moves.block.start + at + group.0 * columns;
        let mut any = false;
        for (position, row) in moves.rows.clone().enumerate() {
            // A sum of many parts: what is less than its rounding is no decrease.
            if trial.changes[position] >= 0.0 {
                trial.moved.iter_mut().for_each(|column| column[position] = 0.0);
                continue;
            }
            any = true;
            self.batch.units_mut(unit)[row] = trial.units[position];
            for (lane, (codes, values)) in trial.codes.iter().zip(&trial.values).enumerate() {
                let column = first + lane * width;
                self.batch.codes_mut(row)[column / width] = codes[position];
                self.batch.values_mut(row)[column..column + width]
                    .copy_from_slice(&values[position * width..][..width]);
            }
        }
        if any {
            let weights =
                self.prepared.objective.block(moves.block.clone(), first..first + columns);
            for (pull, weights) in moves.pull.iter_mut().zip(weights.iter()) {
                add_weighted_columns(std::slice::from_mut(pull), &trial.moved, weights, 0);
            }
        }
    }
}

impl Trial {
    /// Of each row the one that lowers the loss more.
    fn or(mut self, other: Self, width: usize) -> Self {
        for row in 0..self.units.len() {
            if other.changes[row] < self.changes[row] {
                self.changes[row] = other.changes[row];
                self.units[row] = other.units[row];
                for lane in 0..self.codes.len() {
                    self.codes[lane][row] = other.codes[lane][row];
                    self.values[lane][row * width..][..width]
                        .copy_from_slice(&other.values[lane][row * width..][..width]);
                }
                for (own, other) in self.moved.iter_mut().zip(&other.moved) {
                    own[row] = other[row];
                }
            }
        }
        self
    }
}
