//! Q6_K: 256 weights as 6-bit levels, with an 8-bit scale for every 16.
//!
//! | bytes | what |
//! |---|---|
//! | 0..128 | the levels' lower four bits |
//! | 128..192 | the levels' upper two bits |
//! | 192..208 | scales, signed |
//! | 208..210 | what one unit of a scale is worth, binary16 |

use crate::block::{BATCH, Rows, SUPER_BLOCK, first_non_finite_scale, half_at, set_half_at, split};
use crate::codec::codec;
use crate::lanes::{self, Lanes, Portable};
use crate::number::{f16_from_f32, nearest_integer};
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

codec! {
    Q6K: DataType::Q6_K,
    importance: Optional,
    activations: Q8_K,
    integers: Levels,
    decode: decode::<Portable>,
    encode: encode::<Portable>,
    first_non_finite_block: |bytes| first_non_finite_scale::<BYTES>(bytes, &[UNIT]),
}

/// The body of [`crate::Codec::decode`], with lanes of type `L`.
#[inline(always)]
pub fn decode<L: Lanes>(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut().0) {
        decode_block::<L>(block, out);
    }
}

/// The body of [`crate::Codec::encode`], with lanes of type `L`.
#[inline(always)]
pub fn encode<L: Lanes>(
    weights: &[f32],
    columns: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    let rows = Rows::new(weights, columns, importance);
    for (number, blocks) in out.as_chunks_mut().0.chunks_mut(BATCH).enumerate() {
        let batch = rows.batch(number * BATCH);
        for (position, block) in blocks.iter_mut().enumerate() {
            let weights = batch.weights[position];
            if let Some(importance) = &batch.importance {
                encode_block::<L>(weights, importance[position], block);
            } else {
                encode_block::<L>(weights, &squares(weights), block);
            }
        }
    }
}

#[inline(always)]
fn squares(values: &[f32; SUPER_BLOCK]) -> [f32; SUPER_BLOCK] {
    let mut squares = *values;
    for square in &mut squares {
        *square *= *square;
    }
    squares
}

/// Each sub-block's scale, as decoders see it.
#[inline(always)]
fn stored<L: Lanes>(block: &[u8; BYTES]) -> [f32; COUNT] {
    let mut scales = [0; COUNT];
    for (scale, byte) in scales.iter_mut().zip(&block[SCALES..UNIT]) {
        *scale = *byte as i8;
    }
    (L::splat_half(half_at(block, UNIT)) * L::from_signed_bytes(&scales)).store()
}

#[inline(always)]
fn decode_block<L: Lanes>(block: &[u8; BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let levels = unpack(block);
    let sub_blocks = levels.as_chunks::<LENGTH>().0.iter().zip(out.as_chunks_mut::<LENGTH>().0);
    for ((levels, out), scale) in sub_blocks.zip(&stored::<L>(block)) {
        let centred = L::from_bytes(levels) - L::splat(f32::from(HALF));
        *out = (L::splat(*scale) * centred).store();
    }
}

/// ggml-quants.c, `quantize_row_q6_K_ref` and `quantize_row_q6_K_impl`, which
/// differ only in what the search weighs the values by.
#[inline(always)]
fn encode_block<L: Lanes>(
    values: &[f32; SUPER_BLOCK],
    weights: &[f32; SUPER_BLOCK],
    block: &mut [u8; BYTES],
) {
    let rows = lanes::transpose(&split(values));
    let weight_rows = lanes::transpose(&split(weights));
    let fit = lanes::signed::search::<L, LENGTH, true>(HALF, &rows, &weight_rows);
    let scales = fit.scale.store();
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
    let levels = round_to_stored::<L>(block, values, weights);
    pack(&levels, block);
}

#[inline(always)]
fn round_to_stored<L: Lanes>(
    block: &[u8; BYTES],
    values: &[f32; SUPER_BLOCK],
    weights: &[f32; SUPER_BLOCK],
) -> [u8; SUPER_BLOCK] {
    let mut levels = [0; SUPER_BLOCK];
    let sub_blocks = values.as_chunks::<LENGTH>().0.iter().zip(weights.as_chunks::<LENGTH>().0);
    let sub_blocks = sub_blocks.zip(levels.as_chunks_mut().0);
    for (((values, weights), levels), scale) in sub_blocks.zip(stored::<L>(block)) {
        if scale != 0.0 {
            lanes::signed::round_to_stored::<L>(HALF, scale, values, levels);
        } else {
            // Levels that mean nothing any more stay those of the search. Found
            // again: it is rare, and the lanes do not keep them.
            signed::search(HALF, values, weights, levels);
        }
    }
    levels
}

/// In each half super-block, byte `l` of the lower bits holds levels `l` and
/// `l + 64`.
#[inline(always)]
fn pack(levels: &[u8; SUPER_BLOCK], block: &mut [u8; BYTES]) {
    let halves = levels.as_chunks::<128>().0.iter();
    for (levels, low) in halves.zip(block[..HIGH].as_chunks_mut::<64>().0) {
        for (l, byte) in low.iter_mut().enumerate() {
            *byte = levels[l] & 15 | levels[l + 64] << 4;
        }
    }
    let mut high = *levels;
    for level in &mut high {
        *level >>= 4;
    }
    pack_crumbs(&high, &mut block[HIGH..SCALES]);
}

/// Undoes [`pack`].
#[inline(always)]
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
