//! IQ4_XS: 256 weights as 4-bit numbers of levels in a table, with a 6-bit scale for
//! every 32.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | what one unit of a scale is worth, binary16 |
//! | 2..4 | the upper two bits of the scales plus 32, lowest first |
//! | 4..8 | their lower four bits |
//! | 8..136 | numbers of levels |

use crate::affine_fits::store_lanes;
use crate::block::{
    BATCH, Derived, Rows, SUPER_BLOCK, SuperBlocks, first_non_finite_scale, half_at, set_half_at,
    sub_blocks, sums_of_squares,
};
use crate::codec::codec;
use crate::lanes::{self, LANES, Lanes, Portable, transpose};
use crate::number::{f16_from_f32, f32_from_f16, nearest_integer};
use crate::pack::{decode_numbers, pack_halves};
use crate::search::nonlinear::LEVELS;
use crate::search::signed::extreme;

/// Weights in a sub-block.
const LENGTH: usize = 32;
/// Sub-blocks.
const COUNT: usize = SUPER_BLOCK / LENGTH;
/// Scales are stored plus this.
const SCALE_HALF: i32 = 32;

const SCALES_HIGH: usize = 2;
const SCALES_LOW: usize = SCALES_HIGH + 2;
const NUMBERS: usize = SCALES_LOW + COUNT / 2;
const BYTES: usize = NUMBERS + SUPER_BLOCK / 2;

codec! {
    Iq4Xs: DataType::IQ4_XS,
    importance: Optional,
    activations: Q8_K,
    integers: Units { unit: Half { at: 0, one: 1.0 }, length: 256 },
    decode: decode::<Portable>,
    encode: encode::<Portable>,
    first_non_finite_block: |bytes| first_non_finite_scale::<BYTES>(bytes, &[0]),
}

/// The body of [`crate::Codec::decode`], with look-ups of `L`.
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
        encode_batch::<L>(&batch.weights, batch.importance.as_ref(), blocks);
    }
}

#[inline(always)]
fn decode_block<L: Lanes>(block: &[u8; BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let unit = f32_from_f16(half_at(block, 0));
    let scales = unpack_scales(block);
    let sub_blocks = block[NUMBERS..].as_chunks::<{ LENGTH / 2 }>().0.iter();
    let sub_blocks = sub_blocks.zip(out.as_chunks_mut::<LENGTH>().0);
    for ((bytes, out), scale) in sub_blocks.zip(scales) {
        let scale = unit * (i32::from(scale) - SCALE_HALF) as f32;
        decode_numbers(L::splat(scale), &LEVELS, bytes, out);
    }
}

/// ggml-quants.c, `quantize_row_iq4_nl_impl` with a super-block of eight blocks.
#[inline(always)]
fn encode_batch<L: Lanes>(
    values: &SuperBlocks,
    importance: Option<&SuperBlocks>,
    blocks: &mut [[u8; BYTES]],
) {
    let weights = search_weights(values, importance);
    let weights = weights.each_ref();
    let mut scales = [[0.0; COUNT]; BATCH];
    for first in (0..blocks.len()).step_by(LANES / COUNT) {
        let rows = transpose::<L, LENGTH>(&sub_blocks(values, first));
        let weight_rows = transpose(&sub_blocks(&weights, first));
        store_lanes(lanes::nonlinear::search(&rows, &weight_rows), &mut scales[first..]);
    }
    for ((block, values), scales) in blocks.iter_mut().zip(values).zip(&scales) {
        encode_block::<L>(values, scales, block);
    }
}

#[inline(always)]
fn search_weights(values: &SuperBlocks, importance: Option<&SuperBlocks>) -> Derived {
    let mut derived = [[0.0; SUPER_BLOCK]; BATCH];
    for (weights, values) in derived.iter_mut().zip(values) {
        for (weight, value) in weights.iter_mut().zip(*values) {
            *weight = value * value;
        }
    }
    let Some(importance) = importance else { return derived };
    let sums = sums_of_squares(values);
    for (position, weights) in derived.iter_mut().enumerate() {
        // Unlike for the K types, no step is larger than the sum.
        let sigma2 = sums[position] * (2.0 / SUPER_BLOCK as f32);
        for (weight, importance) in weights.iter_mut().zip(importance[position]) {
            *weight = importance * (sigma2 + *weight).sqrt();
        }
    }
    derived
}

/// The unit lets the scale of largest magnitude be -32 units. Levels are rounded
/// with the unit as it was before it was stored.
#[inline(always)]
fn encode_block<L: Lanes>(
    values: &[f32; SUPER_BLOCK],
    scales: &[f32; COUNT],
    block: &mut [u8; BYTES],
) {
    let unit = -extreme(scales) / SCALE_HALF as f32;
    set_half_at(block, 0, f16_from_f32(unit));
    let inverse = if unit != 0.0 { 1.0 / unit } else { 0.0 };
    let scales = scales.map(|scale| nearest_integer(inverse * scale).clamp(-32, 31));
    pack_scales(&scales.map(|scale| (scale + SCALE_HALF) as u8), block);
    let sub_blocks = values.as_chunks::<LENGTH>().0.iter();
    let sub_blocks = sub_blocks.zip(block[NUMBERS..].as_chunks_mut::<{ LENGTH / 2 }>().0);
    for ((values, bytes), scale) in sub_blocks.zip(scales) {
        let scale = unit * scale as f32;
        let inverse = if scale != 0.0 { 1.0 / scale } else { 0.0 };
        let mut numbers = [0; LENGTH];
        let halves = numbers.as_chunks_mut::<LANES>().0.iter_mut();
        for (numbers, values) in halves.zip(values.as_chunks().0) {
            *numbers = lanes::nonlinear::numbers(L::splat(inverse) * L::load(values));
        }
        pack_halves(&numbers, bytes);
    }
}

#[inline(always)]
fn pack_scales(scales: &[u8; COUNT], block: &mut [u8; BYTES]) {
    let mut high = 0u16;
    for (position, scale) in scales.iter().enumerate() {
        high |= u16::from(scale >> 4) << (2 * position);
    }
    block[SCALES_HIGH..SCALES_LOW].copy_from_slice(&high.to_le_bytes());
    for (byte, pair) in block[SCALES_LOW..NUMBERS].iter_mut().zip(scales.as_chunks::<2>().0) {
        *byte = pair[0] & 15 | pair[1] << 4;
    }
}

/// Undoes [`pack_scales`].
#[inline(always)]
fn unpack_scales(block: &[u8; BYTES]) -> [u8; COUNT] {
    let high = half_at(block, SCALES_HIGH);
    let mut scales = [0; COUNT];
    for (position, scale) in scales.iter_mut().enumerate() {
        let low = block[SCALES_LOW + position / 2] >> (4 * (position % 2)) & 15;
        *scale = low + (high >> (2 * position) & 3) as u8 * 16;
    }
    scales
}
