//! [`crate::search::affine`] in lanes.

use super::{Lanes, Mask};
use crate::search::affine::{self, Affine, AffineSearch};

/// What the search finds.
pub struct AffineFit<L: Lanes> {
    /// What one level is worth.
    pub scale: L,
    /// What is subtracted.
    pub minimum: L,
    /// The sum of the sub-block's weights.
    pub sum_weights: L,
    /// What makes levels of values, less `base`.
    inverse: L,
    /// The minimum that the best try started from; its levels led to the other one.
    base: L,
    /// Sub-blocks whose levels are 0.
    flat: L::Mask,
}

impl<L: Lanes> AffineFit<L> {
    /// The levels of the search, for types that do not round again to the scales as
    /// they are stored.
    #[inline(always)]
    pub fn levels<const LENGTH: usize>(&self, top: u8, values: &[L; LENGTH]) -> [L; LENGTH] {
        let mut levels = *values;
        for level in &mut levels {
            let nearest = level_of(L::splat(f32::from(top)), self.inverse, self.base, *level);
            *level = self.flat.select(L::zero(), nearest);
        }
        levels
    }
}

/// Finds scale and minimum of each sub-block.
#[inline(always)]
pub fn search<L: Lanes, const LENGTH: usize>(
    search: &AffineSearch,
    values: &[L; LENGTH],
    weights: &[L; LENGTH],
) -> AffineFit<L> {
    let moments = Moments::of(values, weights);
    let Moments { maximum, mut minimum, sum_weights, .. } = moments;
    let flat = maximum.equal(minimum);
    let top = L::splat(f32::from(search.top));
    let inverse = top / (maximum - minimum);
    let mut scale = L::splat(1.0) / inverse;
    let mut levels = [L::zero(); LENGTH];
    moments.round(top, inverse, minimum, values, weights, &mut levels);
    let mut best = error(search.absolute, scale, minimum, values, weights, &levels);
    let (mut best_inverse, mut base) = (inverse, minimum);
    for number in 0..=search.last {
        let inverse = L::splat(search.divisions(number)) / (maximum - minimum);
        let sums = moments.round(top, inverse, minimum, values, weights, &mut levels);
        let (solvable, new_scale, new_minimum) = moments.solve(&sums);
        let error = error(search.absolute, new_scale, new_minimum, values, weights, &levels);
        let better = solvable & error.less(best);
        best = better.select(error, best);
        best_inverse = better.select(inverse, best_inverse);
        base = better.select(minimum, base);
        scale = better.select(new_scale, scale);
        minimum = better.select(new_minimum, minimum);
    }
    let scale = flat.select(L::zero(), scale);
    let minimum = -flat.select(moments.minimum, minimum);
    AffineFit { scale, minimum, sum_weights, inverse: best_inverse, base, flat }
}

/// The levels of one sub-block for its scale and minimum as they were stored.
/// Where the stored scale is zero the levels of the search stay, though they mean
/// nothing any more.
#[inline(always)]
pub(crate) fn round_to_stored<L: Lanes, const LENGTH: usize>(
    search: &AffineSearch,
    stored: &Affine,
    values: &[f32; LENGTH],
    weights: &[f32; LENGTH],
    levels: &mut [u8; LENGTH],
) {
    if stored.scale == 0.0 {
        // Found again: it is rare, and the lanes do not keep them.
        affine::search(search, values, weights, levels);
        return;
    }
    let (scale, minimum) = (L::splat(stored.scale), L::splat(stored.minimum));
    let top = L::splat(f32::from(search.top));
    for (levels, values) in levels.as_chunks_mut().0.iter_mut().zip(values.as_chunks().0) {
        let nearest = ((L::load(values) + minimum) / scale).nearest_integer();
        *levels = nearest.min(top).max(L::zero()).to_bytes();
    }
}

/// What the fit needs to know of the values, whatever their levels.
struct Moments<L: Lanes> {
    minimum: L,
    maximum: L,
    sum_weights: L,
    sum_values: L,
}

