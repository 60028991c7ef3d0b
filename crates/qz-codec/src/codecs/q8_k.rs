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
use crate::number::nearest_integer;
use crate::search::signed::extreme;

const LEVELS: usize = 4;
const SUMS: usize = LEVELS + SUPER_BLOCK;
const BYTES: usize = SUMS + SUPER_BLOCK / 16 * 2;

codec! {
    Q8K: DataType::Q8_K,
    importance: Ignored,
    decode: decode,
    encode: encode,
    first_non_finite_block: first_non_finite_block,
}

fn first_non_finite_block(bytes: &[u8]) -> Option<usize> {
    bytes.as_chunks().0.iter().position(|block| !scale(block).is_finite())
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
    let scale = scale(block);
    for (value, level) in out.iter_mut().zip(&block[LEVELS..SUMS]) {
        *value = scale * f32::from(*level as i8);
    }
}

#[inline(always)]
fn scale(block: &[u8; BYTES]) -> f32 {
    f32::from_le_bytes([block[0], block[1], block[2], block[3]])
}

/// ggml-quants.c, `quantize_row_q8_K_ref`; that leaves the sums of a zero block as
/// they were.
#[inline(always)]
fn encode_block(weights: &[f32; SUPER_BLOCK], block: &mut [u8; BYTES]) {
    let extreme = extreme(weights);
    if extreme == 0.0 {
        block.fill(0);
        return;
    }
    let inverse = -127.0 / extreme;
    let levels = weights.map(|weight| nearest_integer(inverse * weight).min(127) as i8);
    block[..LEVELS].copy_from_slice(&(1.0 / inverse).to_le_bytes());
    for (byte, level) in block[LEVELS..SUMS].iter_mut().zip(levels) {
        *byte = level as u8;
    }
    let groups = levels.as_chunks::<16>().0.iter();
    for (bytes, levels) in block[SUMS..].as_chunks_mut().0.iter_mut().zip(groups) {
        let sum: i16 = levels.iter().map(|level| i16::from(*level)).sum();
        *bytes = sum.to_le_bytes();
    }
}
