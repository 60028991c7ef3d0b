//! No block that is written is lost without being looked at.

use std::f32::consts::TAU;

use qz_packed::{Matrix, PartBytes, PartIndex, Rounding, RowBlock, SCHEMES};
use qz_tensor::FileError;

use super::*;
use crate::model::to_usize;

const ROWS: usize = 128;
const COLUMNS: usize = 256;

fn types() -> [Suspicion; 2] {
    [Suspicion::of_type(DataType::Q8_0, 64), Suspicion::of_groups(32, 0.0, 0.0)]
}

#[test]
fn ordinary_blocks_raise_none() {
    let weights: Vec<f32> = (0..256).map(|at| libm::sinf(at as f32 * 0.7) * 0.02).collect();
    for suspicion in types() {
        assert!(!suspicion.is_raised(&weights));
        assert!(!suspicion.is_raised(&[0.0; 64]));
    }
}

#[test]
fn odd_blocks_raise_some() {
    let check = |weights: &[f32], expected: [bool; 2]| {
        assert_eq!(types().map(|suspicion| suspicion.is_raised(weights)), expected);
    };
    let mut weights: Vec<f32> = (0..64).map(|at| if at % 2 == 0 { 0.1 } else { -0.1 }).collect();
    check(&weights, [false, false]);
    weights[32..].fill(1e-42);
    check(&weights, [true, true]);
    weights[32..].fill(0.5);
    check(&weights, [false, true]);
    weights[33..].fill(0.0);
    check(&weights, [false, true]);
    (weights[32], weights[33]) = (-3e38, 1.0);
    check(&weights, [true, false]);
    assert!(Suspicion::of_groups(32, 0.0, 3e38).is_raised(&weights));
    weights[32] = -1.0;
    check(&weights, [false, false]);
    assert!(!Suspicion::of_groups(32, 0.0, 0.0).is_raised(&weights));
    assert!(Suspicion::of_groups(32, 0.0, 1e6).is_raised(&weights));
    assert!(Suspicion::of_groups(32, 2.0, 0.0).is_raised(&weights));
}

#[test]
fn whole_blocks_are_lost() {
    let check = |wanted: &[f32], written: &[f32], expected: Result<u64, usize>| {
        let found = Suspicion::of_groups(2, 0.0, 0.0).lost(wanted, written);
        assert_eq!(found.map(|lost| lost.weights), expected);
    };
    // Ordinary blocks lose much before they are lost.
    check(&[1.0, -2.0, 3.0, -4.0], &[0.0, -0.5, 3.0, 0.0], Ok(0));
    check(&[1.0, -2.0, 3.0, -4.0], &[0.0, 0.0, 3.0, -4.0], Ok(2));
    // Others do not.
    check(&[1.0, 1.0, 3.0, 4.0], &[0.6, 0.6, 3.0, 4.0], Ok(2));
    check(&[1.0, 0.0, 3.0, 4.0], &[0.8, 0.0, 4.0, 3.0], Ok(0));
    check(&[1.0, 2.0, 3.0, 4.0], &[2.0, 0.5, 5.0, 5.0], Ok(2));
    check(&[1e-42, 0.0, 3.0, -4.0], &[0.0, 0.0, 0.3, -0.3], Ok(3));
    check(&[1e-9, 0.0, 0.0, 0.0], &[1e-4, 0.0, 0.0, 0.0], Ok(1));
    check(&[1.0, 2.0, 3.0, 4.0], &[1.0, 2.0, f32::INFINITY, 4.0], Err(2));
}

#[test]
fn vectors_are_one_block() {
    let vector = Suspicion::of_type(DataType::F16, 1);
    assert!(!vector.is_raised(&[1e-9, 1.0]));
    assert!(vector.is_raised(&[1e-9, 0.0]));
}

#[test]
fn tensors_are_named_once() {
    assert_eq!(warning("q8_0", &[]), None);
    let all: Vec<(&str, u64, u64)> = vec![("a", 1, 2); 10];
    let text = warning("q8_0", &all).expect("a warning");
    assert!(text.starts_with("q8_0 cannot hold weights of a (1 of 2), a (1 of 2), "), "{text}");
    assert!(text.contains(" and 2 more tensors: "), "{text}");
}

/// Of every kind of layout.
const TARGETS: &[&str] = &[
    "gptq:w4g128",
    "gptq:w4g128+v2+asym",
    "gptq:w8",
    "gptq:w3g128",
    "awq:w4g64",
    "ct:w4a16",
    "ct:w8a8",
    "ct:fp8",
    "ct:nvfp4",
    "ct:mxfp4",
    "fp8:block128",
    "fp8:block128+ue8m0",
    "fp8:tensor",
    "bnb:nf4",
    "bnb:fp4",
    "bnb:nf4+double",
    "bnb:int8",
    "mlx:w4g64",
];

