//! [`crate::search::signed`] in lanes.

use super::{Lanes, Mask};
use crate::search::ZERO_BELOW;
use crate::search::signed::{TRIES, divisions};

/// What the search finds.
pub struct SignedFit<const N: usize> {
    /// What one level is worth.
    pub scale: Lanes<N>,
    /// What makes levels of values.
    pub inverse: Lanes<N>,
    /// Zero sub-blocks: their levels, as stored, are 0.
    pub zero: Mask<N>,
}

impl<const N: usize> SignedFit<N> {
    /// The levels that go with the scales, plus `half`.
    #[inline(always)]
    pub fn levels<const LENGTH: usize>(
        &self,
        half: u8,
        values: &[Lanes<N>; LENGTH],
    ) -> [Lanes<N>; LENGTH] {
        let mut levels = *values;
        for level in &mut levels {
            let stored = round(half, self.inverse * *level) + Lanes::splat(f32::from(half));
            *level = self.zero.select(Lanes::ZERO, stored);
        }
        levels
    }
}

/// Finds the scale of each sub-block.
#[inline(always)]
pub fn search<const N: usize, const LENGTH: usize>(
    half: u8,
    values: &[Lanes<N>; LENGTH],
    weights: &[Lanes<N>; LENGTH],
) -> SignedFit<N> {
    let extreme = extreme(values);
    let mut inverse = Lanes::splat(-f32::from(half)) / extreme;
    let (sum_xl, sum_l2) = sums(half, inverse, values, weights);
    let mut scale = sum_l2.unequal(Lanes::ZERO).select(sum_xl / sum_l2, Lanes::ZERO);
    let mut best = scale * sum_xl;
    for number in TRIES {
        let candidate = Lanes::splat(-divisions(half, number)) / extreme;
        let (sum_xl, sum_l2) = sums(half, candidate, values, weights);
        let better = sum_l2.greater(Lanes::ZERO) & (sum_xl * sum_xl).greater(best * sum_l2);
        inverse = better.select(candidate, inverse);
        scale = better.select(sum_xl / sum_l2, scale);
        best = better.select(scale * sum_xl, best);
    }
    let zero = extreme.abs().less(Lanes::splat(ZERO_BELOW));
    SignedFit { scale: zero.select(Lanes::ZERO, scale), inverse, zero }
}

/// The first value of largest magnitude.
#[inline(always)]
pub(super) fn extreme<const N: usize>(values: &[Lanes<N>]) -> Lanes<N> {
    let (mut extreme, mut largest) = (Lanes::ZERO, Lanes::ZERO);
    for &value in values {
        let larger = value.abs().greater(largest);
        largest = larger.select(value.abs(), largest);
        extreme = larger.select(value, extreme);
    }
    extreme
}

/// The level of each value, before `half` is added.
#[inline(always)]
pub(super) fn round<const N: usize>(half: u8, scaled: Lanes<N>) -> Lanes<N> {
    let half = f32::from(half);
    scaled.nearest_integer().min(Lanes::splat(half - 1.0)).max(Lanes::splat(-half))
}

#[inline(always)]
fn sums<const N: usize, const LENGTH: usize>(
    half: u8,
    inverse: Lanes<N>,
    values: &[Lanes<N>; LENGTH],
    weights: &[Lanes<N>; LENGTH],
) -> (Lanes<N>, Lanes<N>) {
    let (mut sum_xl, mut sum_l2) = (Lanes::ZERO, Lanes::ZERO);
    for (&value, &weight) in values.iter().zip(weights) {
        let level = round(half, inverse * value);
        sum_xl = sum_xl + weight * value * level;
        sum_l2 = sum_l2 + weight * level * level;
    }
    (sum_xl, sum_l2)
}
