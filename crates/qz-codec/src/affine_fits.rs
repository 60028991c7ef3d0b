//! Scales and minimums of a batch, between the search and their storage.

use crate::block::{BATCH, Derived, SUPER_BLOCK, SuperBlocks, sub_blocks};
use crate::lanes::{self, LANES, Lanes, transpose};
use crate::search::affine::AffineSearch;

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
    pub(crate) fn find<L: Lanes, const LENGTH: usize>(
        search: &AffineSearch,
        values: &SuperBlocks,
        weights: &Derived,
        blocks: usize,
    ) -> Self {
        const {
            assert!(COUNT * LENGTH == SUPER_BLOCK && LANES.is_multiple_of(COUNT));
            assert!(2 * BATCH == LANES);
        };
        let mut fits = Self {
            scales: [[0.0; COUNT]; BATCH],
            minimums: [[0.0; COUNT]; BATCH],
            sum_weights: [[0.0; COUNT]; BATCH],
        };
        let weights = weights.each_ref();
        for first in (0..blocks).step_by(LANES / COUNT) {
            let fit = lanes::affine::search::<L, LENGTH>(
                search,
                &transpose(&sub_blocks(values, first)),
                &transpose(&sub_blocks(&weights, first)),
            );
            // The lanes are the sub-blocks in order, of as many blocks as they fill.
            store_lanes(fit.scale, &mut fits.scales[first..]);
            store_lanes(fit.minimum, &mut fits.minimums[first..]);
            store_lanes(fit.sum_weights, &mut fits.sum_weights[first..]);
        }
        fits
    }

    /// Units by the reference's search, which weighs a scale by its sub-block.
    #[inline(always)]
    pub(crate) fn units_by_search<L: Lanes>(&self, largest: u8) -> [Units<COUNT>; BATCH] {
        // Scales in the lower lanes, minimums in the upper ones.
        let values = std::array::from_fn(|position| {
            L::load(&std::array::from_fn(|lane| match lane.checked_sub(BATCH) {
                None => self.scales[lane][position],
                Some(block) => self.minimums[block][position],
            }))
        });
        let weights = std::array::from_fn(|position| {
            L::load(&std::array::from_fn(|lane| self.sum_weights[lane % BATCH][position]))
        });
        let (unit, levels) = lanes::positive::search::<L, COUNT>(largest, &values, &weights);
        let (unit, levels) = (unit.store(), levels.map(L::store));
        std::array::from_fn(|block| Units {
            unit: unit[block],
            minimum_unit: unit[BATCH + block],
            scales: levels.map(|level| level[block] as u8),
            minimums: levels.map(|level| level[BATCH + block] as u8),
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

/// Hands the numbers of sub-blocks that were searched together to their blocks.
#[inline(always)]
pub(crate) fn store_lanes<L: Lanes, const COUNT: usize>(lanes: L, blocks: &mut [[f32; COUNT]]) {
    for (block, numbers) in blocks.iter_mut().zip(lanes.store().as_chunks().0) {
        *block = *numbers;
    }
}
