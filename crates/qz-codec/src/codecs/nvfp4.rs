//! NVFP4: 64 weights as four-bit floats, with an eight-bit float as the scale of every
//! 16.
//!
//! | bytes | what |
//! |---|---|
//! | 0..4 | scales: four exponent bits, three mantissa bits |
//! | 4..36 | floats |

use crate::codec::codec;
use crate::four_bit_float::{VALUES, largest_magnitude, nearest};
use crate::lanes::{Lanes, Portable};
use crate::pack::{pack_halves, unpack_halves};

/// Weights in a block.
const ELEMENTS: usize = 64;
/// Weights in a sub-block.
const LENGTH: usize = 16;
/// Sub-blocks.
const COUNT: usize = ELEMENTS / LENGTH;
const BYTES: usize = COUNT + ELEMENTS / 2;

codec! {
    Nvfp4: DataType::NVFP4,
    importance: Ignored,
    activations: Q8_0,
    integers: Units { unit: Bytes { count: 4, one: 64 }, length: 16 },
    decode: decode::<Portable>,
    encode: encode,
    first_non_finite_block: first_non_finite_block,
}

fn first_non_finite_block(_bytes: &[u8]) -> Option<usize> {
    // Scales beyond the largest one become that; the one that is no number is zero.
    None
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

#[inline(always)]
fn decode_block<L: Lanes>(block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let (scales, floats) = block.split_at(COUNT);
    let sub_blocks = floats.as_chunks::<{ LENGTH / 2 }>().0.iter();
    let sub_blocks = sub_blocks.zip(out.as_chunks_mut::<LENGTH>().0);
    for ((bytes, out), scale) in sub_blocks.zip(scales) {
        let scale = half_scale(*scale);
        let mut numbers = [0; LENGTH];
        unpack_halves(bytes, &mut numbers);
        *out = (L::from_signed_bytes(&L::look_up(&VALUES, &numbers)) * L::splat(scale)).store();
    }
}

/// ggml-quants.c, `quantize_row_nvfp4_ref`: no scale for the tensor as a whole.
#[inline(always)]
fn encode_block(weights: &[f32; ELEMENTS], block: &mut [u8; BYTES]) {
    let (scales, floats) = block.split_at_mut(COUNT);
    let sub_blocks = weights.as_chunks::<LENGTH>().0.iter();
    let sub_blocks = sub_blocks.zip(floats.as_chunks_mut::<{ LENGTH / 2 }>().0);
    for ((weights, bytes), scale) in sub_blocks.zip(scales) {
        let largest = largest_magnitude(weights);
        *scale = scale_from_f32(largest / 6.0);
        pack_halves(&nearest(half_scale(*scale), largest, weights), bytes);
    }
}

/// Half of what a scale stands for, since the floats stand for twice theirs
/// (ggml-impl.h, `ggml_ue4m3_to_fp32`). The upper bit is not looked at, but for the
/// number that is none, which is zero.
#[inline(always)]
fn half_scale(scale: u8) -> f32 {
    let (exponent, mantissa) = (u32::from(scale >> 3 & 15), u32::from(scale & 7));
    if scale == 0x7f {
        0.0
    } else if exponent == 0 {
        mantissa as f32 * f32::from_bits((127 - 10) << 23)
    } else {
        // A binary32's bias is 120 more.
        f32::from_bits((exponent + 120 - 1) << 23 | mantissa << 20)
    }
}

/// The nearest scale, halves up (ggml-impl.h, `ggml_fp32_to_ue4m3`). There, numbers
/// from 256 on all become 448, the largest.
#[inline(always)]
fn scale_from_f32(value: f32) -> u8 {
    const LARGEST: u8 = 0x7e;
    /// The scale that stands for 256.
    const LAST_EXPONENT: u32 = 15 << 3;
    /// 2^-6, the least number with a whole mantissa.
    const LEAST_NORMAL: f32 = 0.015_625;
    if value < LEAST_NORMAL {
        // The largest subnormal is never left for the least normal number.
        return ((value * 512.0 + 0.5) as u8).min(7);
    }
    // A carry runs into the exponent.
    let rounded = (value.to_bits() + (1 << 19)) >> 20;
    let scale = rounded - (120 << 3);
    if scale < LAST_EXPONENT { scale as u8 } else { LARGEST }
}
