//! What holds of error feedback on every grid.

use std::ops::{ControlFlow, Range};

use qz_codec::grid::rounding::decode;
use qz_codec::grid::{
    GRIDS, GivenScales, Grid, IntegerFormat, LevelFormat, RowBatch, Rows, StoredNumber, affine,
    given_scales, integers, listed_scales, scaled_levels,
};
use qz_linalg::{CrossMean, Symmetric};
use qz_tensor::DataType;

use super::*;
use crate::report::Fallback;
use crate::testing::{DEVICE, cross_of, gram_of};
use crate::{HeldOut, METHODS, Options, Statistics, Target, method_named};

/// Numbers with heavy tails, between -8 and 8.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next() + 7.0 * next().powi(9)).collect()
}

/// Inputs of low rank plus noise, in channels of uneven loudness.
fn inputs(tokens: usize, columns: usize) -> Vec<f32> {
    let rank = 12;
    let (left, right) = (numbers(tokens * rank, 5), numbers(rank * columns, 6));
    let (noise, loudness) = (numbers(tokens * columns, 7), numbers(columns, 8));
    let entry = |at: usize| {
        let (token, column) = (at / columns, at % columns);
        let common: f32 =
            (0..rank).map(|k| left[token * rank + k] * right[k * columns + column]).sum();
        (common + 0.5 * noise[at]) * (0.1 + loudness[column].abs())
    };
    (0..tokens * columns).map(entry).collect()
}

struct Case {
    rows: usize,
    columns: usize,
    weights: Vec<f32>,
    gram: Symmetric,
}

impl Case {
    fn new(rows: usize, columns: usize) -> Self {
        let gram = gram_of(columns, &inputs(2 * columns, columns));
        Self { rows, columns, weights: numbers(rows * columns, 9), gram }
    }

    fn statistics(&self) -> Statistics<'_> {
        Statistics { gram: Some(&self.gram), ..Statistics::default() }
    }

    fn run(&self, method: &str, grid: &dyn Grid, options: &GptqOptions) -> Outcome {
        self.run_on(method, target_of(grid), &self.statistics(), options).expect("quantized")
    }

    fn run_on(
        &self,
        method: &str,
        target: Target<'_>,
        statistics: &Statistics<'_>,
        options: &GptqOptions,
    ) -> Result<Outcome, Error> {
        let options = Options { gptq: options.clone() };
        let problem = Problem {
            weights: Rows::dense(&self.weights, self.columns),
            statistics: *statistics,
            target,
            device: &*DEVICE,
            options: &options,
        };
        let grid = target.grid();
        let spec = grid.spec();
        let row_bytes = self.columns / spec.unit_columns * spec.unit_bytes;
        let (mut values, mut bytes) = (Vec::new(), Vec::new());
        let mut take = |rows: Range<usize>, batch: &RowBatch| {
            assert_eq!(rows.start * self.columns, values.len(), "rows in order");
            for row in 0..batch.rows() {
                values.extend_from_slice(batch.values(row));
                let mut packed = vec![0; row_bytes];
                batch.pack(grid, row, &mut packed);
                bytes.extend(packed);
            }
            ControlFlow::Continue(())
        };
        let report = method_named(method).expect("a method").quantize(&problem, &mut take)?;
        assert_eq!(values.len(), self.weights.len(), "all rows");
        let mut decoded = vec![0.0; values.len()];
        decode(grid, &bytes, &mut decoded);
        let same = decoded.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{}: what is packed decodes to the values", spec.name);
        assert!(values.iter().all(|value| value.is_finite()), "{}", spec.name);
        let loss = self.loss(&values);
        Ok(Outcome { loss, bytes, values, report })
    }

    fn loss(&self, values: &[f32]) -> f64 {
        self.gram.losses(&crate::rounding::differences(&self.weights, values)).iter().sum()
    }
}

struct Outcome {
    loss: f64,
    bytes: Vec<u8>,
    values: Vec<f32>,
    report: TensorReport,
}

fn target_of(grid: &dyn Grid) -> Target<'_> {
    match grid.spec().data_type {
        Some(data_type) => Target::of_type(data_type).expect("a grid"),
        None => Target::of_grid(grid),
    }
}

