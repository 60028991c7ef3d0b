//! Of units and codes at random, not only those that fits give.

use qz_codec::grid::{Code, Grid, GroupIndex, LaneIndex, Metric, ParameterIndex, Rows, Unit};

use crate::data::{Random, differences, inner, multiply};
use crate::subjects::{self, decode};

const UNITS: usize = 30;

/// Where neither relative errors nor a hundred times a value leave binary32.
const ORDINARY: std::ops::RangeInclusive<f32> = 1e-30..=1e30;

/// Units and codes from random bytes whose values are all zero or ordinary.
fn random_units(grid: &dyn Grid, random: &mut Random) -> Vec<(Unit, Vec<Code>, Vec<u8>)> {
    let spec = grid.spec();
    let mut found = Vec::new();
    while found.len() < UNITS {
        let bytes: Vec<u8> = (0..spec.unit_bytes).map(|_| random.bits() as u8).collect();
        let mut codes = vec![Code::default(); spec.lanes()];
        let unit = grid.unpack(&bytes, &mut codes);
        let mut values = vec![0.0; spec.unit_columns];
        grid.values(&unit, &codes, &mut values);
        if values.iter().all(|value| *value == 0.0 || ORDINARY.contains(&value.abs())) {
            found.push((unit, codes, bytes));
        }
    }
    found
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn any_bytes_unpack_to_what_they_decode_to() {
    for grid in subjects::all() {
        let name = &grid.spec().name;
        for (unit, codes, bytes) in random_units(grid, &mut Random::new(11)) {
            let mut values = vec![0.0; grid.spec().unit_columns];
            let mut decoded = vec![f32::NAN; values.len()];
            grid.values(&unit, &codes, &mut values);
            decode(grid, &bytes, &mut decoded);
            assert_eq!(bits(&values), bits(&decoded), "{name}");
            let mut packed = vec![0xa5; bytes.len()];
            grid.pack(&unit, &codes, &mut packed);
            assert_eq!(packed, bytes, "{name}");
        }
    }
}

/// A target near the unit's values, or far out.
fn target(random: &mut Random, values: &[f32]) -> Vec<f32> {
    let far = if random.bits().is_multiple_of(8) { 100.0 } else { 1.0 };
    let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    values.iter().map(|_| (f64::from(largest) * far * (2.0 * random.even() - 1.0)) as f32).collect()
}

fn nearest(
    grid: &dyn Grid,
    unit: &Unit,
    lane: usize,
    target: &[f32],
    metric: Metric<'_>,
) -> (Code, Vec<f32>) {
    let (mut code, mut values) = ([Code::default()], vec![0.0; target.len()]);
    let targets = Rows::dense(target, target.len());
    let units = std::slice::from_ref(unit);
    grid.nearest(units, LaneIndex(lane), targets, metric, &mut code, &mut values);
    (code[0], values)
}

/// The values of one lane of a unit.
fn lane_values(grid: &dyn Grid, unit: &Unit, lane: usize, code: Code) -> Vec<f32> {
    let spec = grid.spec();
    let mut codes = vec![Code::default(); spec.lanes()];
    codes[lane] = code;
    let mut values = vec![0.0; spec.unit_columns];
    grid.values(unit, &codes, &mut values);
    values[lane * spec.lane_columns..][..spec.lane_columns].to_vec()
}

#[test]
fn nearest_is_nearest_of_all_levels() {
    for grid in subjects::all().into_iter().filter(|grid| grid.spec().lane_columns == 1) {
        let (name, mut random) = (&grid.spec().name, Random::new(12));
        for (unit, codes, _) in random_units(grid, &mut random) {
            let mut values = vec![0.0; grid.spec().unit_columns];
            grid.values(&unit, &codes, &mut values);
            let targets = target(&mut random, &values);
            for group in 0..grid.spec().groups() {
                let lane = group * grid.spec().group_columns;
                let target = f64::from(targets[lane]);
                let (code, value) =
                    nearest(grid, &unit, lane, &targets[lane..][..1], Metric::Diagonal(&[1.0]));
                assert_eq!(lane_values(grid, &unit, lane, code), value, "{name}");
                let distance = (f64::from(value[0]) - target).abs();
                for other in 0..256 {
                    let Some(other) = valid(grid, other) else { break };
                    let value = f64::from(lane_values(grid, &unit, lane, other)[0]);
                    if value.is_nan() {
                        continue;
                    }
                    // Rounding to f32 may make a level nearer than exact numbers do.
                    let room = 1e-6 * (value.abs() + target.abs());
                    assert!((value - target).abs() >= distance - room, "{name}: {value} {target}");
                }
            }
        }
    }
}

/// A code by its number, if the grid has so many.
fn valid(grid: &dyn Grid, number: u32) -> Option<Code> {
    let mut codes = vec![Code(number); grid.spec().lanes()];
    let mut bytes = vec![0; grid.spec().unit_bytes];
    grid.pack(&Unit::default(), &codes, &mut bytes);
    grid.unpack(&bytes, &mut codes);
    (codes[0] == Code(number)).then_some(codes[0])
}

#[test]
fn nearest_leaves_no_better_code_nearby_or_at_random() {
    for grid in subjects::all().into_iter().filter(|grid| grid.spec().lane_columns > 1) {
        let (name, mut random) = (&grid.spec().name, Random::new(13));
        let width = grid.spec().lane_columns;
        for (unit, codes, _) in random_units(grid, &mut random) {
            let mut values = vec![0.0; grid.spec().unit_columns];
            grid.values(&unit, &codes, &mut values);
            let targets = target(&mut random, &values);
            let weights: Vec<f32> =
                (0..width).map(|_| random.heavy().abs() as f32 + 0.01).collect();
            for (lane, random_code) in codes.iter().enumerate() {
                let target = &targets[lane * width..][..width];
                let (code, value) = nearest(grid, &unit, lane, target, Metric::Diagonal(&weights));
                assert_eq!(lane_values(grid, &unit, lane, code), value, "{name}");
                let error = |value: &[f32]| -> f64 {
                    let errors = differences(value, target).into_iter().zip(&weights);
                    errors.map(|(error, weight)| error * error * f64::from(*weight)).sum()
                };
                let least = error(&value);
                let mut check = |_: Code, other: &[f32]| {
                    assert!(
                        error(other) >= least * (1.0 - 1e-5),
                        "{name}: {} {least}",
                        error(other)
                    );
                };
                grid.neighbours(&unit, LaneIndex(lane), code, &mut check);
                grid.neighbours(&unit, LaneIndex(lane), *random_code, &mut check);
                check(*random_code, &values[lane * width..][..width]);
            }
        }
    }
}

#[test]
fn neighbours_are_the_adjacent_levels() {
    for grid in subjects::all().into_iter().filter(|grid| grid.spec().lane_columns == 1) {
        let name = &grid.spec().name;
        for (unit, codes, _) in random_units(grid, &mut Random::new(14)).into_iter().take(4) {
            let value = |code| lane_values(grid, &unit, 0, code)[0];
            let all: Vec<f32> = (0..256).map_while(|code| valid(grid, code)).map(value).collect();
            let own = value(codes[0]);
            let mut sides = Vec::new();
            grid.neighbours(&unit, LaneIndex(0), codes[0], &mut |code, visited| {
                assert_eq!(lane_values(grid, &unit, 0, code), visited, "{name}");
                let (low, high) = (own.min(visited[0]), own.max(visited[0]));
                let between = all.iter().find(|other| low < **other && **other < high);
                assert_eq!(between, None, "{name}: between {low} and {high}");
                sides.push(visited[0] > own);
            });
            let steps =
                [all.iter().any(|other| *other < own), all.iter().any(|other| *other > own)];
            for (above, exists) in [false, true].into_iter().zip(steps) {
                assert!(!exists || sides.contains(&above), "{name}: {own} has no neighbour");
            }
        }
    }
}

/// Moves from neighbour to better neighbour; gives the error where it ends.
fn walk(grid: &dyn Grid, unit: &Unit, start: Code, error: impl Fn(&[f32]) -> f64) -> f64 {
    let (mut at, mut least) = (start, error(&lane_values(grid, unit, 0, start)));
    loop {
        let mut better = None;
        grid.neighbours(unit, LaneIndex(0), at, &mut |code, value| {
            assert_ne!(code, at, "{}: its own neighbour", grid.spec().name);
            if error(value) < least {
                least = error(value);
                better = Some(code);
            }
        });
        let Some(code) = better else { return least };
        at = code;
    }
}

#[test]
fn neighbours_lead_to_the_nearest() {
    for grid in subjects::all() {
        let (name, mut random) = (&grid.spec().name, Random::new(18));
        let width = grid.spec().lane_columns;
        let (mut walked, mut best) = (0.0, 0.0);
        for (unit, codes, _) in random_units(grid, &mut random) {
            let mut values = vec![0.0; grid.spec().unit_columns];
            grid.values(&unit, &codes, &mut values);
            let target = &target(&mut random, &values)[..width];
            let (_, wanted) = nearest(grid, &unit, 0, target, Metric::Diagonal(&vec![1.0; width]));
            let largest = target.iter().chain(&wanted).fold(0.0f32, |max, t| max.max(t.abs()));
            let error = |value: &[f32]| {
                let errors = differences(value, target);
                inner(&errors, &errors) / f64::from(largest).powi(2).max(f64::MIN_POSITIVE)
            };
            let least = walk(grid, &unit, codes[0], error);
            // On a line nothing is in the way but plateaus of rounded values.
            assert!(width > 1 || least <= error(&wanted) + 1e-5, "{name}: {least}");
            walked += least;
            best += error(&wanted);
        }
        // A codebook has hollows.
        assert!(walked <= 1.5 * best + 1e-4, "{name}: {walked} {best}");
    }
}

#[test]
fn values_are_the_basis_times_the_parameters() {
    for grid in subjects::all().into_iter().filter(|grid| grid.spec().parameters > 0) {
        let spec = grid.spec();
        for (unit, codes, _) in random_units(grid, &mut Random::new(15)) {
            let mut values = vec![0.0; spec.unit_columns];
            grid.values(&unit, &codes, &mut values);
            let (mut sums, mut sizes) = (vec![0.0; values.len()], vec![0.0; values.len()]);
            let mut column = vec![0.0; values.len()];
            for (position, parameter) in grid.parameters(&unit).iter().enumerate() {
                grid.basis(&unit, &codes, ParameterIndex(position), &mut column);
                for ((sum, size), factor) in sums.iter_mut().zip(&mut sizes).zip(&column) {
                    let term = f64::from(*factor) * f64::from(*parameter);
                    *sum += term;
                    *size += term.abs();
                }
            }
            for ((value, sum), size) in values.iter().zip(sums).zip(sizes) {
                let difference = (f64::from(*value) - sum).abs();
                assert!(difference <= 1e-6 * size, "{}: {value} {sum}", spec.name);
            }
            let mut same = unit;
            let parameters = grid.parameters(&unit).to_vec();
            if grid.set_parameters(&parameters, &mut same).is_ok() {
                assert_eq!(same, unit, "{}: stored parameters change", spec.name);
            }
            let too_large = if subjects::keeps_halves(grid) { 1e30 } else { f32::INFINITY };
            for wrong in [f32::NAN, f32::NEG_INFINITY, too_large] {
                let mut parameters = parameters.clone();
                parameters[0] = wrong;
                assert!(grid.set_parameters(&parameters, &mut same).is_err(), "{wrong}");
                assert_eq!(same, unit, "{}: a refusal changes the unit", spec.name);
            }
        }
    }
}

#[test]
fn steps_change_one_group_and_can_be_packed() {
    for grid in subjects::all() {
        let spec = grid.spec();
        let mut steps = Vec::new();
        for (unit, codes, mut bytes) in random_units(grid, &mut Random::new(16)) {
            let mut values = vec![0.0; spec.unit_columns];
            grid.values(&unit, &codes, &mut values);
            for group in 0..spec.groups() {
                steps.clear();
                grid.group_steps(&unit, GroupIndex(group), &mut steps);
                for step in &steps {
                    assert_ne!(*step, unit, "{}: a step that stays", spec.name);
                    let (mut moved, mut decoded) = (values.clone(), values.clone());
                    grid.values(step, &codes, &mut moved);
                    grid.pack(step, &codes, &mut bytes);
                    decode(grid, &bytes, &mut decoded);
                    assert_eq!(bits(&moved), bits(&decoded), "{}", spec.name);
                    let own = group * spec.group_columns..(group + 1) * spec.group_columns;
                    for column in (0..values.len()).filter(|column| !own.contains(column)) {
                        assert_eq!(moved[column].to_bits(), values[column].to_bits());
                    }
                }
            }
        }
    }
}

#[test]
fn a_block_metric_finds_codes_no_worse_than_its_diagonal() {
    for grid in subjects::all().into_iter().filter(|grid| grid.spec().lane_columns > 1) {
        let mut random = Random::new(17);
        let width = grid.spec().lane_columns;
        let (mut by_block, mut by_diagonal) = (0.0, 0.0);
        for (unit, codes, _) in random_units(grid, &mut random) {
            let mut values = vec![0.0; grid.spec().unit_columns];
            grid.values(&unit, &codes, &mut values);
            let targets = target(&mut random, &values);
            let factor: Vec<f64> = (0..width * width).map(|_| random.normal()).collect();
            let block: Vec<f64> = (0..width * width)
                .map(|at| {
                    inner(
                        &factor[at / width * width..][..width],
                        &factor[at % width * width..][..width],
                    )
                })
                .collect();
            let rounded: Vec<f32> = block.iter().map(|entry| *entry as f32).collect();
            let diagonal: Vec<f32> = (0..width).map(|at| rounded[at * (width + 1)]).collect();
            let target = &targets[..width];
            let error = |value: &[f32]| {
                let errors = differences(value, target);
                inner(&errors, &multiply(&block, &errors))
            };
            let scale = inner(
                &differences(target, &vec![0.0; width]),
                &differences(target, &vec![0.0; width]),
            );
            let metric = Metric::Block(Rows::dense(&rounded, width));
            by_block += error(&nearest(grid, &unit, 0, target, metric).1) / scale;
            by_diagonal +=
                error(&nearest(grid, &unit, 0, target, Metric::Diagonal(&diagonal)).1) / scale;
        }
        assert!(by_block <= by_diagonal, "{}: {by_block} {by_diagonal}", grid.spec().name);
    }
}