/// A number of a normal distribution.
fn normal(at: usize) -> f32 {
    let part = |at: usize| {
        let mut bits = (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((bits ^ bits >> 27) >> 40) as f32 / (1 << 24) as f32
    };
    (-2.0 * libm::logf(1.0 - part(2 * at))).sqrt() * libm::cosf(TAU * part(2 * at + 1))
}

/// A name, and what a weight is.
type Kind = (String, Box<dyn Fn(usize) -> f32>);

/// Weights of many kinds, each with its name.
fn kinds() -> Vec<Kind> {
    let named =
        |name: &str, weight: fn(usize) -> f32| -> Kind { (name.to_owned(), Box::new(weight)) };
    let mut kinds = vec![
        named("normal", |at| 0.02 * normal(at)),
        named("long tails", |at| 0.02 * normal(at).powi(3)),
        named("an outlier", |at| 0.02 * if at % 128 == 7 { 8.0 } else { normal(at) }),
        named("few are not zero", |at| if at % 37 == 0 { 0.1 * normal(at) } else { 0.0 }),
        named("positive", |at| 0.02 * normal(at).abs()),
        named("equal", |_| 0.5),
        named("nearly equal", |at| -0.5 + 0.001 * normal(at)),
        named("positive or zero", |at| if at % 16 == 3 { 0.0 } else { 0.3 + 0.01 * normal(at) }),
        named("one is negative", |at| if at % 64 == 3 { -0.001 } else { 0.3 }),
        named("small rows", |at| normal(at) * if at / 256 % 4 == 0 { 0.02 } else { 2e-4 }),
        named("small blocks", |at| normal(at) * if at / 64 % 8 == 0 { 5e-4 } else { 0.02 }),
        named("large rows", |at| normal(at) * if at / 256 % 4 == 0 { 1e3 } else { 0.01 }),
    ];
    for size in [3e-3, 1e-3, 3e-4, 1e-4, 5e-5, 2e-5, 1e-5, 1e-6, 1e-7, 1e-8f32] {
        kinds.push((format!("{size}"), Box::new(move |at| size * normal(at))));
    }
    kinds
}

struct InMemory(Vec<Vec<u8>>);

impl PartBytes for InMemory {
    fn read(&self, part: PartIndex, offset: u64, out: &mut [u8]) -> Result<(), FileError> {
        out.copy_from_slice(&self.0[part.0][to_usize(offset)..][..out.len()]);
        Ok(())
    }
}

/// What is suspected of a layout, and what it makes of weights.
fn packed(target: &str, weights: &[f32]) -> (Suspicion, Vec<f32>) {
    let (family, name) = target.split_once(':').expect("a target");
    let family = SCHEMES.iter().find(|known| known.name == family).expect("a family");
    let layout = (family.parse)(name).expect("a scheme").layout(DataType::BF16);
    let matrix = Matrix { rows: ROWS as u64, columns: COLUMNS as u64 };
    let parts = layout.parts(matrix).expect("fits");
    let size = |part: &qz_packed::Part| part.shape.byte_size(part.data_type).map_or(0, to_usize);
    let mut bytes: Vec<Vec<u8>> = parts.iter().map(|part| vec![0; size(part)]).collect();
    let measure = layout.measure(matrix, weights);
    let mut put = |part: PartIndex, offset: u64, run: &[u8]| {
        bytes[part.0][to_usize(offset)..][..run.len()].copy_from_slice(run);
    };
    layout.write_constants(matrix, measure, &mut put);
    let rounding = Rounding::Nearest;
    let rows = RowBlock { matrix, first_row: 0, weights, importance: None, rounding, measure };
    layout.encode(&rows, &mut put).expect("no overflow");
    let mut written = vec![0.0; weights.len()];
    layout.decode(matrix, &InMemory(bytes), 0..matrix.rows, &mut written).expect("decoded");
    let columns = to_usize(layout.group_columns(matrix));
    (Suspicion::of_groups(columns, layout.faint(measure), largest(weights)), written)
}

fn typed(data_type: DataType, weights: &[f32]) -> (Suspicion, Vec<f32>) {
    let codec = qz_kernels::codec_for(data_type).expect("a codec");
    let size = data_type.byte_size(weights.len() as u64).expect("whole blocks");
    let mut bytes = vec![0; to_usize(size)];
    codec.encode(weights, COLUMNS, Some(&[1.0; COLUMNS]), &mut bytes);
    let mut written = vec![0.0; weights.len()];
    codec.decode(&bytes, &mut written);
    (Suspicion::of_type(data_type, COLUMNS), written)
}

/// Every block of which more than half is lost is one that is looked at, whatever the weights;
/// and no block of ordinary weights is lost.
#[test]
fn no_block_is_lost_unseen() {
    let types = [
        DataType::F16,
        DataType::Q8_0,
        DataType::Q6_K,
        DataType::Q5_K,
        DataType::Q4_K,
        DataType::Q3_K,
        DataType::Q2_K,
        DataType::Q4_0,
        DataType::Q4_1,
        DataType::Q5_0,
        DataType::Q5_1,
        DataType::IQ4_NL,
        DataType::IQ4_XS,
        DataType::IQ3_S,
        DataType::IQ3_XXS,
        DataType::MXFP4,
        DataType::NVFP4,
    ];
    for (kind, weight) in kinds() {
        let weights: Vec<f32> = (0..ROWS * COLUMNS).map(weight).collect();
        let check = |target: &str, (suspicion, written): (Suspicion, Vec<f32>)| {
            let blocks = suspicion.blocks(&weights).zip(suspicion.blocks(&written));
            for (number, (wanted, written)) in blocks.enumerate() {
                let is_lost = Energies::of(wanted, written).is_lost(true);
                assert!(!is_lost || suspicion.is_odd(wanted), "{target}, {kind}: block {number}");
                assert!(!is_lost || kind != "normal", "{target}: block {number}");
            }
        };
        types.iter().for_each(|data_type| check(data_type.name(), typed(*data_type, &weights)));
        TARGETS.iter().for_each(|target| check(target, packed(target, &weights)));
    }
}
