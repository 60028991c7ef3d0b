//! MXFP4: 32 weights as four-bit floats times one power of two.
//!
//! | bytes | what |
//! |---|---|
//! | 0 | the power's exponent plus 127 |
//! | 1..17 | floats |

use crate::codec::codec;
use crate::four_bit_float::{VALUES, largest_magnitude, nearest};
use crate::lanes::{Lanes, Portable};
use crate::number::floor_of_logarithm;
use crate::pack::{decode_numbers, pack_halves};
use crate::short_block::ELEMENTS;

const BYTES: usize = 1 + ELEMENTS / 2;

/// The exponent that is no number.
const NOT_A_NUMBER: u8 = 255;

codec! {
    Mxfp4: DataType::MXFP4,
    importance: Ignored,
    activations: Q8_0,
    integers: Units { unit: Bytes { count: 1, one: 128 }, length: 32 },
    decode: decode::<Portable>,
    encode: encode,
    first_non_finite_block: first_non_finite_block,
}

fn first_non_finite_block(bytes: &[u8]) -> Option<usize> {
    let blocks = bytes.as_chunks::<BYTES>().0;
    blocks.iter().position(|block| block[0] == NOT_A_NUMBER)
}

/// The body of [`crate::Codec::decode`], with look-ups of `L`.
#[inline(always)]
pub fn decode<L: Lanes>(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        decode_block::<L>(block, out);
    }
}

/// The body of [`crate::Codec::encode`].
#[inline(always)]
pub fn encode(weights: &[f32], _columns: usize, _importance: Option<&[f32]>, out: &mut [u8]) {
    for (weights, block) in weights.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        encode_block(weights, block);
    }
}

/// Half of what the exponent stands for, since the floats stand for twice theirs
/// (ggml-impl.h, `ggml_e8m0_to_fp32_half`).
#[inline(always)]
fn half_scale(exponent: u8) -> f32 {
    f32::from_bits(match exponent {
        // 2^-128 and 2^-127 are subnormal.
        0 => 1 << 21,
        1 => 1 << 22,
        exponent => (u32::from(exponent) - 1) << 23,
    })
}

#[inline(always)]
fn decode_block<L: Lanes>(block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let scale = half_scale(block[0]);
    decode_numbers(L::splat(scale), &VALUES, &block[1..], out);
}

/// ggml-quants.c, `quantize_row_mxfp4_ref`.
#[inline(always)]
fn encode_block(weights: &[f32; ELEMENTS], block: &mut [u8; BYTES]) {
    let largest = largest_magnitude(weights);
    // The largest float is below 2^3. Exponents below those of the format wrap, as C
    // converts a negative number to a byte on x86-64.
    let exponent = if largest > 0.0 { floor_of_logarithm(largest) - 2 + 127 } else { 0 };
    block[0] = exponent as u8;
    let scale = half_scale(block[0]);
    pack_halves(&nearest(scale, largest, weights), &mut block[1..]);
}
