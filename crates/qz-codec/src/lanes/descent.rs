//! [`crate::search::descent`] in lanes.

use super::signed::{extreme, round};
use super::{Lanes, Mask};
use crate::search::ZERO_BELOW;
use crate::search::descent::PASSES;

/// Finds the scale of each sub-block.
#[inline(always)]
pub fn search<L: Lanes, const LENGTH: usize>(half: u8, values: &[L; LENGTH]) -> L {
    let extreme = extreme(values);
    let inverse = L::splat(-f32::from(half)) / extreme;
    let mut levels = [L::zero(); LENGTH];
    let mut sums = Sums { xl: L::zero(), l2: L::zero() };
    for (level, &value) in levels.iter_mut().zip(values) {
        *level = round(half, inverse * value);
        sums = sums.with(value, *level);
    }
    // A lane that a pass leaves alone is left alone by the next one too, so lanes
    // need not stop on their own.
    for _ in 0..PASSES {
        let mut changed = L::zero().less(L::zero());
        for (level, &value) in levels.iter_mut().zip(values) {
            changed = changed | sums.improve(half, value, level);
        }
        if !changed.any() {
            break;
        }
    }
    let zero = extreme.abs().less(L::splat(ZERO_BELOW));
    let solved = sums.l2.greater(L::zero()).select(sums.xl / sums.l2, L::zero());
    zero.select(L::zero(), solved)
}

/// Weighted sums of products of values and levels, and of squared levels.
#[derive(Clone, Copy)]
struct Sums<L: Lanes> {
    xl: L,
    l2: L,
}

impl<L: Lanes> Sums<L> {
    #[inline(always)]
    fn with(self, value: L, level: L) -> Self {
        let weight = value * value;
        Self { xl: self.xl + weight * value * level, l2: self.l2 + weight * level * level }
    }

    #[inline(always)]
    fn without(self, value: L, level: L) -> Self {
        let weight = value * value;
        Self { xl: self.xl - weight * value * level, l2: self.l2 - weight * level * level }
    }

    /// Moves a value to its best level, the others kept, where that fits better.
    #[inline(always)]
    fn improve(&mut self, half: u8, value: L, level: &mut L) -> L::Mask {
        let others = self.without(value, *level);
        let new_level = round(half, value * others.l2 / others.xl);
        let new = others.with(value, new_level);
        let better = others.xl.greater(L::zero())
            & new_level.unequal(*level)
            & new.l2.greater(L::zero())
            & (new.xl * new.xl * self.l2).greater(self.xl * self.xl * new.l2);
        *level = better.select(new_level, *level);
        self.xl = better.select(new.xl, self.xl);
        self.l2 = better.select(new.l2, self.l2);
        better
    }
}
