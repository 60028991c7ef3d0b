//! Q3_K: 256 weights as 3-bit levels, with a 6-bit scale for every 16.
//!
//! | bytes | what |
//! |---|---|
//! | 0..32 | the levels' upper bits |
//! | 32..96 | the levels' lower two bits |
//! | 96..108 | scales, plus 32 |
//! | 108..110 | what one unit of a scale is worth, binary16 |

use qz_tensor::DataType;

use crate::block::{
    SUPER_BLOCK, first_non_finite_scale, for_each_super_block, half_at, importance_weights,
    set_half_at, sum, sum_of_squares,
};
use crate::codec::{Codec, CodecSpec, ImportanceUse};
use crate::number::{f16_from_f32, f32_from_f16, nearest_integer};
use crate::pack::{
    pack_bits, pack_crumbs, pack_sixteen_scales, unpack_bits, unpack_crumbs, unpack_sixteen_scales,
};
use crate::search::{descent, signed};

/// Weights in a sub-block.
const LENGTH: usize = 16;
/// Sub-blocks.
const COUNT: usize = SUPER_BLOCK / LENGTH;
/// Levels and scales are stored plus these.
const HALF: u8 = 4;
const SCALE_HALF: u8 = 32;

const LOW: usize = SUPER_BLOCK / 8;
const SCALES: usize = LOW + SUPER_BLOCK / 4;
const UNIT: usize = SCALES + 12;
const BYTES: usize = UNIT + 2;

pub(crate) struct Q3K;

static SPEC: CodecSpec =
    CodecSpec { data_type: DataType::Q3_K, importance: ImportanceUse::Optional };

impl Codec for Q3K {
    fn spec(&self) -> &CodecSpec {
        &SPEC
    }

    fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut().0) {
            decode_block(block, out);
        }
    }

    fn encode(&self, weights: &[f32], columns: usize, importance: Option<&[f32]>, out: &mut [u8]) {
        for_each_super_block(weights, columns, importance, out, encode_block);
    }

    fn first_non_finite_block(&self, bytes: &[u8]) -> Option<usize> {
        first_non_finite_scale::<BYTES>(bytes, &[UNIT])
    }
}

/// Each sub-block's scale, as decoders see it.
fn stored(block: &[u8; BYTES]) -> [f32; COUNT] {
    let unit = f32_from_f16(half_at(block, UNIT));
    unpack_sixteen_scales(&block[SCALES..UNIT])
        .map(|scale| unit * (f32::from(scale) - f32::from(SCALE_HALF)))
}

fn decode_block(block: &[u8; BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let mut levels = [0; SUPER_BLOCK];
    unpack_crumbs(&block[LOW..SCALES], &mut levels);
    unpack_bits(&block[..LOW], 2, &mut levels);
    let sub_blocks = levels.as_chunks::<LENGTH>().0.iter().zip(out.as_chunks_mut::<LENGTH>().0);
    for ((levels, out), scale) in sub_blocks.zip(stored(block)) {
        for (value, level) in out.iter_mut().zip(levels) {
            *value = scale * (f32::from(*level) - f32::from(HALF));
        }
    }
}

/// ggml-quants.c, `quantize_row_q3_K_ref` and `quantize_row_q3_K_impl`.
fn encode_block(
    values: &[f32; SUPER_BLOCK],
    importance: Option<&[f32; SUPER_BLOCK]>,
    block: &mut [u8; BYTES],
) {
    let mut levels = [0; SUPER_BLOCK];
    let (unit, scales) = match importance {
        None => units_by_largest(&fit(values, &mut levels)),
        Some(importance) => {
            let sigma2 = 2.0 * sum_of_squares(values) / SUPER_BLOCK as f32;
            let weights = importance_weights(values, importance, sigma2);
            let (scales, weight_sums) = fit_weighted(values, &weights, &mut levels);
            let mut units = [0; COUNT];
            let unit = signed::search(SCALE_HALF, &scales, &weight_sums, &mut units);
            (unit, units)
        }
    };
    block[SCALES..UNIT].copy_from_slice(&pack_sixteen_scales(&scales));
    set_half_at(block, UNIT, f16_from_f32(unit));
    round_to_stored(block, values, &mut levels);
    pack_bits(&levels, 2, &mut block[..LOW]);
    pack_crumbs(&levels, &mut block[LOW..SCALES]);
}

fn fit(values: &[f32; SUPER_BLOCK], levels: &mut [u8; SUPER_BLOCK]) -> [f32; COUNT] {
    let mut scales = [0.0; COUNT];
    let sub_blocks = values.as_chunks::<LENGTH>().0.iter().zip(levels.as_chunks_mut::<LENGTH>().0);
    for (scale, (values, levels)) in scales.iter_mut().zip(sub_blocks) {
        *scale = descent::search(HALF, values, levels);
    }
    scales
}

/// Scales, and sums of weights.
fn fit_weighted(
    values: &[f32; SUPER_BLOCK],
    weights: &[f32; SUPER_BLOCK],
    levels: &mut [u8; SUPER_BLOCK],
) -> ([f32; COUNT], [f32; COUNT]) {
    let (mut scales, mut weight_sums) = ([0.0; COUNT], [0.0; COUNT]);
    let values = values.as_chunks::<LENGTH>().0.iter();
    let weights = weights.as_chunks::<LENGTH>().0;
    let levels = levels.as_chunks_mut::<LENGTH>().0;
    for (position, ((values, weights), levels)) in values.zip(weights).zip(levels).enumerate() {
        scales[position] = signed::search(HALF, values, weights, levels);
        weight_sums[position] = sum(weights);
    }
    (scales, weight_sums)
}

/// The unit that lets the scale of largest magnitude be -32 units, and the scales
/// in units, plus 32.
fn units_by_largest(scales: &[f32; COUNT]) -> (f32, [u8; COUNT]) {
    let extreme = signed::extreme(scales);
    if extreme == 0.0 {
        return (0.0, [0; COUNT]);
    }
    let inverse = -f32::from(SCALE_HALF) / extreme;
    let units = scales.map(|scale| {
        // A byte before it is clamped, as in the reference.
        let units = nearest_integer(inverse * scale) as i8;
        (units.clamp(-32, 31) + 32) as u8
    });
    (1.0 / inverse, units)
}

/// Rounds the values again, to the scales as stored. Where the stored scale is
/// zero the levels of the search stay, though they mean nothing any more.
fn round_to_stored(
    block: &[u8; BYTES],
    values: &[f32; SUPER_BLOCK],
    levels: &mut [u8; SUPER_BLOCK],
) {
    let half = i32::from(HALF);
    let sub_blocks = values.as_chunks::<LENGTH>().0.iter().zip(levels.as_chunks_mut::<LENGTH>().0);
    for ((values, levels), scale) in sub_blocks.zip(stored(block)) {
        if scale == 0.0 {
            continue;
        }
        for (level, value) in levels.iter_mut().zip(values) {
            *level = (nearest_integer(value / scale).clamp(-half, half - 1) + half) as u8;
        }
    }
}
