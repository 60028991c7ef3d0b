//! What the block codecs share.

use crate::number::f16_is_non_finite;

/// Weights in a super-block (ggml-common.h, `QK_K`).
pub(crate) const SUPER_BLOCK: usize = 256;

/// The binary16 at `offset` in a block.
pub(crate) fn half_at(block: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([block[offset], block[offset + 1]])
}

/// Stores a binary16 at `offset` in a block.
pub(crate) fn set_half_at(block: &mut [u8], offset: usize, half: u16) {
    block[offset..offset + 2].copy_from_slice(&half.to_le_bytes());
}

/// The first block with a scale or minimum that is not finite, these being the
/// binary16 numbers at `offsets`.
pub(crate) fn first_non_finite_scale<const BYTES: usize>(
    bytes: &[u8],
    offsets: &[usize],
) -> Option<usize> {
    let blocks: &[[u8; BYTES]] = bytes.as_chunks().0;
    blocks
        .iter()
        .position(|block| offsets.iter().any(|offset| f16_is_non_finite(half_at(block, *offset))))
}

/// Walks rows of super-blocks: each with its columns' importance and its bytes.
pub(crate) fn for_each_super_block<const BYTES: usize>(
    weights: &[f32],
    columns: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
    mut encode: impl FnMut(&[f32; SUPER_BLOCK], Option<&[f32; SUPER_BLOCK]>, &mut [u8; BYTES]),
) {
    let per_row = columns / SUPER_BLOCK;
    let importance = importance.map(|importance| importance.as_chunks().0);
    let blocks = weights.as_chunks().0.iter().zip(out.as_chunks_mut().0);
    for (position, (weights, block)) in blocks.enumerate() {
        encode(weights, importance.map(|importance| &importance[position % per_row]), block);
    }
}

/// For each weight its importance times the root of `sigma2` plus its square:
/// the weights of the searches that have importance.
pub(crate) fn importance_weights(
    values: &[f32; SUPER_BLOCK],
    importance: &[f32; SUPER_BLOCK],
    sigma2: f32,
) -> [f32; SUPER_BLOCK] {
    let mut weights = [0.0; SUPER_BLOCK];
    for ((weight, value), importance) in weights.iter_mut().zip(values).zip(importance) {
        *weight = importance * (sigma2 + value * value).sqrt();
    }
    weights
}

/// The sum of the values' squares.
pub(crate) fn sum_of_squares(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |sum, value| sum + value * value)
}

/// The sum of the values.
pub(crate) fn sum(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |sum, value| sum + value)
}
