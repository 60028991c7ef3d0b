//! Q2_0: 64 weights as levels -1 to 2 times one scale, four levels to a byte. The
//! encoder does not use the highest level.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | scale, binary16 |
//! | 2..18 | levels plus 1 |

use crate::block::{first_non_finite_scale, half_at, set_half_at};
use crate::codec::codec;
use crate::four_bit_float::largest_magnitude;
use crate::number::{f16_from_f32, f32_from_f16};
use crate::pack::{pack_fours, unpack_fours};

/// Weights in a block.
const ELEMENTS: usize = 64;

const LEVELS: usize = 2;
const BYTES: usize = LEVELS + ELEMENTS / 4;

codec! {
    Q2_0: DataType::Q2_0,
    importance: Ignored,
    activations: Q8_0,
    integers: Units { unit: Half { at: 0, one: 1.0 }, length: 32 },
    decode: decode,
    encode: encode,
    first_non_finite_block: |bytes| first_non_finite_scale::<BYTES>(bytes, &[0]),
}

/// The body of [`crate::Codec::decode`].
#[inline(always)]
pub fn decode(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        decode_block(block, out);
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
fn decode_block(block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let scale = f32_from_f16(half_at(block, 0));
    let mut levels = [0; ELEMENTS];
    unpack_fours(&block[LEVELS..], &mut levels);
    for (value, level) in out.iter_mut().zip(levels) {
        *value = (f32::from(level) - 1.0) * scale;
    }
}

/// ggml-quants.c, `quantize_row_q2_0_ref`.
#[inline(always)]
fn encode_block(weights: &[f32; ELEMENTS], block: &mut [u8; BYTES]) {
    let scale = largest_magnitude(weights);
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    set_half_at(block, 0, f16_from_f32(scale));
    let levels = weights.map(|weight| {
        // Halves are rounded away from zero. A subnormal scale may have an infinite
        // inverse; C's conversion of what comes of that, infinities of both signs and
        // NaNs, is the least integer, on x86-64.
        let relative = weight * inverse;
        let level = 1 + u8::from(relative >= 0.5) - u8::from(relative <= -0.5);
        if relative.is_finite() { level } else { 0 }
    });
    pack_fours(&levels, &mut block[LEVELS..]);
}
