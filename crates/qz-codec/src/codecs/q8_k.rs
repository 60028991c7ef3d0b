//! Q8_K: 256 weights as signed bytes times one scale. llama.cpp makes activations of
//! it, to multiply them with K types.
//!
//! | bytes | what |
//! |---|---|
//! | 0..4 | scale, binary32 |
//! | 4..260 | levels |
//! | 260..292 | the sum of every 16 levels, 16 bits |

use crate::block::SUPER_BLOCK;
use crate::codec::codec;
use crate::four_bit_float::largest_magnitude;
use crate::lanes::{self, LANES, Lanes, Portable};
use crate::search::signed;

const LEVELS: usize = 4;
const SUMS: usize = LEVELS + SUPER_BLOCK;
const BYTES: usize = SUMS + SUPER_BLOCK / 16 * 2;

codec! {
    Q8K: DataType::Q8_K,
    importance: Ignored,
    activations: Q8_K,
    integers: Units { unit: Single, length: 256 },
    decode: decode::<Portable>,
    encode: encode::<Portable>,
    first_non_finite_block: first_non_finite_block,
}

fn first_non_finite_block(bytes: &[u8]) -> Option<usize> {
    bytes.as_chunks().0.iter().position(|block| !scale(block).is_finite())
}

/// The body of [`crate::Codec::decode`], with lanes of type `L`.
#[inline(always)]
pub fn decode<L: Lanes>(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        decode_block::<L>(block, out);
    }
}

/// The body of [`crate::Codec::encode`], with lanes of type `L`.
#[inline(always)]
pub fn encode<L: Lanes>(
    weights: &[f32],
    _columns: usize,
    _importance: Option<&[f32]>,
    out: &mut [u8],
) {
    for (weights, block) in weights.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        encode_block::<L>(weights, block);
    }
}

#[inline(always)]
fn decode_block<L: Lanes>(block: &[u8; BYTES], out: &mut [f32; SUPER_BLOCK]) {
    let scale = L::splat(scale(block));
    let levels = block[LEVELS..SUMS].as_chunks::<LANES>().0.iter();
    for (levels, out) in levels.zip(out.as_chunks_mut().0) {
        *out = (scale * L::from_signed_bytes(&levels.map(|level| level as i8))).store();
    }
}

#[inline(always)]
fn scale(block: &[u8; BYTES]) -> f32 {
    f32::from_le_bytes([block[0], block[1], block[2], block[3]])
}

/// ggml-quants.c, `quantize_row_q8_K_ref`; that leaves the sums of a zero block as
/// they were.
#[inline(always)]
fn encode_block<L: Lanes>(weights: &[f32; SUPER_BLOCK], block: &mut [u8; BYTES]) {
    let extreme = extreme_of_all::<L>(weights);
    if extreme == 0.0 {
        block.fill(0);
        return;
    }
    let inverse = -127.0 / extreme;
    block[..LEVELS].copy_from_slice(&(1.0 / inverse).to_le_bytes());
    let (levels, sums) = block[LEVELS..].split_at_mut(SUPER_BLOCK);
    let groups = levels.as_chunks_mut::<LANES>().0.iter_mut().zip(weights.as_chunks().0);
    for ((levels, weights), bytes) in groups.zip(sums.as_chunks_mut().0) {
        let nearest = (L::splat(inverse) * L::load(weights)).nearest_integer();
        *levels = nearest.min(L::splat(127.0)).to_bytes();
        let mut sum = 0i16;
        for level in levels {
            sum += i16::from(*level as i8);
        }
        *bytes = sum.to_le_bytes();
    }
}

/// The first value of largest magnitude. Each lane has the first one of its own; if
/// they are of both signs, they have to be looked at in order.
#[inline(always)]
fn extreme_of_all<L: Lanes>(weights: &[f32; SUPER_BLOCK]) -> f32 {
    let mut rows = [L::zero(); SUPER_BLOCK / LANES];
    for (row, weights) in rows.iter_mut().zip(weights.as_chunks().0) {
        *row = L::load(weights);
    }
    let firsts = lanes::signed::extreme(&rows).store();
    let largest = largest_magnitude(&firsts);
    let (mut positive, mut negative) = (false, false);
    for first in firsts {
        positive |= first == largest;
        negative |= first == -largest;
    }
    match (positive, negative) {
        (true, false) => largest,
        (false, _) => -largest,
        (true, true) => signed::extreme(weights),
    }
}
