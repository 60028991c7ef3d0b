//! What each step of a method gains on each grid: `GRIDS.md`.

use std::fmt::Write;

use qz_codec::grid::Grid;

use crate::conformance::check_packing;
use crate::data::Problem;
use crate::driver::Driver;
use crate::subjects;

/// Where the table is.
const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/GRIDS.md");
/// Set to write the table instead of comparing with it.
const UPDATE: &str = "QZ_UPDATE_GRIDS";
/// How far a number may be from the one in the table. What is not the same on every
/// machine is the order of some sums, which compilers keep; this is for the future.
const TOLERANCE: f64 = 0.02;

/// Losses after each stage, as a part of what all zeros lose.
struct Stages {
    plain: Option<f64>,
    rounded: f64,
    fed_back: f64,
    descended: f64,
    refitted: f64,
}

/// The loss of the codec's own encoder, with the Hessian's diagonal as importance.
fn encoded(grid: &dyn Grid, problem: &Problem) -> Option<f64> {
    let codec = subjects::codec(grid)?;
    let importance = problem.importance();
    let bytes = problem.weights.len() / grid.spec().unit_columns * grid.spec().unit_bytes;
    let mut bytes = vec![0; bytes];
    codec.encode(&problem.weights, problem.columns, Some(&importance), &mut bytes);
    let mut values = vec![0.0; problem.weights.len()];
    codec.decode(&bytes, &mut values);
    Some(problem.loss(|row| &values[row * problem.columns..][..problem.columns]))
}

fn run(grid: &dyn Grid, problem: &Problem) -> Stages {
    let mut driver = Driver::new(grid, problem);
    driver.fit_and_round();
    let rounded = driver.loss();
    driver.feed_back(0.01);
    let fed_back = driver.loss();
    driver.descend(2);
    let descended = falls(grid, "descent", &driver, fed_back);
    let mut refitted = descended;
    for _ in 0..2 {
        driver.refit();
        refitted = falls(grid, "refit", &driver, refitted);
        driver.step();
        refitted = falls(grid, "steps", &driver, refitted);
        driver.descend(1);
        refitted = falls(grid, "descent", &driver, refitted);
    }
    check_packing(grid, &driver.batch);
    Stages { plain: encoded(grid, problem), rounded, fed_back, descended, refitted }
}

/// The loss after a stage, which must not be above the one before it.
fn falls(grid: &dyn Grid, stage: &str, driver: &Driver<'_>, before: f64) -> f64 {
    let after = driver.loss();
    let name = &grid.spec().name;
    assert!(after <= before * (1.0 + 1e-9), "{name}: {stage} rose from {before} to {after}");
    after
}

const HEADING: &str = "\
# What methods gain on each grid

Written by `QZ_UPDATE_GRIDS=1 cargo test -p qz-codec --test grids table`; the test
compares without it. 32 rows of 512 heavy-tailed weights, inputs of rank 48 plus noise
in channels of uneven loudness, everything from one seed: the order of the grids says
something about models, the size of the gains does not.

Losses are tr(E H Eᵀ) in thousandths of what zeros would lose. *encoder*: the reference
program's search with H's diagonal as importance; *fit*: the grid's own fit by that
diagonal, and rounding; *feedback*: GPTQ with units fitted to the updated weights, λ =
0.01; *descent*: two cycles of coordinate descent; *refit*: twice joint least squares of
all parameters of a row, steps of sub-scales, one more cycle. *gain*: the last against
the encoder, or against the fit where there is no encoder.

| grid | bits | encoder | fit | feedback | descent | refit | gain |
|---|---|---|---|---|---|---|---|
";

fn row(grid: &dyn Grid, stages: &Stages) -> String {
    let thousandths = |loss: f64| format!("{:.4}", loss * 1e3);
    let spec = grid.spec();
    let base = stages.plain.unwrap_or(stages.rounded);
    format!(
        "| {} | {:.4} | {} | {} | {} | {} | {} | −{:.1} % |\n",
        spec.name,
        spec.bits_per_weight(),
        stages.plain.map_or("–".to_owned(), thousandths),
        thousandths(stages.rounded),
        thousandths(stages.fed_back),
        thousandths(stages.descended),
        thousandths(stages.refitted),
        (1.0 - stages.refitted / base) * 100.0,
    )
}

#[test]
fn every_stage_lowers_the_loss_as_in_the_table() {
    let problem = Problem::correlated(1, 32, 512);
    let mut table = String::from(HEADING);
    for grid in subjects::all() {
        let stages = run(grid, &problem);
        let name = &grid.spec().name;
        let base = stages.plain.unwrap_or(stages.rounded);
        assert!(stages.fed_back < 0.8 * base, "{name}: feedback {} of {base}", stages.fed_back);
        write!(table, "{}", row(grid, &stages)).expect("a string");
    }
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(PATH, table).expect("cannot write the table");
        return;
    }
    let kept = std::fs::read_to_string(PATH).expect("cannot read the table");
    assert_eq!(kept.lines().count(), table.lines().count(), "set {UPDATE} to write it again");
    for (kept, found) in kept.lines().zip(table.lines()) {
        assert!(agree(kept, found), "\n{kept}\n{found}\nset {UPDATE} to write it again");
    }
}

/// The same words, and nearly the same numbers.
fn agree(kept: &str, found: &str) -> bool {
    let (mut kept, mut found) = (kept.split_whitespace(), found.split_whitespace());
    kept.by_ref().zip(found.by_ref()).all(|(kept, found)| {
        let number = |word: &str| word.trim_start_matches('−').parse::<f64>();
        match (number(kept), number(found)) {
            (Ok(kept), Ok(found)) => (kept - found).abs() <= TOLERANCE * kept.abs() + 1e-4,
            _ => kept == found,
        }
    }) && kept.next().is_none()
        && found.next().is_none()
}
