//! What holds of every layout that can be written.

use proptest::prelude::*;
use qz_codec::codec_for;
use qz_codec::grid::{Rows, rounding};
use qz_packed::{ChosenRows, Layout, Matrix, Measure, Rounding, SCHEMES, Whole};
use qz_tensor::DataType;

use crate::support::{Parts, decoded, packed, scheme};

/// Every example of every family, and some that are rarer.
fn targets() -> Vec<String> {
    let examples = SCHEMES.iter().flat_map(|family| {
        family.examples.iter().map(move |scheme| format!("{}:{scheme}", family.name))
    });
    let rarer = ["gptq:w2g32+asym", "gptq:w3+v2+asym", "awq:w4", "ct:w5a16+g32+asym"];
    examples.chain(rarer.map(str::to_owned)).collect()
}

/// A bell around zero, from a linear congruential generator.
fn weights(count: u64, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed | 1);
        (state >> 40) as f32 / (1u32 << 24) as f32 - 0.5
    };
    (0..count).map(|_| (draw() + draw() + draw()) * 0.1).collect()
}

fn error(weights: &[f32], decoded: &[f32]) -> f64 {
    let square = |value: f32| f64::from(value) * f64::from(value);
    let errors: f64 = weights.iter().zip(decoded).map(|(a, b)| square(a - b)).sum();
    (errors / weights.iter().map(|weight| square(*weight)).sum::<f64>()).sqrt()
}

#[test]
fn names_come_back() {
    for target in targets() {
        let (family, name) = target.split_once(':').expect("a target");
        assert_eq!(scheme(&target).name(), name, "{family}");
    }
}

#[test]
fn any_rows_can_be_read() {
    let matrix = Matrix { rows: 160, columns: 256 };
    let weights = weights(matrix.rows * matrix.columns, 1);
    for target in targets() {
        let layout = scheme(&target).layout(DataType::BF16);
        let parts = packed(&*layout, matrix, &weights, Rounding::Nearest);
        let all = decoded(&*layout, matrix, &parts);
        for rows in [0..1, 3..5, 31..97, 159..160, 0..160] {
            let mut some = vec![f32::NAN; ((rows.end - rows.start) * matrix.columns) as usize];
            layout.decode(matrix, &parts, rows.clone(), &mut some).expect("in memory");
            let expected =
                &all[(rows.start * matrix.columns) as usize..(rows.end * matrix.columns) as usize];
            assert_eq!(some, expected, "{target} {rows:?}");
        }
    }
}

#[test]
fn searches_are_better_than_rounding() {
    let matrix = Matrix { rows: 32, columns: 256 };
    let weights = weights(matrix.rows * matrix.columns, 2);
    for target in targets() {
        let layout = scheme(&target).layout(DataType::F32);
        if !layout.has_grid(matrix) {
            continue;
        }
        let of = |rounding| {
            let parts = packed(&*layout, matrix, &weights, rounding);
            error(&weights, &decoded(&*layout, matrix, &parts))
        };
        let [plain, least, fitted] =
            [Rounding::Nearest, Rounding::LeastError, Rounding::Importance].map(of);
        assert!(least <= plain * 1.0001, "{target}: {least} after {plain}");
        // A grid's scales are binary16, also where a layout has more.
        assert!(fitted <= least * 1.002, "{target}: {fitted} after {least}");
    }
}

#[test]
fn rows_of_a_method_come_back() {
    for (rows, columns, least) in [(64, 256, 30), (160, 192, 18)] {
        let matrix = Matrix { rows, columns };
        let weights = weights(matrix.rows * matrix.columns, 3);
        let mut written = Vec::new();
        for target in targets() {
            for model_type in [DataType::F32, DataType::BF16, DataType::F16] {
                let layout = scheme(&target).layout(model_type);
                if layout.parts(matrix).is_err() || !layout.has_grid(matrix) {
                    continue;
                }
                let (parts, values) = by_method(&*layout, matrix, &weights);
                assert_eq!(decoded(&*layout, matrix, &parts), values, "{target} {model_type}");
                written.push(target.clone());
            }
        }
        written.dedup();
        assert!(written.len() >= least, "{written:?}");
    }
}

