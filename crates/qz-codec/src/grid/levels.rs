//! The levels of a grid whose lanes are single columns, and lines through them.

use std::cmp::Ordering;

use crate::number::f32_from_f16;

/// Adding it to a small number leaves the nearest integer, ties to even:
/// 1.5 * 2^52.
const ROUNDING_OFFSET: f64 = 6_755_399_441_055_744.0;

/// Lines that are worked on side by side.
pub(super) const SIDE: usize = 8;

/// How a group's levels become values: `scale * (level - shift) - offset`, in `f32`
/// and in this order. The arithmetic of every decoder is this one: subtracting a
/// zero changes nothing, and adding `m` is subtracting `-m`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Line {
    pub scale: f32,
    pub shift: f32,
    pub offset: f32,
}

impl Line {
    #[inline(always)]
    pub(super) fn value(self, level: f32) -> f32 {
        self.scale * (level - self.shift) - self.offset
    }

    /// Where on the line `value` lies: a level, not rounded. Not finite where the
    /// scale is zero.
    #[inline(always)]
    fn position(self, value: f64) -> f64 {
        (value + f64::from(self.offset)) / f64::from(self.scale) + f64::from(self.shift)
    }
}

/// So many midpoints are compared with faster than they are searched.
const FEW: usize = 16;

/// The integer nearest to a position between two.
#[inline(always)]
pub(super) fn bounded_integer(position: f64, lowest: f64, highest: f64) -> f64 {
    (position.clamp(lowest, highest) + ROUNDING_OFFSET) - ROUNDING_OFFSET
}

/// The levels that codes stand for.
#[derive(Clone, Debug)]
pub(super) struct Levels {
    /// By code.
    of_code: Vec<f32>,
    /// One code for each different level that is a number, ascending.
    ascending: Vec<u8>,
    /// By code: where in `ascending` its level is.
    rank: Vec<u8>,
    /// Halfway between neighbouring levels; empty if levels are consecutive integers.
    midpoints: Vec<f64>,
}

impl Levels {
    /// Codes from 0 that stand for consecutive integers.
    pub(super) fn consecutive(first: i16, count: usize) -> Self {
        let level = |code| f32::from(first) + code as f32;
        Self::new((0..count).map(level).collect(), true)
    }

    /// Codes that stand for any integers. Of equal ones the first is used.
    pub(super) fn table(levels: &[i8]) -> Self {
        Self::floats(&levels.iter().map(|level| f32::from(*level)).collect::<Vec<_>>())
    }

    /// Codes that stand for any numbers. Of equal ones the first is used.
    pub(super) fn floats(levels: &[f32]) -> Self {
        Self::new(levels.to_vec(), false)
    }

    fn new(of_code: Vec<f32>, consecutive: bool) -> Self {
        let of = |code: &u8| of_code[usize::from(*code)];
        let mut ascending: Vec<u8> = (0..of_code.len()).map(|code| code as u8).collect();
        ascending.retain(|code| !of(code).is_nan());
        // Zero has two signs, which are equal; the sort keeps the order of codes.
        ascending.sort_by(|a, b| of(a).partial_cmp(&of(b)).unwrap_or(Ordering::Equal));
        ascending.dedup_by_key(|code| of(code));
        let level = |rank: usize| f64::from(of_code[usize::from(ascending[rank])]);
        let rank_of = |own: &f32| (0..ascending.len()).find(|rank| level(*rank) == f64::from(*own));
        let rank = of_code.iter().map(|own| rank_of(own).unwrap_or_default() as u8).collect();
        let between = |rank: usize| (level(rank) + level(rank + 1)) / 2.0;
        let pairs = if consecutive { 0 } else { ascending.len() - 1 };
        let midpoints = (0..pairs).map(between).collect();
        Self { of_code, ascending, rank, midpoints }
    }

    /// True if levels are consecutive integers.
    pub(super) fn is_consecutive(&self) -> bool {
        self.midpoints.is_empty()
    }

    pub(super) fn lowest(&self) -> f64 {
        f64::from(self.at_rank(0))
    }

    pub(super) fn highest(&self) -> f64 {
        f64::from(self.at_rank(self.ascending.len() - 1))
    }