fn int(bits: u8, symmetric: bool, group_columns: usize) -> Box<dyn Grid> {
    Box::new(integers(IntegerFormat { bits, symmetric, group_columns }))
}

/// Integers and levels of all kinds, for four rows of 512.
fn grids() -> Vec<Box<dyn Fn() -> Box<dyn Grid>>> {
    let mut grids: Vec<Box<dyn Fn() -> Box<dyn Grid>>> = Vec::new();
    for bits in 2..=8 {
        for (symmetric, columns) in [(true, 128), (false, 64), (true, 512), (false, 512)] {
            grids.push(Box::new(move || int(bits, symmetric, columns)));
        }
    }
    grids.push(Box::new(|| Box::new(affine(4, 64, StoredNumber::BF16))));
    grids.push(Box::new(|| Box::new(scaled_levels(uneven(64), StoredNumber::F32))));
    grids.push(Box::new(|| Box::new(scaled_levels(uneven(512), StoredNumber::BF16))));
    grids.push(Box::new(|| {
        let scales = (0..256).map(|byte| byte as f32 / 24.0).collect();
        Box::new(listed_scales(uneven(16), scales, 1..=255))
    }));
    grids.push(Box::new(|| {
        let (rows, columns, across) = (2, 128, 4);
        let scales = (0..8).map(|number| 8.0 + number as f32 / 4.0).collect();
        Box::new(given_scales(uneven(64), GivenScales { scales, rows, columns, across }))
    }));
    grids
}

/// Levels that are denser around zero.
fn uneven(unit_columns: usize) -> LevelFormat<'static> {
    const LEVELS: [f32; 16] = [
        -1.0, -0.7, -0.53, -0.39, -0.28, -0.18, -0.09, 0.0, 0.08, 0.16, 0.25, 0.34, 0.44, 0.56,
        0.72, 1.0,
    ];
    LevelFormat { name: "uneven", levels: &LEVELS, unit_columns }
}

fn for_every_grid(check: impl Fn(&dyn Grid)) {
    GRIDS.iter().for_each(|grid| check(grid()));
    grids().iter().for_each(|grid| check(&*grid()));
}

#[test]
fn feedback_loses_less_than_rounding() {
    let case = Case::new(4, 512);
    for_every_grid(|grid| {
        let name = &grid.spec().name;
        let importance = case.run("imatrix", grid, &GptqOptions::default());
        let plain = case.run("rtn", grid, &GptqOptions::default());
        let result = case.run("gptq", grid, &GptqOptions::default());
        let bound = 0.75 * importance.loss.min(plain.loss);
        assert!(result.loss < bound, "{name}: {} {}", result.loss, importance.loss);
        let losses = result.report.losses.expect("losses");
        assert!(losses.result < losses.rounding, "{name}: {losses:?}");
        assert_eq!(result.report.damping, Some(0.01), "{name}");
        assert_eq!(result.report.fallback, None, "{name}");
    });
}

#[test]
fn no_cycle_raises_the_loss() {
    let case = Case::new(2, 512);
    // Descent and refits see the damped objective.
    let mut objective = case.gram.clone();
    objective.add_to_diagonal((case.gram.mean_diagonal() * 0.001) as f32);
    let measured = Case { gram: objective, weights: case.weights.clone(), ..case };
    for_every_grid(|grid| {
        let mut before = f64::INFINITY;
        for (cycles, refits) in [(0, 0), (1, 0), (2, 0), (2, 1), (3, 2)] {
            let options = GptqOptions { cycles, refits, ..GptqOptions::default() };
            let values = case_values(&case.weights, &case.gram, case.columns, grid, &options);
            let loss = measured.loss(&values);
            // A refit comes before the second cycle, so that the paths differ from there.
            let slack = if refits == 1 { 1.02 } else { 1.0 + 1e-5 };
            let name = &grid.spec().name;
            assert!(loss <= before * slack, "{name}: {cycles} {refits}: {loss} {before}");
            before = loss;
        }
    });
}

