//! What Q4_K and Q5_K share: eight sub-blocks of 32 weights, each with a 6-bit
//! scale and a 6-bit minimum.
//!
//! | bytes | what |
//! |---|---|
//! | 0..2 | what one unit of a scale is worth, binary16 |
//! | 2..4 | what one unit of a minimum is worth, binary16 |
//! | 4..16 | scales and minimums, see [`pack_six_bits`] |

use crate::affine_fits::{AffineFits, Units};
use crate::block::{
    BATCH, Batch, Derived, SUPER_BLOCK, SuperBlocks, half_at, importance_weights, set_half_at,
    split, sums_of_squares,
};
use crate::lanes::{self, Lanes};
use crate::number::f16_from_f32;
use crate::pack::{pack_six_bits, unpack_six_bits};
use crate::search::affine::{Affine, AffineSearch};

/// Bytes in front of the levels.
pub(crate) const HEADER: usize = 16;
/// Weights in a sub-block.
const LENGTH: usize = 32;
/// Sub-blocks.
const COUNT: usize = SUPER_BLOCK / LENGTH;
/// The largest scale or minimum that fits.
const LARGEST: u8 = 63;

/// Where the two types differ.
pub(crate) struct SixBit {
    /// The search without importance.
    pub plain: AffineSearch,
    /// The search with importance.
    pub with_importance: AffineSearch,
    /// With importance, scales that wrapped below zero become the largest one;
    /// otherwise their excess bits run into their neighbours'.
    pub bound_scales: bool,
}

impl SixBit {
    /// Finds scales and levels of a batch and stores the headers; the levels are
    /// left to the type.
    #[inline(always)]
    pub(crate) fn encode<L: Lanes, const BYTES: usize>(
        &self,
        batch: &Batch,
        blocks: &mut [[u8; BYTES]],
    ) -> [[u8; SUPER_BLOCK]; BATCH] {
        let (search, weights, units);
        if let Some(importance) = &batch.importance {
            search = &self.with_importance;
            weights = importance_weights(&batch.weights, importance, 2.0);
            let fits =
                AffineFits::find::<L, LENGTH>(search, &batch.weights, &weights, blocks.len());
            units = self.bound(fits.units_by_search::<L>(LARGEST));
        } else {
            (search, weights) = (&self.plain, plain_weights(&batch.weights));
            let fits =
                AffineFits::find::<L, LENGTH>(search, &batch.weights, &weights, blocks.len());
            units = fits.units_by_largest(LARGEST, LARGEST);
        }
        let mut levels = [[0; SUPER_BLOCK]; BATCH];
        for (position, block) in blocks.iter_mut().enumerate() {
            store_units(&units[position], block);
            let values = batch.weights[position];
            round_to_stored::<L>(block, search, values, &weights[position], &mut levels[position]);
        }
        levels
    }

    #[inline(always)]
    fn bound(&self, mut batch: [Units<COUNT>; BATCH]) -> [Units<COUNT>; BATCH] {
        if self.bound_scales {
            for units in &mut batch {
                units.scales = units.scales.map(|scale| scale.min(LARGEST));
                units.minimums = units.minimums.map(|minimum| minimum.min(LARGEST));
            }
        }
        batch
    }
}

/// Without importance a weight counts by its magnitude plus its sub-block's root
/// mean square.
#[inline(always)]
fn plain_weights(values: &SuperBlocks) -> Derived {
    let mut derived = [[0.0; SUPER_BLOCK]; BATCH];
    for (weights, values) in derived.iter_mut().zip(values) {
        let sub_blocks: [&[f32; LENGTH]; COUNT] = split(values);
        let sums = sums_of_squares(&sub_blocks);
        let weights = weights.as_chunks_mut::<LENGTH>().0.iter_mut();
        for ((weights, values), sum) in weights.zip(sub_blocks).zip(sums) {
            let root_mean_square = (sum / LENGTH as f32).sqrt();
            for (weight, value) in weights.iter_mut().zip(values) {
                *weight = root_mean_square + value.abs();
            }
        }
    }
    derived
}

#[inline(always)]
fn store_units(units: &Units<COUNT>, header: &mut [u8]) {
    set_half_at(header, 0, f16_from_f32(units.unit));
    set_half_at(header, 2, f16_from_f32(units.minimum_unit));
    header[4..HEADER].copy_from_slice(&pack_six_bits(&units.scales, &units.minimums));
}

/// Each sub-block's scale, then each one's minimum, as decoders see them.
#[inline(always)]
fn stored<L: Lanes>(header: &[u8]) -> [f32; 2 * COUNT] {
    let mut units = L::splat_half(half_at(header, 0)).store();
    let minimum_unit = L::splat_half(half_at(header, 2)).store();
    units[COUNT..].copy_from_slice(&minimum_unit[COUNT..]);
    (L::load(&units) * L::from_bytes(&unpack_six_bits(&header[4..HEADER]))).store()
}

#[inline(always)]
fn round_to_stored<L: Lanes>(
    header: &[u8],
    search: &AffineSearch,
    values: &[f32; SUPER_BLOCK],
    weights: &[f32; SUPER_BLOCK],
    levels: &mut [u8; SUPER_BLOCK],
) {
    let sub_blocks = values.as_chunks().0.iter().zip(weights.as_chunks().0);
    let sub_blocks = sub_blocks.zip(levels.as_chunks_mut::<LENGTH>().0);
    let stored = stored::<L>(header);
    for (position, ((values, weights), levels)) in sub_blocks.enumerate() {
        let stored = Affine { scale: stored[position], minimum: stored[COUNT + position] };
        lanes::affine::round_to_stored::<L, LENGTH>(search, &stored, values, weights, levels);
    }
}

/// Decodes a super-block's levels.
#[inline(always)]
pub(crate) fn decode<L: Lanes>(
    header: &[u8],
    levels: &[u8; SUPER_BLOCK],
    out: &mut [f32; SUPER_BLOCK],
) {
    let stored = stored::<L>(header);
    let sub_blocks = levels.as_chunks::<LENGTH>().0.iter().zip(out.as_chunks_mut::<LENGTH>().0);
    for (position, (levels, out)) in sub_blocks.enumerate() {
        let (scale, minimum) = (L::splat(stored[position]), L::splat(stored[COUNT + position]));
        for (levels, out) in levels.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
            *out = (scale * L::from_bytes(levels) - minimum).store();
        }
    }
}
