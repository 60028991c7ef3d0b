//! Plain rounding, of every integer format and of NVFP4 with a tensor's scale.

use qz_codec::grid::rounding::{NonFiniteWeight, decode, encode};
use qz_codec::grid::{Grid, IntegerFormat, grid_for, integers};
use qz_tensor::DataType;

use crate::data::{Random, differences, inner};
use crate::subjects;

const COLUMNS: usize = 512;
/// More than are rounded at once, and not a multiple of it.
const ROWS: usize = 19;

/// The value of a block's column, by what is written of the packing.
type ValueOf = dyn Fn(&[u8], usize) -> f32;
/// The distance of levels that span a range.
type StepOf = dyn Fn(f64, f64) -> f64;

/// A grid, and what is known of it otherwise.
struct Form {
    grid: Box<dyn Grid>,
    value: Box<ValueOf>,
    step: Box<StepOf>,
}

fn integer_form(bits: u8, symmetric: bool, group_columns: usize) -> Form {
    let (middle, top) = (f64::from(1u32 << (bits - 1)), f64::from((1u32 << bits) - 1));
    Form {
        grid: Box::new(integers(IntegerFormat { bits, symmetric, group_columns })),
        value: Box::new(move |block, at| subjects::integer(block, at, usize::from(bits))),
        step: Box::new(move |low, high| match symmetric {
            true => (-low / middle).max(high / (top - middle)),
            false => (high - low) / top,
        }),
    }
}

fn nvfp4_form(weights: &[f32]) -> Form {
    // The largest weight is the largest level times the largest scale.
    let tensor_scale = match largest(weights) {
        0.0 => 1.0,
        largest => largest / (6.0 * 448.0),
    };
    Form {
        grid: subjects::nvfp4_scaled(tensor_scale),
        value: Box::new(move |block, at| subjects::nvfp4(block, at, tensor_scale)),
        // The widest distance, between 4 and 6.
        step: Box::new(|low, high| high.max(-low) / 3.0),
    }
}

fn forms(weights: &[f32]) -> Vec<Form> {
    let mut forms = vec![nvfp4_form(weights)];
    for bits in 2..=8 {
        for symmetric in [true, false] {
            for group_columns in [32, 128, COLUMNS] {
                forms.push(integer_form(bits, symmetric, group_columns));
            }
        }
    }
    forms
}

fn largest(weights: &[f32]) -> f32 {
    weights.iter().fold(0.0, |largest, weight| largest.max(weight.abs()))
}

fn normal(seed: u64, deviation: f64, rows: usize) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..rows * COLUMNS).map(|_| (deviation * random.normal()) as f32).collect()
}

/// Rows by name; bounds go by the word "constant".
fn kinds() -> Vec<(&'static str, Vec<f32>)> {
    let mut random = Random::new(31);
    let mut outlier = normal(32, 0.02, 2);
    outlier[700] = -10.0;
    vec![
        ("normal", normal(33, 0.02, 2)),
        ("many rows", normal(34, 1.0, ROWS)),
        ("heavy", (0..2 * COLUMNS).map(|_| random.heavy() as f32).collect()),
        ("positive", normal(35, 0.3, 2).iter().map(|weight| 1.0 + weight.abs()).collect()),
        ("one outlier", outlier),
        ("zero", vec![0.0; COLUMNS]),
        ("constant", vec![0.3; COLUMNS]),
        ("negative constant", vec![-70.0; COLUMNS]),
    ]
}

fn encoded(grid: &dyn Grid, weights: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let spec = grid.spec();
    let mut bytes = vec![0xa5; weights.len() / spec.unit_columns * spec.unit_bytes];
    encode(grid, weights, COLUMNS, importance, &mut bytes).expect("finite weights");
    bytes
}

fn decoded(grid: &dyn Grid, bytes: &[u8]) -> Vec<f32> {
    let spec = grid.spec();
    let mut values = vec![f32::NAN; bytes.len() / spec.unit_bytes * spec.unit_columns];
    decode(grid, bytes, &mut values);
    values
}

fn rounded(grid: &dyn Grid, weights: &[f32]) -> Vec<f32> {
    decoded(grid, &encoded(grid, weights, None))
}

fn squares(weights: &[f32], values: &[f32]) -> f64 {
    let errors = differences(weights, values);
    inner(&errors, &errors)
}

fn bits(values: impl IntoIterator<Item = f32>) -> Vec<u32> {
    values.into_iter().map(f32::to_bits).collect()
}

/// The root mean square error of each group, in steps that span its range.
fn group_errors(form: &Form, weights: &[f32], values: &[f32]) -> Vec<f64> {
    let columns = form.grid.spec().group_columns;
    let groups = weights.chunks(columns).zip(values.chunks(columns));
    let error = |(weights, values): (&[f32], &[f32])| {
        let low = weights.iter().fold(0.0f32, |low, weight| low.min(*weight));
        let high = weights.iter().fold(0.0f32, |high, weight| high.max(*weight));
        let step = (form.step)(f64::from(low), f64::from(high));
        let error = (squares(weights, values) / columns as f64).sqrt();
        assert!(step > 0.0 || error == 0.0, "{}: zeros changed", form.grid.spec().name);
        if step > 0.0 { error / step } else { 0.0 }
    };
    groups.map(error).collect()
}