    pub(super) fn gap(&self) -> f64 {
        let last = self.ascending.len() - 1;
        self.highest() - f64::from(self.at_rank(last - 1))
    }

    #[inline(always)]
    pub(super) fn level(&self, code: u8) -> f32 {
        self.of_code[usize::from(code)]
    }

    #[inline(always)]
    fn at_rank(&self, rank: usize) -> f32 {
        self.level(self.ascending[rank])
    }

    /// The rank of the level nearest to a position on a line. A position that is
    /// not a number goes to the level nearest to zero.
    #[inline(always)]
    fn rank_near(&self, position: f64) -> usize {
        let position = if position.is_nan() { 0.0 } else { position };
        if self.midpoints.is_empty() {
            let lowest = self.lowest();
            (bounded_integer(position, lowest, self.highest()) - lowest) as usize
        } else if self.midpoints.len() <= FEW {
            self.midpoints.iter().map(|midpoint| usize::from(position > *midpoint)).sum()
        } else {
            self.midpoints.partition_point(|midpoint| position > *midpoint)
        }
    }

    /// The level nearest to a position on a line.
    #[inline(always)]
    pub(super) fn level_near(&self, position: f64) -> f64 {
        if self.midpoints.is_empty() {
            bounded_integer(position, self.lowest(), self.highest())
        } else {
            f64::from(self.at_rank(self.rank_near(position)))
        }
    }

    /// The code whose value is nearest to `target`, and that value. The values
    /// themselves are compared, since they are rounded.
    #[inline(always)]
    pub(super) fn nearest(&self, line: Line, target: f32) -> (u8, f32) {
        let at = |rank: usize| {
            let value = line.value(self.at_rank(rank));
            (self.ascending[rank], value, (f64::from(value) - f64::from(target)).abs())
        };
        let rank = self.rank_near(line.position(f64::from(target)));
        let mut best = at(rank);
        for other in [rank.wrapping_sub(1), rank + 1] {
            if other < self.ascending.len() && at(other).2 < best.2 {
                best = at(other);
            }
        }
        (best.0, best.1)
    }

    /// [`Self::nearest`] for several lines and a target on each, side by side.
    pub(super) fn nearest_on(
        &self,
        lines: &[Line; SIDE],
        targets: &[f32; SIDE],
    ) -> [(u8, f32); SIDE] {
        let (mut levels, mut values, mut distances) = ([0.0; SIDE], [0.0; SIDE], [1.0; SIDE]);
        if self.is_consecutive() {
            let (lowest, highest) = (self.lowest(), self.highest());
            for at in 0..SIDE {
                let position = lines[at].position(f64::from(targets[at]));
                let level = bounded_integer(position, lowest, highest);
                distances[at] = (position - level).abs();
                levels[at] = level;
                values[at] = lines[at].value(level as f32);
            }
        }
        std::array::from_fn(|at| {
            // Values are rounded by far less than a hundredth of a step.
            let is_steady = lines[at].scale.is_normal()
                && lines[at].offset.abs() <= 4096.0 * lines[at].scale.abs();
            if is_steady && distances[at] < 0.49 && values[at].is_finite() {
                (self.ascending[(levels[at] - self.lowest()) as usize], values[at])
            } else {
                self.nearest(lines[at], targets[at])
            }
        })
    }

    /// The codes of the next lower and the next higher level.
    pub(super) fn neighbours(&self, code: u8) -> impl Iterator<Item = u8> {
        let rank = usize::from(self.rank[usize::from(code)]);
        let ranks = [rank.wrapping_sub(1), rank + 1].into_iter();
        ranks.filter_map(|rank| self.ascending.get(rank).copied())
    }
}

/// The nearest binary16 that is finite and, for numbers other than zero, not zero:
/// a scale that vanishes could not be stepped back.
pub(super) fn stored_half(value: f64) -> f64 {
    let least = f64::from(f32_from_f16(1));
    let most = f64::from(f32_from_f16(0x7bff));
    if value == 0.0 || value.is_nan() {
        return 0.0;
    }
    f64::from(round_to_half(value.abs().clamp(least, most).copysign(value) as f32))
}

/// The nearest binary16, infinite where it overflows.
pub(super) fn round_to_half(value: f32) -> f32 {
    f32_from_f16(crate::number::f16_from_f32(value))
}
