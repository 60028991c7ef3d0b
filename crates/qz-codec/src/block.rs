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

/// The importance of columns that matter alike, for encoders that cannot do without.
pub(crate) static ONES: SuperBlocks = [&[1.0; SUPER_BLOCK]; BATCH];

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
    first_non_finite_by(bytes, |block: &[u8; BYTES]| {
        offsets.iter().any(|offset| f16_is_non_finite(half_at(block, *offset)))
    })
}

/// The first block that is not finite.
pub(crate) fn first_non_finite_by<const BYTES: usize>(
    bytes: &[u8],
    is_non_finite: impl Fn(&[u8; BYTES]) -> bool,
) -> Option<usize> {
    bytes.as_chunks().0.iter().position(is_non_finite)
}

/// Rows of super-blocks, to be taken a batch at a time.
pub(crate) struct Rows<'a> {
    weights: &'a [[f32; SUPER_BLOCK]],
    /// Of one row, which all rows share.
    importance: Option<&'a [[f32; SUPER_BLOCK]]>,
}

/// Super-blocks to encode together, with their columns' importance.
pub(crate) struct Batch<'a> {
    pub weights: SuperBlocks<'a>,
    pub importance: Option<SuperBlocks<'a>>,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    pub(crate) fn new(weights: &'a [f32], columns: usize, importance: Option<&'a [f32]>) -> Self {
        debug_assert!(columns.is_multiple_of(SUPER_BLOCK) && weights.len().is_multiple_of(columns));
        let importance = importance.map(|importance| importance[..columns].as_chunks().0);
        Self { weights: weights.as_chunks().0, importance }
    }

    /// The super-blocks from `first` on; zeros where there are no more.
    #[inline(always)]
    pub(crate) fn batch(&self, first: usize) -> Batch<'a> {
        static ZEROS: [f32; SUPER_BLOCK] = [0.0; SUPER_BLOCK];
        let mut weights = [&ZEROS; BATCH];
        for (batch, weights) in weights.iter_mut().zip(&self.weights[first..]) {
            *batch = weights;
        }
        let Some(row) = self.importance else { return Batch { weights, importance: None } };
        let mut importance = [&ZEROS; BATCH];
        for (position, importance) in importance.iter_mut().enumerate() {
            *importance = &row[(first + position) % row.len()];
        }
        Batch { weights, importance: Some(importance) }
    }
}

/// The sub-blocks that are searched with super-block `first`.
#[inline(always)]
pub(crate) fn sub_blocks<'a, const LENGTH: usize>(
    batch: &SuperBlocks<'a>,
    first: usize,
) -> [&'a [f32; LENGTH]; LANES] {
    let count = SUPER_BLOCK / LENGTH;
    let mut sub_blocks = [&[0.0; LENGTH]; LANES];
    for (lane, sub_block) in sub_blocks.iter_mut().enumerate() {
        *sub_block = &batch[first + lane / count].as_chunks().0[lane % count];
    }
    sub_blocks
}

/// The sub-blocks of one super-block. A loop, as everywhere here: what
/// `std::array::from_fn` is given is not compiled for the caller's instructions.
#[inline(always)]
pub(crate) fn split<const LENGTH: usize, const COUNT: usize>(
    values: &[f32; SUPER_BLOCK],
) -> [&[f32; LENGTH]; COUNT] {
    let mut sub_blocks = [&[0.0; LENGTH]; COUNT];
    for (sub_block, values) in sub_blocks.iter_mut().zip(values.as_chunks().0) {
        *sub_block = values;
    }
    sub_blocks
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
