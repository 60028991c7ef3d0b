//! [`crate::search::positive`] in lanes.

use super::{Lanes, Mask};
use crate::search::ZERO_BELOW;
use crate::search::positive::{PASSES, TRIES};

/// Finds scale and levels of each sub-block; the levels lie in 0..=255.
#[inline(always)]
pub fn search<const N: usize, const LENGTH: usize>(
    top: u8,
    values: &[Lanes<N>; LENGTH],
    weights: &[Lanes<N>; LENGTH],
) -> (Lanes<N>, [Lanes<N>; LENGTH]) {
    let mut maximum = Lanes::ZERO;
    for &value in values {
        maximum = maximum.max(value);
    }
    let top = Lanes::splat(f32::from(top));
    let inverse = best_inverse(top, maximum, values, weights);
    let mut levels = [Lanes::ZERO; LENGTH];
    let mut sums = Sums { xl: Lanes::ZERO, l2: Lanes::ZERO };
    for ((&value, &weight), stored) in values.iter().zip(weights).zip(&mut levels) {
        let level = (inverse * value).nearest_integer().min(top);
        *stored = level.lowest_byte();
        sums = sums.with(value, weight, level);
    }
    // A lane that a pass leaves alone is left alone by the next one too, so lanes
    // need not stop on their own.
    for _ in 0..PASSES {
        let mut changed = Mask::NONE;
        for ((&value, &weight), level) in values.iter().zip(weights).zip(&mut levels) {
            changed = changed | sums.improve(top, value, weight, level);
        }
        if !changed.any() {
            break;
        }
    }
    let zero = maximum.less(Lanes::splat(ZERO_BELOW));
    for level in &mut levels {
        *level = zero.select(Lanes::ZERO, *level);
    }
    let solved = sums.l2.greater(Lanes::ZERO).select(sums.xl / sums.l2, Lanes::ZERO);
    (zero.select(Lanes::ZERO, solved), levels)
}

#[inline(always)]
fn best_inverse<const N: usize, const LENGTH: usize>(
    top: Lanes<N>,
    maximum: Lanes<N>,
    values: &[Lanes<N>; LENGTH],
    weights: &[Lanes<N>; LENGTH],
) -> Lanes<N> {
    let mut inverse = top / maximum;
    let scale = Lanes::splat(1.0) / inverse;
    let mut best = Lanes::ZERO;
    for (&value, &weight) in values.iter().zip(weights) {
        let level = (inverse * value).nearest_integer().lowest_byte();
        let difference = value - scale * level;
        best = best + weight * difference * difference;
    }
    for number in TRIES {
        let candidate = (Lanes::splat(0.1 * f32::from(number)) + top) / maximum;
        let scale = Lanes::splat(1.0) / candidate;
        let mut error = Lanes::ZERO;
        for (&value, &weight) in values.iter().zip(weights) {
            let level = (candidate * value).nearest_integer().min(top);
            let difference = value - scale * level;
            error = error + weight * difference * difference;
        }
        let better = error.less(best);
        best = better.select(error, best);
        inverse = better.select(candidate, inverse);
    }
    inverse
}

/// Weighted sums of products of values and levels, and of squared levels.
#[derive(Clone, Copy)]
struct Sums<const N: usize> {
    xl: Lanes<N>,
    l2: Lanes<N>,
}

impl<const N: usize> Sums<N> {
    #[inline(always)]
    fn with(self, value: Lanes<N>, weight: Lanes<N>, level: Lanes<N>) -> Self {
        Self { xl: self.xl + weight * value * level, l2: self.l2 + weight * level * level }
    }

    /// Moves a value to its best level, the others kept, where that fits better.
    #[inline(always)]
    fn improve(
        &mut self,
        top: Lanes<N>,
        value: Lanes<N>,
        weight: Lanes<N>,
        level: &mut Lanes<N>,
    ) -> Mask<N> {
        let others_xl = self.xl - weight * value * *level;
        let others_l2 = self.l2 - weight * *level * *level;
        let new_level = (value * others_l2 / others_xl).nearest_integer().min(top);
        let new = Self { xl: others_xl, l2: others_l2 }.with(value, weight, new_level);
        let better = others_xl.greater(Lanes::ZERO)
            & others_l2.greater(Lanes::ZERO)
            & new_level.unequal(*level)
            & (new.xl * new.xl * self.l2).greater(self.xl * self.xl * new.l2);
        *level = better.select(new_level.lowest_byte(), *level);
        self.xl = better.select(new.xl, self.xl);
        self.l2 = better.select(new.l2, self.l2);
        better
    }
}
