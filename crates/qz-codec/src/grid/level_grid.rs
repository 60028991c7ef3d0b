//! The grids whose lanes are single columns: levels on a line for each group. The
//! families differ in how a unit says what the lines are.

use super::levels::{Levels, Line, SIDE, round_to_half};
use super::search::Group;
use super::{
    Code, Emphasis, FitProblem, Grid, GridSpec, GroupIndex, LaneIndex, Metric, ParameterIndex,
    Rows, Unit, UnitPlace, Unrepresentable, polish,
};

/// How a unit stores its groups' lines.
pub(super) trait Family: Send + Sync {
    /// A group's line, in decoding's own arithmetic.
    fn line(&self, unit: &Unit, group: usize) -> Line;

    /// What a parameter is multiplied by in the value of a level.
    fn coefficient(&self, unit: &Unit, group: usize, level: f32, parameter: usize) -> f32;

    /// Whether a parameter may have this (finite) value.
    fn allows(&self, _parameter: usize, _value: f32) -> bool {
        true
    }

    /// A parameter as it is stored.
    fn stored(&self, value: f32) -> f32 {
        round_to_half(value)
    }

    /// Units with one group's stored integers changed by one.
    fn group_steps(&self, unit: &Unit, group: usize, out: &mut Vec<Unit>);

    /// The unit with the least error by the group's weights, for its nearest levels.
    fn fit(&self, levels: &Levels, group_columns: usize, unit: Group<'_>, place: UnitPlace)
    -> Unit;
}

/// Where a unit's numbers and codes go.
pub(super) trait Packing: Send + Sync {
    fn pack(&self, unit: &Unit, codes: &[u8], out: &mut [u8]);
    fn unpack(&self, bytes: &[u8], codes: &mut [u8]) -> Unit;
}

/// A grid with lanes of one column.
pub(super) struct LevelGrid<F, P> {
    pub spec: GridSpec,
    pub levels: Levels,
    pub family: F,
    pub packing: P,
}

impl<F: Family, P: Packing> LevelGrid<F, P> {
    fn line(&self, unit: &Unit, column: usize) -> Line {
        self.family.line(unit, column / self.spec.group_columns)
    }
}

impl<F: Family, P: Packing> Grid for LevelGrid<F, P> {
    fn spec(&self) -> &GridSpec {
        &self.spec
    }

    fn fit(&self, problem: &FitProblem<'_>, units: &mut [Unit]) {
        let mut weights = vec![0.0; self.spec.unit_columns];
        for (row, unit) in units.iter_mut().enumerate() {
            let values = problem.rows.row(row);
            weigh(&self.spec, problem, row, &mut weights);
            let group = Group { values, weights: &weights };
            let columns = self.spec.group_columns;
            *unit = self.family.fit(&self.levels, columns, group, problem.place(row));
            if let Metric::Block(block) = problem.metric {
                polish::polish(self, values, block, unit);
            }
        }
    }

    fn nearest(
        &self,
        units: &[Unit],
        lane: LaneIndex,
        targets: Rows<'_>,
        _metric: Metric<'_>,
        codes: &mut [Code],
        values: &mut [f32],
    ) {
        let group = lane.0 / self.spec.group_columns;
        let (mut lines, mut side) = ([Line::default(); SIDE], [0.0; SIDE]);
        let chunks = units.chunks(SIDE).zip(codes.chunks_mut(SIDE)).zip(values.chunks_mut(SIDE));
        for (chunk, ((units, codes), values)) in chunks.enumerate() {
            for (at, unit) in units.iter().enumerate() {
                lines[at] = self.family.line(unit, group);
                side[at] = targets.row(chunk * SIDE + at)[0];
            }
            let found = self.levels.nearest_on(&lines, &side);
            for ((code, value), (nearest, at)) in codes.iter_mut().zip(values).zip(found) {
                (*code, *value) = (Code(u32::from(nearest)), at);
            }
        }
    }

    fn neighbours(
        &self,
        unit: &Unit,
        lane: LaneIndex,
        code: Code,
        visit: &mut dyn FnMut(Code, &[f32]),
    ) {
        let line = self.line(unit, lane.0);
        for neighbour in self.levels.neighbours(byte(code)) {
            visit(Code(u32::from(neighbour)), &[line.value(self.levels.level(neighbour))]);
        }
    }

    fn parameters<'u>(&self, unit: &'u Unit) -> &'u [f32] {
        &unit.parameters[..self.spec.parameters]
    }

    fn basis(&self, unit: &Unit, codes: &[Code], parameter: ParameterIndex, column: &mut [f32]) {
        let groups = codes.chunks(self.spec.group_columns);
        for (group, (codes, column)) in
            groups.zip(column.chunks_mut(self.spec.group_columns)).enumerate()
        {
            for (code, factor) in codes.iter().zip(column) {
                let level = self.levels.level(byte(*code));
                *factor = self.family.coefficient(unit, group, level, parameter.0);
            }
        }
    }

    fn set_parameters(&self, parameters: &[f32], unit: &mut Unit) -> Result<(), Unrepresentable> {
        let mut rounded = unit.parameters;
        for (position, (stored, parameter)) in rounded.iter_mut().zip(parameters).enumerate() {
            *stored = self.family.stored(*parameter);
            if !stored.is_finite() || !self.family.allows(position, *stored) {
                return Err(Unrepresentable);
            }
        }
        unit.parameters = rounded;
        Ok(())
    }

    fn group_steps(&self, unit: &Unit, group: GroupIndex, out: &mut Vec<Unit>) {
        self.family.group_steps(unit, group.0, out);
    }

    fn values(&self, unit: &Unit, codes: &[Code], out: &mut [f32]) {
        let groups = codes.chunks(self.spec.group_columns);
        for (group, (codes, out)) in groups.zip(out.chunks_mut(self.spec.group_columns)).enumerate()
        {
            let line = self.family.line(unit, group);
            for (value, code) in out.iter_mut().zip(codes) {
                *value = line.value(self.levels.level(byte(*code)));
            }
        }
    }

    fn pack(&self, unit: &Unit, codes: &[Code], out: &mut [u8]) {
        let codes: Vec<u8> = codes.iter().map(|code| byte(*code)).collect();
        self.packing.pack(unit, &codes, out);
    }

    fn unpack(&self, bytes: &[u8], codes: &mut [Code]) -> Unit {
        let mut levels = vec![0; codes.len()];
        let unit = self.packing.unpack(bytes, &mut levels);
        for (code, level) in codes.iter_mut().zip(levels) {
            *code = Code(u32::from(level));
        }
        unit
    }
}

/// Codes of these grids have at most eight bits.
fn byte(code: Code) -> u8 {
    code.0 as u8
}

/// What each column's squared error counts in one row's fit. A group in which
/// nothing counts is fitted as if everything counted the same.
pub(super) fn weigh(spec: &GridSpec, problem: &FitProblem<'_>, row: usize, weights: &mut [f32]) {
    let values = problem.rows.row(row);
    for (column, weight) in weights.iter_mut().enumerate() {
        *weight = problem.metric.weight(column);
    }
    if problem.emphasis == Emphasis::Magnitude {
        let facts = problem.facts.get(row).copied().unwrap_or_default();
        let variance = spec.emphasis.variance(&facts, values);
        for (weight, value) in weights.iter_mut().zip(values) {
            *weight *= (variance + value * value).sqrt();
        }
    }
    for weights in weights.chunks_mut(spec.group_columns) {
        let usable = weights.iter().all(|weight| weight.is_finite())
            && weights.iter().any(|weight| *weight > 0.0);
        if !usable {
            weights.fill(1.0);
        }
    }
}
