//! Scales and minimums of a batch, between the search and their storage.

use crate::block::{BATCH, Derived, SUPER_BLOCK, SuperBlocks};
use crate::lanes::{self, Lanes, transpose};
use crate::search::affine::AffineSearch;

/// Sub-blocks searched at once: the 16 of one super-block, or 8 of two.
const LANES: usize = 16;

/// What the search found for `COUNT` sub-blocks of each super-block.
pub(crate) struct AffineFits<const COUNT: usize> {
    scales: [[f32; COUNT]; BATCH],
    minimums: [[f32; COUNT]; BATCH],
    sum_weights: [[f32; COUNT]; BATCH],
}

/// A super-block's scales and minimums in units, and what the units are worth.
#[derive(Clone, Copy)]
pub(crate) struct Units<const COUNT: usize> {
    pub unit: f32,
    pub minimum_unit: f32,
    pub scales: [u8; COUNT],
    pub minimums: [u8; COUNT],
}

impl<const COUNT: usize> AffineFits<COUNT> {
    /// Searches the first `blocks` super-blocks, in sub-blocks of `LENGTH`.
    #[inline(always)]
    pub(crate) fn find<const LENGTH: usize>(
        search: &AffineSearch,
        values: &SuperBlocks,
        weights: &Derived,
        blocks: usize,
    ) -> Self {
        const { assert!(COUNT * LENGTH == SUPER_BLOCK && LANES.is_multiple_of(COUNT)) };
        let mut fits = Self {
            scales: [[0.0; COUNT]; BATCH],
            minimums: [[0.0; COUNT]; BATCH],
            sum_weights: [[0.0; COUNT]; BATCH],
        };
        let weights = weights.each_ref();
        for first in (0..blocks).step_by(LANES / COUNT) {
            let fit = lanes::affine::search::<LANES, LENGTH>(
                search,
                &transpose(&sub_blocks(values, first)),
                &transpose(&sub_blocks(&weights, first)),
            );
            for lane in 0..LANES {
                let (block, position) = (first + lane / COUNT, lane % COUNT);
                fits.scales[block][position] = fit.scale.0[lane];
                fits.minimums[block][position] = fit.minimum.0[lane];
                fits.sum_weights[block][position] = fit.sum_weights.0[lane];
            }
        }
        fits
    }

    /// Units by the reference's search, which weighs a scale by its sub-block.
    #[inline(always)]
    pub(crate) fn units_by_search(&self, largest: u8) -> [Units<COUNT>; BATCH] {
        // Scales in the lower lanes, minimums in the upper ones.
        let (mut values, mut weights) = ([Lanes::ZERO; COUNT], [Lanes::ZERO; COUNT]);
        for position in 0..COUNT {
            for block in 0..BATCH {
                values[position].0[block] = self.scales[block][position];
                values[position].0[BATCH + block] = self.minimums[block][position];
                weights[position].0[block] = self.sum_weights[block][position];
                weights[position].0[BATCH + block] = self.sum_weights[block][position];
            }
        }
        let (unit, levels) =
            lanes::positive::search::<{ 2 * BATCH }, COUNT>(largest, &values, &weights);
        std::array::from_fn(|block| Units {
            unit: unit.0[block],
            minimum_unit: unit.0[BATCH + block],
            scales: levels.map(|level| level.0[block] as u8),
            minimums: levels.map(|level| level.0[BATCH + block] as u8),
        })
    }

    /// Units that make the largest scale, and the largest minimum, `largest` of
    /// them. `units` turns scales into units, given the unit's inverse.
    #[inline(always)]
    pub(crate) fn units_by_largest(
        &self,
        largest: u8,
        units: impl Fn(f32, &[f32; COUNT]) -> [u8; COUNT],
    ) -> [Units<COUNT>; BATCH] {
        let largest = f32::from(largest);
        let relative = |values: &[f32; COUNT]| {
            let maximum = values.iter().fold(0.0, |max, &v| if v > max { v } else { max });
            let inverse = if maximum > 0.0 { largest / maximum } else { 0.0 };
            (maximum / largest, units(inverse, values))
        };
        std::array::from_fn(|block| {
            let (unit, scales) = relative(&self.scales[block]);
            let (minimum_unit, minimums) = relative(&self.minimums[block]);
            Units { unit, minimum_unit, scales, minimums }
        })
    }
}

/// The sub-blocks that are searched with super-block `first`.
#[inline(always)]
fn sub_blocks<'a, const LENGTH: usize>(
    batch: &SuperBlocks<'a>,
    first: usize,
) -> [&'a [f32; LENGTH]; LANES] {
    let count = SUPER_BLOCK / LENGTH;
    std::array::from_fn(|lane| &batch[first + lane / count].as_chunks().0[lane % count])
}