fn case_values(
    weights: &[f32],
    gram: &Symmetric,
    columns: usize,
    grid: &dyn Grid,
    options: &GptqOptions,
) -> Vec<f32> {
    let case = Case {
        rows: weights.len() / columns,
        columns,
        weights: weights.to_vec(),
        gram: gram.clone(),
    };
    case.run("gptq", grid, options).values
}

#[test]
fn every_order_helps() {
    let case = Case::new(3, 512);
    for_every_grid(|grid| {
        let rounded = case.run("imatrix", grid, &GptqOptions::default());
        for order in [Order::Natural, Order::Static, Order::GroupAware] {
            let options = GptqOptions { order, cycles: 0, ..GptqOptions::default() };
            let result = case.run("gptq", grid, &options);
            let name = &grid.spec().name;
            assert!(result.loss < 0.9 * rounded.loss, "{name} {order:?}: {}", result.loss);
        }
    });
}

#[test]
fn threads_change_no_byte() {
    let case = Case::new(150, 256);
    let run = |threads: usize, method: &str, grid: &dyn Grid| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| case.run(method, grid, &GptqOptions::default()).bytes)
    };
    for data_type in [DataType::Q4_K, DataType::Q2_K, DataType::IQ4_NL] {
        let target = Target::of_type(data_type).expect("a grid");
        for method in METHODS {
            let name = method.name();
            let expected = run(1, name, target.grid());
            assert_eq!(run(3, name, target.grid()), expected, "{data_type} {name}");
        }
    }
}

#[test]
fn codecs_encode_what_they_always_encode() {
    let case = Case::new(20, 512);
    let importance = case.gram.diagonal();
    for grid in GRIDS {
        let data_type = grid().spec().data_type.expect("an element type");
        let codec = qz_kernels::codec_for(data_type).expect("a codec");
        let found = case.run("imatrix", grid(), &GptqOptions::default());
        let mut expected = vec![0; found.bytes.len()];
        codec.encode(&case.weights, case.columns, Some(&importance), &mut expected);
        assert_eq!(found.bytes, expected, "{data_type}");
    }
}

#[test]
fn what_cannot_be_fed_back_is_rounded_with_importance() {
    let case = Case::new(3, 256);
    let target = Target::of_type(DataType::Q4_K).expect("a grid");
    let rounded = case.run("rtn", target.grid(), &GptqOptions::default()).bytes;
    let check = |gram: Symmetric, fallback: Fallback, dead: usize| {
        let statistics = Statistics { gram: Some(&gram), ..Statistics::default() };
        let found = case
            .run_on("gptq", target, &statistics, &GptqOptions::default())
            .expect("the run goes on");
        assert_eq!(found.report.fallback, Some(fallback));
        assert_eq!(found.report.dead_columns, dead);
        assert_eq!(found.report.damping, None);
        found.bytes
    };
    let zeros = Symmetric::new(256, vec![0.0; 256 * 256]);
    assert_eq!(check(zeros, Fallback::NoInput, 256), rounded);
    let mut entries = case.gram.entries().to_vec();
    entries[7] = f32::NAN;
    check(Symmetric::new(256, entries), Fallback::NonFinite, 0);
    // Far from positive definite.
    let mut entries = vec![0.0; 256 * 256];
    (0..256).for_each(|at| entries[at * 257] = 1.0);
    (entries[1], entries[256]) = (100.0, 100.0);
    check(Symmetric::new(256, entries), Fallback::NoFactor, 0);
}

#[test]
fn more_damping_where_it_is_needed() {
    let case = Case::new(3, 256);
    let mut entries = vec![0.0; 256 * 256];
    (0..256).for_each(|at| entries[at * 257] = 1.0);
    (entries[1], entries[256]) = (1.1, 1.1);
    let gram = Symmetric::new(256, entries);
    let statistics = Statistics { gram: Some(&gram), ..Statistics::default() };
    let target = Target::of_type(DataType::Q4_K).expect("a grid");
    let found = case.run_on("gptq", target, &statistics, &GptqOptions::default()).expect("done");
    assert_eq!(found.report.damping, Some(0.16));
    assert_eq!(found.report.fallback, None);
}

