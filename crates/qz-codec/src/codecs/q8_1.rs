//! Q8_1: Q8_0 with the sum of the weights. llama.cpp makes activations of it, to
//! multiply them with types that have a minimum.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | scale, binary16 |
//! | 2..4 | the sum of the levels times the scale, binary16 |
//! | 4..36 | levels |

use super::q8_0::levels_by_magnitude;
use crate::block::{first_non_finite_scale, half_at, set_half_at};
use crate::codec::codec;
use crate::number::{f16_from_f32, f32_from_f16};
use crate::short_block::ELEMENTS;

const SUM: usize = 2;
const LEVELS: usize = 4;
const BYTES: usize = LEVELS + ELEMENTS;

codec! {
    Q8_1: DataType::Q8_1,
    importance: Ignored,
    decode: decode,
    encode: encode,
    first_non_finite_block: |bytes| first_non_finite_scale::<BYTES>(bytes, &[0, SUM]),
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
    for (weights, block) in weights.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        encode_block(weights, block);
    }
}

#[inline(always)]
fn decode_block(block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let scale = f32_from_f16(half_at(block, 0));
    for (value, level) in out.iter_mut().zip(&block[LEVELS..]) {
        *value = f32::from(*level as i8) * scale;
    }
}

/// ggml-quants.c, `quantize_row_q8_1_ref`.
#[inline(always)]
fn encode_block(weights: &[f32; ELEMENTS], block: &mut [u8; BYTES]) {
    let (scale, levels) = levels_by_magnitude(weights);
    let sum: i32 = levels.iter().map(|level| i32::from(*level as i8)).sum();
    set_half_at(block, 0, f16_from_f32(scale));
    set_half_at(block, SUM, f16_from_f32(sum as f32 * scale));
    block[LEVELS..].copy_from_slice(&levels);
}
