//! The grids under test, and decoders that know nothing of grids.

use std::sync::LazyLock;

use qz_codec::grid::{
    GRIDS, GivenScales, Grid, IntegerFormat, LevelFormat, StoredNumber, affine, given_scales,
    integers, listed_scales, scaled_levels,
};
use qz_codec::number::{f32_from_bf16, f32_from_f16};
use qz_codec::{Codec, codec_for};

/// The largest weight of [`crate::data::Problem::correlated`] is about 6 * 448 of
/// these.
const TENSOR_SCALE: f32 = 1.0 / 4096.0;

/// NF4 of bitsandbytes, to four digits.
const NF4: [f32; 16] = [
    -1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0, 0.0796, 0.1609, 0.2461,
    0.3379, 0.4407, 0.5626, 0.7230, 1.0,
];

/// FP4 of bitsandbytes: two codes for zero, and levels in no order.
const FP4: [f32; 16] = [
    0.0, 0.005, 0.667, 1.0, 0.333, 0.5, 0.167, 0.25, 0.0, -0.005, -0.667, -1.0, -0.333, -0.5,
    -0.167, -0.25,
];

/// Eight-bit floats: the codes of 0x7f and 0xff are no numbers.
fn e4m3() -> Vec<f32> {
    let magnitude = |code: u8| match (code >> 3, f32::from(code & 7)) {
        _ if code == 0x7f => f32::NAN,
        (0, mantissa) => mantissa / 512.0,
        (exponent, mantissa) => (1.0 + mantissa / 8.0) * 2f32.powi(i32::from(exponent) - 7),
    };
    let number = |code: u8| match code {
        0..0x80 => magnitude(code),
        _ => -magnitude(code & 0x7f),
    };
    (0..=255).map(number).collect()
}

/// Six-bit floats: the upper bit is the sign.
fn e2m3() -> Vec<f32> {
    let magnitude = |code: u8| match (code >> 3 & 3, f32::from(code & 7)) {
        (0, mantissa) => mantissa / 8.0,
        (exponent, mantissa) => (1.0 + mantissa / 8.0) * 2f32.powi(i32::from(exponent) - 1),
    };
    let sign = |code: u8| if code < 32 { 1.0 } else { -1.0 };
    (0..64).map(|code| sign(code) * magnitude(code)).collect()
}

/// NVFP4 whose groups' scales are all multiplied by one of the tensor.
pub(crate) fn nvfp4_scaled(tensor_scale: f32) -> Box<dyn Grid> {
    let format = LevelFormat { name: "NVFP4 scaled", levels: &E2M1, unit_columns: 16 };
    let scales = e4m3().into_iter().map(|scale| scale * tensor_scale).collect();
    Box::new(listed_scales(format, scales, 1..=0x7e))
}

/// Scales in steps around a mean, as those that are rounded a second time are.
fn listed() -> Vec<f32> {
    (0..256).map(|byte| (byte as f32 - 128.0) / 2000.0 + 0.05).collect()
}

const BLOCKS: usize = 128;

static OWN: LazyLock<Vec<Box<dyn Grid>>> = LazyLock::new(|| {
    let integer = |bits, symmetric, group_columns| -> Box<dyn Grid> {
        Box::new(integers(IntegerFormat { bits, symmetric, group_columns }))
    };
    let e4m3 = e4m3();
    let nf4 = |name| LevelFormat { name, levels: &NF4, unit_columns: 64 };
    let fp4 = LevelFormat { name: "FP4 f32", levels: &FP4, unit_columns: 64 };
    let fp8 = |name, unit_columns| LevelFormat { name, levels: &e4m3, unit_columns };
    let given = GivenScales {
        scales: vec![0.000_3, 0.000_5, 0.000_4, 0.000_2],
        rows: 512,
        columns: BLOCKS,
        across: 4,
    };
    vec![
        integer(2, false, 64),
        integer(3, true, 128),
        integer(3, false, 128),
        integer(4, true, 128),
        integer(4, false, 32),
        integer(4, false, 512),
        integer(5, true, 64),
        integer(6, false, 128),
        integer(7, true, 32),
        integer(8, true, 512),
        integer(8, false, 128),
        nvfp4_scaled(TENSOR_SCALE),
        Box::new(scaled_levels(nf4("NF4 f32"), StoredNumber::F32)),
        Box::new(scaled_levels(fp4, StoredNumber::F32)),
        // The scales below 0.03 are too few for other than ordinary weights.
        Box::new(listed_scales(nf4("NF4 listed"), listed(), 28..=255)),
        Box::new(listed_scales(
            LevelFormat { name: "E2M3 listed", levels: &e2m3(), unit_columns: 32 },
            listed().into_iter().map(|scale| scale / 4.0).collect(),
            28..=255,
        )),
        Box::new(affine(2, 64, StoredNumber::F32)),
        Box::new(affine(4, 64, StoredNumber::BF16)),
        Box::new(affine(6, 32, StoredNumber::F16)),
        Box::new(scaled_levels(fp8("FP8 bf16", 512), StoredNumber::BF16)),
        Box::new(given_scales(fp8("FP8 given", BLOCKS), given)),
    ]
});