#[test]
fn dead_columns_and_rows_of_zeros() {
    let mut case = Case::new(4, 256);
    let mut entries = case.gram.entries().to_vec();
    for dead in [0, 17, 255] {
        for other in 0..256 {
            entries[dead * 256 + other] = 0.0;
            entries[other * 256 + dead] = 0.0;
        }
    }
    case.gram = Symmetric::new(256, entries);
    case.weights[256..512].fill(0.0);
    for_every_grid(|grid| {
        if 256 % grid.spec().unit_columns != 0 {
            return;
        }
        let found = case.run("gptq", grid, &GptqOptions::default());
        assert_eq!(found.report.dead_columns, 3);
        let zeros = &found.values[256..512];
        // Grids without a zero stay near it.
        assert!(zeros.iter().all(|value| value.abs() < 0.2), "{}: {zeros:?}", grid.spec().name);
    });
}

#[test]
fn refusals() {
    let case = Case::new(2, 256);
    let target = Target::of_type(DataType::Q4_K).expect("a grid");
    let options = GptqOptions::default();
    let run = |case: &Case, method: &str, statistics: &Statistics<'_>| {
        case.run_on(method, target, statistics, &options).map(|found| found.report.rows)
    };
    let nothing = Statistics::default();
    let needs = Error::Needs { method: "gptq", needs: "the inputs' Gram matrix" };
    assert_eq!(run(&case, "gptq", &nothing), Err(needs));
    assert_eq!(run(&case, "rtn", &nothing), Ok(2));
    let short = [1.0; 3];
    let other = Statistics { importance: Some(&short), ..nothing };
    assert_eq!(run(&case, "imatrix", &other), Err(Error::Statistics { columns: 256, found: 3 }));
    let mut infinite = Case::new(2, 256);
    infinite.weights[300] = f32::INFINITY;
    for method in METHODS {
        let found = run(&infinite, method.name(), &infinite.statistics());
        assert!(
            matches!(found, Err(Error::Weight(weight)) if weight.row == 1 && weight.column == 44)
        );
    }
    let narrow = Case::new(2, 96);
    let found = run(&narrow, "gptq", &narrow.statistics());
    let expected = Error::Units { columns: 96, unit_columns: 256, target: "Q4_K".into() };
    assert_eq!(found, Err(expected));
    assert!(Target::of_type(DataType::F16).is_none());
}

#[test]
fn a_receiver_stops_the_method() {
    let case = Case::new(200, 256);
    for method in METHODS {
        let options = Options::default();
        let problem = Problem {
            weights: Rows::dense(&case.weights, 256),
            statistics: case.statistics(),
            target: Target::of_type(DataType::Q8_0).expect("a grid"),
            device: &*DEVICE,
            options: &options,
        };
        let mut calls = 0;
        let found = method.quantize(&problem, &mut |_, _| {
            calls += 1;
            ControlFlow::Break(())
        });
        assert_eq!((found, calls), (Err(Error::Stopped), 1), "{}", method.name());
    }
}

/// Behind layers that lost something, weights that undo a part of it are better.
#[test]
fn propagation_meets_the_full_output() {
    let (rows, columns, tokens) = (8, 256, 1024);
    let full = inputs(tokens, columns);
    let noise = numbers(tokens * columns, 77);
    // The quantized model's inputs are weaker, and a little wrong.
    let behind: Vec<f32> =
        full.iter().zip(&noise).map(|(value, noise)| 0.9 * value + 0.01 * noise).collect();
    let cross = cross_of(columns, &full, &behind, &behind);
    let gram = gram_of(columns, &behind);
    let case = Case { rows, columns, weights: numbers(rows * columns, 9), gram };
    let target = Target::of_type(DataType::Q4_K).expect("a grid");
    let error = |cross: Option<&CrossMean>, propagation: f64| {
        let statistics = Statistics { gram: Some(&case.gram), cross, ..Statistics::default() };
        let options =
            GptqOptions { propagation, propagation_damping: Some(0.01), ..GptqOptions::default() };
        let values = case.run_on("gptq", target, &statistics, &options).expect("done").values;
        let tokens = full.chunks(columns).zip(behind.chunks(columns)).take(50);
        tokens
            .map(|(full, behind)| {
                (0..case.rows)
                    .map(|row| {
                        let span = row * columns..(row + 1) * columns;
                        let wanted: f32 =
                            case.weights[span.clone()].iter().zip(full).map(|(w, x)| w * x).sum();
                        let found: f32 = values[span].iter().zip(behind).map(|(w, x)| w * x).sum();
                        f64::from(wanted - found).powi(2)
                    })
                    .sum::<f64>()
            })
            .sum::<f64>()
    };
    let none = error(None, 0.5);
    let half = error(Some(&cross), 0.5);
    let whole = error(Some(&cross), 1.0);
    assert!(half < 0.5 * none && whole < 0.5 * half, "{none} {half} {whole}");
}

