//! What the block codecs share.

use crate::lanes::LANES;
use crate::number::f16_is_non_finite;

/// Weights in a super-block (ggml-common.h, `QK_K`).
pub(crate) const SUPER_BLOCK: usize = 256;

/// Super-blocks that are encoded together, so that work on their few scales can
/// fill vectors too.
pub(crate) const BATCH: usize = 8;

/// A batch of weights or of importance.
pub(crate) type SuperBlocks<'a> = [&'a [f32; SUPER_BLOCK]; BATCH];

/// A batch of numbers made from one.
pub(crate) type Derived = [[f32; SUPER_BLOCK]; BATCH];

/// The binary16 at `offset` in a block.
#[inline(always)]
pub(crate) fn half_at(block: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([block[offset], block[offset + 1]])
}

/// Stores a binary16 at `offset` in a block.
#[inline(always)]
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

/// Walks rows of super-blocks, a batch at a time: weights, their columns'
/// importance, and the blocks to write. The last batch may have fewer blocks; the
/// weights without a block are zeros.
#[inline(always)]
pub(crate) fn for_each_batch<const BYTES: usize>(
    weights: &[f32],
    columns: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
    mut encode: impl FnMut(&SuperBlocks, Option<&SuperBlocks>, &mut [[u8; BYTES]]),
) {
    static ZEROS: [f32; SUPER_BLOCK] = [0.0; SUPER_BLOCK];
    let per_row = columns / SUPER_BLOCK;
    let weights = weights.as_chunks().0;
    let importance = importance.map(|importance| importance.as_chunks().0);
    for (number, blocks) in out.as_chunks_mut().0.chunks_mut(BATCH).enumerate() {
        let (mut batch, mut batch_importance) = ([&ZEROS; BATCH], [&ZEROS; BATCH]);
        for position in 0..blocks.len() {
            let index = number * BATCH + position;
            batch[position] = &weights[index];
            if let Some(importance) = importance {
                batch_importance[position] = &importance[index % per_row];
            }
        }
        encode(&batch, importance.is_some().then_some(&batch_importance), blocks);
    }
}

/// The sub-blocks that are searched with super-block `first`.
#[inline(always)]
pub(crate) fn sub_blocks<'a, const LENGTH: usize>(
    batch: &SuperBlocks<'a>,
    first: usize,
) -> [&'a [f32; LENGTH]; LANES] {
    let count = SUPER_BLOCK / LENGTH;
    std::array::from_fn(|lane| &batch[first + lane / count].as_chunks().0[lane % count])
}

/// For each weight its importance times the root of sigma² plus its square: the
/// weights of the searches that have importance. Sigma² is the super-block's mean
/// square times `factor`.
#[inline(always)]
pub(crate) fn importance_weights(
    values: &SuperBlocks,
    importance: &SuperBlocks,
    factor: f32,
) -> Derived {
    let mut derived = [[0.0; SUPER_BLOCK]; BATCH];
    let sums = sums_of_squares(values);
    for (position, weights) in derived.iter_mut().enumerate() {
        let sigma2 = factor * sums[position] / SUPER_BLOCK as f32;
        let inputs = values[position].iter().zip(importance[position]);
        for (weight, (value, importance)) in weights.iter_mut().zip(inputs) {
            *weight = importance * (sigma2 + value * value).sqrt();
        }
    }
    derived
}

/// The sum of the squares of each part; the parts' sums are formed side by side,
/// because each one has to wait for its last addition.
#[inline(always)]
pub(crate) fn sums_of_squares<const N: usize, const LENGTH: usize>(
    parts: &[&[f32; LENGTH]; N],
) -> [f32; N] {
    let mut sums = [0.0; N];
    for position in 0..LENGTH {
        for (sum, part) in sums.iter_mut().zip(parts) {
            *sum += part[position] * part[position];
        }
    }
    sums
}