/// Rows that a grid rounds and a layout writes, in its own row units, and the values that
/// the grid gave them.
fn by_method(layout: &dyn Layout, matrix: Matrix, weights: &[f32]) -> (Parts, Vec<f32>) {
    let columns = matrix.columns as usize;
    let unit = layout.row_unit(matrix) as usize;
    let measures = weights.chunks(unit * columns).map(|rows| layout.measure(matrix, rows));
    let measure = measures.fold(Measure::default(), Measure::merged);
    let grid = layout.grid(&Whole { matrix, weights, measure }).expect("a grid");
    let parts = Parts::of(layout, matrix);
    let mut put = |part, offset, bytes: &[u8]| parts.put(part, offset, bytes);
    layout.write_constants(matrix, measure, &mut put);
    let (mut values, ones) = (Vec::new(), vec![1.0; columns]);
    for (number, rows) in weights.chunks(unit * columns).enumerate() {
        let first_row = number * unit;
        let batch = &rounding::round(&*grid, Rows::dense(rows, columns), first_row, &ones);
        let chosen = ChosenRows { matrix, measure, first_row: first_row as u64, batch };
        layout.write(&chosen, &mut put);
        (0..batch.rows()).for_each(|row| values.extend(batch.values(row)));
    }
    (parts, values)
}

#[test]
fn layouts_without_a_grid_say_so() {
    let check = |target: &str, columns: u64, expected: bool| {
        let layout = scheme(target).layout(DataType::BF16);
        assert_eq!(layout.has_grid(Matrix { rows: 64, columns }), expected, "{target} {columns}");
    };
    check("bnb:nf4", 256, true);
    check("bnb:nf4", 96, false);
    check("bnb:fp4+double", 100, false);
    check("bnb:int8", 256, false);
    check("fp8:block128", 100, true);
    check("fp8:tensor", 75, true);
    check("ct:fp8", 75, true);
}

#[test]
fn blocks_hold_the_same_weights() {
    let matrix = Matrix { rows: 32, columns: 256 };
    let weights = weights(matrix.rows * matrix.columns, 4);
    let check = |target: &str, model_type: DataType, expected: Option<DataType>| {
        let layout = scheme(target).layout(model_type);
        let parts = packed(&*layout, matrix, &weights, Rounding::Nearest);
        let found = layout.exact_type(matrix, &parts).expect("in memory");
        assert_eq!(found, expected, "{target}");
        let Some(data_type) = found else { return };
        let codec = codec_for(data_type).expect("a codec");
        let all = decoded(&*layout, matrix, &parts);
        for rows in [0..32, 5..6] {
            let count = (rows.end - rows.start) * matrix.columns;
            let mut blocks = vec![0; data_type.byte_size(count).expect("blocks") as usize];
            layout.repack(matrix, &parts, rows.clone(), &mut blocks).expect("in memory");
            let mut values = vec![0.0; count as usize];
            codec.decode(&blocks, &mut values);
            assert_eq!(values, all[(rows.start * matrix.columns) as usize..][..values.len()]);
        }
    };
    check("gptq:w4g128", DataType::BF16, Some(DataType::Q4_0));
    check("gptq:w8g128+v2", DataType::BF16, Some(DataType::Q8_0));
    check("gptq:w4", DataType::BF16, Some(DataType::Q4_0));
    check("gptq:w3g128", DataType::BF16, None);
    check("gptq:w4g16", DataType::BF16, None);
    check("awq:w4g128", DataType::BF16, None);
    check("ct:w4a16", DataType::F16, Some(DataType::Q4_0));
    check("ct:w4a16", DataType::BF16, Some(DataType::Q4_0));
    check("ct:w8a8", DataType::F16, Some(DataType::Q8_0));
    check("ct:w4a16", DataType::F32, None);
}

#[test]
fn sizes_that_do_not_fit_are_told() {
    let check = |target: &str, rows: u64, columns: u64, expected: &str| {
        let layout = scheme(target).layout(DataType::BF16);
        let unfit = layout.parts(Matrix { rows, columns }).expect_err(target).to_string();
        assert!(unfit.contains(expected), "{target}: {unfit}");
    };
    check("gptq:w4g128", 64, 192, "192 inputs are not a multiple of the group 128");
    check("gptq:w4g128", 60, 256, "60 outputs do not fill words of 4-bit codes");
    check("gptq:w3g128", 48, 256, "not a multiple of 32");
    check("awq:w4g128", 60, 256, "60 outputs are not a multiple of 8");
    check("ct:w4a16", 64, 192, "192 inputs are not a multiple of the group 128");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever the bytes, they decode: a file may hold any.
    #[test]
    fn any_bytes_decode(seed in any::<u64>(), target in prop::sample::select(targets())) {
        let matrix = Matrix { rows: 32, columns: 256 };
        let layout = scheme(&target).layout(DataType::F16);
        let mut state = seed;
        let mut byte = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        };
        let room = |part: &qz_packed::Part| {
            let size = part.shape.byte_size(part.data_type).expect("fits");
            (0..size).map(|_| byte()).collect()
        };
        let parts = layout.parts(matrix).expect("fits").iter().map(room).collect();
        let decoded = decoded(&*layout, matrix, &Parts::from_bytes(parts));
        prop_assert_eq!(decoded.len(), 32 * 256);
    }
}
