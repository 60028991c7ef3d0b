//! [`crate::search::descent`] in lanes.

use super::signed::{extreme, round};
use super::{Lanes, Mask};
use crate::search::ZERO_BELOW;
use crate::search::descent::PASSES;

/// Where passes have led to.
pub struct Descent<L: Lanes, const GROUPS: usize> {
    /// The scale of each sub-block.
    pub scales: [L; GROUPS],
    /// Sub-blocks that the last pass changed: another one may change them again.
    pub unfinished: [L::Mask; GROUPS],
}

/// Finds the scale of each sub-block, of `GROUPS` times sixteen: a step of one
/// group waits for the step before, and another group's can be done meanwhile.
#[inline(always)]
pub fn search<L: Lanes, const LENGTH: usize, const GROUPS: usize>(
    half: u8,
    values: &[[L; LENGTH]; GROUPS],
) -> [L; GROUPS] {
    descend(PASSES, half, values).scales
}

/// Improves the levels of each sub-block in some passes at most. The search is done
/// where the first of them changes nothing, which is so in four of five sub-blocks.
#[inline(always)]
pub fn descend<L: Lanes, const LENGTH: usize, const GROUPS: usize>(
    passes: usize,
    half: u8,
    values: &[[L; LENGTH]; GROUPS],
) -> Descent<L, GROUPS> {
    let never = L::zero().less(L::zero());
    let mut zero = [never; GROUPS];
    let mut levels = [[L::zero(); GROUPS]; LENGTH];
    let mut sums = [Sums { xl: L::zero(), l2: L::zero() }; GROUPS];
    for (group, values) in values.iter().enumerate() {
        let extreme = extreme(values);
        zero[group] = extreme.abs().less(L::splat(ZERO_BELOW));
        let inverse = L::splat(-f32::from(half)) / extreme;
        for (levels, &value) in levels.iter_mut().zip(values) {
            levels[group] = round(half, inverse * value);
            sums[group] = sums[group].with(value, levels[group]);
        }
    }
    // A lane that a pass leaves alone is left alone by the next one too, so lanes
    // need not stop on their own.
    let mut unfinished = [never; GROUPS];
    for _ in 0..passes {
        unfinished = [never; GROUPS];
        for (position, levels) in levels.iter_mut().enumerate() {
            for (group, level) in levels.iter_mut().enumerate() {
                let changed = sums[group].improve(half, values[group][position], level);
                unfinished[group] = unfinished[group] | changed;
            }
        }
        let mut any = never;
        for unfinished in unfinished {
            any = any | unfinished;
        }
        if !any.any() {
            break;
        }
    }
    let mut scales = [L::zero(); GROUPS];
    for (group, scale) in scales.iter_mut().enumerate() {
        let Sums { xl, l2 } = sums[group];
        let solved = l2.greater(L::zero()).select(xl / l2, L::zero());
        *scale = zero[group].select(L::zero(), solved);
    }
    Descent { scales, unfinished }
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
