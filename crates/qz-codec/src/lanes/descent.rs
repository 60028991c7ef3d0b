//! [`crate::search::descent`] in lanes.

use super::signed::{extreme, round};
use super::{Lanes, Mask};
use crate::search::ZERO_BELOW;
use crate::search::descent::PASSES;

/// Finds the scale of each sub-block.
#[inline(always)]
pub fn search<const N: usize, const LENGTH: usize>(
    half: u8,
    values: &[Lanes<N>; LENGTH],
) -> Lanes<N> {
    let extreme = extreme(values);
    let inverse = Lanes::splat(-f32::from(half)) / extreme;
    let mut levels = [Lanes::ZERO; LENGTH];
    let mut sums = Sums { xl: Lanes::ZERO, l2: Lanes::ZERO };
    for (level, &value) in levels.iter_mut().zip(values) {
        *level = round(half, inverse * value);
        sums = sums.with(value, *level);
    }
    // A lane that a pass leaves alone is left alone by the next one too, so lanes
    // need not stop on their own.
    for _ in 0..PASSES {
        let mut changed = Mask::NONE;
        for (level, &value) in levels.iter_mut().zip(values) {
            changed = changed | sums.improve(half, value, level);
        }
        if !changed.any() {
            break;
        }
    }
    let zero = extreme.abs().less(Lanes::splat(ZERO_BELOW));
    let solved = sums.l2.greater(Lanes::ZERO).select(sums.xl / sums.l2, Lanes::ZERO);
    zero.select(Lanes::ZERO, solved)
}

/// Weighted sums of products of values and levels, and of squared levels.
#[derive(Clone, Copy)]
struct Sums<const N: usize> {
    xl: Lanes<N>,
    l2: Lanes<N>,
}

impl<const N: usize> Sums<N> {
    #[inline(always)]
    fn with(self, value: Lanes<N>, level: Lanes<N>) -> Self {
        let weight = value * value;
        Self { xl: self.xl + weight * value * level, l2: self.l2 + weight * level * level }
    }

    #[inline(always)]
    fn without(self, value: Lanes<N>, level: Lanes<N>) -> Self {
        let weight = value * value;
        Self { xl: self.xl - weight * value * level, l2: self.l2 - weight * level * level }
    }

    /// Moves a value to its best level, the others kept, where that fits better.
    #[inline(always)]
    fn improve(&mut self, half: u8, value: Lanes<N>, level: &mut Lanes<N>) -> Mask<N> {
        let others = self.without(value, *level);
        let new_level = round(half, value * others.l2 / others.xl);
        let new = others.with(value, new_level);
        let better = others.xl.greater(Lanes::ZERO)
            & new_level.unequal(*level)
            & new.l2.greater(Lanes::ZERO)
            & (new.xl * new.xl * self.l2).greater(self.xl * self.xl * new.l2);
        *level = better.select(new_level, *level);
        self.xl = better.select(new.xl, self.xl);
        self.l2 = better.select(new.l2, self.l2);
        better
    }
}
