//! Q8_0: 32 weights as signed bytes times one scale.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | scale, binary16 |
//! | 2..34 | levels |

use crate::block::{first_non_finite_scale, largest_magnitude, set_half_at};
use crate::codec::codec;
use crate::number::{ROUNDING_OFFSET, f16_from_f32, f32_from_f16, truncate_to_i8};

const ELEMENTS: usize = 32;
const LEVELS: usize = 2;
const BYTES: usize = LEVELS + ELEMENTS;

codec! {
    Q8_0: DataType::Q8_0,
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
    for (weights, block) in weights.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        encode_block(weights, block);
    }
}

#[inline(always)]
fn decode_block(block: &[u8; BYTES], out: &mut [f32; ELEMENTS]) {
    let [low, high, levels @ ..] = block;
    let scale = f32_from_f16(u16::from_le_bytes([*low, *high]));
    for (value, level) in out.iter_mut().zip(levels) {
        *value = f32::from(*level as i8) * scale;
    }
}

/// ggml-quants.c, `quantize_row_q8_0_ref`.
#[inline(always)]
fn encode_block(weights: &[f32; ELEMENTS], block: &mut [u8; BYTES]) {
    let (scale, levels) = levels_by_magnitude(weights);
    set_half_at(block, 0, f16_from_f32(scale));
    block[LEVELS..].copy_from_slice(&levels);
}

/// The scale at which the largest magnitude is level 127, and the levels.
#[inline(always)]
pub(crate) fn levels_by_magnitude(weights: &[f32; ELEMENTS]) -> (f32, [u8; ELEMENTS]) {
    let scale = largest_magnitude(weights) / 127.0;
    let inverse = if scale != 0.0 { 1.0 / scale } else { 0.0 };
    let levels = if inverse == f32::INFINITY {
        // The scale is subnormal.
        weights.map(|weight| truncate_to_i8((weight * inverse).round()) as u8)
    } else {
        weights.map(|weight| round_half_away(weight * inverse))
    };
    (scale, levels)
}

/// The nearest integer, halves away from zero unlike everywhere else, for numbers
/// between -128 and 128; only its lowest byte. Adding the offset rounds halves to
/// even; what is left of the number shows where that was towards zero.
#[inline(always)]
fn round_half_away(value: f32) -> u8 {
    let even = value + ROUNDING_OFFSET - ROUNDING_OFFSET;
    let short_by_half = value - even == 0.5f32.copysign(value);
    let nearest = even + if short_by_half { 1.0f32.copysign(value) } else { 0.0 };
    (nearest + ROUNDING_OFFSET).to_bits() as u8
}

#[cfg(test)]
mod tests {
    use super::round_half_away;

    #[test]
    fn rounds_as_c_does() {
        // Every half and its neighbours, and what lies between.
        for eighths in -1019..=1019i16 {
            let value = f32::from(eighths) / 8.0;
            for value in [value, value.next_up(), value.next_down()] {
                assert_eq!(round_half_away(value) as i8, value.round() as i8, "{value}");
            }
        }
    }
}
