//! TQ2_0: 256 weights as ternary levels times one scale, four levels to a byte.
//!
//! | bytes | what |
//! |---|---|
//! | 0..64 | levels plus 1 |
//! | 64..66 | scale, binary16 |

use crate::block::{SUPER_BLOCK, first_non_finite_scale, half_at, set_half_at};
use crate::codec::codec;
use crate::lanes::{Lanes, Portable};
use crate::number::{f16_from_f32, f32_from_f16};
use crate::pack::{pack_crumbs, unpack_crumbs};
use crate::ternary::ternary;

const SCALE: usize = SUPER_BLOCK / 4;
const BYTES: usize = SCALE + 2;

codec! {
    Tq2_0: DataType::TQ2_0,
    importance: Ignored,
    activations: Q8_K,
    integers: Units { unit: Half { at: 64, one: 1.0 }, length: 256 },
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
    let scale = f32_from_f16(half_at(block, SCALE));
    let mut levels = [0; SUPER_BLOCK];
    unpack_crumbs(&block[..SCALE], &mut levels);
    let scale = L::splat(scale);
    for (out, levels) in out.as_chunks_mut().0.iter_mut().zip(levels.as_chunks().0) {
        *out = ((L::from_bytes(levels) - L::splat(1.0)) * scale).store();
    }
}

/// ggml-quants.c, `quantize_row_tq2_0_ref`.
#[inline(always)]
fn encode_block(weights: &[f32; SUPER_BLOCK], block: &mut [u8; BYTES]) {
    let (scale, levels) = ternary(weights);
    pack_crumbs(&levels, &mut block[..SCALE]);
    set_half_at(block, SCALE, f16_from_f32(scale));
}
