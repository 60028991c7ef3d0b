//! [`crate::search::nonlinear`] in lanes.

use super::signed::extreme;
use super::{LANES, Lanes, Mask};
use crate::search::ZERO_BELOW;
use crate::search::nonlinear::{LEVELS, MIDPOINTS, TRIES, divisions};

/// Finds the scale of each sub-block.
#[inline(always)]
pub fn search<L: Lanes, const LENGTH: usize>(values: &[L; LENGTH], weights: &[L; LENGTH]) -> L {
    let extreme = extreme(values);
    let plain = -extreme / L::splat(f32::from(LEVELS[0]));
    let (sum_xq, sum_q2) = sums(L::splat(1.0) / plain, values, weights);
    let mut scale = sum_q2.greater(L::zero()).select(sum_xq / sum_q2, L::zero());
    let mut best = scale * sum_xq;
    for number in -TRIES..=TRIES {
        let (sum_xq, sum_q2) = sums(L::splat(divisions(number)) / extreme, values, weights);
        let better = sum_q2.greater(L::zero()) & (sum_xq * sum_xq).greater(best * sum_q2);
        scale = better.select(sum_xq / sum_q2, scale);
        best = better.select(scale * sum_xq, best);
    }
    extreme.abs().less(L::splat(ZERO_BELOW)).select(L::zero(), scale)
}

/// What the nearest levels stand for.
#[inline(always)]
fn nearest<L: Lanes>(values: L) -> L {
    let mut levels = L::splat(f32::from(LEVELS[0]));
    for (midpoint, pair) in MIDPOINTS.into_iter().zip(LEVELS.windows(2)) {
        let step = L::splat(f32::from(pair[1]) - f32::from(pair[0]));
        levels = levels + values.less(L::splat(midpoint)).select(L::zero(), step);
    }
    levels
}

/// The numbers of the nearest levels.
#[inline(always)]
pub(crate) fn numbers<L: Lanes>(values: L) -> [u8; LANES] {
    let mut numbers = L::zero();
    for midpoint in MIDPOINTS {
        let step = values.less(L::splat(midpoint)).select(L::zero(), L::splat(1.0));
        numbers = numbers + step;
    }
    numbers.to_bytes()
}

#[inline(always)]
fn sums<L: Lanes, const LENGTH: usize>(
    inverse: L,
    values: &[L; LENGTH],
    weights: &[L; LENGTH],
) -> (L, L) {
    let (mut sum_xq, mut sum_q2) = (L::zero(), L::zero());
    for (&value, &weight) in values.iter().zip(weights) {
        let level = nearest(inverse * value);
        let weighted = weight * level;
        sum_xq = sum_xq + weighted * value;
        sum_q2 = sum_q2 + weighted * level;
    }
    (sum_xq, sum_q2)
}
