//! TQ1_0: 256 weights as ternary levels times one scale, five levels to a byte.
//!
//! | bytes | what |
//! |---|---|
//! | 0..32 | levels `l`, `l + 32`, `l + 64`, `l + 96`, `l + 128` in byte `l` |
//! | 32..48 | likewise 16 apart, of the next 80 levels |
//! | 48..52 | likewise 4 apart, of the last 16, so four to a byte |
//! | 52..54 | scale, binary16 |
//!
//! A byte is the five levels as the digits of a fraction with base 3, the first one
//! highest, in 256ths and rounded up: multiplied by a power of 3, its overflow says
//! the next digit.

use crate::block::{SUPER_BLOCK, first_non_finite_scale, half_at, set_half_at};
use crate::codec::codec;
use crate::lanes::{Lanes, Portable};
use crate::number::{f16_from_f32, f32_from_f16};
use crate::ternary::ternary;

const SCALE: usize = 52;
const BYTES: usize = SCALE + 2;

/// Powers of 3, which move a digit to the front.
const POWERS: [u8; 5] = [1, 3, 9, 27, 81];

codec! {
    Tq1_0: DataType::TQ1_0,
    importance: Ignored,
    activations: Q8_K,
    integers: Units { unit: Half { at: 52, one: 1.0 }, length: 256 },
    decode: decode::<Portable>,
    encode: encode,
    first_non_finite_block: |bytes| first_non_finite_scale::<BYTES>(bytes, &[SCALE]),
}

/// The body of [`crate::Codec::decode`], with lanes of type `L`.
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
fn decode_block<L: Lanes>(block: &[u8; BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let mut levels = [0; SUPER_BLOCK];
    let (first, rest) = levels.split_at_mut(5 * 32);
    let (second, third) = rest.split_at_mut(5 * 16);
    unpack_part::<32>(&block[..32], first);
    unpack_part::<16>(&block[32..48], second);
    unpack_part::<4>(&block[48..SCALE], third);
    let scale = L::splat(f32_from_f16(half_at(block, SCALE)));
    for (out, levels) in out.as_chunks_mut().0.iter_mut().zip(levels.as_chunks().0) {
        *out = ((L::from_bytes(levels) - L::splat(1.0)) * scale).store();
    }
}

/// One digit after the other of `COUNT` bytes.
#[inline(always)]
fn unpack_part<const COUNT: usize>(bytes: &[u8], levels: &mut [u8]) {
    for (levels, power) in levels.as_chunks_mut::<COUNT>().0.iter_mut().zip(POWERS) {
        for (level, byte) in levels.iter_mut().zip(bytes) {
            // Three times this, in 256ths, overflows once or twice.
            let fraction = byte.wrapping_mul(power);
            *level = u8::from(fraction >= 86) + u8::from(fraction >= 171);
        }
    }
}

/// Where the three parts' bytes begin, and their levels; how many bytes they have.
const PARTS: [(usize, usize, usize); 3] = [(0, 0, 32), (32, 160, 16), (48, 240, 4)];

/// ggml-quants.c, `quantize_row_tq1_0_ref`.
#[inline(always)]
fn encode_block(weights: &[f32; SUPER_BLOCK], block: &mut [u8; BYTES]) {
    let (scale, levels) = ternary(weights);
    set_half_at(block, SCALE, f16_from_f32(scale));
    for (first_byte, first_level, count) in PARTS {
        for position in 0..count {
            let mut number = 0u16;
            for digit in 0..5 {
                // The last part has no fifth digit.
                let level = levels.get(first_level + digit * count + position);
                number = number * 3 + u16::from(level.copied().unwrap_or(0));
            }
            block[first_byte + position] = (number * 256).div_ceil(243) as u8;
        }
    }
}
