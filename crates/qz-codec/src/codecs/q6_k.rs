//! Q6_K: 256 weights as 6-bit levels, with an 8-bit scale for every 16.
//!
//! | bytes | what |
//! |---|---|
//! | 0..128 | the levels' lower four bits |
//! | 128..192 | the levels' upper two bits |
//! | 192..208 | scales, signed |
//! | 208..210 | what one unit of a scale is worth, binary16 |

use qz_tensor::DataType;

use crate::block::{
    SUPER_BLOCK, first_non_finite_scale, for_each_super_block, half_at, set_half_at,
};
use crate::codec::{Codec, CodecSpec, ImportanceUse};
use crate::number::{f16_from_f32, f32_from_f16, nearest_integer};
use crate::pack::{pack_crumbs, unpack_crumbs};
use crate::search::{ZERO_BELOW, signed};

/// Weights in a sub-block.
const LENGTH: usize = 16;
/// Sub-blocks.
const COUNT: usize = SUPER_BLOCK / LENGTH;
/// Levels are stored plus this.
const HALF: u8 = 32;

const HIGH: usize = SUPER_BLOCK / 2;
const SCALES: usize = HIGH + SUPER_BLOCK / 4;
const UNIT: usize = SCALES + COUNT;
const BYTES: usize = UNIT + 2;

pub(crate) struct Q6K;

static SPEC: CodecSpec =
    CodecSpec { data_type: DataType::Q6_K, importance: ImportanceUse::Optional };

impl Codec for Q6K {
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
    std::array::from_fn(|position| unit * f32::from(block[SCALES + position] as i8))
}

fn decode_block(block: &[u8; BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let levels = unpack(block);
    let sub_blocks = levels.as_chunks::<LENGTH>().0.iter().zip(out.as_chunks_mut::<LENGTH>().0);
    for ((levels, out), scale) in sub_blocks.zip(stored(block)) {
        for (value, level) in out.iter_mut().zip(levels) {
            *value = scale * (f32::from(*level) - f32::from(HALF));
        }
    }
}

/// ggml-quants.c, `quantize_row_q6_K_ref` and `quantize_row_q6_K_impl`, which
/// differ only in what the search weighs the values by.
fn encode_block(
    values: &[f32; SUPER_BLOCK],
    importance: Option<&[f32; SUPER_BLOCK]>,
    block: &mut [u8; BYTES],
) {
    let squares = values.map(|value| value * value);
    let mut levels = [0; SUPER_BLOCK];
    let scales = fit(values, importance.unwrap_or(&squares), &mut levels);
    let extreme = signed::extreme(&scales);
    if extreme.abs() < ZERO_BELOW {
        block.fill(0);
        return;
    }
    let inverse = -128.0 / extreme;
    for (byte, scale) in block[SCALES..UNIT].iter_mut().zip(scales) {
        *byte = nearest_integer(inverse * scale).min(127) as u8;
    }
    set_half_at(block, UNIT, f16_from_f32(1.0 / inverse));
    round_to_stored(block, values, &mut levels);
    pack(&levels, block);
}

fn fit(
    values: &[f32; SUPER_BLOCK],
    weights: &[f32; SUPER_BLOCK],
    levels: &mut [u8; SUPER_BLOCK],
) -> [f32; COUNT] {
    let mut scales = [0.0; COUNT];
    let values = values.as_chunks::<LENGTH>().0.iter();
    let weights = weights.as_chunks::<LENGTH>().0;
    let levels = levels.as_chunks_mut::<LENGTH>().0;
    for (scale, ((values, weights), levels)) in
        scales.iter_mut().zip(values.zip(weights).zip(levels))
    {
        *scale = signed::search(HALF, values, weights, levels);
    }
    scales
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

/// In each half super-block, byte `l` of the lower bits holds levels `l` and
/// `l + 64`.
fn pack(levels: &[u8; SUPER_BLOCK], block: &mut [u8; BYTES]) {
    let halves = levels.as_chunks::<128>().0.iter();
    for (levels, low) in halves.zip(block[..HIGH].as_chunks_mut::<64>().0) {
        for (l, byte) in low.iter_mut().enumerate() {
            *byte = levels[l] & 15 | levels[l + 64] << 4;
        }
    }
    pack_crumbs(&levels.map(|level| level >> 4), &mut block[HIGH..SCALES]);
}

/// Undoes [`pack`].
fn unpack(block: &[u8; BYTES]) -> [u8; SUPER_BLOCK] {
    let mut levels = [0; SUPER_BLOCK];
    unpack_crumbs(&block[HIGH..SCALES], &mut levels);
    let halves = levels.as_chunks_mut::<128>().0.iter_mut();
    for (levels, low) in halves.zip(block[..HIGH].as_chunks::<64>().0) {
        for (l, byte) in low.iter().enumerate() {
            levels[l] = levels[l] << 4 | byte & 15;
            levels[l + 64] = levels[l + 64] << 4 | byte >> 4;
        }
    }
    levels
}
