//! The grids under test, and decoders that know nothing of grids.

use std::sync::LazyLock;

use qz_codec::grid::{GRIDS, Grid, IntegerFormat, integers, scaled_nvfp4};
use qz_codec::number::f32_from_f16;
use qz_codec::{Codec, codec_for};

/// The largest weight of [`crate::data::Problem::correlated`] is about 6 * 448 of
/// these.
const TENSOR_SCALE: f32 = 1.0 / 4096.0;

static OWN: LazyLock<Vec<Box<dyn Grid>>> = LazyLock::new(|| {
    let integer = |bits, symmetric, group_columns| -> Box<dyn Grid> {
        Box::new(integers(IntegerFormat { bits, symmetric, group_columns }))
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
        Box::new(scaled_nvfp4(TENSOR_SCALE)),
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

/// Decodes by the codec, or for grids of no element type by what is written of
/// their packing.
pub(crate) fn decode(grid: &dyn Grid, bytes: &[u8], out: &mut [f32]) {
    let spec = grid.spec();
    if let Some(codec) = codec(grid) {
        codec.decode(bytes, out);
        return;
    }
    let decode_block: &dyn Fn(&[u8], usize) -> f32 = match &*spec.name {
        "NVFP4 scaled" => &|block, at| nvfp4(block, at, TENSOR_SCALE),
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

const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

fn half(block: &[u8], offset: usize) -> f32 {
    f32_from_f16(u16::from_le_bytes([block[offset], block[offset + 1]]))
}

pub(crate) fn nvfp4(block: &[u8], at: usize, tensor_scale: f32) -> f32 {
    let (group, within) = (at / 16, at % 16);
    let byte = block[group];
    let mantissa = f64::from(byte & 7);
    let scale = match byte >> 3 & 15 {
        _ if byte == 0x7f => 0.0,
        0 => mantissa / 512.0,
        exponent => (1.0 + mantissa / 8.0) * 2f64.powi(i32::from(exponent) - 7),
    };
    let code = block[4 + 8 * group + within % 8] >> (4 * (within / 8)) & 15;
    f32::from(E2M1[usize::from(code)]) * ((scale * 0.5) as f32 * tensor_scale)
}

pub(crate) fn integer(block: &[u8], at: usize, bits: usize) -> f32 {
    let bit = |number: usize| u32::from(block[number / 8] >> (number % 8) & 1);
    let code: u32 = (0..bits).map(|number| bit(at * bits + number) << number).sum();
    let (scale, zero) = block.split_at(block.len() - 1);
    half(scale, scale.len() - 2) * (code as f32 - f32::from(zero[0]))
}
