//! What each step of a method gains on each grid.

use qz_codec::grid::Grid;

use crate::data::Problem;
use crate::driver::Driver;
use crate::subjects;

/// Losses after each stage, as a part of what all zeros lose.
struct Stages {
    plain: Option<f64>,
    rounded: f64,
    fed_back: f64,
    descended: f64,
    refitted: f64,
}

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
    let name = &grid.spec().name;
    let mut driver = Driver::new(grid, problem);
    driver.fit_and_round();
    let rounded = driver.loss();
    driver.feed_back(0.01);
    let fed_back = driver.loss();
    driver.descend(2);
    let descended = driver.loss();
    assert!(descended <= fed_back, "{name}: descent rose from {fed_back} to {descended}");
    let mut refitted = descended;
    for _ in 0..2 {
        for stage in ["refit", "steps", "descent"] {
            match stage {
                "refit" => driver.refit(),
                "steps" => driver.step(),
                _ => driver.descend(1),
            }
            let loss = driver.loss();
            assert!(
                loss <= refitted * (1.0 + 1e-9),
                "{name}: {stage} rose from {refitted} to {loss}"
            );
            refitted = loss;
        }
    }
    Stages { plain: encoded(grid, problem), rounded, fed_back, descended, refitted }
}

#[test]
fn every_stage_lowers_the_loss() {
    let problem = Problem::correlated(1, 32, 512);
    for grid in subjects::all() {
        let now = std::time::Instant::now();
        let stages = run(grid, &problem);
        eprintln!(
            "{:16} {:.6} {:.6} {:.6} {:.6} {:.6} {:?}",
            grid.spec().name,
            stages.plain.unwrap_or(f64::NAN),
            stages.rounded,
            stages.fed_back,
            stages.descended,
            stages.refitted,
            now.elapsed()
        );
    }
}