impl<L: Lanes> Moments<L> {
    #[inline(always)]
    fn of<const LENGTH: usize>(values: &[L; LENGTH], weights: &[L; LENGTH]) -> Self {
        let (mut minimum, mut maximum) = (values[0], values[0]);
        let mut sum_weights = weights[0];
        let mut sum_values = sum_weights * values[0];
        for (&value, &weight) in values.iter().zip(weights).skip(1) {
            minimum = value.min(minimum);
            maximum = value.max(maximum);
            sum_weights = sum_weights + weight;
            sum_values = sum_values + weight * value;
        }
        let minimum = minimum.greater(L::zero()).select(L::zero(), minimum);
        Self { minimum, maximum, sum_weights, sum_values }
    }

    /// Rounds to levels, the quick way where that is the same.
    #[inline(always)]
    fn round<const LENGTH: usize>(
        &self,
        top: L,
        inverse: L,
        minimum: L,
        values: &[L; LENGTH],
        weights: &[L; LENGTH],
        levels: &mut [L; LENGTH],
    ) -> Sums<L> {
        // No value is farther from the minimum than the lowest and the highest,
        // and rounded arithmetic keeps that order.
        let reach = (self.minimum - minimum).abs().max((self.maximum - minimum).abs());
        let largest = inverse.abs() * reach;
        let far = largest.greater(L::splat(4_194_303.0)) | largest.unequal(largest);
        if far.any() {
            round::<L, LENGTH, false>(top, inverse, minimum, values, weights, levels)
        } else {
            round::<L, LENGTH, true>(top, inverse, minimum, values, weights, levels)
        }
    }

    #[inline(always)]
    fn solve(&self, sums: &Sums<L>) -> (L::Mask, L, L) {
        let Sums { l, l2, xl } = *sums;
        let determinant = self.sum_weights * l2 - l * l;
        let scale = (self.sum_weights * xl - self.sum_values * l) / determinant;
        let minimum = (l2 * self.sum_values - l * xl) / determinant;
        let positive = minimum.greater(L::zero());
        let scale = positive.select(xl / l2, scale);
        (determinant.greater(L::zero()), scale, positive.select(L::zero(), minimum))
    }
}

/// Weighted sums of levels, of their squares, of their products with the values.
struct Sums<L: Lanes> {
    l: L,
    l2: L,
    xl: L,
}

#[inline(always)]
fn level_of<L: Lanes>(top: L, inverse: L, minimum: L, value: L) -> L {
    (inverse * (value - minimum)).nearest_integer().min(top).max(L::zero())
}

/// Rounds to levels; all quotients are below 2^22 if they are `SMALL`.
#[inline(always)]
fn round<L: Lanes, const LENGTH: usize, const SMALL: bool>(
    top: L,
    inverse: L,
    minimum: L,
    values: &[L; LENGTH],
    weights: &[L; LENGTH],
    levels: &mut [L; LENGTH],
) -> Sums<L> {
    let (mut l, mut l2, mut xl) = (L::zero(), L::zero(), L::zero());
    for ((&value, &weight), stored) in values.iter().zip(weights).zip(levels) {
        let quotient = inverse * (value - minimum);
        let nearest =
            if SMALL { quotient.nearest_small_integer() } else { quotient.nearest_integer() };
        let level = nearest.min(top).max(L::zero());
        *stored = level;
        let weighted = weight * level;
        l = l + weighted;
        l2 = l2 + weighted * level;
        xl = xl + weighted * value;
    }
    Sums { l, l2, xl }
}

#[inline(always)]
fn error<L: Lanes, const LENGTH: usize>(
    absolute: bool,
    scale: L,
    minimum: L,
    values: &[L; LENGTH],
    weights: &[L; LENGTH],
    levels: &[L; LENGTH],
) -> L {
    let mut sum = L::zero();
    for ((&value, &weight), &level) in values.iter().zip(weights).zip(levels) {
        let difference = scale * level + minimum - value;
        sum = sum + weight * if absolute { difference.abs() } else { difference * difference };
    }
    sum
}