/// Each row of inputs times each row of weights.
fn products(inputs: &[f32], weights: &[f32], columns: usize) -> Vec<f32> {
    let mut products = Vec::new();
    for input in inputs.chunks(columns) {
        for row in weights.chunks(columns) {
            products.push(row.iter().zip(input).map(|(weight, input)| weight * input).sum());
        }
    }
    products
}

/// What results lack, as far as the inputs tell it, becomes a part of the weights.
#[test]
fn missing_results_are_made_up_for() {
    let (rows, columns, tokens) = (8, 256, 1024);
    let inputs = inputs(tokens, columns);
    let told = numbers(rows * columns, 5);
    let lacking = products(&inputs, &told, columns);
    let missing = cross_of(rows, &lacking, &vec![0.0; lacking.len()], &inputs);
    let gram = gram_of(columns, &inputs);
    let case = Case { rows, columns, weights: numbers(rows * columns, 9), gram };
    let target = Target::of_type(DataType::Q6_K).expect("a grid");
    let parts = [0.0, 0.5, 1.0];
    for propagation in parts {
        let (gram, missing) = (Some(&case.gram), Some(&missing));
        let statistics = Statistics { gram, missing, ..Statistics::default() };
        let options =
            GptqOptions { propagation, propagation_damping: Some(0.001), ..GptqOptions::default() };
        let values = case.run_on("gptq", target, &statistics, &options).expect("done").values;
        // How far the results are from those with so much of what is lacking.
        let loss = |part: f64| -> f64 {
            let targets = case.weights.iter().zip(&told);
            let targets = targets.map(|(own, told)| own + part as f32 * told);
            let errors: Vec<f32> = targets.zip(&values).map(|(wanted, own)| wanted - own).collect();
            products(&inputs, &errors, columns).iter().map(|own| f64::from(*own).powi(2)).sum()
        };
        let nearest = parts.into_iter().min_by(|a, b| loss(*a).total_cmp(&loss(*b)));
        assert_eq!(nearest, Some(propagation));
    }
}

#[test]
fn what_is_shared_changes_no_value() {
    let case = Case::new(4, 256);
    let shared = Shared::default();
    let check = |data_type: DataType, options: &GptqOptions| {
        let target = Target::of_type(data_type).expect("a grid");
        let run = |statistics: &Statistics<'_>| {
            case.run_on("gptq", target, statistics, options).expect("done").values
        };
        let alone = run(&case.statistics());
        let sharing = run(&Statistics { shared: Some(&shared), ..case.statistics() });
        assert_eq!(alone, sharing, "{data_type}");
    };
    let default = GptqOptions::default();
    check(DataType::Q4_K, &default);
    check(DataType::Q6_K, &default);
    check(DataType::IQ2_XS, &default);
    check(DataType::Q4_0, &GptqOptions { damping: 0.1, ..default.clone() });
    check(DataType::Q4_0, &GptqOptions { order: Order::Static, ..default });
}

