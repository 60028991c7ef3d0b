//! Packing is decoding's inverse, whatever the method did; fits stand what weights
//! and importance may be.

use qz_codec::grid::{Emphasis, FitProblem, Grid, Metric, RowBatch, RowFacts, Rows, UnitPlace};

use crate::data::{Problem, Random, differences, inner, multiply};
use crate::driver::Driver;
use crate::subjects::{self, decode};

/// Packs and decodes a whole batch, and compares with its values bit for bit.
pub(crate) fn check_packing(grid: &dyn Grid, batch: &RowBatch) {
    let spec = grid.spec();
    let mut bytes = vec![0xa5; batch.units_per_row() * spec.unit_bytes];
    let mut decoded = vec![f32::NAN; batch.columns()];
    for row in 0..batch.rows() {
        batch.pack(grid, row, &mut bytes);
        decode(grid, &bytes, &mut decoded);
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&decoded), bits(batch.values(row)), "{}: row {row}", spec.name);
    }
}

/// Fits and rounds rows by a diagonal.
fn round(grid: &dyn Grid, rows: Rows<'_>, importance: &[f32], emphasis: Emphasis) -> RowBatch {
    let columns = grid.spec().unit_columns;
    let facts: Vec<RowFacts> = rows.iter().map(RowFacts::of).collect();
    let mut batch = RowBatch::new(grid.spec(), rows.count(), rows.columns());
    for unit in 0..batch.units_per_row() {
        let values: Vec<f32> =
            rows.iter().flat_map(|row| row[unit * columns..][..columns].to_vec()).collect();
        let problem = FitProblem {
            rows: Rows::dense(&values, columns),
            metric: Metric::Diagonal(&importance[unit * columns..][..columns]),
            facts: &facts,
            emphasis,
            place: UnitPlace { row: 0, unit },
        };
        grid.fit(&problem, batch.units_mut(unit));
    }
    batch.round(grid, rows, Metric::Diagonal(importance));
    batch
}

/// Squared errors weighted by importance, and emphasised as the reference does.
fn emphasised_error(grid: &dyn Grid, row: &[f32], importance: &[f32], values: &[f32]) -> f64 {
    let rule = grid.spec().emphasis;
    let facts = RowFacts::of(row);
    let units = row.chunks(grid.spec().unit_columns).enumerate();
    let terms = units.flat_map(|(unit, weights)| {
        let facts = if rule.whole_row { facts } else { RowFacts::of(weights) };
        let variance = rule.factor * facts.mean_square;
        weights.iter().enumerate().map(move |(position, weight)| {
            let column = unit * grid.spec().unit_columns + position;
            let difference = f64::from(*weight) - f64::from(values[column]);
            let counts = importance[column] * (variance + weight * weight).sqrt();
            f64::from(counts) * difference * difference
        })
    });
    terms.sum()
}

#[test]
fn fits_are_better_than_the_reference_search_by_its_own_measure() {
    let problem = Problem::correlated(2, 16, 512);
    let importance = problem.importance();
    for grid in subjects::all() {
        let Some(codec) = subjects::codec(grid) else { continue };
        let rows = Rows::dense(&problem.weights, problem.columns);
        let batch = round(grid, rows, &importance, Emphasis::Magnitude);
        let mut bytes = vec![0; 512 / grid.spec().unit_columns * grid.spec().unit_bytes];
        let mut values = vec![0.0; problem.columns];
        let (mut ours, mut theirs) = (0.0, 0.0);
        for row in 0..problem.rows {
            let weights = problem.row(row);
            codec.encode(weights, problem.columns, Some(&importance), &mut bytes);
            codec.decode(&bytes, &mut values);
            theirs += emphasised_error(grid, weights, &importance, &values);
            ours += emphasised_error(grid, weights, &importance, batch.values(row));
        }
        assert!(ours <= theirs, "{}: {ours} instead of {theirs}", grid.spec().name);
    }
}

#[test]
fn a_block_metric_fits_the_block_better() {
    let problem = Problem::correlated(3, 4, 512);
    let hessian: Vec<f32> = problem.hessian.iter().map(|entry| *entry as f32).collect();
    for grid in subjects::all() {
        let columns = grid.spec().unit_columns;
        let importance = problem.importance();
        let block = Rows::new(&hessian, problem.columns, columns);
        let block: Vec<f32> = (0..columns).flat_map(|row| block.row(row).to_vec()).collect();
        let block = Rows::dense(&block, columns);
        let exact: Vec<f64> = block.iter().flatten().map(|entry| f64::from(*entry)).collect();
        let rows = Rows::new(&problem.weights, problem.columns, columns);
        let error = |metric: Metric<'_>| {
            let mut batch = RowBatch::new(grid.spec(), problem.rows, columns);
            let (emphasis, place) = (Emphasis::None, UnitPlace::default());
            let fit = FitProblem { rows, metric, facts: &[], emphasis, place };
            grid.fit(&fit, batch.units_mut(0));
            batch.round(grid, rows, Metric::Block(block));
            let errors = (0..problem.rows).map(|row| {
                let errors = differences(rows.row(row), batch.values(row));
                inner(&errors, &multiply(&exact, &errors))
            });
            check_packing(grid, &batch);
            errors.sum::<f64>()
        };
        let by_diagonal = error(Metric::Diagonal(&importance[..columns]));
        let by_block = error(Metric::Block(block));
        let name = &grid.spec().name;
        assert!(by_block <= by_diagonal, "{name}: {by_block} instead of {by_diagonal}");
    }
}

