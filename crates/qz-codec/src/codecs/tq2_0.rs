//! TQ2_0: 256 weights as ternary levels times one scale, four levels to a byte.
//!
//! | bytes | what |
//! |---|---|
//! | 0..64 | levels plus 1 |
//! | 64..66 | scale, binary16 |

use crate::block::{SUPER_BLOCK, first_non_finite_scale, half_at, set_half_at};
use crate::codec::codec;
use crate::number::{f16_from_f32, f32_from_f16};
use crate::pack::{pack_crumbs, unpack_crumbs};
use crate::ternary::ternary;

const SCALE: usize = SUPER_BLOCK / 4;
const BYTES: usize = SCALE + 2;

codec! {
    Tq2_0: DataType::TQ2_0,
    importance: Ignored,
    decode: decode,
    encode: encode,
    first_non_finite_block: |bytes| first_non_finite_scale::<BYTES>(bytes, &[SCALE]),
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
fn decode_block(block: &[u8; BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let scale = f32_from_f16(half_at(block, SCALE));
    let mut levels = [0; SUPER_BLOCK];
    unpack_crumbs(&block[..SCALE], &mut levels);
    for (value, level) in out.iter_mut().zip(&levels) {
        *value = (f32::from(*level) - 1.0) * scale;
    }
}

/// ggml-quants.c, `quantize_row_tq2_0_ref`.
#[inline(always)]
fn encode_block(weights: &[f32; SUPER_BLOCK], block: &mut [u8; BYTES]) {
    let (scale, levels) = ternary(weights);
    pack_crumbs(&levels, &mut block[..SCALE]);
    set_half_at(block, SCALE, f16_from_f32(scale));
}