/// Set in the middle of a stage that takes far longer, the flag ends it.
#[test]
fn a_stop_is_heard_at_every_stage() {
    use std::sync::atomic::Ordering;
    use std::time::{Duration, Instant};

    use qz_kernels::Workers;
    use qz_kernels::backend::{Backend, CpuBackend};
    use qz_linalg::{Feedback, Gram};

    const COLUMNS: usize = 3072;
    let rows = numbers(1024 * COLUMNS, 3);
    let check = |stage: &str, work: &(dyn Fn(&CpuBackend) + Sync)| {
        let flag = stop::Flag::default();
        let workers = Workers::stopped_by(2, &flag).expect("threads");
        let setter = std::thread::spawn({
            let flag = flag.clone();
            move || {
                std::thread::sleep(Duration::from_millis(50));
                flag.store(true, Ordering::Relaxed);
                Instant::now()
            }
        });
        let device = CpuBackend::new(&workers);
        workers.install(|| work(&device));
        let end = Instant::now();
        let set = setter.join().expect("no panic");
        // What would take seconds, on any machine, does not.
        assert!(end.saturating_duration_since(set) < Duration::from_secs(2), "{stage}");
    };
    let inputs = DEVICE.buffer(COLUMNS, &rows).expect("whole rows");
    check("gram", &|device| {
        let mut gram = Gram::of_rows(device, COLUMNS, 0..COLUMNS).expect("room");
        (0..16).for_each(|_| gram.add(device, &inputs).expect("added"));
    });
    let mut identity = vec![0.0; COLUMNS * COLUMNS];
    identity.iter_mut().step_by(COLUMNS + 1).for_each(|entry| *entry = 1.0);
    let gram = Symmetric::new(COLUMNS, identity);
    check("factor", &|device| {
        let _ = Feedback::of(device, gram.clone());
    });
    check("losses", &|_| {
        let _ = gram.losses(&rows);
    });
    let statistics = Statistics { gram: Some(&gram), ..Statistics::default() };
    let options = Options::default();
    let target = Target::of_type(DataType::Q4_K).expect("a grid");
    let weights = Rows::dense(&rows, COLUMNS);
    let problem = Problem { weights, statistics, target, device: &*DEVICE, options: &options };
    let prepared = Prepared::new(&gram, &problem).expect("positive");
    check("feedback and descent", &|_| {
        let given = prepared.quantize(&problem, &mut |_, _| ControlFlow::Continue(()));
        assert_eq!(given.map(|_| ()), Err(Error::Stopped));
    });
    check("rounding", &|_| {
        let mut all = |_: Range<usize>, _: &RowBatch| ControlFlow::Continue(());
        let importance = method_named("imatrix").expect("a method");
        let target = Target::of_type(DataType::IQ2_XS).expect("a grid");
        let given = importance.quantize(&Problem { target, ..problem }, &mut all);
        assert_eq!(given.map(|_| ()), Err(Error::Stopped));
    });
}

#[test]
fn feedback_has_to_pay_on_inputs_that_it_was_not_made_of() {
    const COLUMNS: usize = 64;
    let check = |all: &[f32], expected: Option<Fallback>| {
        let (rows, held_out) = (24, &all[..all.len() / 4 / COLUMNS * COLUMNS]);
        let gram = gram_of(COLUMNS, all);
        let case = Case { rows, columns: COLUMNS, weights: numbers(rows * COLUMNS, 9), gram };
        let tokens = (all.len() / COLUMNS) as u64;
        let held_out = HeldOut { inputs: held_out, tokens, shared: &Shared::default() };
        let statistics = Statistics { held_out: Some(held_out), ..case.statistics() };
        let grid = int(3, true, 64);
        let run = |method: &str, statistics: &Statistics<'_>| {
            let options = GptqOptions::default();
            case.run_on(method, Target::of_grid(&*grid), statistics, &options).expect("quantized")
        };
        let found = run("gptq", &statistics);
        assert_eq!(found.report.fallback, expected);
        let method = if expected.is_some() { "imatrix" } else { "gptq" };
        assert!(found.bytes == run(method, &case.statistics()).bytes);
    };
    // What these have in common holds for others, too.
    check(&inputs(4 * COLUMNS, COLUMNS), None);
    // What these have in common is chance.
    check(&numbers(COLUMNS * COLUMNS, 5), Some(Fallback::HeldOut));
}