/// Rows that break naive fits, 512 columns each.
fn hard_rows() -> Vec<(&'static str, Vec<f32>)> {
    let mut random = Random::new(7);
    let mut make = |value: fn(&mut Random, usize) -> f32| -> Vec<f32> {
        (0..512).map(|column| value(&mut random, column)).collect()
    };
    vec![
        ("zero", make(|_, _| 0.0)),
        ("constant", make(|_, _| 0.75)),
        ("negative constant", make(|_, _| -0.75)),
        ("outlier", make(|r, c| if c == 77 { 8.0 } else { 1e-3 * r.normal() as f32 })),
        ("tiny", make(|r, _| 1e-12 * r.normal() as f32)),
        ("subnormal", make(|r, _| f32::from_bits((r.bits() & 0x8000_03ff) as u32))),
        ("halves' smallest", make(|r, _| 1e-6 * r.normal() as f32)),
        ("halves' largest", make(|r, _| 1e6 * r.normal() as f32)),
        ("huge", make(|r, _| 1e36 * r.normal() as f32)),
        ("all positive", make(|r, _| 1.0 + 1e-3 * r.even() as f32)),
        ("all negative", make(|r, _| -1.0 - 1e-3 * r.even() as f32)),
        ("sparse", make(|r, _| if r.bits().is_multiple_of(9) { r.normal() as f32 } else { 0.0 })),
        ("alternating", make(|_, c| if c % 2 == 0 { 0.5 } else { -0.5 })),
    ]
}

/// Importance that breaks naive fits.
fn hard_importance() -> Vec<(&'static str, Vec<f32>)> {
    let mut random = Random::new(8);
    let mut make = |value: fn(&mut Random, usize) -> f32| -> Vec<f32> {
        (0..512).map(|column| value(&mut random, column)).collect()
    };
    vec![
        ("one", make(|_, _| 1.0)),
        ("zero", make(|_, _| 0.0)),
        ("some zero", make(|r, _| (r.bits() % 2) as f32)),
        ("zero groups", make(|_, c| ((c / 16) % 3) as f32)),
        ("tiny", make(|r, _| 1e-38 * r.even() as f32)),
        ("huge", make(|r, _| 1e38 * r.even() as f32)),
    ]
}

#[test]
fn hard_rows_stay_finite_and_pack() {
    for grid in subjects::all() {
        for (kind, row) in hard_rows() {
            for (importance_kind, importance) in hard_importance() {
                for emphasis in [Emphasis::None, Emphasis::Magnitude] {
                    let name = &grid.spec().name;
                    let batch = round(grid, Rows::dense(&row, 512), &importance, emphasis);
                    check_packing(grid, &batch);
                    let values = batch.values(0);
                    let finite = values.iter().all(|value| value.is_finite());
                    assert!(finite, "{name}: {kind} rows, {importance_kind} importance");
                    // With emphasis errors count differently, and not every grid has a zero.
                    if importance_kind == "one" && emphasis == Emphasis::None {
                        let errors = differences(&row, values);
                        let weights: Vec<f64> = row.iter().map(|w| f64::from(*w)).collect();
                        let (lost, all) = (inner(&errors, &errors), inner(&weights, &weights));
                        assert!(lost <= all, "{name}: {kind} rows: worse than zeros");
                    }
                }
            }
        }
    }
}

#[test]
fn columns_that_do_not_count_do_not_spoil_the_method() {
    for grid in subjects::all() {
        let mut problem = Problem::correlated(4, 4, 512);
        for dead in (0..512).filter(|column| column % 5 == 0) {
            for other in 0..512 {
                problem.hessian[dead * 512 + other] = 0.0;
                problem.hessian[other * 512 + dead] = 0.0;
            }
        }
        let mut driver = Driver::new(grid, &problem);
        driver.feed_back(0.01);
        let fed_back = driver.loss();
        driver.descend(1);
        driver.refit();
        driver.step();
        assert!(driver.loss() <= fed_back, "{}", grid.spec().name);
        check_packing(grid, &driver.batch);
    }
}
