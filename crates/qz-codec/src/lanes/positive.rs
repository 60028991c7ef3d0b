//! [`crate::search::positive`] in lanes.

use super::{Lanes, Mask};
use crate::search::ZERO_BELOW;
use crate::search::positive::{PASSES, TRIES};

/// Finds scale and levels of each sub-block; the levels lie in 0..=255.
#[inline(always)]
pub fn search<L: Lanes, const LENGTH: usize>(
    top: u8,
    values: &[L; LENGTH],
    weights: &[L; LENGTH],
) -> (L, [L; LENGTH]) {
    let mut maximum = L::zero();
    for &value in values {
        maximum = maximum.max(value);
    }
    let top = L::splat(f32::from(top));
    let inverse = best_inverse(top, maximum, values, weights);
    let mut levels = [L::zero(); LENGTH];
    let mut sums = Sums { xl: L::zero(), l2: L::zero() };
    for ((&value, &weight), stored) in values.iter().zip(weights).zip(&mut levels) {
        let level = (inverse * value).nearest_integer().min(top);
        *stored = level.lowest_byte();
        sums = sums.with(value, weight, level);
    }
    // A lane that a pass leaves alone is left alone by the next one too, so lanes
    // need not stop on their own.
    for _ in 0..PASSES {
        let mut changed = L::zero().less(L::zero());
        for ((&value, &weight), level) in values.iter().zip(weights).zip(&mut levels) {
            changed = changed | sums.improve(top, value, weight, level);
        }
        if !changed.any() {
            break;
        }
    }
    let zero = maximum.less(L::splat(ZERO_BELOW));
    for level in &mut levels {
        *level = zero.select(L::zero(), *level);
    }
    let solved = sums.l2.greater(L::zero()).select(sums.xl / sums.l2, L::zero());
    (zero.select(L::zero(), solved), levels)
}

#[inline(always)]
fn best_inverse<L: Lanes, const LENGTH: usize>(
    top: L,
    maximum: L,
    values: &[L; LENGTH],
    weights: &[L; LENGTH],
) -> L {
    let mut inverse = top / maximum;
    let scale = L::splat(1.0) / inverse;
    let mut best = L::zero();
    for (&value, &weight) in values.iter().zip(weights) {
        let level = (inverse * value).nearest_integer().lowest_byte();
        let difference = value - scale * level;
        best = best + weight * difference * difference;
    }
    for number in TRIES {
        let candidate = (L::splat(0.1 * f32::from(number)) + top) / maximum;
        let scale = L::splat(1.0) / candidate;
        let mut error = L::zero();
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
struct Sums<L: Lanes> {
    xl: L,
    l2: L,
}

impl<L: Lanes> Sums<L> {
    #[inline(always)]
    fn with(self, value: L, weight: L, level: L) -> Self {
        Self { xl: self.xl + weight * value * level, l2: self.l2 + weight * level * level }
    }

    /// Moves a value to its best level, the others kept, where that fits better.
    #[inline(always)]
    fn improve(&mut self, top: L, value: L, weight: L, level: &mut L) -> L::Mask {
        let others_xl = self.xl - weight * value * *level;
        let others_l2 = self.l2 - weight * *level * *level;
        let new_level = (value * others_l2 / others_xl).nearest_integer().min(top);
        let new = Self { xl: others_xl, l2: others_l2 }.with(value, weight, new_level);
        let better = others_xl.greater(L::zero())
            & others_l2.greater(L::zero())
            & new_level.unequal(*level)
            & (new.xl * new.xl * self.l2).greater(self.xl * self.xl * new.l2);
        *level = better.select(new_level.lowest_byte(), *level);
        self.xl = better.select(new.xl, self.xl);
        self.l2 = better.select(new.l2, self.l2);
        better
    }
}