/// Every grid of an element type, and some of the others.
pub(crate) fn all() -> Vec<&'static dyn Grid> {
    GRIDS.iter().map(|grid| grid()).chain(OWN.iter().map(|grid| &**grid)).collect()
}

/// The codec of a grid's element type.
pub(crate) fn codec(grid: &dyn Grid) -> Option<&'static dyn Codec> {
    grid.spec().data_type.and_then(codec_for)
}

/// True if scales are binary16.
pub(crate) fn keeps_halves(grid: &dyn Grid) -> bool {
    let others = ["f32", "bf16", "affine2", "affine4"];
    !others.iter().any(|word| grid.spec().name.contains(word))
}

/// Decodes by the codec, or for grids of no element type by what is written of
/// their packing.
pub(crate) fn decode(grid: &dyn Grid, bytes: &[u8], out: &mut [f32]) {
    let spec = grid.spec();
    if let Some(codec) = codec(grid) {
        codec.decode(bytes, out);
        return;
    }
    let (e4m3, e2m3, listed) = (e4m3(), e2m3(), listed());
    let decode_block: &dyn Fn(&[u8], usize) -> f32 = match &*spec.name {
        "NVFP4 scaled" => &|block, at| nvfp4(block, at, TENSOR_SCALE),
        "NF4 f32" => &|block, at| NF4[bits_at(&block[4..], at, 4)] * full(block),
        "FP4 f32" => &|block, at| FP4[bits_at(&block[4..], at, 4)] * full(block),
        "NF4 listed" => {
            &|block, at| NF4[bits_at(&block[1..], at, 4)] * listed[usize::from(block[0])]
        }
        "E2M3 listed" => {
            &|block, at| e2m3[bits_at(&block[1..], at, 6)] * (listed[usize::from(block[0])] / 4.0)
        }
        "FP8 bf16" => &|block, at| e4m3[bits_at(&block[2..], at, 8)] * brief(block, 0),
        "FP8 given" => &|block, at| e4m3[bits_at(&block[4..], at, 8)] * full(block),
        "affine2 64" => {
            &|block, at| full(block) * bits_at(&block[8..], at, 2) as f32 + full(&block[4..])
        }
        "affine4 64" => {
            &|block, at| brief(block, 0) * bits_at(&block[4..], at, 4) as f32 + brief(block, 2)
        }
        "affine6 32" => {
            &|block, at| half(block, 0) * bits_at(&block[4..], at, 6) as f32 + half(block, 2)
        }
        name if name.starts_with("int") => {
            let bits: usize = name[3..4].parse().expect("a digit");
            &move |block, at| integer(block, at, bits)
        }
        other => panic!("no decoder of {other}"),
    };
    let blocks = bytes.chunks(spec.unit_bytes).zip(out.chunks_mut(spec.unit_columns));
    for (block, out) in blocks {
        for (at, value) in out.iter_mut().enumerate() {
            *value = decode_block(block, at);
        }
    }
}

const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

fn half(block: &[u8], offset: usize) -> f32 {
    f32_from_f16(u16::from_le_bytes([block[offset], block[offset + 1]]))
}

fn brief(block: &[u8], offset: usize) -> f32 {
    f32_from_bf16(u16::from_le_bytes([block[offset], block[offset + 1]]))
}

fn full(block: &[u8]) -> f32 {
    f32::from_le_bytes(*block.first_chunk().expect("four bytes"))
}

/// The code at a position of a stream whose first code is in the lowest bits.
fn bits_at(stream: &[u8], at: usize, bits: usize) -> usize {
    let bit = |number: usize| usize::from(stream[number / 8] >> (number % 8) & 1);
    (0..bits).map(|number| bit(at * bits + number) << number).sum()
}

pub(crate) fn nvfp4(block: &[u8], at: usize, tensor_scale: f32) -> f32 {
    let byte = block[0];
    let mantissa = f64::from(byte & 7);
    let scale = match byte >> 3 & 15 {
        _ if byte & 0x7f == 0x7f => f64::NAN,
        0 => mantissa / 512.0,
        exponent => (1.0 + mantissa / 8.0) * 2f64.powi(i32::from(exponent) - 7),
    };
    let sign = if byte < 0x80 { 1.0 } else { -1.0 };
    E2M1[bits_at(&block[1..], at, 4)] * ((sign * scale) as f32 * tensor_scale)
}

pub(crate) fn integer(block: &[u8], at: usize, bits: usize) -> f32 {
    let code = bits_at(block, at, bits);
    let (scale, zero) = block.split_at(block.len() - 1);
    half(scale, scale.len() - 2) * (code as f32 - f32::from(zero[0]))
}
