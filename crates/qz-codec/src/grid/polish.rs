//! Fits under a block of the Hessian: from a fit by the block's diagonal, moves that
//! lower `e H eᵀ`.

use super::{
    Code, Grid, GroupIndex, LaneIndex, MOST_PARAMETERS, Metric, ParameterIndex, Rows, Unit,
};

/// Rounds of refit and steps.
const ROUNDS: usize = 2;

/// Improves `unit` for rounding `target` without feedback. Every change kept lowers
/// the error of the unit's nearest codes.
pub(super) fn polish(grid: &dyn Grid, target: &[f32], block: Rows<'_>, unit: &mut Unit) {
    let mut state = State::of(grid, target, block, *unit);
    for _ in 0..ROUNDS {
        let before = state.error;
        state.refit(grid, target, block);
        state.step_groups(grid, target, block);
        if state.error > before * 0.999 {
            break;
        }
    }
    *unit = state.unit;
}

/// A unit with its nearest codes.
struct State {
    unit: Unit,
    codes: Vec<Code>,
    /// Target less values.
    errors: Vec<f64>,
    /// The errors times the block.
    weighted: Vec<f64>,
    error: f64,
}

impl State {
    fn of(grid: &dyn Grid, target: &[f32], block: Rows<'_>, unit: Unit) -> Self {
        let spec = grid.spec();
        let mut codes = vec![Code::default(); spec.lanes()];
        let mut values = vec![0.0; target.len()];
        for group in 0..spec.groups() {
            let columns = group * spec.group_columns..(group + 1) * spec.group_columns;
            let lanes = group * spec.group_lanes()..(group + 1) * spec.group_lanes();
            let target = &target[columns.clone()];
            let values = &mut values[columns];
            round_group(grid, &unit, GroupIndex(group), target, block, &mut codes[lanes], values);
        }
        let errors: Vec<f64> = differences(target, &values).collect();
        let weighted: Vec<f64> = (0..errors.len()).map(|at| dot(block.row(at), &errors)).collect();
        let error = errors.iter().zip(&weighted).map(|(error, weighted)| error * weighted).sum();
        Self { unit, codes, errors, weighted, error }
    }

    /// Solves for the parameters with the codes as they are, and rounds again.
    fn refit(&mut self, grid: &dyn Grid, target: &[f32], block: Rows<'_>) {
        let Some(parameters) = solve(grid, &self.unit, &self.codes, target, block) else { return };
        let mut unit = self.unit;
        if grid.set_parameters(&parameters, &mut unit).is_ok() {
            let other = Self::of(grid, target, block, unit);
            if other.error < self.error {
                *self = other;
            }
        }
    }

    fn step_groups(&mut self, grid: &dyn Grid, target: &[f32], block: Rows<'_>) {
        let mut steps = Vec::new();
        for group in 0..grid.spec().groups() {
            steps.clear();
            grid.group_steps(&self.unit, GroupIndex(group), &mut steps);
            for unit in &steps {
                self.try_group(grid, target, block, unit, group);
            }
        }
    }

    /// Takes a unit that differs in one group if that lowers the error.
    fn try_group(
        &mut self,
        grid: &dyn Grid,
        target: &[f32],
        block: Rows<'_>,
        unit: &Unit,
        group: usize,
    ) {
        let spec = grid.spec();
        let first = group * spec.group_columns;
        let target = &target[first..][..spec.group_columns];
        let mut codes = vec![Code::default(); spec.group_lanes()];
        let mut values = vec![0.0; spec.group_columns];
        round_group(grid, unit, GroupIndex(group), target, block, &mut codes, &mut values);
        let changes: Vec<f64> = differences(target, &values)
            .zip(&self.errors[first..])
            .map(|(new, old)| new - old)
            .collect();
        let change: f64 = (0..changes.len())
            .map(|at| {
                let row = &block.row(first + at)[first..][..changes.len()];
                changes[at] * (2.0 * self.weighted[first + at] + dot(row, &changes))
            })
            .sum();
        if change >= 0.0 {
            return;
        }
        self.unit = *unit;
        self.error += change;
        self.codes[group * spec.group_lanes()..][..codes.len()].copy_from_slice(&codes);
        for (error, change) in self.errors[first..].iter_mut().zip(&changes) {
            *error += change;
        }
        for (at, weighted) in self.weighted.iter_mut().enumerate() {
            *weighted += dot(&block.row(at)[first..][..changes.len()], &changes);
        }
    }
}

fn differences(target: &[f32], values: &[f32]) -> impl Iterator<Item = f64> {
    target.iter().zip(values).map(|(target, value)| f64::from(*target) - f64::from(*value))
}

fn dot(row: &[f32], vector: &[f64]) -> f64 {
    row.iter().zip(vector).map(|(a, b)| f64::from(*a) * b).sum()
}

/// Rounds one group's lanes, each alone.
fn round_group(
    grid: &dyn Grid,
    unit: &Unit,
    group: GroupIndex,
    target: &[f32],
    block: Rows<'_>,
    codes: &mut [Code],
    values: &mut [f32],
) {
    let spec = grid.spec();
    let columns = spec.lane_columns;
    let mut room = vec![0.0; columns * columns];
    let lanes = target.chunks(columns).zip(values.chunks_mut(columns)).zip(codes);
    for (position, ((target, values), code)) in lanes.enumerate() {
        let lane = group.0 * spec.group_lanes() + position;
        let metric = Metric::Block(block).lane(lane * columns, columns, &mut room);
        let code = std::slice::from_mut(code);
        let target = Rows::dense(target, columns);
        grid.nearest(std::slice::from_ref(unit), LaneIndex(lane), target, metric, code, values);
    }
}

/// The parameters with the least `e H eᵀ` for the codes as they are.
fn solve(
    grid: &dyn Grid,
    unit: &Unit,
    codes: &[Code],
    target: &[f32],
    block: Rows<'_>,
) -> Option<Vec<f32>> {
    let count = grid.spec().parameters;
    let mut basis = vec![vec![0.0; target.len()]; count];
    for (parameter, column) in basis.iter_mut().enumerate() {
        grid.basis(unit, codes, ParameterIndex(parameter), column);
    }
    let target: Vec<f64> = target.iter().map(|value| f64::from(*value)).collect();
    let weighted: Vec<Vec<f64>> = basis
        .iter()
        .map(|column| {
            let column: Vec<f64> = column.iter().map(|value| f64::from(*value)).collect();
            (0..column.len()).map(|at| dot(block.row(at), &column)).collect()
        })
        .collect();
    let products: Vec<f64> = weighted.iter().map(|h| inner(h, &target)).collect();
    let square = |a: usize, b: usize| dot(&basis[a], &weighted[b]);
    let solution = match count {
        1 if square(0, 0) > 0.0 => vec![products[0] / square(0, 0)],
        MOST_PARAMETERS => {
            let (aa, ab, bb) = (square(0, 0), square(0, 1), square(1, 1));
            let determinant = aa * bb - ab * ab;
            if determinant > 1e-9 * aa * bb {
                let first = (bb * products[0] - ab * products[1]) / determinant;
                vec![first, (aa * products[1] - ab * products[0]) / determinant]
            } else if aa > 0.0 {
                // Only the scale can be told; the offset stays.
                let offset = f64::from(grid.parameters(unit)[1]);
                vec![(products[0] - ab * offset) / aa, offset]
            } else {
                return None;
            }
        }
        _ => return None,
    };
    Some(solution.into_iter().map(|value| value as f32).collect())
}

fn inner(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
