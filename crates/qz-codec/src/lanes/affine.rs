//! [`crate::search::affine`] in lanes.

use super::{Lanes, Mask};
use crate::search::affine::AffineSearch;

/// What the search finds; the levels follow from the scales as they are stored.
pub struct AffineFit<const N: usize> {
    /// What one level is worth.
    pub scale: Lanes<N>,
    /// What is subtracted.
    pub minimum: Lanes<N>,
    /// The sum of the sub-block's weights.
    pub sum_weights: Lanes<N>,
}

/// Finds scale and minimum of each sub-block.
#[inline(always)]
pub fn search<const N: usize, const LENGTH: usize>(
    search: &AffineSearch,
    values: &[Lanes<N>; LENGTH],
    weights: &[Lanes<N>; LENGTH],
) -> AffineFit<N> {
    let moments = Moments::of(values, weights);
    let Moments { maximum, mut minimum, sum_weights, .. } = moments;
    let flat = maximum.equal(minimum);
    let top = Lanes::splat(f32::from(search.top));
    let inverse = top / (maximum - minimum);
    let mut scale = Lanes::splat(1.0) / inverse;
    let (_, mut levels) = round(top, inverse, minimum, values, weights);
    let mut best = error(search.absolute, scale, minimum, values, weights, &levels);
    for number in 0..=search.last {
        let inverse = Lanes::splat(search.divisions(number)) / (maximum - minimum);
        let sums;
        (sums, levels) = round(top, inverse, minimum, values, weights);
        let (solvable, new_scale, new_minimum) = moments.solve(&sums);
        let error = error(search.absolute, new_scale, new_minimum, values, weights, &levels);
        let better = solvable & error.less(best);
        best = better.select(error, best);
        scale = better.select(new_scale, scale);
        minimum = better.select(new_minimum, minimum);
    }
    let scale = flat.select(Lanes::ZERO, scale);
    let minimum = -flat.select(moments.minimum, minimum);
    AffineFit { scale, minimum, sum_weights }
}

/// What the fit needs to know of the values, whatever their levels.
struct Moments<const N: usize> {
    minimum: Lanes<N>,
    maximum: Lanes<N>,
    sum_weights: Lanes<N>,
    sum_values: Lanes<N>,
}

impl<const N: usize> Moments<N> {
    #[inline(always)]
    fn of<const LENGTH: usize>(values: &[Lanes<N>; LENGTH], weights: &[Lanes<N>; LENGTH]) -> Self {
        let (mut minimum, mut maximum) = (values[0], values[0]);
        let mut sum_weights = weights[0];
        let mut sum_values = sum_weights * values[0];
        for (&value, &weight) in values.iter().zip(weights).skip(1) {
            minimum = value.min(minimum);
            maximum = value.max(maximum);
            sum_weights = sum_weights + weight;
            sum_values = sum_values + weight * value;
        }
        let minimum = minimum.greater(Lanes::ZERO).select(Lanes::ZERO, minimum);
        Self { minimum, maximum, sum_weights, sum_values }
    }

    #[inline(always)]
    fn solve(&self, sums: &Sums<N>) -> (Mask<N>, Lanes<N>, Lanes<N>) {
        let Sums { l, l2, xl } = *sums;
        let determinant = self.sum_weights * l2 - l * l;
        let scale = (self.sum_weights * xl - self.sum_values * l) / determinant;
        let minimum = (l2 * self.sum_values - l * xl) / determinant;
        let positive = minimum.greater(Lanes::ZERO);
        let scale = positive.select(xl / l2, scale);
        (determinant.greater(Lanes::ZERO), scale, positive.select(Lanes::ZERO, minimum))
    }
}

/// Weighted sums of levels, of their squares, of their products with the values.
struct Sums<const N: usize> {
    l: Lanes<N>,
    l2: Lanes<N>,
    xl: Lanes<N>,
}

#[inline(always)]
fn round<const N: usize, const LENGTH: usize>(
    top: Lanes<N>,
    inverse: Lanes<N>,
    minimum: Lanes<N>,
    values: &[Lanes<N>; LENGTH],
    weights: &[Lanes<N>; LENGTH],
) -> (Sums<N>, [Lanes<N>; LENGTH]) {
    let (mut l, mut l2, mut xl) = (Lanes::ZERO, Lanes::ZERO, Lanes::ZERO);
    let mut levels = [Lanes::ZERO; LENGTH];
    for ((&value, &weight), stored) in values.iter().zip(weights).zip(&mut levels) {
        let nearest = (inverse * (value - minimum)).nearest_integer();
        let level = nearest.min(top).max(Lanes::ZERO);
        *stored = level;
        let weighted = weight * level;
        l = l + weighted;
        l2 = l2 + weighted * level;
        xl = xl + weighted * value;
    }
    (Sums { l, l2, xl }, levels)
}

#[inline(always)]
fn error<const N: usize, const LENGTH: usize>(
    absolute: bool,
    scale: Lanes<N>,
    minimum: Lanes<N>,
    values: &[Lanes<N>; LENGTH],
    weights: &[Lanes<N>; LENGTH],
    levels: &[Lanes<N>; LENGTH],
) -> Lanes<N> {
    let mut sum = Lanes::ZERO;
    for ((&value, &weight), &level) in values.iter().zip(weights).zip(levels) {
        let difference = scale * level + minimum - value;
        sum = sum + weight * if absolute { difference.abs() } else { difference * difference };
    }
    sum
}
