//! [`crate::search::signed`] in lanes.

use super::{LANES, Lanes, Mask};
use crate::search::ZERO_BELOW;
use crate::search::signed::{TRIES, divisions};

/// What the search finds.
pub struct SignedFit<L: Lanes> {
    /// What one level is worth.
    pub scale: L,
    /// What makes levels of values.
    pub inverse: L,
    /// Zero sub-blocks: their levels, as stored, are 0.
    pub zero: L::Mask,
}

impl<L: Lanes> SignedFit<L> {
    /// The levels that go with the scales, plus `half`.
    #[inline(always)]
    pub fn levels<const LENGTH: usize>(&self, half: u8, values: &[L; LENGTH]) -> [L; LENGTH] {
        let mut levels = *values;
        for level in &mut levels {
            let stored = round(half, self.inverse * *level) + L::splat(f32::from(half));
            *level = self.zero.select(L::zero(), stored);
        }
        levels
    }
}

/// Finds the scale of each sub-block. With `FINITE`, the values have to be; then
/// no quotient is larger than the number of divisions, but for zero sub-blocks,
/// whose results are replaced.
#[inline(always)]
pub fn search<L: Lanes, const LENGTH: usize, const FINITE: bool>(
    half: u8,
    values: &[L; LENGTH],
    weights: &[L; LENGTH],
) -> SignedFit<L> {
    let extreme = extreme(values);
    let mut inverse = L::splat(-f32::from(half)) / extreme;
    let (sum_xl, sum_l2) = sums::<L, LENGTH, FINITE>(half, inverse, values, weights);
    let mut scale = sum_l2.equal(L::zero()).select(L::zero(), sum_xl / sum_l2);
    let mut best = scale * sum_xl;
    for number in TRIES {
        let candidate = L::splat(-divisions(half, number)) / extreme;
        let (sum_xl, sum_l2) = sums::<L, LENGTH, FINITE>(half, candidate, values, weights);
        let better = sum_l2.greater(L::zero()) & (sum_xl * sum_xl).greater(best * sum_l2);
        inverse = better.select(candidate, inverse);
        scale = better.select(sum_xl / sum_l2, scale);
        best = better.select(scale * sum_xl, best);
    }
    let zero = extreme.abs().less(L::splat(ZERO_BELOW));
    SignedFit { scale: zero.select(L::zero(), scale), inverse, zero }
}

/// Levels, plus `half`, of one sub-block for its scale as it was stored.
#[inline(always)]
pub(crate) fn round_to_stored<L: Lanes>(
    half: u8,
    scale: f32,
    values: &[f32; LANES],
    levels: &mut [u8; LANES],
) {
    let level = round(half, L::load(values) / L::splat(scale));
    *levels = (level + L::splat(f32::from(half))).to_bytes();
}

/// The first value of largest magnitude.
#[inline(always)]
pub(crate) fn extreme<L: Lanes>(values: &[L]) -> L {
    let (mut extreme, mut largest) = (L::zero(), L::zero());
    for &value in values {
        let magnitude = value.abs();
        extreme = magnitude.greater(largest).select(value, extreme);
        largest = magnitude.max(largest);
    }
    extreme
}

/// The level of each quotient of value and scale, before `half` is added.
#[inline(always)]
pub(super) fn round<L: Lanes>(half: u8, quotient: L) -> L {
    bound(half, quotient.nearest_integer())
}

#[inline(always)]
fn bound<L: Lanes>(half: u8, level: L) -> L {
    let half = f32::from(half);
    level.min(L::splat(half - 1.0)).max(L::splat(-half))
}

#[inline(always)]
fn sums<L: Lanes, const LENGTH: usize, const FINITE: bool>(
    half: u8,
    inverse: L,
    values: &[L; LENGTH],
    weights: &[L; LENGTH],
) -> (L, L) {
    let (mut sum_xl, mut sum_l2) = (L::zero(), L::zero());
    for (&value, &weight) in values.iter().zip(weights) {
        let quotient = inverse * value;
        let level = bound(
            half,
            if FINITE { quotient.nearest_small_integer() } else { quotient.nearest_integer() },
        );
        sum_xl = sum_xl + weight * value * level;
        sum_l2 = sum_l2 + weight * level * level;
    }
    (sum_xl, sum_l2)
}
