//! Q1_0: 128 weights as signs times one scale.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | scale, binary16 |
//! | 2..18 | a bit for each weight, set where it is not negative, lowest first |

use crate::block::{first_non_finite_scale, half_at, set_half_at};
use crate::codec::codec;
use crate::number::{f16_from_f32, f32_from_f16};
use crate::pack::{pack_sign_bits, unpack_sign_bits};

/// Weights in a block.
const ELEMENTS: usize = 128;

const SIGNS: usize = 2;
const BYTES: usize = SIGNS + ELEMENTS / 8;

/// Blocks that are encoded together: a sum has to wait for its last addition, other
/// blocks' sums have not.
const BATCH: usize = 16;

codec! {
    Q1_0: DataType::Q1_0,
    importance: Ignored,
    decode: decode,
    encode: encode,
    first_non_finite_block: |bytes| first_non_finite_scale::<BYTES>(bytes, &[0]),
}

/// The body of [`Codec::decode`].
#[inline(always)]
pub fn decode(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        decode_block(block, out);
    }
}

/// The body of [`Codec::encode`].
#[inline(always)]
pub fn encode(weights: &[f32], _columns: usize, _importance: Option<&[f32]>, out: &mut [u8]) {
    let batches = weights.as_chunks().0.chunks(BATCH).zip(out.as_chunks_mut().0.chunks_mut(BATCH));
    for (weights, blocks) in batches {
        encode_batch(weights, blocks);
    }
}

#[inline(always)]
fn decode_block(block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let scale = f32_from_f16(half_at(block, 0));
    let mut levels = [0; ELEMENTS];
    unpack_sign_bits(&block[SIGNS..], &mut levels);
    for (value, level) in out.iter_mut().zip(levels) {
        *value = if level != 0 { scale } else { -scale };
    }
}

/// ggml-quants.c, `quantize_row_q1_0_ref`.
#[inline(always)]
fn encode_batch(weights: &[[f32; ELEMENTS]], blocks: &mut [[u8; BYTES]]) {
    let sums = sums_of_magnitudes(weights);
    for ((block, weights), sum) in blocks.iter_mut().zip(weights).zip(sums) {
        set_half_at(block, 0, f16_from_f32(sum / ELEMENTS as f32));
        pack_sign_bits(weights, &mut block[SIGNS..]);
    }
}

/// The sum of each block's magnitudes, each in its own order.
#[inline(always)]
fn sums_of_magnitudes(weights: &[[f32; ELEMENTS]]) -> [f32; BATCH] {
    let mut sums = [0.0; BATCH];
    if let Ok(weights) = <&[[f32; ELEMENTS]; BATCH]>::try_from(weights) {
        for position in 0..ELEMENTS {
            for (sum, weights) in sums.iter_mut().zip(weights) {
                *sum += weights[position].abs();
            }
        }
    } else {
        for (sum, weights) in sums.iter_mut().zip(weights) {
            *sum = weights.iter().fold(0.0, |sum, weight| sum + weight.abs());
        }
    }
    sums
}