#[test]
fn errors_are_below_half_a_step() {
    for (kind, weights) in kinds() {
        // Numbers spread evenly between levels have 1 / sqrt(12) = 0.289 on average.
        // A constant is on a level, up to the rounding of the scale to binary16, at
        // most 2^-11 of as many steps as there are levels.
        let constant = kind.contains("constant");
        let (mean_bound, bound) = if constant { (0.13, 0.13) } else { (0.3, 0.35) };
        for form in forms(&weights) {
            let errors = group_errors(&form, &weights, &rounded(&*form.grid, &weights));
            let mean = errors.iter().sum::<f64>() / errors.len() as f64;
            let worst = errors.iter().fold(0.0f64, |worst, error| worst.max(*error));
            let fits = mean < mean_bound && worst < bound;
            assert!(fits, "{kind}, {}: {mean} {worst} steps", form.grid.spec().name);
        }
    }
}

#[test]
fn decoding_gives_what_the_packing_says() {
    for (kind, weights) in kinds() {
        for form in forms(&weights) {
            let spec = form.grid.spec();
            let bytes = encoded(&*form.grid, &weights, None);
            let own = bytes
                .chunks(spec.unit_bytes)
                .flat_map(|block| (0..spec.unit_columns).map(|column| (form.value)(block, column)));
            let values = decoded(&*form.grid, &bytes);
            assert_eq!(bits(own), bits(values), "{kind}, {}", spec.name);
        }
    }
}

#[test]
fn every_grid_is_encoded_as_its_codec_decodes() {
    let weights = normal(36, 0.02, ROWS);
    for grid in subjects::all() {
        let bytes = encoded(grid, &weights, None);
        let mut wanted = vec![f32::NAN; weights.len()];
        subjects::decode(grid, &bytes, &mut wanted);
        assert_eq!(bits(decoded(grid, &bytes)), bits(wanted), "{}", grid.spec().name);
        let rows = weights.chunks(COLUMNS).flat_map(|row| encoded(grid, row, None));
        assert_eq!(rows.collect::<Vec<u8>>(), bytes, "{}: rows matter", grid.spec().name);
    }
}

#[test]
fn importance_moves_the_error_to_columns_that_do_not_count() {
    let weights = normal(37, 0.02, 4);
    let importance: Vec<f32> = (0..COLUMNS).map(|c| [100.0, 1.0][c % 2]).collect();
    let weighted = |values: &[f32]| -> f64 {
        let errors = differences(&weights, values);
        let counts = importance.iter().cycle();
        errors.iter().zip(counts).map(|(error, count)| error * error * f64::from(*count)).sum()
    };
    for form in forms(&weights) {
        let with = decoded(&*form.grid, &encoded(&*form.grid, &weights, Some(&importance)));
        let without = rounded(&*form.grid, &weights);
        let (with, without) = (weighted(&with), weighted(&without));
        assert!(with <= without, "{}: {with} {without}", form.grid.spec().name);
    }
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut weights = normal(38, 1.0, 2);
        weights[COLUMNS + 7] = wrong;
        let form = integer_form(4, false, 32);
        let mut bytes = vec![0xa5; weights.len() / 32 * form.grid.spec().unit_bytes];
        let error = encode(&*form.grid, &weights, COLUMNS, None, &mut bytes);
        assert_eq!(error, Err(NonFiniteWeight { row: 1, column: 7 }));
        assert!(bytes.iter().all(|byte| *byte == 0xa5), "written all the same");
    }
}

/// The weights' deviation, and how many times the squared error of other forms is at
/// least as large: of the same search without a tensor's scale, and of the reference's
/// search without it. Small weights leave few of E4M3's numbers to the groups' scales,
/// none to the reference's; large ones are cut off at 6 * 448, and groups whose scale
/// would be above 256 go to 448 in the reference. In between all of E4M3's mantissa is
/// used either way, and only the search gains.
const TENSOR_SCALE_GAINS: [(f64, f64, f64); 5] = [
    (0.002, 3.0, 100.0),
    (0.02, 1.15, 1.5),
    (100.0, 0.98, 1.3),
    (1000.0, 1.15, 1.8),
    (10_000.0, 90.0, 90.0),
];

#[test]
fn a_tensor_scale_beats_none() {
    let codec = qz_codec::codec_for(DataType::NVFP4).expect("a codec");
    let unscaled = grid_for(DataType::NVFP4).expect("a grid");
    for (deviation, search_gain, reference_gain) in TENSOR_SCALE_GAINS {
        let weights = normal(39, deviation, ROWS);
        let scaled = squares(&weights, &rounded(&*nvfp4_form(&weights).grid, &weights));
        let searched = squares(&weights, &rounded(unscaled, &weights));
        let mut bytes = encoded(unscaled, &weights, None);
        codec.encode(&weights, COLUMNS, None, &mut bytes);
        let reference = squares(&weights, &decoded(unscaled, &bytes));
        assert!(searched >= search_gain * scaled, "{deviation}: {searched} {scaled}");
        assert!(reference >= reference_gain * scaled, "{deviation}: {reference} {scaled}");
    }
}
