//! Scales and minimums of a batch, between the search and their storage.

use crate::block::{BATCH, Derived, SUPER_BLOCK, SuperBlocks, sub_blocks};
use crate::lanes::{self, LANES, Lanes, transpose};
use crate::number::nearest_integer;
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
        let (mut values, mut weights) = ([[0.0; COUNT]; LANES], [[0.0; COUNT]; LANES]);
        values[..BATCH].copy_from_slice(&self.scales);
        values[BATCH..].copy_from_slice(&self.minimums);
        weights[..BATCH].copy_from_slice(&self.sum_weights);
        weights[BATCH..].copy_from_slice(&self.sum_weights);
        let values = transpose::<L, COUNT>(&values.each_ref());
        let weights = transpose(&weights.each_ref());
        let (unit, levels) = lanes::positive::search(largest, &values, &weights);
        let unit = unit.store();
        let mut units = [Units::ZERO; BATCH];
        for (block, units) in units.iter_mut().enumerate() {
            units.unit = unit[block];
            units.minimum_unit = unit[BATCH + block];
        }
        for (position, levels) in levels.into_iter().enumerate() {
            let levels = levels.to_bytes();
            for (block, units) in units.iter_mut().enumerate() {
                units.scales[position] = levels[block];
                units.minimums[position] = levels[BATCH + block];
            }
        }
        units
    }

    /// Units that make the largest scale, and the largest minimum, `largest` of
    /// them. The units of a negative number wrap to a byte, and that is kept at or
    /// below `bound`.
    #[inline(always)]
    pub(crate) fn units_by_largest(&self, largest: u8, bound: u8) -> [Units<COUNT>; BATCH] {
        let mut units = [Units::ZERO; BATCH];
        for (block, units) in units.iter_mut().enumerate() {
            (units.unit, units.scales) = relative(largest, bound, &self.scales[block]);
            (units.minimum_unit, units.minimums) = relative(largest, bound, &self.minimums[block]);
        }
        units
    }
}

impl<const COUNT: usize> Units<COUNT> {
    const ZERO: Self =
        Self { unit: 0.0, minimum_unit: 0.0, scales: [0; COUNT], minimums: [0; COUNT] };
}

/// What a unit is worth, and the values in units.
#[inline(always)]
fn relative<const COUNT: usize>(
    largest: u8,
    bound: u8,
    values: &[f32; COUNT],
) -> (f32, [u8; COUNT]) {
    let largest = f32::from(largest);
    let mut maximum = 0.0;
    for &value in values {
        maximum = if value > maximum { value } else { maximum };
    }
    let inverse = if maximum > 0.0 { largest / maximum } else { 0.0 };
    let mut units = [0; COUNT];
    for (units, value) in units.iter_mut().zip(values) {
        *units = (nearest_integer(inverse * value) as u8).min(bound);
    }
    (maximum / largest, units)
}

/// Hands the numbers of sub-blocks that were searched together to their blocks.
#[inline(always)]
pub(crate) fn store_lanes<L: Lanes, const COUNT: usize>(lanes: L, blocks: &mut [[f32; COUNT]]) {
    for (block, numbers) in blocks.iter_mut().zip(lanes.store().as_chunks().0) {
        *block = *numbers;
    }
}
